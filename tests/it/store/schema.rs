//! Migrations and the role the program works as.

use tako_vm::store::{Error, Options, Store, migrate};
use uuid::Uuid;

use super::*;
use crate::db;

#[tokio::test]
async fn migrations_run_once_and_a_newer_database_is_refused() {
    let options = db::empty().await;
    assert!(matches!(Store::connect(&options).await, Err(Error::DatabaseOlder { database: 0, .. })));
    // Two programs that start at once: one runs them, both end well.
    let (one, two) = tokio::join!(migrate(&options), migrate(&options));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one >= 5 || two >= 5, "{one} {two}");
    assert_eq!(migrate(&options).await.unwrap(), 0);
    Store::connect(&options).await.unwrap();

    let admin = sqlx::PgPool::connect(&options.url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'of the future', true, '', 0)";
    sqlx::query(newer).execute(&admin).await.unwrap();
    for result in [migrate(&options).await.map(drop), Store::connect(&options).await.map(drop)] {
        assert!(matches!(result, Err(Error::DatabaseNewer { database: 9999, .. })), "{result:?}");
    }
}

#[tokio::test]
async fn the_store_works_as_the_role_that_cannot_change_events() {
    let db = db::fresh().await;
    submitted(&db).await;
    // The login is the cluster's superuser; only what works as another role can be refused.
    sqlx::query("REVOKE INSERT ON events FROM tako_vm_app").execute(&db.admin).await.unwrap();
    let error = db.store.append(submit(Uuid::now_v7())).await.unwrap_err();
    assert_eq!(error.database_message(), Some("permission denied for table events"));
    let may: Vec<bool> = sqlx::query_scalar(
        "SELECT has_table_privilege('tako_vm_app', 'events', p) FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) p",
    )
    .fetch_all(&db.admin)
    .await
    .unwrap();
    assert_eq!(may, [false; 3]);
}

#[tokio::test]
async fn a_login_that_may_not_make_roles_owns_a_database_all_the_same() {
    let options = db::empty().await;
    let admin = sqlx::PgPool::connect(&options.url).await.unwrap();
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&admin).await.unwrap();
    for statement in ["CREATE ROLE ordinary LOGIN".to_owned(), format!("ALTER DATABASE {database} OWNER TO ordinary")] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&admin).await.unwrap();
    }
    let options = Options { url: options.url.replace("//postgres@", "//ordinary@"), ..options };
    migrate(&options).await.unwrap();
    let store = Store::connect(&options).await.unwrap();
    appended(store.append(submit(Uuid::now_v7())).await.unwrap());
    let owner = sqlx::PgPool::connect(&options.url).await.unwrap();
    let error = sqlx::query("DELETE FROM events").execute(&owner).await.unwrap_err();
    assert!(error.to_string().contains("append-only"), "{error}");

    // Granted the role later, it works as it from the next connection on.
    store.close().await;
    sqlx::query("GRANT tako_vm_app TO ordinary").execute(&admin).await.unwrap();
    let store = Store::connect(&options).await.unwrap();
    appended(store.append(submit(Uuid::now_v7())).await.unwrap());
    sqlx::query("REVOKE INSERT ON events FROM tako_vm_app").execute(&owner).await.unwrap();
    assert!(store.append(submit(Uuid::now_v7())).await.is_err());
}

#[tokio::test]
async fn no_function_keeps_a_table_from_getting_columns() {
    let db = db::fresh().await;
    // PostgreSQL looks into parsed bodies, and from 15.20 on gives no columns with defaults to a table whose
    // row one of them reads.
    let parsed: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT p.oid::regprocedure::text FROM pg_proc p, unnest(p.proargtypes) AS argument (type) \
           JOIN pg_type t ON t.oid = argument.type JOIN pg_class c ON c.oid = t.typrelid AND c.relkind IN ('r', 'p') \
          WHERE p.prosqlbody IS NOT NULL AND c.relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&db.admin)
    .await
    .unwrap();
    assert_eq!(parsed, Vec::<String>::new(), "give them bodies of text");
}

#[tokio::test]
async fn a_database_of_before_keeps_its_functions_as_text_from_now_on() {
    let options = db::empty().await;
    migrate(&options).await.unwrap();
    let admin = sqlx::PgPool::connect(&options.url).await.unwrap();
    // As 0016 left it in databases that were made before.
    sqlx::query(
        "CREATE OR REPLACE FUNCTION is_fit(p_node nodes, p_rules job_type_rules) RETURNS boolean \
         LANGUAGE sql IMMUTABLE RETURN p_rules.runtime IN (p_node.runtime, p_node.engine)",
    )
    .execute(&admin)
    .await
    .unwrap();
    assert_eq!(migrate(&options).await.unwrap(), 0);
    sqlx::query("ALTER TABLE nodes ADD COLUMN later text NOT NULL DEFAULT ''").execute(&admin).await.unwrap();
    let is_parsed: bool = sqlx::query_scalar("SELECT prosqlbody IS NOT NULL FROM pg_proc WHERE proname = 'is_fit'")
        .fetch_one(&admin)
        .await
        .unwrap();
    assert!(!is_parsed);
}
