//! One output stream of the code: counted whole, kept up to a limit.

/// Cuts a stream at its limit, never inside a UTF-8 character.
///
/// Up to three bytes that begin a character are held back until the rest of it arrives:
/// once forwarded they could not be taken back when the limit falls inside the character.
pub struct Capture {
    limit: u64,
    kept: u64,
    total: u64,
    held: Vec<u8>,
    truncated: bool,
}

impl Capture {
    pub fn new(limit: u64) -> Self {
        Self { limit, kept: 0, total: 0, held: Vec::new(), truncated: false }
    }

    /// Counts the bytes and returns what of the stream is to be forwarded now.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.total += bytes.len() as u64;
        if self.truncated {
            return Vec::new();
        }
        let mut data = std::mem::take(&mut self.held);
        data.extend_from_slice(bytes);
        let room = usize::try_from(self.limit - self.kept).unwrap_or(usize::MAX);
        if data.len() > room {
            self.truncated = true;
            data.truncate(room);
            data.truncate(data.len() - begun_character(&data));
        } else {
            self.held = data.split_off(data.len() - begun_character(&data));
        }
        self.kept += data.len() as u64;
        data
    }

    /// The stream has ended: what was held back belongs to it after all.
    pub fn finish(&mut self) -> Vec<u8> {
        let rest = std::mem::take(&mut self.held);
        self.kept += rest.len() as u64;
        rest
    }

    /// Whether bytes were dropped.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Bytes of the stream, kept or not.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// How many bytes at the end begin a character and do not complete it.
fn begun_character(data: &[u8]) -> usize {
    for length in 1..=data.len().min(3) {
        let needed = match data[data.len() - length] {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if needed > length { length } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(limit: u64, pieces: &[&[u8]]) -> (Vec<u8>, Capture) {
        let mut capture = Capture::new(limit);
        let mut kept = Vec::new();
        for piece in pieces {
            kept.extend(capture.take(piece));
        }
        kept.extend(capture.finish());
        (kept, capture)
    }

    #[test]
    fn a_stream_within_its_limit_is_kept_to_the_byte() {
        let (kept, capture) = capture(6, &[b"ab\xff", b"\xe2\x82", b"\xf0"]);
        assert_eq!(kept, b"ab\xff\xe2\x82\xf0");
        assert!(!capture.truncated());
    }

    #[test]
    fn a_cut_never_leaves_part_of_a_character_however_the_stream_was_split() {
        let text = "aé€😀".repeat(20).into_bytes();
        for limit in 0..text.len() {
            for piece in 1..8 {
                let pieces: Vec<&[u8]> = text.chunks(piece).collect();
                let (kept, capture) = capture(limit as u64, &pieces);
                assert!(text.starts_with(&kept), "limit {limit} piece {piece}");
                assert!(std::str::from_utf8(&kept).is_ok(), "limit {limit} piece {piece}");
                assert!(kept.len() <= limit && kept.len() + 4 > limit);
                assert!(capture.truncated());
                assert_eq!(capture.total(), text.len() as u64);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_cut_at_the_limit() {
        let (kept, capture) = capture(5, &[&[0xff; 9]]);
        assert_eq!(kept, [0xff; 5]);
        assert_eq!(capture.total(), 9);
    }
}
