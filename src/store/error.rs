//! What can go wrong between the program and its database.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// An error of the store; [`Error::is_transient`] says whether trying again can help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database does not answer, is out of some resource, or gave up one of several
    /// transactions. Nothing is known about what a write did; repeat it with the same event ids.
    #[error("{operation}: the database is not available for now")]
    Unavailable {
        operation: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The store of large blobs does not answer; nothing is known about what a write did.
    #[error("{operation}: the object store is not available for now")]
    Objects {
        operation: &'static str,
        #[source]
        source: Arc<object_store::Error>,
    },
    /// A place for large blobs that cannot be used as it is configured.
    #[error("blobs cannot be kept in {place}: {reason}")]
    ObjectPlace { place: String, reason: String },
    /// The database answered and refused; nothing was written.
    #[error("{operation}: the database refused")]
    Refused {
        operation: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// A value that the database cannot hold, refused before it was sent.
    #[error("{operation}: {field} of {id} {reason}")]
    Invalid { operation: &'static str, field: &'static str, id: String, reason: &'static str },
    /// A value of the domain that has no JSON form.
    #[error("{what} of {id} cannot be written as JSON")]
    Unwritable {
        what: &'static str,
        id: Uuid,
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A statement changed another number of rows than it must.
    #[error("{operation}: {affected} rows of {table} changed for {id}, not 1")]
    Affected { operation: &'static str, table: &'static str, id: String, affected: u64 },
    /// A stored value that does not read back.
    #[error("{table} {id}: {column} cannot be read: {reason}")]
    Corrupt { table: &'static str, id: String, column: &'static str, reason: String },
    /// A newer program migrated this database; this one does not know its tables.
    #[error("the database is at migration {database}, this program knows {program}: update the program")]
    DatabaseNewer { database: i64, program: i64 },
    /// Migrations of this program have not been run.
    #[error("the database is at migration {database}, this program needs {program}: run its migrations")]
    DatabaseOlder { database: i64, program: i64 },
    /// One rebuild at a time.
    #[error("another rebuild of the projections is under way: wait until it ends")]
    RebuildRunning,
    /// A migration failed; the ones before it stay.
    #[error("migrations failed")]
    Migration(#[source] Arc<sqlx::migrate::MigrateError>),
}

impl Error {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            // Whoever may not write today may tomorrow: what a job left is not to be lost for that.
            Self::Objects { source, .. } => !matches!(**source, object_store::Error::NotFound { .. }),
            _ => false,
        }
    }

    /// Whether it is the store of large blobs, and not the database, that failed.
    pub fn is_of_objects(&self) -> bool {
        matches!(self, Self::Objects { .. } | Self::ObjectPlace { .. })
    }

    /// Why the database takes no writes for now, where the error says that it takes none.
    pub fn write_refusal(&self) -> Option<&'static str> {
        let Self::Unavailable { source, .. } = self else { return None };
        match source.as_database_error()?.code()?.as_ref() {
            "25006" => Some("it is read-only"),
            "53100" => Some("its disk is full"),
            "58030" => Some("its disk fails"),
            _ => None,
        }
    }

    /// The database's own words, where it had any.
    pub fn database_message(&self) -> Option<&str> {
        match self {
            Self::Unavailable { source, .. } | Self::Refused { source, .. } => {
                source.as_database_error().map(|error| error.message())
            }
            _ => None,
        }
    }

    /// For `map_err`: names the operation and tells transient from permanent.
    pub(super) fn during(operation: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| {
            let source = Arc::new(source);
            if is_transient(&source) {
                Self::Unavailable { operation, source }
            } else {
                Self::Refused { operation, source }
            }
        }
    }

    pub(super) fn unwritable(what: &'static str, id: Uuid) -> impl Fn(serde_json::Error) -> Self {
        move |source| Self::Unwritable { what, id, source: Arc::new(source) }
    }

    pub(super) fn corrupt(
        table: &'static str,
        id: impl fmt::Display,
        column: &'static str,
        reason: impl fmt::Display,
    ) -> Self {
        Self::Corrupt { table, id: id.to_string(), column, reason: reason.to_string() }
    }

    /// For a statement that must change exactly one row.
    pub(super) fn unless_one(
        affected: u64,
        operation: &'static str,
        table: &'static str,
        id: impl fmt::Display,
    ) -> Result<(), Self> {
        if affected == 1 {
            return Ok(());
        }
        Err(Self::Affected { operation, table, id: id.to_string(), affected })
    }

    /// PostgreSQL text holds any character but NUL.
    pub(super) fn unless_text(text: &str, operation: &'static str, field: &'static str, id: Uuid) -> Result<(), Self> {
        if text.contains('\0') {
            let reason = "contains a NUL character";
            return Err(Self::Invalid { operation, field, id: id.to_string(), reason });
        }
        Ok(())
    }
}

/// By SQLSTATE class, as listed in appendix A of PostgreSQL's manual.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        // What a connection that broke in the middle of a message looks like.
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection, transaction rollback, resources, shutdown, system.
            matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
                // A lock timeout; a standby that was not promoted yet.
                || matches!(code.as_ref(), "55P03" | "25006")
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_is_transient_and_a_missing_row_is_not() {
        assert!(Error::during("test")(sqlx::Error::PoolTimedOut).is_transient());
        assert!(!Error::during("test")(sqlx::Error::RowNotFound).is_transient());
    }
}
