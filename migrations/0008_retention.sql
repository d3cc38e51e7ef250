-- Letting go of records, bytes and keys. Nothing here is part of the log's truth.

-- Work that one node at a time does, now and then.
CREATE TABLE upkeep (
    task     text        NOT NULL PRIMARY KEY,
    began_at timestamptz NOT NULL
);

-- Keys of what is private in events, each encrypted under another: an execution's under its tenant's,
-- a tenant's under the installation's master key, which is not in the database. Without its row here
-- a payload can be read by nobody, in no copy of the log.
CREATE TABLE tenant_keys (
    key_id     uuid        NOT NULL PRIMARY KEY,
    tenant     text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Null once it was destroyed.
    wrapped    bytea
);

CREATE UNIQUE INDEX tenant_keys_tenant ON tenant_keys (tenant) WHERE wrapped IS NOT NULL;

CREATE TABLE execution_keys (
    execution_id  uuid  NOT NULL PRIMARY KEY,
    tenant_key_id uuid  NOT NULL,
    -- Null once it was destroyed.
    wrapped       bytea
);

-- 4 is what an installation does with its own log.
ALTER TABLE events DROP CONSTRAINT events_stream_kind_check;
ALTER TABLE events ADD CONSTRAINT events_stream_kind_check CHECK (stream_kind BETWEEN 1 AND 4);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON upkeep, tenant_keys, execution_keys TO tako_vm_app;
    END IF;
END
$$;
