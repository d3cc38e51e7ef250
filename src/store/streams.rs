//! Going through the whole log stream by stream, in bounded memory.

use uuid::Uuid;

use super::append::StreamKind;
use super::database::Store;
use super::error::Error;
use super::events::StoredEvent;

/// Events read at once. A stream that is longer is put together from several reads.
const PAGE: i64 = 10_000;

/// Whole streams, in the order of their ids, each in the order of versions.
pub(super) struct Streams<'a> {
    store: &'a Store,
    kind: Option<StreamKind>,
    after: (Uuid, i32),
    /// The beginning of a stream that the last page may have cut.
    cut: Vec<StoredEvent>,
    done: bool,
}

impl<'a> Streams<'a> {
    /// Of one kind, or of all.
    pub(super) fn new(store: &'a Store, kind: Option<StreamKind>) -> Self {
        Self { store, kind, after: (Uuid::nil(), 0), cut: Vec::new(), done: false }
    }

    /// The next streams, complete as of now; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<StoredEvent>>, Error> {
        if self.done {
            return Ok(None);
        }
        let page: Vec<StoredEvent> = sqlx::query_as(
            "SELECT * FROM events WHERE (stream_id, version) > ($1, $2) AND ($3::smallint IS NULL OR stream_kind = $3) \
             ORDER BY stream_id, version LIMIT $4",
        )
        .bind(self.after.0)
        .bind(self.after.1)
        .bind(self.kind.map(|kind| kind as i16))
        .bind(PAGE)
        .fetch_all(self.store.pool())
        .await
        .map_err(Error::during("read streams"))?;
        self.done = (page.len() as i64) < PAGE;
        if let Some(last) = page.last() {
            self.after = (last.stream_id, last.version);
        }
        let mut events = std::mem::take(&mut self.cut);
        events.extend(page);
        if !self.done {
            let whole = events.partition_point(|event| event.stream_id < self.after.0);
            self.cut = events.split_off(whole);
        }
        Ok(Some(events))
    }
}
