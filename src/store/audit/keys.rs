//! Ed25519 keys and signatures (RFC 8032), and their texts.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signer as _, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Signs seals. Never shown.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// A key's text cannot be read; what it said is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAKey(&'static str);

impl SigningKey {
    /// A new key, from the operating system's randomness.
    pub fn generate() -> Self {
        Self::of_seed(rand::random())
    }

    /// The key of a 32-byte seed.
    pub fn of_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Reads what a key file holds: PKCS#8 PEM, or the seed as 32 bytes or 64 hex digits.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn read(bytes: &[u8]) -> Result<Self, NotAKey> {
        if let Ok(seed) = <[u8; 32]>::try_from(bytes) {
            return Ok(Self::of_seed(seed));
        }
        let refused = NotAKey("is neither an Ed25519 private key in PKCS#8 PEM nor a seed of 32 bytes");
        let text = std::str::from_utf8(bytes).map_err(|_| refused)?.trim();
        if let Some(seed) = thirty_two(text) {
            return Ok(Self::of_seed(seed));
        }
        ed25519_dalek::SigningKey::from_pkcs8_pem(text).map(Self).map_err(|_| refused)
    }

    /// PKCS#8 PEM.
    ///
    /// # Errors
    /// [`NotAKey`] when the key has no such form, which it always has.
    pub fn to_pem(&self) -> Result<String, NotAKey> {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF).map_err(|_| NotAKey("cannot be written as PEM"))?;
        Ok(pem.to_string())
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(bytes).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public_key())
    }
}

/// Tells who signed. Written as 64 hex digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// # Errors
    /// [`NotAKey`] for bytes that are no point of the curve, or one of small order, which would
    /// verify what nobody signed.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, NotAKey> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(NotAKey("is not an Ed25519 public key")),
        }
    }

    /// Reads what a public key file holds: SPKI PEM, or 64 hex digits.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn read(bytes: &[u8]) -> Result<Self, NotAKey> {
        let refused = NotAKey("is neither an Ed25519 public key in PEM nor 64 hex digits");
        let text = std::str::from_utf8(bytes).map_err(|_| refused)?.trim();
        if let Some(bytes) = thirty_two(text) {
            return Self::from_bytes(&bytes);
        }
        let key = VerifyingKey::from_public_key_pem(text).map_err(|_| refused)?;
        Self::from_bytes(key.as_bytes())
    }

    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// SPKI PEM.
    ///
    /// # Errors
    /// [`NotAKey`] when the key has no such form, which it always has.
    pub fn to_pem(&self) -> Result<String, NotAKey> {
        self.0.to_public_key_pem(LineEnding::LF).map_err(|_| NotAKey("cannot be written as PEM"))
    }

    pub(super) fn verifies(&self, bytes: &[u8], signature: &Signature) -> bool {
        self.0.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        Self::from_bytes(&thirty_two(text).ok_or(NotAKey("a public key is 64 hex digits"))?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn thirty_two(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}

/// An Ed25519 signature. Written as 128 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    pub const fn to_bytes(self) -> [u8; 64] {
        self.0
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
            .map_err(|_| serde::de::Error::custom("a signature is 128 hex digits"))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_each_of_its_texts() {
        let key = SigningKey::generate();
        let seed = key.0.to_bytes();
        for bytes in [key.to_pem().unwrap().into_bytes(), seed.to_vec(), format!("{}\n", hex::encode(seed)).into()] {
            assert_eq!(SigningKey::read(&bytes).unwrap().0.to_bytes(), seed);
        }
        let public = key.public_key();
        for text in [public.to_pem().unwrap(), format!("{public}\n")] {
            assert_eq!(PublicKey::read(text.as_bytes()).unwrap(), public);
        }
    }

    #[test]
    fn the_first_test_vector_of_rfc_8032_holds() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key = SigningKey::read(seed.as_bytes()).unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(key.public_key().to_string(), public);
        let signature = key.sign(b"");
        assert!(
            hex::encode(signature.0).starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555")
        );
        assert!(key.public_key().verifies(b"", &signature));
        assert!(!key.public_key().verifies(b"x", &signature));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let public = SigningKey::generate().public_key().to_pem().unwrap();
        for bytes in [&b""[..], b"secret words", &[0xff; 40], public.as_bytes()] {
            let refused = SigningKey::read(bytes).unwrap_err().to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
        // The neutral element: a point, but nobody's key.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(PublicKey::from_bytes(&neutral).is_err());
        assert!(PublicKey::read(b"00").is_err());
    }

    #[test]
    fn a_signing_key_never_shows_itself() {
        let key = SigningKey::of_seed([7; 32]);
        assert!(!format!("{key:?}").contains(&hex::encode([7; 32])));
    }
}
