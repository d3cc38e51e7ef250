-- Which waiting job may be claimed next, and where: limits of how many run at the same time, turns of
-- tenants, pauses, ageing, placement. See docs/queue.md.
--
-- All that decides is in the database and not in a node's configuration, so that it holds for every
-- node, and for those of an older program too: they call the same function.

-- What the node that started last was configured with.
CREATE TABLE claim_settings (
    one           boolean          NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    -- So many seconds of waiting count as one priority more; 0: none do.
    ageing        double precision NOT NULL DEFAULT 0 CHECK (ageing >= 0),
    -- So many seconds a job waits for a node that has its image.
    warm_grace    double precision NOT NULL DEFAULT 0 CHECK (warm_grace >= 0),
    -- Without a heartbeat for so many seconds a node is dead.
    dead_after    double precision NOT NULL DEFAULT 10 CHECK (dead_after > 0),
    -- Jobs of one tenant at the same time; 0: no limit.
    tenant_limit  integer          NOT NULL DEFAULT 0 CHECK (tenant_limit >= 0),
    -- Instead of it, by tenant.
    tenant_limits jsonb            NOT NULL DEFAULT '{}'
);

INSERT INTO claim_settings DEFAULT VALUES;

-- What a job type demands; one that demands nothing has no row.
CREATE TABLE job_type_rules (
    job_type    text    NOT NULL PRIMARY KEY,
    -- Jobs at the same time; null: no limit.
    concurrency integer CHECK (concurrency > 0),
    -- Engine or runtime of the node; null: any.
    runtime     text,
    labels      jsonb   NOT NULL DEFAULT '{}',
    -- Vendor of the GPUs; null: none are needed.
    gpu         text
);

-- The newest event of each stream of pauses; `*` stands for all job types.
CREATE TABLE job_type_pauses (
    job_type   text        NOT NULL PRIMARY KEY,
    stream_id  uuid        NOT NULL,
    is_paused  boolean     NOT NULL,
    changed_at timestamptz NOT NULL,
    changed_by text        NOT NULL,
    reason     text
);

ALTER TABLE nodes
    ADD COLUMN engine  text   NOT NULL DEFAULT '',
    ADD COLUMN runtime text   NOT NULL DEFAULT '',
    ADD COLUMN labels  jsonb  NOT NULL DEFAULT '{}',
    -- Vendors of GPUs that sandboxes can have.
    ADD COLUMN gpus    text[] NOT NULL DEFAULT '{}',
    -- Job types whose present image is there.
    ADD COLUMN warm    text[] NOT NULL DEFAULT '{}';

-- Heartbeats change neither column, so they still touch no index.
CREATE INDEX nodes_running ON nodes (node_id) WHERE state = 'running';

ALTER TABLE queue
    ADD COLUMN queued_at  timestamptz NOT NULL DEFAULT now(),
    -- Of the jobs of a tenant with the same key, so many run at the same time.
    ADD COLUMN limit_key  text,
    ADD COLUMN limit_size integer,
    ADD CONSTRAINT queue_limit CHECK ((limit_key IS NULL) = (limit_size IS NULL));

-- The ready jobs of each tenant and job type by themselves, in the order of queue_ready.
CREATE INDEX queue_lanes ON queue (priority, tenant, job_type, seq)
    WHERE lease IS NULL AND not_before IS NULL;
CREATE INDEX queue_limited ON queue (tenant, limit_key) WHERE limit_key IS NOT NULL;

-- An append that brings a job with a key says so by -1 attempts; the key is in the event, which is
-- there already. Other jobs do not get here.
CREATE FUNCTION take_limit() RETURNS trigger
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
    SELECT 0, e.payload -> 'concurrency' ->> 'key', (e.payload -> 'concurrency' ->> 'limit')::integer
      INTO NEW.attempts, NEW.limit_key, NEW.limit_size
      FROM events e WHERE e.stream_id = NEW.execution_id AND e.version = 1;
    RETURN NEW;
END
$$;

CREATE TRIGGER queue_takes_limit BEFORE INSERT ON queue
    FOR EACH ROW WHEN (NEW.attempts < 0) EXECUTE FUNCTION take_limit();

-- Whoever claims by more than age and priority holds this until the claim is visible to the next.
CREATE FUNCTION lock_claims() RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(7120385266094413187) $$;

-- Whether a node satisfies what a job type demands.
CREATE FUNCTION is_fit(p_node nodes, p_rules job_type_rules) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN (p_rules.runtime IS NULL OR p_rules.runtime IN (p_node.runtime, p_node.engine))
   AND p_node.labels @> p_rules.labels
   AND (p_rules.gpu IS NULL OR p_rules.gpu = ANY (p_node.gpus));

-- The priority that a job has after waiting so long.
CREATE FUNCTION effective_priority(p_priority integer, p_since timestamptz, p_now timestamptz,
                                   p_ageing double precision)
RETURNS integer
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN p_since IS NULL THEN NULL WHEN p_ageing = 0 THEN p_priority
            ELSE p_priority + floor(greatest(extract(epoch FROM p_now - p_since), 0) / p_ageing)::integer END;

-- Whether a tenant has as many jobs at work as it may have.
CREATE FUNCTION is_full(p_tenant text, p_running jsonb, p_settings claim_settings) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN coalesce(
    coalesce((p_running ->> p_tenant)::integer, 0)
        >= nullif(coalesce((p_settings.tenant_limits ->> p_tenant)::integer,
                           p_settings.tenant_limit), 0),
    false);

-- Job types whose image this node lacks while another one that lives has it.
CREATE FUNCTION colder_than_others(p_node nodes) RETURNS text[]
LANGUAGE sql STABLE
RETURN (SELECT coalesce(array_agg(DISTINCT w.job_type), '{}')
          FROM claim_settings s
          JOIN nodes n ON n.state = 'running' AND n.node_id <> p_node.node_id
                      AND n.heartbeat_at > clock_timestamp() - make_interval(secs => s.dead_after)
          CROSS JOIN unnest(n.warm) AS w (job_type)
         WHERE s.warm_grace > 0 AND w.job_type <> ALL (p_node.warm));

-- Chooses up to p_limit of the waiting jobs, for a node that holds lock_claims(): of the greatest
-- effective priority first, of these of the tenant that has the fewest running, of these the oldest.
-- What may not run now, or not on this node, is passed over and holds up nothing behind it.
--
-- p_first as in claim_jobs: per priority a seq below which nothing is ready.
CREATE FUNCTION choose_jobs(p_node nodes, p_limit integer, p_job_types text[], p_first bigint[])
RETURNS uuid[]
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now      timestamptz := clock_timestamp();
    v_set      claim_settings;
    v_paused   text[];
    v_barred   text[];
    v_cold     text[];
    -- Jobs at work, by tenant, by job type, and by tenant and key.
    v_tenants  jsonb;
    v_types    jsonb;
    v_keys     jsonb;
    -- Limits of job types.
    v_sizes    jsonb;
    -- Of those that have run into one.
    v_full     text[];
    v_chosen   uuid[] := '{}';
    v_before   integer;
    v_passed   boolean;
    v_key      text;
    v_cap      integer;
    r          record;
BEGIN
    SELECT s.* INTO v_set FROM claim_settings s;
    SELECT coalesce(array_agg(p.job_type), '{}') INTO v_paused
      FROM job_type_pauses p WHERE p.is_paused;
    IF '*' = ANY (v_paused) THEN
        RETURN v_chosen;
    END IF;
    SELECT coalesce(array_agg(u.job_type) FILTER (WHERE NOT is_fit(p_node, u)), '{}'),
           coalesce(jsonb_object_agg(u.job_type, u.concurrency)
                        FILTER (WHERE u.concurrency IS NOT NULL), '{}')
      INTO v_barred, v_sizes FROM job_type_rules u;
    v_cold := colder_than_others(p_node);
    WITH held AS (
        SELECT q.tenant, q.job_type, q.limit_key, count(*) AS n
          FROM queue q WHERE q.lease IS NOT NULL GROUP BY 1, 2, 3
    )
    SELECT (SELECT coalesce(jsonb_object_agg(t.tenant, t.n), '{}')
              FROM (SELECT h.tenant, sum(h.n) AS n FROM held h GROUP BY 1) t),
           (SELECT coalesce(jsonb_object_agg(t.job_type, t.n), '{}')
              FROM (SELECT h.job_type, sum(h.n) AS n FROM held h GROUP BY 1) t),
           (SELECT coalesce(jsonb_object_agg(t.key, t.n), '{}')
              FROM (SELECT h.tenant || chr(31) || h.limit_key AS key, sum(h.n) AS n FROM held h
                     WHERE h.limit_key IS NOT NULL GROUP BY 1) t)
      INTO v_tenants, v_types, v_keys;

    -- Of many jobs with one key a pass chooses as many as may run, and the next looks behind the others.
    LOOP
        v_before := cardinality(v_chosen);
        v_passed := false;
        SELECT coalesce(array_agg(s.key), '{}') INTO v_full
          FROM jsonb_each_text(v_sizes) s
         WHERE coalesce((v_types ->> s.key)::integer, 0) >= s.value::integer;
        FOR r IN
            WITH RECURSIVE lanes AS (
                (SELECT q.priority, q.tenant, q.job_type FROM queue q
                  WHERE q.lease IS NULL AND q.not_before IS NULL
                  ORDER BY q.priority, q.tenant, q.job_type LIMIT 1)
                UNION ALL
                SELECT n.* FROM lanes l CROSS JOIN LATERAL (
                    SELECT q.priority, q.tenant, q.job_type FROM queue q
                     WHERE q.lease IS NULL AND q.not_before IS NULL
                       AND (q.priority, q.tenant, q.job_type) > (l.priority, l.tenant, l.job_type)
                     ORDER BY q.priority, q.tenant, q.job_type LIMIT 1) n
            ), heads AS (
                SELECT l.*, h.seq,
                       effective_priority(l.priority, h.queued_at, v_now, v_set.ageing) AS urgency
                  FROM lanes l CROSS JOIN LATERAL (
                    SELECT q.seq, q.queued_at FROM queue q
                     WHERE q.lease IS NULL AND q.not_before IS NULL AND q.priority = l.priority
                       AND q.tenant = l.tenant AND q.job_type = l.job_type
                       AND q.seq >= p_first[l.priority + 1]
                       AND NOT q.execution_id = ANY (v_chosen)
                       AND (q.limit_key IS NULL
                            OR coalesce((v_keys ->> (q.tenant || chr(31) || q.limit_key))::integer, 0)
                                < q.limit_size)
                       AND (q.job_type <> ALL (v_cold)
                            OR q.queued_at < v_now - make_interval(secs => v_set.warm_grace))
                     ORDER BY q.seq LIMIT 1) h
                 WHERE l.job_type <> ALL (v_paused) AND l.job_type <> ALL (v_barred)
                   AND l.job_type <> ALL (v_full)
                   AND (p_job_types IS NULL OR l.job_type = ANY (p_job_types))
                   AND NOT is_full(l.tenant, v_tenants, v_set)
            ), best AS (
                -- Of more lanes than that, at least one job each would go before the others' first.
                SELECT t.* FROM (
                    SELECT h.*, row_number() OVER (PARTITION BY h.urgency, h.tenant ORDER BY h.seq)
                                + coalesce((v_tenants ->> h.tenant)::integer, 0) AS turn
                      FROM heads h) t
                 ORDER BY t.urgency DESC, t.turn, t.seq LIMIT p_limit
            ), waiting AS (
                SELECT c.*, false AS is_due FROM best l CROSS JOIN LATERAL (
                    SELECT q.execution_id, q.priority, q.tenant, q.job_type, q.limit_key,
                           q.limit_size, q.seq, q.queued_at AS since
                      FROM queue q
                     WHERE q.lease IS NULL AND q.not_before IS NULL AND q.priority = l.priority
                       AND q.tenant = l.tenant AND q.job_type = l.job_type AND q.seq >= l.seq
                       AND NOT q.execution_id = ANY (v_chosen)
                       AND (q.limit_key IS NULL
                            OR coalesce((v_keys ->> (q.tenant || chr(31) || q.limit_key))::integer, 0)
                                < q.limit_size)
                       AND (q.job_type <> ALL (v_cold)
                            OR q.queued_at < v_now - make_interval(secs => v_set.warm_grace))
                     ORDER BY q.seq LIMIT p_limit) c
                UNION ALL
                SELECT c.*, true FROM generate_series(0, 9) p CROSS JOIN LATERAL (
                    SELECT q.execution_id, q.priority, q.tenant, q.job_type, q.limit_key,
                           q.limit_size, q.seq, greatest(q.queued_at, q.not_before)
                      FROM queue q
                     WHERE q.lease IS NULL AND q.not_before <= v_now AND q.priority = p
                       AND NOT q.execution_id = ANY (v_chosen)
                       AND q.job_type <> ALL (v_paused) AND q.job_type <> ALL (v_barred)
                       AND q.job_type <> ALL (v_full)
                       AND (p_job_types IS NULL OR q.job_type = ANY (p_job_types))
                       AND (q.limit_key IS NULL
                            OR coalesce((v_keys ->> (q.tenant || chr(31) || q.limit_key))::integer, 0)
                                < q.limit_size)
                       AND (q.job_type <> ALL (v_cold)
                            OR q.not_before < v_now - make_interval(secs => v_set.warm_grace))
                       AND NOT is_full(q.tenant, v_tenants, v_set)
                     ORDER BY q.not_before LIMIT p_limit) c
            ), aged AS (
                SELECT w.*, effective_priority(w.priority, w.since, v_now, v_set.ageing) AS urgency
                  FROM waiting w
            )
            SELECT a.*, row_number() OVER (PARTITION BY a.urgency, a.tenant
                                           ORDER BY a.is_due DESC, a.seq)
                        + coalesce((v_tenants ->> a.tenant)::integer, 0) AS turn
              FROM aged a
             ORDER BY a.urgency DESC, turn, a.is_due DESC, a.seq
        LOOP
            v_key := r.tenant || chr(31) || r.limit_key;
            v_cap := (v_sizes ->> r.job_type)::integer;
            IF is_full(r.tenant, v_tenants, v_set)
               OR coalesce((v_types ->> r.job_type)::integer, 0) >= v_cap
               OR coalesce((v_keys ->> v_key)::integer, 0) >= r.limit_size THEN
                v_passed := true;
                CONTINUE;
            END IF;
            v_chosen := v_chosen || r.execution_id;
            v_tenants := v_tenants || jsonb_build_object(
                r.tenant, coalesce((v_tenants ->> r.tenant)::integer, 0) + 1);
            v_types := v_types || jsonb_build_object(
                r.job_type, coalesce((v_types ->> r.job_type)::integer, 0) + 1);
            IF r.limit_key IS NOT NULL THEN
                v_keys := v_keys || jsonb_build_object(
                    v_key, coalesce((v_keys ->> v_key)::integer, 0) + 1);
            END IF;
            EXIT WHEN cardinality(v_chosen) >= p_limit;
        END LOOP;
        EXIT WHEN NOT v_passed OR cardinality(v_chosen) IN (v_before, p_limit);
    END LOOP;
    RETURN v_chosen;
END
$$;

-- As in 0003. While nothing but priority and age decides (one tenant, no limit, pause or placement, and
-- nobody who waited long enough to be as urgent as a more urgent one), nodes claim beside each other as
-- before. Otherwise they choose one after the other, by choose_jobs().
CREATE OR REPLACE FUNCTION claim_jobs(p_node uuid, p_limit integer, p_job_types text[], p_floors bigint[])
RETURNS TABLE (
    o_execution_id uuid, o_lease bigint, o_attempt integer, o_priority smallint, o_tenant text,
    o_job_type text, o_cancel_requested boolean, o_floors bigint[]
)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_first  bigint[];
    v_due    boolean[];
    v_floors bigint[];
    v_tenant text[];
    v_choose boolean;
    v_self   nodes;
    v_chosen uuid[];
    v_left   integer := p_limit;
    v_rows   integer;
    v_any    boolean := false;
BEGIN
    -- The claim need not reach the disk by itself: the append that follows it waits for the disk,
    -- and takes the claim with it. Should the database die in between, nobody has claimed.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- One snapshot: every row that is committed later gets a seq above this maximum.
    SELECT array_agg(h.first ORDER BY h.p), array_agg(h.due IS NOT NULL ORDER BY h.p),
           array_agg(coalesce(h.first - 1, h.last) ORDER BY h.p),
           array_agg(h.tenant ORDER BY h.p), bool_or(h.urgency <= h.below)
      INTO v_first, v_due, v_floors, v_tenant, v_choose
      FROM (SELECT u.*, max(u.urgency) OVER (ORDER BY u.p ROWS BETWEEN UNBOUNDED PRECEDING
                                                                   AND 1 PRECEDING) AS below
              FROM (SELECT p, m.last, f.seq AS first, f.tenant, d.due,
                           greatest(
                               effective_priority(p, f.queued_at, clock_timestamp(), s.ageing),
                               effective_priority(p, d.due, clock_timestamp(), s.ageing)) AS urgency
                      FROM (SELECT coalesce(max(e.position), 0) AS last FROM events e) m
                     CROSS JOIN claim_settings s CROSS JOIN generate_series(0, 9) p
                      LEFT JOIN LATERAL (
                          SELECT q.seq, q.tenant, q.queued_at FROM queue q
                           WHERE q.lease IS NULL AND q.not_before IS NULL
                             AND q.priority = p AND q.seq > least(p_floors[p + 1], m.last)
                           ORDER BY q.seq LIMIT 1) f ON true
                      LEFT JOIN LATERAL (
                          SELECT q.not_before AS due FROM queue q
                           WHERE q.lease IS NULL AND q.not_before <= clock_timestamp()
                             AND q.priority = p
                           ORDER BY q.not_before LIMIT 1) d ON true) u) h;

    IF true = ANY (v_due) OR EXISTS (SELECT FROM unnest(v_first) AS f WHERE f IS NOT NULL) THEN
        SELECT n.* INTO v_self FROM nodes n WHERE n.node_id = p_node AND n.state = 'running';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'node % is not registered as running and cannot claim', p_node
                USING ERRCODE = 'TK003';
        END IF;
        IF NOT coalesce(v_choose, false) THEN
            SELECT s.tenant_limit > 0 OR s.tenant_limits <> '{}'
                   OR EXISTS (SELECT FROM queue q WHERE q.limit_key IS NOT NULL)
                   OR EXISTS (SELECT FROM job_type_rules)
                   OR EXISTS (SELECT FROM job_type_pauses j WHERE j.is_paused)
                   OR s.warm_grace > 0 AND colder_than_others(v_self) <> '{}'
                   OR EXISTS (SELECT FROM unnest(v_tenant) WITH ORDINALITY t (name, n)
                               WHERE EXISTS (SELECT FROM queue q
                                              WHERE q.lease IS NULL AND q.not_before IS NULL
                                                AND q.priority = t.n - 1 AND q.tenant < t.name)
                                  OR EXISTS (SELECT FROM queue q
                                              WHERE q.lease IS NULL AND q.not_before IS NULL
                                                AND q.priority = t.n - 1 AND q.tenant > t.name))
              INTO v_choose FROM claim_settings s;
        END IF;
        IF v_choose THEN
            -- The statements below see whatever was claimed under it before.
            PERFORM lock_claims();
            v_chosen := choose_jobs(v_self, p_limit, p_job_types, v_first);
            RETURN QUERY
            WITH picked AS (
                SELECT q.execution_id FROM queue q
                 WHERE q.execution_id = ANY (v_chosen) AND q.lease IS NULL
                   FOR UPDATE SKIP LOCKED)
            UPDATE queue q
               SET lease = nextval('queue_lease'), claimed_at = clock_timestamp(),
                   node_id = p_node, not_before = NULL
              FROM picked WHERE q.execution_id = picked.execution_id
            RETURNING q.execution_id, q.lease, q.attempts + 1, q.priority, q.tenant, q.job_type,
                      q.cancel_requested, v_floors;
            v_any := FOUND;
            v_left := 0;
        END IF;
        FOR v_priority IN REVERSE 9..0 LOOP
            EXIT WHEN v_left <= 0;
            -- A delayed job whose time has come goes before the ready ones of its priority. One with
            -- a key came since the look above, and is left to those who choose.
            IF v_due[v_priority + 1] THEN
                RETURN QUERY
                WITH picked AS (
                    SELECT q.execution_id FROM queue q
                     WHERE q.lease IS NULL AND q.not_before <= clock_timestamp()
                       AND q.priority = v_priority AND q.limit_key IS NULL
                       AND (p_job_types IS NULL OR q.job_type = ANY (p_job_types))
                     ORDER BY q.not_before
                     LIMIT v_left FOR UPDATE SKIP LOCKED)
                UPDATE queue q
                   SET lease = nextval('queue_lease'), claimed_at = clock_timestamp(),
                       node_id = p_node, not_before = NULL
                  FROM picked WHERE q.execution_id = picked.execution_id
                RETURNING q.execution_id, q.lease, q.attempts + 1, q.priority, q.tenant, q.job_type,
                          q.cancel_requested, v_floors;
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_left := v_left - v_rows;
                v_any := v_any OR v_rows > 0;
            END IF;
            IF v_left > 0 AND v_first[v_priority + 1] IS NOT NULL THEN
                RETURN QUERY
                WITH picked AS (
                    SELECT q.execution_id FROM queue q
                     WHERE q.lease IS NULL AND q.not_before IS NULL
                       AND q.priority = v_priority AND q.seq >= v_first[v_priority + 1]
                       AND q.limit_key IS NULL
                       AND (p_job_types IS NULL OR q.job_type = ANY (p_job_types))
                     ORDER BY q.seq
                     LIMIT v_left FOR UPDATE SKIP LOCKED)
                UPDATE queue q
                   SET lease = nextval('queue_lease'), claimed_at = clock_timestamp(),
                       node_id = p_node
                  FROM picked WHERE q.execution_id = picked.execution_id
                RETURNING q.execution_id, q.lease, q.attempts + 1, q.priority, q.tenant, q.job_type,
                          q.cancel_requested, v_floors;
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_left := v_left - v_rows;
                v_any := v_any OR v_rows > 0;
            END IF;
        END LOOP;
    END IF;
    IF NOT v_any THEN
        RETURN QUERY SELECT NULL::uuid, NULL::bigint, NULL::integer, NULL::smallint, NULL::text,
                            NULL::text, NULL::boolean, v_floors;
    END IF;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON claim_settings, job_type_rules, job_type_pauses TO tako_vm_app;
    END IF;
END
$$;
