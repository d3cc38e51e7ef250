-- Tables derived from the log, or beside it.

-- One row per execution: what lists filter by. The record itself is the fold of its few events and
-- is read from the log, so it is written once and can never differ from it.
--
-- Execution ids are UUIDv7, so their order is the order of creation. No index holds a column
-- that changes, and those columns stand last: an update stays in its page, touches no index and
-- logs little more than what changed.
CREATE TABLE executions (
    execution_id        uuid        NOT NULL PRIMARY KEY,
    parent_execution_id uuid,
    created_at          timestamptz NOT NULL,
    tenant              text        NOT NULL,
    job_type            text        NOT NULL,
    version             integer     NOT NULL,
    status              text        NOT NULL,
    ended_at            timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX executions_tenant ON executions (tenant, execution_id);
CREATE INDEX executions_job_type ON executions (job_type, execution_id);
CREATE INDEX executions_parent ON executions (parent_execution_id, execution_id)
    WHERE parent_execution_id IS NOT NULL;

-- Which executions ended how. Those in progress are few and have a row in the queue.
CREATE TABLE endings (
    status       text NOT NULL,
    execution_id uuid NOT NULL,
    PRIMARY KEY (status, execution_id)
);

CREATE TABLE idempotency_keys (
    tenant       text        NOT NULL,
    key          text        NOT NULL,
    execution_id uuid        NOT NULL,
    fingerprint  bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, key)
);

-- Jobs that failed for good and wait for somebody to decide; one per execution.
CREATE TABLE dead_letters (
    execution_id   uuid        NOT NULL PRIMARY KEY,
    created_at     timestamptz NOT NULL,
    retry_count    integer     NOT NULL,
    tenant         text        NOT NULL,
    job_type       text        NOT NULL,
    error_type     text        NOT NULL,
    error_message  text        NOT NULL,
    client_ip      text,
    correlation_id text
);

CREATE INDEX dead_letters_tenant ON dead_letters (tenant, error_type, execution_id);

-- Code, input, output and artifacts, by the SHA-256 of their bytes.
CREATE TABLE blobs (
    hash       bytea       NOT NULL PRIMARY KEY CHECK (octet_length(hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    size       bigint      NOT NULL,
    bytes      bytea       NOT NULL
);

DO $$
BEGIN
    ALTER TABLE blobs ALTER COLUMN bytes SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

CREATE TABLE job_type_versions (
    job_type     text        NOT NULL,
    digest       text        NOT NULL,
    image        text        NOT NULL,
    image_digest text        NOT NULL,
    created_at   timestamptz NOT NULL,
    build_id     uuid        NOT NULL,
    PRIMARY KEY (job_type, digest)
);
