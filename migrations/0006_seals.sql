-- Seals of the log: each covers a range of positions by the root of a Merkle tree, and the seal
-- before it by its hash. docs/audit.md has the bytes that are hashed and signed.

CREATE TABLE seals (
    -- From 1, without gaps.
    seal_no        bigint      NOT NULL PRIMARY KEY CHECK (seal_no > 0),
    first_position bigint      NOT NULL CHECK (first_position > 0),
    last_position  bigint      NOT NULL UNIQUE CHECK (last_position >= first_position),
    event_count    bigint      NOT NULL CHECK (event_count = last_position - first_position + 1),
    sealed_at      timestamptz NOT NULL,
    root           bytea       NOT NULL CHECK (octet_length(root) = 32),
    -- Null for the first seal.
    previous_hash  bytea       CHECK (octet_length(previous_hash) = 32),
    hash           bytea       NOT NULL CHECK (octet_length(hash) = 32),
    -- Ed25519; both null for a seal that nobody signed.
    public_key     bytea       CHECK (octet_length(public_key) = 32),
    signature      bytea       CHECK (octet_length(signature) = 64),
    CHECK ((public_key IS NULL) = (signature IS NULL)),
    CHECK ((previous_hash IS NULL) = (seal_no = 1))
);

CREATE FUNCTION refuse_change_of_seals() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'seals are append-only: % is refused for everyone', TG_OP
        USING ERRCODE = 'TK002';
END
$$;

CREATE TRIGGER seals_are_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON seals
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_seals();

ALTER TABLE seals ENABLE ALWAYS TRIGGER seals_are_append_only;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT ON seals TO tako_vm_app;
    END IF;
END
$$;
