-- Values that jobs get and nobody reads back. Only ciphertext is here: the key is the server's, and
-- a copy of the database tells nothing without it.

-- No version is given twice, not even to a secret that was removed and set again.
CREATE SEQUENCE secret_versions;

CREATE TABLE secrets (
    tenant     text        NOT NULL,
    name       text        NOT NULL CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,63}$'),
    version    bigint      NOT NULL CHECK (version > 0),
    -- Which key sealed it: the first 8 bytes of a hash of the key.
    key_id     bytea       NOT NULL CHECK (octet_length(key_id) = 8),
    nonce      bytea       NOT NULL CHECK (octet_length(nonce) = 24),
    -- XChaCha20-Poly1305; tenant, name and version are authenticated with it.
    ciphertext bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, name)
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON secrets TO tako_vm_app;
        GRANT USAGE ON SEQUENCE secret_versions TO tako_vm_app;
    END IF;
END
$$;
