-- Takes a claim back of which no event speaks, as before, and now looks whether that is so.
--
-- Whoever gives a claim back has read the stream some moments ago. A claimant that was slow and not
-- dead may have appended its JobDequeued since: the row would be free while the log says that
-- somebody works on the job, so that every later claimant is refused and the job never ends. The log's
-- lock makes the look and the change one step. A claim that the log knows is given back by an append.
CREATE OR REPLACE FUNCTION release_claim(p_execution_id uuid, p_lease bigint) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
    -- As in an append: the new seq must be above what any claim may have skipped.
    PERFORM lock_log();
    UPDATE queue q
       SET seq = 1 + (SELECT coalesce(max(e.position), 0) FROM events e),
           lease = NULL, claimed_at = NULL, node_id = NULL
     WHERE q.execution_id = p_execution_id AND q.lease = p_lease
       AND NOT EXISTS (SELECT FROM events e
                        WHERE e.stream_id = p_execution_id AND e.event_type = 'JobDequeued'
                          AND (e.payload ->> 'lease')::bigint = p_lease);
    RETURN FOUND;
END
$$;
