-- Which executions ran a code and which were given an artifact, from what the log says of their
-- submission: no table repeats it. The keys are 8 bytes of a hash; readers compare the value itself.
--
-- Payloads are looked at as text: JSON may have an escaped NUL or a lone surrogate, at which
-- PostgreSQL's own operators fail, and an append must never fail for an index. A payload is written
-- compact, and a quote inside a string is escaped, so what is searched for is a member and no text.

-- The code stands before everything that a client chooses the names of.
CREATE INDEX events_code ON events
    (hashtextextended(substr(payload::text, strpos(payload::text, '"code":"') + 8, 64), 0), position)
    WHERE event_type = 'JobSubmitted';

-- Keys of what a submission's files are and of the executions they were taken from.
CREATE FUNCTION input_keys(payload json) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(DISTINCT hashtextextended(k.key, 0))
          FROM (SELECT left(h.rest, 64) AS key
                  FROM unnest(string_to_array(payload::text, '"hash":"')) WITH ORDINALITY h (rest, n)
                 WHERE h.n > 1
                UNION ALL
                SELECT left(s.rest, 36)
                  FROM unnest(string_to_array(payload::text, '"source":{"execution_id":"'))
                           WITH ORDINALITY s (rest, n)
                 WHERE s.n > 1) k);

-- Jobs without files, which are most, cost nothing here.
CREATE INDEX events_inputs ON events USING gin (input_keys(payload))
    WHERE event_type = 'JobSubmitted' AND strpos(payload::text, '"files":[') > 0;

-- Positions follow time closely, so a summary of each stretch of the table is enough to find a moment.
CREATE INDEX events_recorded ON events USING brin (recorded_at) WITH (pages_per_range = 32);
