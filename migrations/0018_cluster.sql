-- Several nodes: what each is for, output of running jobs for those who watch through another node, builds
-- that one node asks of others, and large blobs outside the database.
--
-- A program that does not know of these goes on: it works on jobs, and builds what itself is asked to. What
-- newer nodes have put outside the database it cannot read.

ALTER TABLE nodes
    ADD COLUMN role text NOT NULL DEFAULT 'all' CONSTRAINT nodes_role CHECK (role IN ('all', 'api', 'worker')),
    -- Where it puts large blobs, told apart from every other place; null while it does so here.
    ADD COLUMN blob_place text;

-- Which jobs somebody watches through a node on which they do not run.
CREATE UNLOGGED TABLE output_watches (
    execution_id uuid        NOT NULL PRIMARY KEY,
    until        timestamptz NOT NULL
);

-- Their output so far, put here by the node on which they run. A hint: what a job wrote is in its blobs
-- once it has ended.
CREATE UNLOGGED TABLE output_chunks (
    execution_id uuid        NOT NULL,
    attempt      integer     NOT NULL,
    -- From 0.
    number       integer     NOT NULL,
    -- 1 standard output, 2 standard error.
    stream       smallint    NOT NULL,
    bytes        bytea       NOT NULL,
    put_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (execution_id, attempt, number)
);

-- What one node wants built on others: a row for each that is to build it.
CREATE TABLE build_wishes (
    wish_id        uuid        NOT NULL,
    node_id        uuid        NOT NULL,
    job_type       text        NOT NULL,
    version_tag    text,
    wished_by      text        NOT NULL,
    correlation_id text,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at       timestamptz,
    cancelled      boolean     NOT NULL DEFAULT false,
    -- JSON; null until it has ended.
    outcome        text,
    PRIMARY KEY (wish_id, node_id)
);

CREATE INDEX build_wishes_open ON build_wishes (node_id) WHERE outcome IS NULL;

-- What they say while they build.
CREATE UNLOGGED TABLE build_lines (
    wish_id uuid    NOT NULL,
    node_id uuid    NOT NULL,
    -- From 0.
    number  integer NOT NULL,
    line    text    NOT NULL,
    PRIMARY KEY (wish_id, node_id, number)
);

-- The object that has the blob's bytes; then `bytes` is empty.
ALTER TABLE blobs ADD COLUMN object text;

-- Objects that may be nobody's: about to be named by a blob or an event, or to be removed. Who puts an object
-- says so here first, so that none is ever lost sight of.
CREATE TABLE blob_puts (
    put_id uuid        NOT NULL PRIMARY KEY,
    hash   bytea       NOT NULL CHECK (octet_length(hash) = 32),
    -- Null for bytes that are put here.
    object text,
    put_at timestamptz NOT NULL DEFAULT now(),
    -- Nothing names it any more.
    doomed boolean     NOT NULL DEFAULT false
);

CREATE INDEX blob_puts_at ON blob_puts (put_at);

-- Whoever removes a blob, an older program too, leaves word of its object.
CREATE FUNCTION doom_blob_object() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO blob_puts (put_id, hash, object, doomed) VALUES (gen_random_uuid(), OLD.hash, OLD.object, true);
    RETURN NULL;
END
$$;

CREATE TRIGGER blobs_doom AFTER DELETE ON blobs
    FOR EACH ROW WHEN (OLD.object IS NOT NULL) EXECUTE FUNCTION doom_blob_object();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE
           ON output_watches, output_chunks, build_wishes, build_lines, blob_puts TO tako_vm_app;
    END IF;
END
$$;
