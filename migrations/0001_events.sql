-- The event log: the only truth. Everything in later files can be derived from it.

CREATE TABLE events (
    -- Assigned under the append lock, so it follows commit order and has no gaps.
    position       bigint      NOT NULL PRIMARY KEY,
    event_id       uuid        NOT NULL,
    stream_id      uuid        NOT NULL,
    recorded_at    timestamptz NOT NULL,
    causation_id   uuid,
    version        integer     NOT NULL CHECK (version > 0),
    schema_version smallint    NOT NULL CHECK (schema_version > 0),
    -- 1 execution, 2 build, 3 node.
    stream_kind    smallint    NOT NULL CHECK (stream_kind BETWEEN 1 AND 3),
    event_type     text        NOT NULL,
    actor          text        NOT NULL,
    correlation_id text,
    -- Hash of the stream's previous event; null for its first.
    prev_hash      bytea       CHECK (octet_length(prev_hash) = 32),
    hash           bytea       NOT NULL CHECK (octet_length(hash) = 32),
    -- json and never jsonb: the text is hashed and must come back to the byte.
    payload        json        NOT NULL
);

-- lz4 is a build option of the server; without it, pglz compresses.
DO $$
BEGIN
    ALTER TABLE events ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

CREATE UNIQUE INDEX events_stream ON events (stream_id, version);
CREATE UNIQUE INDEX events_event_id ON events (event_id);

CREATE FUNCTION refuse_change_of_events() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are append-only: % is refused for everyone', TG_OP
        USING ERRCODE = 'TK002',
              HINT = 'Append a new event that corrects the old one.';
END
$$;

-- For each statement, so that a change that matches no row is refused as well and inserts
-- cost nothing.
CREATE TRIGGER events_are_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events();

-- Fires for replication roles too.
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_append_only;

-- Whoever appends, or must see the log stand still, holds this until the transaction ends.
CREATE FUNCTION lock_log() RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(8386102107227058023) $$;
