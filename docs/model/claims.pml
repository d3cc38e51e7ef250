/*
 * One job, the nodes that claim it, the reapers that take claims back and a client that cancels.
 *
 * Each step that is one transaction of the program is one atomic step here, and nothing else is:
 * a process may be held up between any two of them for any time, as a stopped or slow node is, and
 * all but one node may die. scripts/model.sh checks it, and checks that it can fail: each of the
 * variants below takes away one of the guards of the protocol, and must be found out.
 *
 *   NO_VERSION     an append does not name the version that it was decided on
 *   NO_LEASE       an append of an attempt does not name its lease
 *   BLIND_RELEASE  a claim is taken back without a look at whether the log knows it
 *   NO_REAPER      nobody takes back what a dead node had claimed
 */

#ifndef NODES
#define NODES 2
#endif

/* How often a claim is taken from a node that is at work: it seemed dead. */
#ifndef MISTAKES
#define MISTAKES 1
#endif

#define RETRIES 1

mtype = { queued, dequeued, running, ended };

/* The stream, folded. */
mtype state = queued;
byte version = 1;
byte holder = 0;            /* the lease of the latest JobDequeued */
byte ends = 0;              /* terminal events */
bool cancel = false;        /* CancelRequested */

/* The queue row. */
bool row = true;
byte row_lease = 0;         /* 0 while nobody has claimed it */
byte leases = 0;            /* the sequence */

byte works[NODES];          /* the lease that a node works on */
byte alive = NODES;
byte mistakes = 0;
byte retries = 0;

#ifdef NO_VERSION
#define FRESH true
#else
#define FRESH (version == seen)
#endif

#ifdef NO_LEASE
#define HELD(l) true
#else
#define HELD(l) (row && row_lease == l)
#endif

#ifdef BLIND_RELEASE
#define UNKNOWN(l) true
#else
#define UNKNOWN(l) (holder != l)
#endif

#define WORKED_ON(l) (works[0] == l || works[NODES - 1] == l)

/* What must hold after every transaction. */
inline check() {
    assert(ends <= 1);
#ifndef ENDS_ALONE
    assert(row == (ends == 0));
    assert(!row || state == queued || holder == row_lease);
    assert(!row || row_lease != 0 || state == queued);
#endif
}

inline finish() {
    state = ended;
    ends++;
    row = false;
    version++;
    check()
}

/*
 * A transaction that reads is one step with the decision that is made on it; what is kept until the
 * append is the version, and whether a cancel was seen. Forgotten values are set to 0, so that states
 * that differ in nothing else are one.
 */
proctype Node(byte me) {
    byte seen, lease;
    bool cancelling;
idle:
    atomic {
        if
        :: row && row_lease == 0 ->
               assert(state == queued);
               leases++;
               row_lease = leases;
               lease = leases;
               works[me] = lease
        :: !row -> goto gone
        fi
    };
dequeue:
    atomic {
        if
        :: alive > 1 -> alive--; goto die
        :: state != queued -> goto leave
        :: state == queued -> seen = version
        fi
    };
    atomic {
        if
        :: !HELD(lease) -> goto leave
        :: HELD(lease) && !FRESH -> seen = 0; goto dequeue
        :: HELD(lease) && FRESH -> state = dequeued; holder = lease; version++; seen = 0; check()
        fi
    };
start:
    atomic {
        if
        :: alive > 1 -> alive--; goto die
        :: state != dequeued || holder != lease -> goto leave
        :: state == dequeued && holder == lease -> seen = version; cancelling = cancel
        fi
    };
    atomic {
        if
        :: !HELD(lease) -> goto leave
        :: HELD(lease) && !FRESH -> seen = 0; cancelling = false; goto start
        :: HELD(lease) && FRESH && cancelling -> finish(); goto leave
        :: HELD(lease) && FRESH && !cancelling -> state = running; version++; seen = 0; check()
        fi
    };
end_it:
    atomic {
        if
        :: alive > 1 -> alive--; goto die
        :: state != running || holder != lease -> goto leave
        :: state == running && holder == lease -> seen = version; cancelling = cancel
        fi
    };
    atomic {
        if
        :: !HELD(lease) -> goto leave
        :: HELD(lease) && !FRESH -> seen = 0; cancelling = false; goto end_it
        :: HELD(lease) && FRESH -> finish(); goto leave
        /* The service failed it, and tries again. */
        :: HELD(lease) && FRESH && !cancelling && retries < RETRIES ->
               retries++;
               state = queued;
               row_lease = 0;
               version++;
               check();
               goto leave
        fi
    };
leave:
    atomic { works[me] = 0; seen = 0; cancelling = false; lease = 0; goto idle }
die:
    atomic { works[me] = 0; seen = 0; cancelling = false; lease = 0 }
gone:
    skip
}

proctype Reaper() {
    byte seen, lease;
    bool cancelling;
idle:
    atomic {
        if
        :: !row -> goto gone
        :: row && row_lease != 0 && (!WORKED_ON(row_lease) || mistakes < MISTAKES) ->
               lease = row_lease;
               mistakes = (WORKED_ON(lease) -> mistakes + 1 : mistakes)
        fi
    };
again:
    atomic {
        if
        :: (state == dequeued || state == running) && holder == lease -> seen = version; cancelling = cancel
        :: !((state == dequeued || state == running) && holder == lease) -> goto unknown
        fi
    };
    atomic {
        if
        :: !HELD(lease) -> skip
        :: HELD(lease) && !FRESH -> seen = 0; cancelling = false; goto again
        :: HELD(lease) && FRESH && cancelling -> finish()
        :: HELD(lease) && FRESH && !cancelling -> state = queued; row_lease = 0; version++; check()
        fi;
        seen = 0;
        cancelling = false;
        lease = 0;
        goto idle
    };
unknown:
    /* The log knew nothing of this claim: the row alone is given back. */
    atomic {
        if
        :: row && row_lease == lease && UNKNOWN(lease) -> row_lease = 0; check()
        :: !(row && row_lease == lease && UNKNOWN(lease))
        fi;
        lease = 0;
        goto idle
    };
gone:
    skip
}

proctype Client() {
    byte seen;
    bool waits;
again:
    atomic {
        if
        :: state == ended || cancel -> goto gone
        :: state == queued && !cancel -> seen = version; waits = true
        :: (state == dequeued || state == running) && !cancel -> seen = version; waits = false
        fi
    };
    atomic {
        if
        :: !FRESH -> seen = 0; goto again
        :: FRESH && waits -> cancel = true; version++; finish()
        :: FRESH && !waits -> cancel = true; version++; check()
        fi
    };
gone:
    seen = 0
}

init {
    byte number = 0;
    atomic {
        do
        :: number < NODES -> run Node(number); number++
        :: else -> break
        od;
#ifndef NO_REAPER
        run Reaper();
        run Reaper();
#endif
        if
        :: run Client()
        :: skip
        fi
    }
}

#ifdef LIVE
/* Nothing is lost: while one node and one reaper live, the job ends. */
ltl ends_in_the_end { <> (ends >= 1) }
#endif
