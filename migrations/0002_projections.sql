-- Tables derived from the log, or beside it.

-- One row per execution: what lists filter by, and the record itself. Execution ids are
-- UUIDv7, so their order is the order of creation. Columns that change stand last and next
-- to each other: an update then logs little more than what changed.
CREATE TABLE executions (
    execution_id        uuid        NOT NULL PRIMARY KEY,
    parent_execution_id uuid,
    created_at          timestamptz NOT NULL,
    tenant              text        NOT NULL,
    job_type            text        NOT NULL,
    relationship        text,
    code_hash           bytea,
    input_hash          bytea,
    version             integer     NOT NULL,
    status              text        NOT NULL,
    ended_at            timestamptz,
    error_type          text,
    head_hash           bytea       NOT NULL,
    record              json        NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX executions_tenant ON executions (tenant, execution_id);
CREATE INDEX executions_job_type ON executions (job_type, execution_id);
CREATE INDEX executions_code_hash ON executions (code_hash, execution_id) WHERE code_hash IS NOT NULL;
CREATE INDEX executions_parent ON executions (parent_execution_id, execution_id)
    WHERE parent_execution_id IS NOT NULL;
-- Executions in progress are few and have a row in the queue; only ends are indexed by status,
-- so that the updates before the end touch no index.
CREATE INDEX executions_ended ON executions (status, execution_id) WHERE ended_at IS NOT NULL;

CREATE TABLE idempotency_keys (
    tenant       text        NOT NULL,
    key          text        NOT NULL,
    execution_id uuid        NOT NULL,
    fingerprint  bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, key)
);

CREATE TABLE dead_letters (
    id           uuid        NOT NULL PRIMARY KEY,
    execution_id uuid        NOT NULL,
    created_at   timestamptz NOT NULL,
    tenant       text        NOT NULL,
    error_type   text        NOT NULL,
    entry        json        NOT NULL
);

CREATE INDEX dead_letters_tenant ON dead_letters (tenant, error_type, id);

-- Code, input, output and artifacts, by the SHA-256 of their bytes.
CREATE TABLE blobs (
    hash       bytea       NOT NULL PRIMARY KEY CHECK (octet_length(hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    size       bigint      NOT NULL,
    bytes      bytea       NOT NULL
);

-- lz4 is a build option of the server; without it, pglz compresses.
DO $$
BEGIN
    ALTER TABLE blobs ALTER COLUMN bytes SET COMPRESSION lz4;
    ALTER TABLE executions ALTER COLUMN record SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

CREATE TABLE job_type_versions (
    job_type   text        NOT NULL,
    digest     text        NOT NULL,
    image      text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    entry      json        NOT NULL,
    PRIMARY KEY (job_type, digest)
);
