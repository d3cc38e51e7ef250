-- What the server works as after it has connected. Whoever owns the tables can still drop
-- them; this role cannot, and cannot change an event.

DO $$
BEGIN
    CREATE ROLE tako_vm_app NOLOGIN;
EXCEPTION
    -- Roles belong to the whole cluster: another database may have made it, this very moment even.
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'role tako_vm_app was not created: % may not create roles', current_user;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT ON events TO tako_vm_app;
        GRANT SELECT, INSERT, UPDATE, DELETE
           ON executions, endings, idempotency_keys, dead_letters, blobs, job_type_versions, nodes, queue
           TO tako_vm_app;
        GRANT USAGE ON SEQUENCE queue_lease TO tako_vm_app;
        GRANT SELECT ON _sqlx_migrations TO tako_vm_app;
    END IF;
END
$$;

-- Apart from the grants above, which must stand even when this may not be done now.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app')
       AND NOT pg_has_role(current_user, 'tako_vm_app', 'MEMBER') THEN
        EXECUTE format('GRANT tako_vm_app TO %I', current_user);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'role tako_vm_app was not granted to %', current_user;
END
$$;
