-- What follows from certain events, kept in the very transaction that appends them, whichever program
-- does. A row's trigger costs every other event the look at its own kind.

-- Builds that have begun and not ended. A node that dies leaves its own here.
CREATE TABLE builds_under_way (
    build_id uuid        NOT NULL PRIMARY KEY,
    job_type text        NOT NULL,
    digest   text        NOT NULL,
    -- Null until the build starts.
    node_id  uuid,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Job types as administrators defined them last, so that the events that say so may be archived and
-- dropped. Their whole definitions are in job_type_definitions.
CREATE TABLE job_types (
    name       text        NOT NULL PRIMARY KEY,
    stream_id  uuid        NOT NULL,
    revision   integer     NOT NULL CHECK (revision > 0),
    defined_at timestamptz NOT NULL,
    defined_by text        NOT NULL,
    definition text        NOT NULL
);

-- Of two streams of one name, which two nodes began at the same time, the first counts.
INSERT INTO job_types (name, stream_id, revision, defined_at, defined_by, definition)
SELECT DISTINCT ON (e.payload->>'name')
       e.payload->>'name', e.stream_id, e.version, e.recorded_at, e.payload->>'by', e.payload->>'definition'
  FROM (SELECT DISTINCT ON (stream_id) * FROM events WHERE stream_kind = 5 ORDER BY stream_id, version DESC) e
 WHERE e.event_type = 'JobTypeDefined'
 ORDER BY e.payload->>'name', e.stream_id;

CREATE FUNCTION follow_stream() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    CASE NEW.event_type
    WHEN 'BuildRequested' THEN
        INSERT INTO builds_under_way (build_id, job_type, digest)
        VALUES (NEW.stream_id, NEW.payload->>'job_type', NEW.payload->>'digest');
    WHEN 'BuildStarted' THEN
        UPDATE builds_under_way SET node_id = (NEW.payload->>'node_id')::uuid WHERE build_id = NEW.stream_id;
    WHEN 'BuildSucceeded', 'BuildFailed' THEN
        DELETE FROM builds_under_way WHERE build_id = NEW.stream_id;
    WHEN 'JobTypeDefined' THEN
        -- A stream that was dropped goes on in another; of two that are there the first stays.
        INSERT INTO job_types AS t (name, stream_id, revision, defined_at, defined_by, definition)
        VALUES (NEW.payload->>'name', NEW.stream_id, 1, NEW.recorded_at, NEW.payload->>'by',
                NEW.payload->>'definition')
        ON CONFLICT (name) DO UPDATE
           SET stream_id = NEW.stream_id, revision = t.revision + 1, defined_at = NEW.recorded_at,
               defined_by = EXCLUDED.defined_by, definition = EXCLUDED.definition
         WHERE t.stream_id = NEW.stream_id
            OR NOT EXISTS (SELECT FROM events e WHERE e.stream_id = t.stream_id);
    ELSE
    END CASE;
    RETURN NULL;
END
$$;

CREATE TRIGGER events_are_followed AFTER INSERT ON events
    FOR EACH ROW WHEN (NEW.stream_kind IN (2, 5)) EXECUTE FUNCTION follow_stream();

-- The rows of an execution go with the event that says that it has expired. At the end of the transaction:
-- the append brings the row up to date after it has written the event.
CREATE FUNCTION forget_expired() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_tenant text;
    v_status text;
BEGIN
    DELETE FROM executions WHERE execution_id = NEW.stream_id RETURNING tenant, status INTO v_tenant, v_status;
    DELETE FROM endings WHERE status = v_status AND execution_id = NEW.stream_id;
    DELETE FROM dead_letters WHERE execution_id = NEW.stream_id;
    DELETE FROM idempotency_keys k USING events e
     WHERE e.stream_id = NEW.stream_id AND e.version = 1 AND k.tenant = v_tenant
       AND k.key = e.payload->'idempotency'->>'key' AND k.execution_id = NEW.stream_id;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER expired_are_forgotten AFTER INSERT ON events
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.event_type = 'ExecutionExpired') EXECUTE FUNCTION forget_expired();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT ON builds_under_way, job_types TO tako_vm_app;
    END IF;
END
$$;
