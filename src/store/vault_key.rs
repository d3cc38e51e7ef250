//! The key under which secrets lie in the database.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::private::{NONCE_BYTES, SecretKey};
use crate::domain::SecretValue;

pub(super) const KEY_ID_BYTES: usize = 8;

/// Seals and opens the values of secrets. Debugs as its id.
pub struct VaultKey {
    key: SecretKey,
    id: [u8; KEY_ID_BYTES],
}

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealed {
    pub key_id: [u8; KEY_ID_BYTES],
    pub nonce: [u8; NONCE_BYTES],
    pub ciphertext: Vec<u8>,
}

/// Whose value it is; a ciphertext opens in its own place and nowhere else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub tenant: &'a str,
    pub name: &'a str,
    pub version: i64,
}

impl Place<'_> {
    fn bytes(self) -> Vec<u8> {
        let Self { tenant, name, version } = self;
        // Neither text can hold a NUL.
        format!("tako-vm secret\0{tenant}\0{name}\0{version}").into_bytes()
    }
}

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits (32 random bytes): make one with `openssl rand -hex 32`")]
pub struct NotAVaultKey;

/// Why a value did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotOpened {
    #[error("it was sealed with another key")]
    OtherKey,
    #[error("it was altered")]
    Altered,
}

impl VaultKey {
    /// Reads a key as 64 hexadecimal digits, with space around them.
    ///
    /// # Errors
    /// [`NotAVaultKey`], which does not repeat the text.
    pub fn read(text: &str) -> Result<Self, NotAVaultKey> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| NotAVaultKey)?;
        Ok(Self::of(bytes))
    }

    fn of(bytes: [u8; 32]) -> Self {
        let hash = Sha256::new().chain_update(b"tako-vm key id\0").chain_update(bytes).finalize();
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&hash[..KEY_ID_BYTES]);
        Self { key: SecretKey::of(bytes), id }
    }

    /// `None` for a value of gigabytes, which no caller has.
    pub(super) fn seal(&self, place: Place<'_>, value: &SecretValue) -> Option<Sealed> {
        let sealed = self.key.encrypt(value.expose(), &place.bytes())?;
        let (nonce, ciphertext) = sealed.split_first_chunk()?;
        Some(Sealed { key_id: self.id, nonce: *nonce, ciphertext: ciphertext.to_vec() })
    }

    pub(super) fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<SecretValue, NotOpened> {
        if sealed.key_id != self.id {
            return Err(NotOpened::OtherKey);
        }
        let bytes = [&sealed.nonce[..], &sealed.ciphertext].concat();
        self.key.decrypt(&bytes, &place.bytes()).map(SecretValue::new).ok_or(NotOpened::Altered)
    }
}

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultKey({})", hex::encode(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'_> = Place { tenant: "acme", name: "KEY", version: 1 };

    #[test]
    fn a_value_opens_with_its_key_in_its_place_and_nowhere_else() {
        let key = VaultKey::of([7; 32]);
        let value = SecretValue::new(*b"hunter2hunter2");
        let sealed = key.seal(HERE, &value).unwrap();
        assert_eq!(key.open(HERE, &sealed), Ok(value));
        assert!(!sealed.ciphertext.windows(7).any(|window| window == b"hunter2"));
        for elsewhere in
            [Place { tenant: "other", ..HERE }, Place { name: "YEK", ..HERE }, Place { version: 2, ..HERE }]
        {
            assert_eq!(key.open(elsewhere, &sealed), Err(NotOpened::Altered), "{elsewhere:?}");
        }
        assert_eq!(VaultKey::of([8; 32]).open(HERE, &sealed), Err(NotOpened::OtherKey));
        let mut altered = sealed.clone();
        altered.ciphertext[0] ^= 1;
        assert_eq!(key.open(HERE, &altered), Err(NotOpened::Altered));
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_never_shown() {
        let text = "0123456789abcdef".repeat(4);
        let key = VaultKey::read(&format!("{text}\n")).unwrap();
        assert!(!format!("{key:?}").contains("0123456789abcdef"));
        for bad in ["", "xyz", &text[1..], &format!("{text}00")] {
            let refused = VaultKey::read(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || !refused.contains(bad), "{refused}");
        }
    }
}
