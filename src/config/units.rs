//! Durations as seconds and sizes as `512m`, for serde's `with`.

/// A [`std::time::Duration`] as seconds, whole or not.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        match value.subsec_nanos() {
            0 => serializer.serialize_u64(value.as_secs()),
            _ => serializer.serialize_f64(value.as_secs_f64()),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| D::Error::custom(format!("{seconds} is not a number of seconds")))
    }
}

/// Bytes as a number or as text with a suffix: `64k`, `512m`, `2g`, powers of 1024.
pub mod bytes {
    use serde::{Deserializer, Serializer, de::Error, de::Visitor};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&display(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = u64;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size like 64k, 512m or 2g")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
                Ok(value)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<u64, E> {
                parse(value).ok_or_else(|| E::custom(format!("{value:?} is not a size; write 64k, 512m or 2g")))
            }
        }
        deserializer.deserialize_any(Size)
    }

    /// Writes a size with the largest suffix that keeps it exact.
    pub fn display(value: u64) -> String {
        for (shift, suffix) in [(30, "g"), (20, "m"), (10, "k")] {
            let unit = 1_u64 << shift;
            if value >= unit && value.is_multiple_of(unit) {
                return format!("{}{suffix}", value / unit);
            }
        }
        value.to_string()
    }

    /// Reads a size; `None` for what is none, or one beyond 64 bits.
    pub fn parse(text: &str) -> Option<u64> {
        let text = text.trim().to_ascii_lowercase();
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, suffix) = text.split_at(split);
        let unit = match suffix.trim() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_size_reads_back_as_it_was_written() {
            for value in [0, 1, 1023, 1024, 1536, 100 << 10, 512 << 20, 5 << 30, u64::MAX] {
                assert_eq!(parse(&display(value)), Some(value));
            }
        }

        #[test]
        fn what_is_not_a_size_is_refused() {
            for text in ["", "m", "-1", "1.5g", "10x", "99999999999g", "1 2"] {
                assert_eq!(parse(text), None, "{text}");
            }
        }
    }
}

/// A size for people: one digit behind the point of the largest unit that it fills.
pub fn display_bytes(value: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let whole = 1_u64 << shift;
        if value >= whole {
            return format!("{:.1} {unit}", value as f64 / whole as f64);
        }
    }
    format!("{value} B")
}
