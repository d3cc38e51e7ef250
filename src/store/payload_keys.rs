//! The keys of what is private in events, and the two places where they are used: before an append
//! and after a read.
//!
//! No key is remembered between two calls, so that one that was destroyed opens nothing from that
//! moment on, on any node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::append::{Append, DeadLetterChange, StreamKind};
use super::database::Store;
use super::error::Error;
use super::events::StoredEvent;
use super::private::{self, SecretKey, Split};

const KEYS: &str = "use the keys of payloads";

/// How a store treats what is private.
#[derive(Debug, Clone)]
pub struct Privacy {
    /// Tenants' keys are kept under it.
    pub master: Arc<SecretKey>,
    /// Encrypts what is appended; else only what was encrypted earlier is read.
    pub encrypts: bool,
}

/// The key of an execution's private payload.
enum Held {
    There(SecretKey),
    Destroyed,
}

type KeyRow = (Uuid, Option<Vec<u8>>, Uuid, String, Option<Vec<u8>>);

impl Store {
    /// Puts the private values of executions' events apart, where that is wanted.
    pub(super) async fn close_payloads(&self, items: &mut [Append]) -> Result<(), Error> {
        let Some(privacy) = self.privacy().filter(|privacy| privacy.encrypts) else { return Ok(()) };
        let is_meant = |item: &&mut Append| item.stream_kind == StreamKind::Execution;
        self.make_keys(privacy, items).await?;
        let streams: Vec<_> = items.iter_mut().filter(is_meant).map(|item| item.stream_id).collect();
        let keys = self.keys(privacy, &streams).await?;
        for item in items.iter_mut().filter(is_meant) {
            // A stream that began before there were keys goes on without them.
            let Some(held) = keys.get(&item.stream_id) else { continue };
            // A dead letter repeats what events say, and is made of what is stored of them.
            if let DeadLetterChange::Insert(letter) = &mut item.dead_letter {
                letter.error_message = private::HIDDEN.to_owned();
                letter.client_ip = None;
            }
            for event in &mut item.events {
                let Some(split) = Split::of(&event.event_type, &event.payload) else { continue };
                event.payload = match held {
                    Held::Destroyed => split.without(),
                    Held::There(key) => split.encrypted(key, event.event_id).ok_or_else(|| {
                        Error::corrupt("events", event.event_id, "payload", "it could not be encrypted")
                    })?,
                };
            }
        }
        Ok(())
    }

    /// A key for each stream that begins. One that is there already stays: the append is a repetition.
    async fn make_keys(&self, privacy: &Privacy, items: &[Append]) -> Result<(), Error> {
        let begin = |item: &&Append| item.stream_kind == StreamKind::Execution && item.expected_version == 0;
        let new: Vec<_> = items
            .iter()
            .filter(begin)
            .filter_map(|item| Some((item.stream_id, &item.record.as_ref()?.tenant)))
            .collect();
        let tenants: BTreeSet<&String> = new.iter().map(|(_, tenant)| *tenant).collect();
        let mut of_tenants = HashMap::new();
        for tenant in tenants {
            of_tenants.insert(tenant, self.tenant_key(privacy, tenant).await?);
        }
        let (mut ids, mut under, mut wrapped) = (Vec::new(), Vec::new(), Vec::new());
        for (id, tenant) in new {
            let Some((key_id, key)) = of_tenants.get(tenant) else { continue };
            ids.push(id);
            under.push(*key_id);
            wrapped.push(SecretKey::generate().wrapped(key, id.as_bytes()).ok_or_else(|| unusable(*key_id))?);
        }
        if ids.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO execution_keys (execution_id, tenant_key_id, wrapped) \
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) ON CONFLICT (execution_id) DO NOTHING",
        )
        .bind(ids)
        .bind(under)
        .bind(wrapped)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during(KEYS))
    }

    /// A tenant's key, made if there is none.
    async fn tenant_key(&self, privacy: &Privacy, tenant: &str) -> Result<(Uuid, SecretKey), Error> {
        let run = Error::during(KEYS);
        let find = "SELECT key_id, wrapped FROM tenant_keys WHERE tenant = $1 AND wrapped IS NOT NULL";
        let mut found: Option<(Uuid, Vec<u8>)> =
            sqlx::query_as(find).bind(tenant).fetch_optional(self.pool()).await.map_err(&run)?;
        if found.is_none() {
            let key_id = Uuid::now_v7();
            let made = SecretKey::generate().wrapped(&privacy.master, &of_tenant(key_id, tenant));
            sqlx::query(
                "INSERT INTO tenant_keys (key_id, tenant, wrapped) VALUES ($1, $2, $3) \
                     ON CONFLICT (tenant) WHERE wrapped IS NOT NULL DO NOTHING",
            )
            .bind(key_id)
            .bind(tenant)
            .bind(made.ok_or_else(|| unusable(key_id))?)
            .execute(self.pool())
            .await
            .map_err(&run)?;
            found = sqlx::query_as(find).bind(tenant).fetch_optional(self.pool()).await.map_err(&run)?;
        }
        let (key_id, wrapped) =
            found.ok_or_else(|| Error::corrupt("tenant_keys", tenant, "wrapped", "it was destroyed just now"))?;
        let key = SecretKey::unwrapped(&wrapped, &privacy.master, &of_tenant(key_id, tenant));
        Ok((key_id, key.ok_or_else(|| unusable(key_id))?))
    }

    async fn keys(&self, privacy: &Privacy, streams: &[Uuid]) -> Result<HashMap<Uuid, Held>, Error> {
        if streams.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<KeyRow> = sqlx::query_as(
            "SELECT x.execution_id, x.wrapped, t.key_id, t.tenant, t.wrapped \
               FROM execution_keys x JOIN tenant_keys t ON t.key_id = x.tenant_key_id \
              WHERE x.execution_id = ANY ($1)",
        )
        .bind(streams)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(KEYS))?;
        let held = |(id, own, key_id, tenant, of_its_tenant): KeyRow| {
            let (Some(own), Some(of_its_tenant)) = (own, of_its_tenant) else { return Ok((id, Held::Destroyed)) };
            let tenant = SecretKey::unwrapped(&of_its_tenant, &privacy.master, &of_tenant(key_id, &tenant));
            let own = SecretKey::unwrapped(&own, &tenant.ok_or_else(|| unusable(key_id))?, id.as_bytes());
            Ok((id, Held::There(own.ok_or_else(|| unusable(id))?)))
        };
        rows.into_iter().map(held).collect()
    }

    /// Puts private values back into what was read, where their keys are still there.
    pub(super) async fn open_payloads(&self, mut events: Vec<StoredEvent>) -> Result<Vec<StoredEvent>, Error> {
        let Some(privacy) = self.privacy() else { return Ok(events) };
        let is_split = |event: &&mut StoredEvent| private::is_split(&event.payload);
        let streams: BTreeSet<Uuid> = events.iter_mut().filter(is_split).map(|event| event.stream_id).collect();
        let keys = self.keys(privacy, &streams.into_iter().collect::<Vec<_>>()).await?;
        for event in events.iter_mut().filter(is_split) {
            if let Some(Held::There(key)) = keys.get(&event.stream_id) {
                event.opened = private::opened(&event.payload, key, event.event_id);
            }
        }
        Ok(events)
    }

    /// Destroys the key of an execution's private payload. Answers how many keys there were.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn destroy_execution_key(&self, execution_id: Uuid) -> Result<u64, Error> {
        sqlx::query("UPDATE execution_keys SET wrapped = NULL WHERE execution_id = $1 AND wrapped IS NOT NULL")
            .bind(execution_id)
            .execute(self.pool())
            .await
            .map(|done| done.rows_affected())
            .map_err(Error::during("destroy a key"))
    }

    /// Destroys a tenant's key, and with it the use of every key under it. Its next execution gets a new
    /// one. Answers how many there were.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn destroy_tenant_key(&self, tenant: &str) -> Result<u64, Error> {
        sqlx::query("UPDATE tenant_keys SET wrapped = NULL WHERE tenant = $1 AND wrapped IS NOT NULL")
            .bind(tenant)
            .execute(self.pool())
            .await
            .map(|done| done.rows_affected())
            .map_err(Error::during("destroy a key"))
    }

    /// How many executions of a tenant have not ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn in_progress_of(&self, tenant: &str) -> Result<u64, Error> {
        sqlx::query_scalar("SELECT count(*) FROM queue WHERE tenant = $1")
            .bind(tenant)
            .fetch_one(self.pool())
            .await
            .map(|count: i64| count.unsigned_abs())
            .map_err(Error::during("count what is in progress"))
    }
}

fn of_tenant(key_id: Uuid, tenant: &str) -> Vec<u8> {
    [key_id.as_bytes(), tenant.as_bytes()].concat()
}

fn unusable(id: Uuid) -> Error {
    Error::corrupt("tenant_keys", id, "wrapped", "it does not open: retention.master_key_file holds another key")
}
