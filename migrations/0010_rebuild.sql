-- Making the derived tables anew beside the ones in use, and putting them in their place.
--
-- A rebuild fills tables of its own, named after its version, and ends with one transaction that
-- drops the old tables and gives their names to the new ones. Whoever names a table in a
-- statement, in a prepared one or in a function finds the new one from then on: PostgreSQL plans
-- a statement again when a table in its plan is gone. A view in between would cost every
-- statement something for ever, and could not be written through by the appends.

CREATE TABLE projection_versions (
    -- Never given twice, so that a rebuild that lost its database writes to no other's tables.
    version    bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The rows hold every event up to here; for the version in use, the events since then as well.
    checkpoint bigint      NOT NULL DEFAULT 0,
    -- Since when it is in use; null while it is being made.
    live_at    timestamptz,
    -- Executions whose rows in the version before were not the fold of their events.
    differing  bigint
);

INSERT INTO projection_versions (live_at) VALUES (clock_timestamp());

-- The tables that a rebuild makes, in the order in which an append locks them.
CREATE FUNCTION projection_tables() RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY['executions', 'endings', 'dead_letters'];

-- Drops what was made of a version that is not in use.
CREATE FUNCTION drop_rebuild(p_version bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_table text;
BEGIN
    DELETE FROM projection_versions WHERE version = p_version AND live_at IS NULL;
    IF FOUND THEN
        FOREACH v_table IN ARRAY projection_tables() LOOP
            EXECUTE format('DROP TABLE IF EXISTS %I', v_table || '_v' || p_version);
        END LOOP;
    END IF;
END
$$;

-- Makes empty tables of a new version, without indexes, and answers its number. Drops what
-- rebuilds that never ended left behind; the caller sees to it that none is under way.
CREATE FUNCTION begin_rebuild() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_version bigint;
    v_table   text;
    v_new     text;
    v_options text[];
    v_grant   record;
BEGIN
    FOR v_version IN SELECT p.version FROM projection_versions p WHERE p.live_at IS NULL LOOP
        PERFORM drop_rebuild(v_version);
    END LOOP;
    INSERT INTO projection_versions DEFAULT VALUES RETURNING version INTO v_version;
    FOREACH v_table IN ARRAY projection_tables() LOOP
        v_new := v_table || '_v' || v_version;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING INDEXES)', v_new, v_table);
        SELECT c.reloptions INTO v_options FROM pg_class c WHERE c.oid = v_table::regclass;
        IF v_options IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I SET (%s)', v_new, array_to_string(v_options, ', '));
        END IF;
        -- Whoever may read or write the table in use may do so with the one that follows it.
        FOR v_grant IN
            SELECT a.grantee, a.privilege_type, a.is_grantable
              FROM pg_class c, aclexplode(c.relacl) a
             WHERE c.oid = v_table::regclass AND a.grantee <> c.relowner
        LOOP
            EXECUTE format('GRANT %s ON %I TO %s%s', v_grant.privilege_type, v_new,
                           CASE v_grant.grantee WHEN 0 THEN 'PUBLIC'
                                ELSE quote_ident(pg_get_userbyid(v_grant.grantee)) END,
                           CASE WHEN v_grant.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        END LOOP;
    END LOOP;
    RETURN v_version;
END
$$;

-- Gives the filled tables the indexes that the ones in use have. Later than the rows: sorting
-- once is several times as fast as finding each row's place.
CREATE FUNCTION index_rebuild(p_version bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_suffix text := '_v' || p_version;
    v_table  text;
    v_index  record;
BEGIN
    FOREACH v_table IN ARRAY projection_tables() LOOP
        FOR v_index IN
            SELECT c.relname || v_suffix AS name, i.indisprimary, i.indisunique,
                   -- Everything behind the table's name.
                   substring(pg_get_indexdef(i.indexrelid) FROM ' USING .*$') AS definition
              FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid = v_table::regclass
        LOOP
            EXECUTE format('CREATE %s INDEX %I ON %I%s',
                           CASE WHEN v_index.indisunique THEN 'UNIQUE' ELSE '' END,
                           v_index.name, v_table || v_suffix, v_index.definition);
            IF v_index.indisprimary THEN
                EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I PRIMARY KEY USING INDEX %I',
                               v_table || v_suffix, v_index.name, v_index.name);
            END IF;
        END LOOP;
        EXECUTE format('ANALYZE %I', v_table || v_suffix);
    END LOOP;
END
$$;

-- Puts a version in the place of the one in use. The caller holds the log's lock, as every
-- append does before it touches these tables: so the two cannot wait for each other.
CREATE FUNCTION swap_projections(p_version bigint, p_checkpoint bigint, p_differing bigint)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_suffix text := '_v' || p_version;
    v_table  text;
    v_index  text;
BEGIN
    UPDATE projection_versions
       SET live_at = clock_timestamp(), checkpoint = p_checkpoint, differing = p_differing
     WHERE version = p_version AND live_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'projections: there is no version % that waits to be used', p_version
            USING ERRCODE = 'TK001';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE',
                   (SELECT string_agg(quote_ident(t.name), ', ' ORDER BY t.n)
                      FROM unnest(projection_tables()) WITH ORDINALITY t (name, n)));
    FOREACH v_table IN ARRAY projection_tables() LOOP
        EXECUTE format('DROP TABLE %I', v_table);
        EXECUTE format('ALTER TABLE %I RENAME TO %I', v_table || v_suffix, v_table);
        FOR v_index IN
            SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid = v_table::regclass
        LOOP
            EXECUTE format('ALTER INDEX %I RENAME TO %I', v_index,
                           left(v_index, -length(v_suffix)));
        END LOOP;
    END LOOP;
END
$$;

-- They work as the owner of the tables, so they must find nobody else's.
DO $$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'drop_rebuild(bigint)', 'begin_rebuild()', 'index_rebuild(bigint)',
        'swap_projections(bigint, bigint, bigint)']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', v_function,
                       current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', v_function);
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tako_vm_app', v_function);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, UPDATE (checkpoint) ON projection_versions TO tako_vm_app;
    END IF;
END
$$;
