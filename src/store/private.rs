//! What is private in events, and how it is kept apart: docs/retention.md.
//!
//! The stored payload holds a stand-in for each private value, and all of them encrypted as its member
//! `private`. What is hashed and sealed is that text, so that it verifies whether or not the keys are
//! still there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use serde_json::{Value, json};
use uuid::Uuid;

/// The member that holds what was taken out, and how it begins.
const MEMBER: &str = "private";
const VERSION: &str = "v1.";

/// So long that random ones never meet.
pub(super) const NONCE_BYTES: usize = 24;

/// Stands for a text that may not be absent.
pub(super) const HIDDEN: &str = "(private)";

/// A key of 32 bytes, never shown.
#[derive(Clone)]
pub struct SecretKey([u8; 32]);

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(***)")
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

impl SecretKey {
    /// A new one, from the operating system's randomness.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    pub(super) fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads what a key file holds: 32 bytes, or 64 hex digits.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if let Ok(key) = <[u8; 32]>::try_from(bytes) {
            return Some(Self(key));
        }
        let mut key = [0; 32];
        hex::decode_to_slice(std::str::from_utf8(bytes).ok()?.trim(), &mut key).ok().map(|()| Self(key))
    }

    /// 64 hex digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// This key under another, bound to what it is the key of.
    pub(super) fn wrapped(&self, under: &Self, of: &[u8]) -> Option<Vec<u8>> {
        under.encrypt(&self.0, of)
    }

    pub(super) fn unwrapped(wrapped: &[u8], under: &Self, of: &[u8]) -> Option<Self> {
        under.decrypt(wrapped, of)?.try_into().ok().map(Self)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.0))
    }

    /// A random nonce and the ciphertext after it. `None` for a message of gigabytes.
    pub(super) fn encrypt(&self, message: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), Payload { msg: message, aad }).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    pub(super) fn decrypt(&self, bytes: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
        self.cipher().decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad }).ok()
    }
}

/// The private values of an event type, by path (`*` is every item), and what stands for each.
fn paths(event_type: &str) -> Vec<(&'static str, Value)> {
    let observed = [("observed/artifacts/*/name", json!(HIDDEN)), ("observed/refused_artifacts/*/0", json!(HIDDEN))];
    let own = match event_type {
        "JobSubmitted" => {
            return vec![
                ("tags", json!({})),
                ("callback_url", Value::Null),
                ("client_ip", Value::Null),
                ("files/*/name", json!(HIDDEN)),
                ("files/*/source/name", json!(HIDDEN)),
                ("secrets/*/name", json!(HIDDEN)),
                ("secrets/*/header/hosts", json!([HIDDEN])),
            ];
        }
        "SecretsDelivered" => return vec![("secrets/*/name", json!(HIDDEN))],
        "EgressObserved" => return vec![("hosts/*/host", json!(HIDDEN)), ("refused/*/host", Value::Null)],
        "CancelRequested" | "DeadLetterDiscarded" => return vec![("reason", Value::Null)],
        "RetryScheduled" => Some(("cause/message", json!(HIDDEN))),
        "JobDeadLettered" => return vec![("message", json!(HIDDEN))],
        "ReplayVerdictRecorded" => {
            return vec![("differences/*/pointer", Value::Null), ("differences/*/artifact", Value::Null)];
        }
        "ExecutionFailed" => Some(("error/message", json!(HIDDEN))),
        "ExecutionCancelled" => Some(("reason", Value::Null)),
        "ExecutionSucceeded" | "ExecutionTimedOut" | "ExecutionOutOfMemory" => None,
        _ => return Vec::new(),
    };
    observed.into_iter().chain(own).collect()
}

/// A payload whose private values were taken out.
pub(super) struct Split {
    public: Value,
    /// Pointer and value of each.
    private: Vec<(String, Value)>,
}

impl Split {
    /// `None` for a payload with nothing private, or that is no JSON.
    pub(super) fn of(event_type: &str, payload: &str) -> Option<Self> {
        let paths = paths(event_type);
        if paths.is_empty() {
            return None;
        }
        let mut split = Self { public: serde_json::from_str(payload).ok()?, private: Vec::new() };
        for (path, stand_in) in paths {
            let path: Vec<_> = path.split('/').collect();
            take(&mut split.public, &path, "", &stand_in, &mut split.private);
        }
        (!split.private.is_empty()).then_some(split)
    }

    /// The payload to store when nobody may ever read what was taken out.
    pub(super) fn without(self) -> String {
        self.public.to_string()
    }

    /// The payload to store.
    pub(super) fn encrypted(mut self, key: &SecretKey, event_id: Uuid) -> Option<String> {
        let sealed = key.encrypt(json!(self.private).to_string().as_bytes(), event_id.as_bytes())?;
        let text = format!("{VERSION}{}", STANDARD_NO_PAD.encode(sealed));
        self.public.as_object_mut()?.insert(MEMBER.to_owned(), text.into());
        Some(self.public.to_string())
    }
}

fn take(value: &mut Value, path: &[&str], at: &str, stand_in: &Value, taken: &mut Vec<(String, Value)>) {
    match path {
        [] => {
            if value != stand_in {
                taken.push((at.to_owned(), std::mem::replace(value, stand_in.clone())));
            }
        }
        ["*", rest @ ..] => {
            for (index, item) in value.as_array_mut().into_iter().flatten().enumerate() {
                take(item, rest, &format!("{at}/{index}"), stand_in, taken);
            }
        }
        [name, rest @ ..] => {
            let item = match value {
                Value::Array(items) => name.parse().ok().and_then(|index: usize| items.get_mut(index)),
                value => value.get_mut(*name),
            };
            // What is null is told apart from what is hidden by nothing, and needs not to be.
            if let Some(item) = item.filter(|item| !item.is_null()) {
                take(item, rest, &format!("{at}/{name}"), stand_in, taken);
            }
        }
    }
}

/// Whether a stored payload has an encrypted part.
pub(super) fn is_split(payload: &str) -> bool {
    // Quick, and enough for the most: only a text that has it is read.
    payload.contains("\"private\":\"v1.") && sealed(payload).is_some()
}

fn sealed(payload: &str) -> Option<(Value, Vec<u8>)> {
    let mut public: Value = serde_json::from_str(payload).ok()?;
    let text = public.as_object_mut()?.remove(MEMBER)?;
    let sealed = STANDARD_NO_PAD.decode(text.as_str()?.strip_prefix(VERSION)?).ok()?;
    Some((public, sealed))
}

/// A stored payload with its private values in their places. `None` when the key does not open it.
pub(super) fn opened(payload: &str, key: &SecretKey, event_id: Uuid) -> Option<String> {
    let (mut public, sealed) = sealed(payload)?;
    let private: Vec<(String, Value)> = serde_json::from_slice(&key.decrypt(&sealed, event_id.as_bytes())?).ok()?;
    for (pointer, value) in private {
        *public.pointer_mut(&pointer)? = value;
    }
    Some(public.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventKind;
    use crate::store::event_of;

    #[test]
    fn every_sample_reads_with_and_without_its_private_part_and_comes_back_whole() {
        let (key, other, id) = (SecretKey::generate(), SecretKey::generate(), Uuid::now_v7());
        let mut split_any = 0;
        for kind in EventKind::ALL {
            let edition = kind.editions().last().unwrap();
            let Some(split) = Split::of(kind.as_str(), edition.sample) else { continue };
            split_any += 1;
            let stored = split.encrypted(&key, id).unwrap();
            assert!(is_split(&stored), "{stored}");
            let read = |payload: &str| event_of(kind.as_str(), edition.version, payload).unwrap();
            read(&stored);
            assert_ne!(read(&stored), read(edition.sample), "{}", kind.as_str());
            assert_eq!(read(&opened(&stored, &key, id).unwrap()), read(edition.sample), "{}", kind.as_str());
            assert_eq!(opened(&stored, &other, id), None);
            assert_eq!(opened(&stored, &key, Uuid::now_v7()), None, "another event's");
            assert_eq!(read(&stored).blobs(), read(edition.sample).blobs(), "hashes are not private");
        }
        assert!(split_any >= 10, "{split_any}");
    }

    #[test]
    fn a_key_opens_only_under_its_own_and_for_its_own_purpose() {
        let (key, master) = (SecretKey::generate(), SecretKey::generate());
        let wrapped = key.wrapped(&master, b"acme").unwrap();
        assert_eq!(SecretKey::unwrapped(&wrapped, &master, b"acme").unwrap().to_hex(), key.to_hex());
        assert!(SecretKey::unwrapped(&wrapped, &master, b"other").is_none());
        assert!(SecretKey::unwrapped(&wrapped, &key, b"acme").is_none());
        assert!(SecretKey::read(key.to_hex().as_bytes()).is_some() && SecretKey::read(b"short").is_none());
    }
}
