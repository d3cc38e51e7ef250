-- The log in partitions by the age of streams: ids of streams are UUIDv7, so a range of ids is a range
-- of time. All events of a stream are in one partition, and so whatever is said of a stream (its head,
-- its versions, its event ids) is found and held unique in one. A partition whose streams are all over
-- can be archived and dropped; no row is ever deleted.
--
-- Positions run through all partitions. The append lock keeps them unique; each partition has an index of
-- its own that says so, too.

CREATE TABLE event_partitions (
    name        text NOT NULL PRIMARY KEY,
    -- Streams with ids from here on; null for the first partition, which begins with the log.
    from_stream uuid,
    to_stream   uuid NOT NULL UNIQUE
);

-- What stands for events that were dropped, under seals that cover others as well: with it the
-- roots can still be computed. Whoever changed it would change a root.
CREATE TABLE archived_leaves (
    position    bigint   NOT NULL PRIMARY KEY,
    stream_kind smallint NOT NULL,
    hash        bytea    NOT NULL CHECK (octet_length(hash) = 32)
);

-- Seals of which no event is here any more.
CREATE TABLE archived_seals (
    seal_no bigint NOT NULL PRIMARY KEY
);

-- The first stream id of a moment.
CREATE FUNCTION first_stream_of(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex(trunc(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- What there is becomes the first partition: everything up to the end of this month.
ALTER TABLE events RENAME TO events_first;
ALTER TABLE events_first RENAME CONSTRAINT events_pkey TO events_first_position;
ALTER INDEX events_stream RENAME TO events_first_stream;
ALTER INDEX events_code RENAME TO events_first_code;
ALTER INDEX events_inputs RENAME TO events_first_inputs;
ALTER INDEX events_recorded RENAME TO events_first_recorded;
DROP INDEX events_event_id;

CREATE TABLE events (LIKE events_first INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMPRESSION)
    PARTITION BY RANGE (stream_id);

CREATE UNIQUE INDEX events_stream ON events (stream_id, version);
-- Repeating an event id in its stream repeats the first result.
CREATE UNIQUE INDEX events_event_id ON events (event_id, stream_id);
CREATE INDEX events_code ON events
    (hashtextextended(substr(payload::text, strpos(payload::text, '"code":"') + 8, 64), 0), position)
    WHERE event_type = 'JobSubmitted';
CREATE INDEX events_inputs ON events USING gin (input_keys(payload))
    WHERE event_type = 'JobSubmitted' AND strpos(payload::text, '"files":[') > 0;
CREATE INDEX events_recorded ON events USING brin (recorded_at) WITH (pages_per_range = 32);

CREATE TRIGGER events_are_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_append_only;

-- A partition by itself is refused to whoever speaks to it instead of to the log.
CREATE FUNCTION guard_event_partition(p_name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE UNIQUE INDEX %I ON %I (position)', p_name || '_position', p_name);
    EXECUTE format('CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
                   'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events()', p_name);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER events_are_append_only', p_name);
END
$$;

-- Makes the partitions of the next months, as many as are missing. Answers how many it made.
CREATE FUNCTION make_event_partitions(p_months integer) RETURNS integer
LANGUAGE plpgsql
-- The application's role makes no tables; this is all of it that it may have done.
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_last uuid;
    v_next uuid;
    v_name text;
    v_made integer := 0;
BEGIN
    PERFORM lock_log();
    FOR v_month IN 1..least(p_months, 24) LOOP
        SELECT max(p.to_stream::text)::uuid INTO v_last FROM event_partitions p;
        v_next := first_stream_of((date_trunc('month', now() AT TIME ZONE 'UTC')
                                   + make_interval(months => v_month + 1)) AT TIME ZONE 'UTC');
        CONTINUE WHEN v_next <= v_last;
        v_name := 'events_' || to_char((date_trunc('month', now() AT TIME ZONE 'UTC')
                                        + make_interval(months => v_month)), 'YYYY_MM');
        EXECUTE format('CREATE TABLE %I PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                       v_name, v_last, v_next);
        PERFORM guard_event_partition(v_name);
        INSERT INTO event_partitions VALUES (v_name, v_last, v_next);
        v_made := v_made + 1;
    END LOOP;
    RETURN v_made;
END
$$;

REVOKE EXECUTE ON FUNCTION make_event_partitions(integer) FROM PUBLIC;

DO $$
DECLARE
    v_end uuid := first_stream_of((date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month')
                                  AT TIME ZONE 'UTC');
BEGIN
    IF EXISTS (SELECT FROM events_first WHERE stream_id >= v_end) THEN
        -- Ids that are no UUIDv7, or a clock that was ahead: all of it stays in one partition.
        v_end := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
        RAISE NOTICE 'events: streams have ids of the future; partitions by age are not made';
    END IF;
    EXECUTE format('ALTER TABLE events_first ADD CONSTRAINT events_first_streams CHECK (stream_id < %L)', v_end);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION events_first FOR VALUES FROM (MINVALUE) TO (%L)', v_end);
    INSERT INTO event_partitions VALUES ('events_first', NULL, v_end);
END
$$;

-- Ids that are of no month there is a partition for, like those of a clock that is wrong: an append must
-- not fail for them.
CREATE TABLE events_other PARTITION OF events DEFAULT;
SELECT guard_event_partition('events_other');
SELECT make_event_partitions(3);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tako_vm_app') THEN
        REVOKE ALL ON events_first FROM tako_vm_app;
        GRANT SELECT, INSERT ON events TO tako_vm_app;
        GRANT SELECT ON event_partitions, archived_leaves, archived_seals TO tako_vm_app;
        GRANT EXECUTE ON FUNCTION make_event_partitions(integer) TO tako_vm_app;
    END IF;
END
$$;

-- As in 0004, but event ids are looked up in their own stream, and so in one partition.
CREATE OR REPLACE FUNCTION append_events(
    p_node text,
    i_wave integer[], i_stream uuid[], i_kind smallint[], i_expected integer[],
    i_prev_hash bytea[], i_events integer[], i_first_event uuid[], i_last_event uuid[],
    i_lease bigint[], i_tenant text[], i_key text[], i_fingerprint bytea[],
    e_item integer[], e_event_id uuid[], e_version integer[], e_type text[], e_schema smallint[],
    e_recorded timestamptz[], e_actor text[], e_correlation text[], e_causation uuid[],
    e_prev_hash bytea[], e_hash bytea[], e_payload text[],
    r_item integer[], r_tenant text[], r_status text[], r_job_type text[], r_created timestamptz[],
    r_ended timestamptz[], r_parent uuid[],
    q_item integer[], q_change smallint[], q_tenant text[], q_job_type text[],
    q_priority smallint[], q_not_before timestamptz[], q_attempts integer[],
    d_item integer[], d_change smallint[], d_created timestamptz[], d_retry_count integer[],
    d_tenant text[], d_job_type text[], d_error_type text[], d_error_message text[],
    d_client_ip text[], d_correlation text[],
    b_item integer[], b_hash bytea[], b_bytes bytea[]
)
RETURNS TABLE (
    o_item integer, o_verdict smallint, o_first_position bigint, o_last_position bigint,
    o_version integer, o_head_hash bytea, o_lease bigint, o_execution_id uuid,
    o_fingerprint bytea
)
LANGUAGE plpgsql
-- The plans must not depend on what the tables held when a connection was young: everything
-- here is a handful of index look-ups, whatever the statistics say.
SET jit = off
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_base     bigint;
    v_wave     integer;
    v_verdict  smallint[];
    v_ok       boolean[];
    v_first    bigint[];
    v_last     bigint[];
    v_version  integer[];
    v_hash     bytea[];
    v_held     bigint[];
    v_other    uuid[];
    v_print    bytea[];
    v_missing  bigint;
    v_queue    boolean := false;
    v_ended    boolean := false;
    v_cancel   boolean := false;
    v_flag     boolean;
BEGIN
    -- Held until the commit is visible, so that positions become visible in their order. The
    -- statements below take their snapshots after it.
    PERFORM lock_log();

    FOR v_wave IN 0..(SELECT max(w) FROM unnest(i_wave) AS w) LOOP
        SELECT coalesce(max(e.position), 0) INTO v_base FROM events e;

        SELECT array_agg(p.verdict ORDER BY p.n),
               array_agg(coalesce(p.verdict = 0, false) ORDER BY p.n),
               array_agg(CASE WHEN p.verdict = 0 THEN p.last_new - p.events + 1
                              WHEN p.verdict = 1 THEN p.first_position END ORDER BY p.n),
               array_agg(CASE WHEN p.verdict = 0 THEN p.last_new
                              WHEN p.verdict = 1 THEN p.last_position END ORDER BY p.n),
               array_agg(CASE WHEN p.verdict = 0 THEN p.expected + p.events
                              WHEN p.verdict = 1 THEN p.last_version
                              ELSE p.version END ORDER BY p.n),
               array_agg(CASE WHEN p.verdict = 1 THEN p.last_hash END ORDER BY p.n),
               array_agg(p.held ORDER BY p.n),
               array_agg(p.other ORDER BY p.n),
               array_agg(p.fingerprint ORDER BY p.n)
          INTO v_verdict, v_ok, v_first, v_last, v_version, v_hash, v_held, v_other, v_print
          FROM (SELECT j.*, v_base + sum(CASE WHEN j.verdict = 0 THEN j.events ELSE 0 END)
                                     OVER (ORDER BY j.n ROWS UNBOUNDED PRECEDING) AS last_new
                  FROM (SELECT i.n, i.events, i.expected,
                               f.position AS first_position, l.position AS last_position,
                               l.version AS last_version, l.hash AS last_hash,
                               coalesce(h.version, 0) AS version, q.lease AS held,
                               k.execution_id AS other, k.fingerprint,
                               CASE WHEN i.wave <> v_wave THEN NULL
                                    WHEN l.position IS NOT NULL THEN 1
                                    WHEN k.execution_id IS NOT NULL THEN 4
                                    WHEN i.lease IS NOT NULL AND q.lease IS DISTINCT FROM i.lease
                                        THEN 3
                                    WHEN coalesce(h.version, 0) <> i.expected
                                      OR h.hash IS DISTINCT FROM i.prev_hash THEN 2
                                    ELSE 0 END::smallint AS verdict
                          FROM unnest(i_wave, i_stream, i_expected, i_prev_hash, i_events,
                                      i_first_event, i_last_event, i_lease, i_tenant, i_key)
                                   WITH ORDINALITY
                                   AS i (wave, stream, expected, prev_hash, events, first_event,
                                         last_event, lease, tenant, key, n)
                          LEFT JOIN events f ON f.stream_id = i.stream
                                            AND f.event_id = i.first_event AND i.wave = v_wave
                          LEFT JOIN events l ON l.stream_id = i.stream
                                            AND l.event_id = i.last_event
                                            AND f.position IS NOT NULL
                          LEFT JOIN LATERAL (SELECT e.version, e.hash FROM events e
                                              WHERE e.stream_id = i.stream AND i.wave = v_wave
                                              ORDER BY e.version DESC LIMIT 1) h ON true
                          LEFT JOIN queue q ON i.lease IS NOT NULL AND q.execution_id = i.stream
                                           AND i.wave = v_wave
                          LEFT JOIN idempotency_keys k ON k.tenant = i.tenant AND k.key = i.key
                                                      AND i.wave = v_wave) j) p;

        INSERT INTO events (position, event_id, stream_id, recorded_at, causation_id, version,
                            schema_version, stream_kind, event_type, actor, correlation_id,
                            prev_hash, hash, payload)
        SELECT v_first[e.item] + e.version - i_expected[e.item] - 1, e.event_id,
               i_stream[e.item], e.recorded, e.causation, e.version, e.schema, i_kind[e.item],
               e.type, e.actor, e.correlation, e.prev_hash, e.hash, e.payload::json
          FROM unnest(e_item, e_event_id, e_version, e_type, e_schema, e_recorded, e_actor,
                      e_correlation, e_causation, e_prev_hash, e_hash, e_payload)
                   AS e (item, event_id, version, type, schema, recorded, actor, correlation,
                         causation, prev_hash, hash, payload)
         WHERE v_ok[e.item];

        IF cardinality(r_item) > 0 THEN
            -- The row is made with the stream's first event and updated with each later one.
            INSERT INTO executions (execution_id, parent_execution_id, created_at, tenant, job_type,
                                    version, status, ended_at)
            SELECT i_stream[r.item], r.parent, r.created, r.tenant, r.job_type, v_version[r.item],
                   r.status, r.ended
              FROM unnest(r_item, r_tenant, r_status, r_job_type, r_created, r_ended, r_parent)
                       AS r (item, tenant, status, job_type, created, ended, parent)
             WHERE v_ok[r.item] AND i_expected[r.item] = 0;

            WITH wanted AS (
                SELECT r.* FROM unnest(r_item, r_status, r_ended) AS r (item, status, ended)
                 WHERE v_ok[r.item] AND i_expected[r.item] > 0
            ), done AS (
                UPDATE executions x
                   SET version = v_version[r.item], status = r.status, ended_at = r.ended
                  FROM wanted r WHERE x.execution_id = i_stream[r.item]
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM wanted) - (SELECT count(*) FROM done),
                   EXISTS (SELECT FROM unnest(r_item, r_ended) AS r (item, ended)
                            WHERE v_ok[r.item] AND r.ended IS NOT NULL)
              INTO v_missing, v_flag;
            IF v_missing <> 0 THEN
                RAISE EXCEPTION 'executions: % rows to update are missing', v_missing
                    USING ERRCODE = 'TK001';
            END IF;
            IF v_flag THEN
                v_ended := true;
                -- An end is for good, but events may follow it and bring it again.
                INSERT INTO endings (status, execution_id)
                SELECT r.status, i_stream[r.item]
                  FROM unnest(r_item, r_status, r_ended) AS r (item, status, ended)
                 WHERE v_ok[r.item] AND r.ended IS NOT NULL
                   AND NOT EXISTS (SELECT FROM endings n WHERE n.status = r.status
                                      AND n.execution_id = i_stream[r.item]);
            END IF;
        END IF;

        IF cardinality(q_item) > 0 THEN
            INSERT INTO queue (execution_id, seq, attempts, priority, tenant, job_type, not_before)
            SELECT i_stream[q.item], v_first[q.item], q.attempts, q.priority, q.tenant, q.job_type,
                   CASE WHEN q.not_before > clock_timestamp() THEN q.not_before END
              FROM unnest(q_item, q_change, q_tenant, q_job_type, q_priority, q_not_before,
                          q_attempts)
                       AS q (item, change, tenant, job_type, priority, not_before, attempts)
             WHERE q.change = 1 AND v_ok[q.item];

            WITH wanted AS (
                SELECT q.* FROM unnest(q_item, q_change, q_not_before, q_attempts)
                                    AS q (item, change, not_before, attempts)
                 WHERE q.change > 1 AND v_ok[q.item]
            ), released AS (
                UPDATE queue t
                   SET seq = v_first[q.item], attempts = q.attempts, lease = NULL,
                       claimed_at = NULL, node_id = NULL,
                       not_before = CASE WHEN q.not_before > clock_timestamp()
                                         THEN q.not_before END
                  FROM wanted q WHERE q.change = 2 AND t.execution_id = i_stream[q.item]
                RETURNING 1
            ), removed AS (
                DELETE FROM queue t USING wanted q
                 WHERE q.change = 3 AND t.execution_id = i_stream[q.item]
                RETURNING 1
            ), flagged AS (
                UPDATE queue t SET cancel_requested = true
                  FROM wanted q WHERE q.change = 4 AND t.execution_id = i_stream[q.item]
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM wanted) - (SELECT count(*) FROM released)
                       - (SELECT count(*) FROM removed) - (SELECT count(*) FROM flagged)
              INTO v_missing;
            IF v_missing <> 0 THEN
                RAISE EXCEPTION 'queue: % rows to change are missing', v_missing
                    USING ERRCODE = 'TK001';
            END IF;

            SELECT v_queue OR coalesce(bool_or(q.change <= 2), false),
                   v_cancel OR coalesce(bool_or(q.change = 4), false)
              INTO v_queue, v_cancel
              FROM unnest(q_item, q_change) AS q (item, change) WHERE v_ok[q.item];
        END IF;

        IF EXISTS (SELECT FROM unnest(i_key) AS k WHERE k IS NOT NULL) THEN
            INSERT INTO idempotency_keys (tenant, key, execution_id, fingerprint)
            SELECT i.tenant, i.key, i.stream, i.fingerprint
              FROM unnest(i_tenant, i_key, i_stream, i_fingerprint) WITH ORDINALITY
                       AS i (tenant, key, stream, fingerprint, n)
             WHERE i.key IS NOT NULL AND v_ok[i.n];
        END IF;

        IF cardinality(d_item) > 0 THEN
            INSERT INTO dead_letters (execution_id, created_at, retry_count, tenant, job_type,
                                      error_type, error_message, client_ip, correlation_id)
            SELECT i_stream[d.item], d.created, d.retry_count, d.tenant, d.job_type, d.error_type,
                   d.error_message, d.client_ip, d.correlation
              FROM unnest(d_item, d_change, d_created, d_retry_count, d_tenant, d_job_type,
                          d_error_type, d_error_message, d_client_ip, d_correlation)
                       AS d (item, change, created, retry_count, tenant, job_type, error_type,
                             error_message, client_ip, correlation)
             WHERE d.change = 1 AND v_ok[d.item];

            WITH wanted AS (
                SELECT d.item FROM unnest(d_item, d_change) AS d (item, change)
                 WHERE d.change = 2 AND v_ok[d.item]
            ), removed AS (
                DELETE FROM dead_letters t USING wanted d WHERE t.execution_id = i_stream[d.item]
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM wanted) - (SELECT count(*) FROM removed) INTO v_missing;
            IF v_missing <> 0 THEN
                RAISE EXCEPTION 'dead_letters: % rows to remove are missing', v_missing
                    USING ERRCODE = 'TK001';
            END IF;
        END IF;

        IF cardinality(b_item) > 0 THEN
            INSERT INTO blobs (hash, size, bytes)
            SELECT b.hash, octet_length(b.bytes), b.bytes
              FROM unnest(b_item, b_hash, b_bytes) AS b (item, hash, bytes)
             WHERE v_ok[b.item]
                ON CONFLICT (hash) DO NOTHING;
        END IF;

        RETURN QUERY
        SELECT r.n::integer, r.verdict, r.first_position, r.last_position, r.version, r.hash,
               r.held, r.other, r.fingerprint
          FROM unnest(v_verdict, v_first, v_last, v_version, v_hash, v_held, v_other, v_print)
                   WITH ORDINALITY AS r (verdict, first_position, last_position, version, hash,
                                         held, other, fingerprint, n)
         WHERE r.verdict IS NOT NULL;
    END LOOP;

    IF v_queue OR v_ended OR v_cancel THEN
        PERFORM pg_notify('tako_vm', json_build_object('node', p_node, 'queue', v_queue,
                                                       'ended', v_ended,
                                                       'cancel', v_cancel)::text);
    END IF;
END
$$;
