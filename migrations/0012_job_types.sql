-- Job types that administrators define, and what their versions are made of.

-- Streams of job types are of kind 5. No old row can break the new rule, so none is looked at. A
-- partition that was a table before has a rule of its own.
ALTER TABLE events DROP CONSTRAINT IF EXISTS events_stream_kind_check;
DO $$
DECLARE
    v_part regclass;
BEGIN
    FOR v_part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS events_stream_kind_check', v_part);
    END LOOP;
END
$$;
ALTER TABLE events ADD CONSTRAINT events_stream_kind CHECK (stream_kind BETWEEN 1 AND 5) NOT VALID;

-- The newest event of each such stream is the job type as it is now.
CREATE INDEX events_job_types ON events (stream_id, version) WHERE stream_kind = 5;

-- Whole definitions, by the SHA-256 of their canonical JSON, which events name.
CREATE TABLE job_type_definitions (
    digest     text        NOT NULL PRIMARY KEY,
    definition text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What versions are made of, by their digest: enough to build one again on any node, whatever the
-- job type has become.
CREATE TABLE job_type_recipes (
    job_type    text        NOT NULL,
    digest      text        NOT NULL,
    recipe      text        NOT NULL,
    -- A tar archive.
    shared_code bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_type, digest)
);

CREATE INDEX job_type_recipes_prefix ON job_type_recipes (job_type, digest text_pattern_ops);

ALTER TABLE job_type_versions
    ADD COLUMN dockerfile_hash   text,
    ADD COLUMN requirements_hash text,
    -- The packages as they were resolved: what requirements_hash is the hash of.
    ADD COLUMN lock              text,
    ADD COLUMN version_tag       text,
    ADD COLUMN built_by          text,
    ADD COLUMN last_used_at      timestamptz;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON job_type_definitions, job_type_recipes TO tako_vm_app;
    END IF;
END
$$;
