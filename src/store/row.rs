//! Columns that sqlx does not read by itself.

use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::domain::Digest;

pub(super) fn digest(row: &PgRow, column: &str) -> Result<Digest, sqlx::Error> {
    let bytes: [u8; 32] = row.try_get(column)?;
    Ok(Digest::from_bytes(bytes))
}

pub(super) fn optional_digest(row: &PgRow, column: &str) -> Result<Option<Digest>, sqlx::Error> {
    let bytes: Option<[u8; 32]> = row.try_get(column)?;
    Ok(bytes.map(Digest::from_bytes))
}
