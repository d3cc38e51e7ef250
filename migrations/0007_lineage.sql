-- Which executions ran a code and which were given an artifact, from what the log says of their
-- submission: no table repeats it. The keys are 8 bytes of a hash; queries compare the value itself
-- as well.

CREATE INDEX events_code ON events (hashtextextended(payload ->> 'code', 0), position)
    WHERE event_type = 'JobSubmitted';

-- Keys of what a submission's files are and of the executions they were taken from.
CREATE FUNCTION input_keys(payload json) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(DISTINCT hashtextextended(k.key, 0))
          FROM json_array_elements(payload -> 'files') f,
               LATERAL (VALUES (f ->> 'hash'), (f -> 'source' ->> 'execution_id')) k (key)
         WHERE k.key IS NOT NULL);

-- Jobs without files, which are most, cost nothing here.
CREATE INDEX events_inputs ON events USING gin (input_keys(payload))
    WHERE event_type = 'JobSubmitted' AND payload -> 'files' IS NOT NULL;

-- Positions follow time closely, so a summary of each stretch of the table is enough to find a moment.
CREATE INDEX events_recorded ON events USING brin (recorded_at) WITH (pages_per_range = 32);
