-- Jobs that wait for others, and jobs at times. Only new tables, triggers that do nothing for what an
-- older program writes, and a rule made wider: a node of the version before may go on beside it.

-- In the order in which appends and claims take them, and with no append under way: they and this cannot
-- wait for each other.
SELECT lock_log();
LOCK TABLE events, queue IN ACCESS EXCLUSIVE MODE;

-- Who waits for whom, from what the log says. Rows stay as long as their execution's record.
CREATE TABLE dependencies (
    execution_id uuid    NOT NULL,
    after_id     uuid    NOT NULL,
    -- The execution that is waited for has ended.
    ended        boolean NOT NULL,
    -- That was taken into account, or nobody waits any more.
    settled      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (execution_id, after_id)
);

CREATE INDEX dependencies_after ON dependencies (after_id, execution_id);
CREATE INDEX dependencies_open ON dependencies (after_id) WHERE NOT settled;
CREATE INDEX dependencies_due ON dependencies (execution_id) WHERE ended AND NOT settled;

-- A job that waits has this for its not_before, so that no claim finds it. Both functions run inside an
-- append, under the log's lock: an execution that is waited for has its queue row, and its end comes
-- later and tells; or it has none, and has ended.
CREATE FUNCTION hold_back() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_ended boolean;
BEGIN
    WITH told AS (
        INSERT INTO dependencies (execution_id, after_id, ended)
        SELECT NEW.execution_id, a.id::uuid,
               NOT EXISTS (SELECT FROM queue q WHERE q.execution_id = a.id::uuid)
          FROM events e, json_array_elements_text(e.payload -> 'after') AS a (id)
         WHERE e.stream_id = NEW.execution_id AND e.event_type = 'DependenciesDeclared'
        RETURNING ended
    )
    SELECT bool_or(ended) INTO v_ended FROM told;
    IF v_ended THEN
        PERFORM pg_notify('tako_vm', '{"node":"","queue":false,"ended":false,"cancel":false,"dependents":true}');
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER queue_holds_back AFTER INSERT ON queue FOR EACH ROW
    WHEN (NEW.not_before = '9999-01-01 00:00:00+00'::timestamptz) EXECUTE FUNCTION hold_back();

CREATE FUNCTION tell_dependents() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM dependencies d WHERE NOT d.settled) THEN
        UPDATE dependencies d SET settled = true FROM gone g
         WHERE d.execution_id = g.execution_id AND NOT d.settled;
        UPDATE dependencies d SET ended = true FROM gone g
         WHERE d.after_id = g.execution_id AND NOT d.settled AND NOT d.ended;
        IF FOUND THEN
            PERFORM pg_notify('tako_vm', '{"node":"","queue":false,"ended":false,"cancel":false,"dependents":true}');
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER queue_tells_dependents AFTER DELETE ON queue REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION tell_dependents();

-- Streams of schedules are of kind 6. Wider than needed, so that the next kind needs no lock. No old row
-- can break the new rule, so none is looked at.
ALTER TABLE events DROP CONSTRAINT IF EXISTS events_stream_kind;
ALTER TABLE events ADD CONSTRAINT events_stream_kind CHECK (stream_kind BETWEEN 1 AND 32) NOT VALID;

-- Schedules as their streams say they are now: written in the transaction that appends to the stream.
CREATE TABLE schedules (
    schedule_id uuid        NOT NULL PRIMARY KEY,
    tenant      text        NOT NULL,
    name        text        NOT NULL,
    version     integer     NOT NULL,
    head_hash   bytea       NOT NULL CHECK (octet_length(head_hash) = 32),
    removed_at  timestamptz,
    -- The next time at which it fires; null while it does not.
    next_due    timestamptz,
    -- An execution that it fired and that is not known to be submitted yet.
    pending     uuid,
    -- The whole of it, as JSON.
    state       text        NOT NULL
);

CREATE UNIQUE INDEX schedules_name ON schedules (tenant, name) WHERE removed_at IS NULL;
CREATE INDEX schedules_due ON schedules (next_due) WHERE next_due IS NOT NULL;
CREATE INDEX schedules_pending ON schedules (schedule_id) WHERE pending IS NOT NULL;

-- What they submit, as it was sent, by the SHA-256 of the text.
CREATE TABLE schedule_jobs (
    digest     bytea       NOT NULL PRIMARY KEY CHECK (octet_length(digest) = 32),
    job        text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON dependencies, schedules, schedule_jobs TO tako_vm_app;
    END IF;
END
$$;
