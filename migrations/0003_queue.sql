-- Work that has not ended: one row per execution, gone with its terminal event.

CREATE TABLE nodes (
    node_id      uuid        NOT NULL PRIMARY KEY,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    slots        integer     NOT NULL,
    version      text        NOT NULL,
    state        text        NOT NULL CHECK (state IN ('running', 'draining', 'stopped'))
) WITH (fillfactor = 50);

CREATE TABLE queue (
    execution_id     uuid        NOT NULL PRIMARY KEY,
    -- The position of the event that made the job claimable, so it follows commit order: whoever
    -- saw every claimable row up to a seq never has to look below it again.
    seq              bigint      NOT NULL,
    -- Claims that led to an event so far.
    attempts         integer     NOT NULL,
    -- 9 is the most urgent. Few and known, so that each can be looked up by itself.
    priority         smallint    NOT NULL CHECK (priority BETWEEN 0 AND 9),
    cancel_requested boolean     NOT NULL DEFAULT false,
    tenant           text        NOT NULL,
    job_type         text        NOT NULL,
    -- Not before this moment; null once it may start (or could from the beginning).
    not_before       timestamptz,
    -- The guard of every append by the claimant; null while nobody has claimed the job.
    lease            bigint,
    claimed_at       timestamptz,
    node_id          uuid,
    CHECK ((lease IS NULL) = (node_id IS NULL))
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX queue_ready ON queue (priority, seq) WHERE lease IS NULL AND not_before IS NULL;
CREATE INDEX queue_delayed ON queue (priority, not_before)
    WHERE lease IS NULL AND not_before IS NOT NULL;
CREATE INDEX queue_claimed ON queue (node_id) WHERE lease IS NOT NULL;

-- Grows with each claim, whichever the job: a later claim always has the greater lease.
CREATE SEQUENCE queue_lease AS bigint;

-- Claims up to p_limit jobs for a node.
--
-- p_floors holds, for priorities 0 to 9, a seq below which the caller knows nothing is
-- claimable. Each returned row carries the floors for the next call; when nothing was claimed
-- there is one row with a null execution. The floors keep a claim from walking over the
-- rows that were claimed and deleted, which stay in the index as long as any transaction that is
-- older stays open. A floor above the log's end (a restored, older database) is cut to it.
CREATE FUNCTION claim_jobs(p_node uuid, p_limit integer, p_job_types text[], p_floors bigint[])
RETURNS TABLE (
    o_execution_id uuid, o_lease bigint, o_attempt integer, o_priority smallint, o_tenant text,
    o_job_type text, o_cancel_requested boolean, o_floors bigint[]
)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_first  bigint[];
    v_due    boolean[];
    v_floors bigint[];
    v_left   integer := p_limit;
    v_rows   integer;
    v_any    boolean := false;
BEGIN
    -- One snapshot: every row that is committed later gets a seq above this maximum.
    SELECT array_agg(f.first ORDER BY p), array_agg(f.due ORDER BY p),
           array_agg(coalesce(f.first - 1, m.last) ORDER BY p)
      INTO v_first, v_due, v_floors
      FROM (SELECT coalesce(max(e.position), 0) AS last FROM events e) m,
           generate_series(0, 9) p,
           LATERAL (SELECT
               (SELECT q.seq FROM queue q
                 WHERE q.lease IS NULL AND q.not_before IS NULL
                   AND q.priority = p AND q.seq > least(p_floors[p + 1], m.last)
                 ORDER BY q.seq LIMIT 1) AS first,
               EXISTS (SELECT FROM queue q
                        WHERE q.lease IS NULL AND q.not_before <= clock_timestamp()
                          AND q.priority = p) AS due) f;

    IF true = ANY (v_due) OR EXISTS (SELECT FROM unnest(v_first) AS f WHERE f IS NOT NULL) THEN
        IF NOT EXISTS (SELECT FROM nodes n WHERE n.node_id = p_node AND n.state = 'running') THEN
            RAISE EXCEPTION 'node % is not registered as running and cannot claim', p_node
                USING ERRCODE = 'TK003';
        END IF;
        FOR v_priority IN REVERSE 9..0 LOOP
            EXIT WHEN v_left <= 0;
            -- A delayed job whose time has come goes before the ready ones of its priority.
            IF v_due[v_priority + 1] THEN
                RETURN QUERY
                WITH picked AS (
                    SELECT q.execution_id FROM queue q
                     WHERE q.lease IS NULL AND q.not_before <= clock_timestamp()
                       AND q.priority = v_priority
                       AND (p_job_types IS NULL OR q.job_type = ANY (p_job_types))
                     ORDER BY q.not_before
                     LIMIT v_left FOR UPDATE SKIP LOCKED)
                UPDATE queue q
                   SET lease = nextval('queue_lease'), claimed_at = clock_timestamp(),
                       node_id = p_node, not_before = NULL
                  FROM picked WHERE q.execution_id = picked.execution_id
                RETURNING q.execution_id, q.lease, q.attempts + 1, q.priority, q.tenant, q.job_type,
                          q.cancel_requested, v_floors;
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_left := v_left - v_rows;
                v_any := v_any OR v_rows > 0;
            END IF;
            IF v_left > 0 AND v_first[v_priority + 1] IS NOT NULL THEN
                RETURN QUERY
                WITH picked AS (
                    SELECT q.execution_id FROM queue q
                     WHERE q.lease IS NULL AND q.not_before IS NULL
                       AND q.priority = v_priority AND q.seq >= v_first[v_priority + 1]
                       AND (p_job_types IS NULL OR q.job_type = ANY (p_job_types))
                     ORDER BY q.seq
                     LIMIT v_left FOR UPDATE SKIP LOCKED)
                UPDATE queue q
                   SET lease = nextval('queue_lease'), claimed_at = clock_timestamp(),
                       node_id = p_node
                  FROM picked WHERE q.execution_id = picked.execution_id
                RETURNING q.execution_id, q.lease, q.attempts + 1, q.priority, q.tenant, q.job_type,
                          q.cancel_requested, v_floors;
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_left := v_left - v_rows;
                v_any := v_any OR v_rows > 0;
            END IF;
        END LOOP;
    END IF;
    IF NOT v_any THEN
        RETURN QUERY SELECT NULL::uuid, NULL::bigint, NULL::integer, NULL::smallint, NULL::text,
                            NULL::text, NULL::boolean, v_floors;
    END IF;
END
$$;

-- Takes a claim back of which no event speaks (its node died in between). Answers whether the
-- lease still held the job.
CREATE FUNCTION release_claim(p_execution_id uuid, p_lease bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- As in an append: the new seq must be above what any claim may have skipped.
    PERFORM lock_log();
    UPDATE queue q
       SET seq = 1 + (SELECT coalesce(max(e.position), 0) FROM events e),
           lease = NULL, claimed_at = NULL, node_id = NULL
     WHERE q.execution_id = p_execution_id AND q.lease = p_lease;
    RETURN FOUND;
END
$$;
