//! Functions that take a table's row, so kept that the table may still get columns.
//!
//! `0016` wrote them with parsed bodies. PostgreSQL 15.20 (15.18 does not) refuses `ADD COLUMN … DEFAULT` on a
//! table whose row such a body reads ("cannot alter table "nodes" because function is_fit uses its row type"),
//! and `0018` has one. A body that is text is not looked into.

use sqlx::postgres::PgConnection;

/// The newest migration that newer PostgreSQL runs with the functions as `0016` wrote them.
pub const LAST_BEFORE: i64 = 17;

/// The lock serves nodes that start together: two replacements of one function at once are an error.
const AS_TEXT: &str = "
SELECT pg_advisory_xact_lock(7120385266094413189);

CREATE OR REPLACE FUNCTION is_fit(p_node nodes, p_rules job_type_rules) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
SELECT (p_rules.runtime IS NULL OR p_rules.runtime IN (p_node.runtime, p_node.engine))
   AND p_node.labels @> p_rules.labels
   AND (p_rules.gpu IS NULL OR p_rules.gpu = ANY (p_node.gpus))
$$;

CREATE OR REPLACE FUNCTION is_full(p_tenant text, p_running jsonb, p_settings claim_settings) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
SELECT coalesce(
    coalesce((p_running ->> p_tenant)::integer, 0)
        >= nullif(coalesce((p_settings.tenant_limits ->> p_tenant)::integer,
                           p_settings.tenant_limit), 0),
    false)
$$;

CREATE OR REPLACE FUNCTION colder_than_others(p_node nodes) RETURNS text[]
LANGUAGE sql STABLE AS $$
SELECT coalesce(array_agg(DISTINCT w.job_type), '{}')
  FROM claim_settings s
  JOIN nodes n ON n.state = 'running' AND n.node_id <> p_node.node_id
              AND n.heartbeat_at > clock_timestamp() - make_interval(secs => s.dead_after)
  CROSS JOIN unnest(n.warm) AS w (job_type)
 WHERE s.warm_grace > 0 AND w.job_type <> ALL (p_node.warm)
$$;
";

/// Gives the functions bodies of text, in one transaction, where one still has a parsed body.
pub async fn keep_as_text(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let any_is_parsed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_class c ON c.relnamespace = p.pronamespace \
          WHERE c.oid = to_regclass('nodes') AND p.prosqlbody IS NOT NULL \
            AND p.proname IN ('is_fit', 'is_full', 'colder_than_others'))",
    )
    .fetch_one(&mut *connection)
    .await?;
    if any_is_parsed {
        sqlx::raw_sql(AS_TEXT).execute(connection).await?;
    }
    Ok(())
}
