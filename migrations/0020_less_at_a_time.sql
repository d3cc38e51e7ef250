-- Appends, claims and reads of single streams cost less where little is asked for at a time: parts of
-- statements that have nothing to do are left out, and what names one stream opens one partition. What
-- is written, and when it is refused, is as before; nodes of the version before call the same functions.

-- As in 0009.
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
    v_stream   uuid;
    v_rows     bigint;
BEGIN
    -- Held until the commit is visible, so that positions become visible in their order. The
    -- statements below take their snapshots after it.
    PERFORM lock_log();

    FOR v_wave IN 0..(SELECT max(w) FROM unnest(i_wave) AS w) LOOP
        SELECT coalesce(max(e.position), 0) INTO v_base FROM events e;

        v_flag := false;
        IF cardinality(i_stream) = 1 THEN
            -- Most appends of a node that is not busy: with the stream as a plain parameter, only its own
            -- partition is opened. Whatever keeps it from being written is told below.
            v_stream := i_stream[1];
            SELECT e.version = i_expected[1] AND e.hash = i_prev_hash[1] INTO v_flag
              FROM events e WHERE e.stream_id = v_stream ORDER BY e.version DESC LIMIT 1;
            v_flag := CASE WHEN FOUND THEN coalesce(v_flag, false) ELSE i_expected[1] = 0 END;
            IF v_flag AND i_lease[1] IS NOT NULL THEN
                SELECT q.lease = i_lease[1] INTO v_flag FROM queue q WHERE q.execution_id = v_stream;
                v_flag := coalesce(v_flag, false);
            END IF;
            IF v_flag AND i_key[1] IS NOT NULL THEN
                v_flag := NOT EXISTS (SELECT FROM idempotency_keys k
                                       WHERE k.tenant = i_tenant[1] AND k.key = i_key[1]);
            END IF;
        END IF;
        IF v_flag THEN
            v_verdict := ARRAY[0::smallint];
            v_ok      := ARRAY[true];
            v_first   := ARRAY[v_base + 1];
            v_last    := ARRAY[v_base + i_events[1]];
            v_version := ARRAY[i_expected[1] + i_events[1]];
            v_hash    := ARRAY[NULL::bytea];
            v_held    := ARRAY[i_lease[1]];
            v_other   := ARRAY[NULL::uuid];
            v_print   := ARRAY[NULL::bytea];
        ELSE
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
                              LEFT JOIN LATERAL (SELECT e.version, e.hash FROM events e
                                                  WHERE e.stream_id = i.stream AND i.wave = v_wave
                                                  ORDER BY e.version DESC LIMIT 1) h ON true
                              -- What was appended before has moved the head.
                              LEFT JOIN LATERAL (SELECT e.position FROM events e
                                                  WHERE (h.version <> i.expected
                                                         OR h.hash <> i.prev_hash
                                                         OR i.prev_hash IS NULL)
                                                    AND e.stream_id = i.stream
                                                    AND e.event_id = i.first_event LIMIT 1) f ON true
                              LEFT JOIN LATERAL (SELECT e.position, e.version, e.hash FROM events e
                                                  WHERE f.position IS NOT NULL
                                                    AND e.stream_id = i.stream
                                                    AND e.event_id = i.last_event LIMIT 1) l ON true
                              LEFT JOIN queue q ON i.lease IS NOT NULL AND q.execution_id = i.stream
                                               AND i.wave = v_wave
                              LEFT JOIN idempotency_keys k ON k.tenant = i.tenant AND k.key = i.key
                                                          AND i.wave = v_wave) j) p;
        END IF;

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
            IF 0 = ANY (i_expected) THEN
                INSERT INTO executions (execution_id, parent_execution_id, created_at, tenant,
                                        job_type, version, status, ended_at)
                SELECT i_stream[r.item], r.parent, r.created, r.tenant, r.job_type,
                       v_version[r.item], r.status, r.ended
                  FROM unnest(r_item, r_tenant, r_status, r_job_type, r_created, r_ended, r_parent)
                           AS r (item, tenant, status, job_type, created, ended, parent)
                 WHERE v_ok[r.item] AND i_expected[r.item] = 0;
            END IF;
            IF 0 < ANY (i_expected) THEN
                UPDATE executions x
                   SET version = v_version[r.item], status = r.status, ended_at = r.ended
                  FROM unnest(r_item, r_status, r_ended) AS r (item, status, ended)
                 WHERE v_ok[r.item] AND i_expected[r.item] > 0
                   AND x.execution_id = i_stream[r.item];
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                SELECT count(*) - v_rows INTO v_missing FROM unnest(r_item) AS r (item)
                 WHERE v_ok[r.item] AND i_expected[r.item] > 0;
                IF v_missing <> 0 THEN
                    RAISE EXCEPTION 'executions: % rows to update are missing', v_missing
                        USING ERRCODE = 'TK001';
                END IF;
            END IF;
            v_flag := array_remove(r_ended, NULL) <> '{}'
                  AND EXISTS (SELECT FROM unnest(r_item, r_ended) AS r (item, ended)
                               WHERE v_ok[r.item] AND r.ended IS NOT NULL);
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
            SELECT count(*) INTO v_missing FROM unnest(q_item) AS q (item) WHERE v_ok[q.item];
            IF 1 = ANY (q_change) THEN
                INSERT INTO queue (execution_id, seq, attempts, priority, tenant, job_type,
                                   not_before)
                SELECT i_stream[q.item], v_first[q.item], q.attempts, q.priority, q.tenant,
                       q.job_type,
                       CASE WHEN q.not_before > clock_timestamp() THEN q.not_before END
                  FROM unnest(q_item, q_change, q_tenant, q_job_type, q_priority, q_not_before,
                              q_attempts)
                           AS q (item, change, tenant, job_type, priority, not_before, attempts)
                 WHERE q.change = 1 AND v_ok[q.item];
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_missing := v_missing - v_rows;
            END IF;
            IF 2 = ANY (q_change) THEN
                UPDATE queue t
                   SET seq = v_first[q.item], attempts = q.attempts, lease = NULL,
                       claimed_at = NULL, node_id = NULL,
                       not_before = CASE WHEN q.not_before > clock_timestamp()
                                         THEN q.not_before END
                  FROM unnest(q_item, q_change, q_not_before, q_attempts)
                           AS q (item, change, not_before, attempts)
                 WHERE q.change = 2 AND v_ok[q.item] AND t.execution_id = i_stream[q.item];
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_missing := v_missing - v_rows;
            END IF;
            IF 3 = ANY (q_change) THEN
                DELETE FROM queue t USING unnest(q_item, q_change) AS q (item, change)
                 WHERE q.change = 3 AND v_ok[q.item] AND t.execution_id = i_stream[q.item];
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_missing := v_missing - v_rows;
            END IF;
            IF 4 = ANY (q_change) THEN
                UPDATE queue t SET cancel_requested = true
                  FROM unnest(q_item, q_change) AS q (item, change)
                 WHERE q.change = 4 AND v_ok[q.item] AND t.execution_id = i_stream[q.item];
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                v_missing := v_missing - v_rows;
            END IF;
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

-- As in 0016. Each claim asks, and by itself PostgreSQL plans the body of an SQL function anew in each
-- statement; a node that is alone has nobody to be colder than.
CREATE OR REPLACE FUNCTION colder_than_others(p_node nodes) RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM nodes n WHERE n.state = 'running' AND n.node_id <> p_node.node_id) THEN
        RETURN '{}';
    END IF;
    RETURN (SELECT coalesce(array_agg(DISTINCT w.job_type), '{}')
              FROM claim_settings s
              JOIN nodes n ON n.state = 'running' AND n.node_id <> p_node.node_id
                          AND n.heartbeat_at > clock_timestamp() - make_interval(secs => s.dead_after)
              CROSS JOIN unnest(n.warm) AS w (job_type)
             WHERE s.warm_grace > 0 AND w.job_type <> ALL (p_node.warm));
END
$$;

-- The events of a stream in their order. The plan is made once per connection and opens the stream's
-- partition only; by itself PostgreSQL plans anew each time, which takes longer than reading.
CREATE FUNCTION stream_events(p_stream uuid) RETURNS SETOF events
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY SELECT * FROM events e WHERE e.stream_id = p_stream ORDER BY e.version;
END
$$;
