//! The frame: one kind byte, the payload's length as a little-endian `u32`, the payload.
//!
//! Both ends use this module, so a frame means the same on either side. A frame that is
//! too long or of an unknown kind is an error and never skipped: after it, the position of
//! the next frame cannot be trusted.

use std::io::{self, Read, Write};

/// Bytes before the payload: the kind and the length.
pub const HEADER_BYTES: usize = 5;

/// The longest payload of one frame, in bytes. Longer data travels as several data frames.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// What a frame carries. Kinds below 64 go from the host to the guest, the others back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Host: JSON [`crate::protocol::Boot`]. The first frame of a session.
    Boot = 1,
    /// Host: JSON [`crate::protocol::FileHeader`]; its bytes follow as [`Kind::FileData`].
    File = 2,
    /// Host: a piece of the announced file.
    FileData = 3,
    /// Host: JSON [`crate::protocol::Run`]. Starts the code.
    Run = 4,
    /// Host: JSON [`crate::protocol::Cancel`]. Ends the code.
    Cancel = 5,
    /// Host: a channel's number, and a piece for the code.
    ToCode = 6,
    /// Host: a channel's number. No more comes for the code.
    ToCodeEnd = 7,
    /// Host: a channel's number, and how many more bytes of it the host takes.
    HostTook = 8,

    /// Guest: JSON [`crate::protocol::Ready`]. The interpreter waits for a job.
    Ready = 64,
    /// Guest: empty. The code was handed to the interpreter.
    Started = 65,
    /// Guest: a piece of the code's standard output.
    Stdout = 66,
    /// Guest: a piece of the code's standard error.
    Stderr = 67,
    /// Guest: JSON [`crate::protocol::FileHeader`] of a collected file; its bytes follow.
    Artifact = 68,
    /// Guest: a piece of the announced artifact.
    ArtifactData = 69,
    /// Guest: JSON [`crate::protocol::Report`]. The last frame of a session.
    Exited = 70,
    /// Guest: JSON [`crate::protocol::Fault`]. The guest cannot go on; the last frame.
    Fault = 71,
    /// Guest: a channel's number. The code made a connection to the proxy's port.
    ChannelOpen = 72,
    /// Guest: a channel's number, and a piece from the code.
    FromCode = 73,
    /// Guest: a channel's number. No more comes from the code.
    FromCodeEnd = 74,
    /// Guest: a channel's number, and how many more bytes of it the code takes.
    CodeTook = 75,
    /// Guest: a channel's number. It is over both ways, and nothing more is taken or sent.
    ChannelClosed = 76,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Boot,
            2 => Self::File,
            3 => Self::FileData,
            4 => Self::Run,
            5 => Self::Cancel,
            6 => Self::ToCode,
            7 => Self::ToCodeEnd,
            8 => Self::HostTook,
            64 => Self::Ready,
            65 => Self::Started,
            66 => Self::Stdout,
            67 => Self::Stderr,
            68 => Self::Artifact,
            69 => Self::ArtifactData,
            70 => Self::Exited,
            71 => Self::Fault,
            72 => Self::ChannelOpen,
            73 => Self::FromCode,
            74 => Self::FromCodeEnd,
            75 => Self::CodeTook,
            76 => Self::ChannelClosed,
            _ => return None,
        })
    }
}

/// Why bytes are not a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The kind byte names no kind.
    UnknownKind(u8),
    /// The length exceeds [`MAX_PAYLOAD_BYTES`].
    TooLong(usize),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownKind(byte) => write!(f, "frame of unknown kind {byte}"),
            Self::TooLong(bytes) => {
                write!(f, "frame of {bytes} bytes, more than {MAX_PAYLOAD_BYTES}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Reads a header: the kind and the payload's length in bytes.
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Result<(Kind, usize), FrameError> {
    let [kind, a, b, c, d] = header;
    let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MAX_PAYLOAD_BYTES {
        return Err(FrameError::TooLong(length));
    }
    Ok((kind, length))
}

/// Makes the header of a frame whose payload has `length` bytes.
pub fn header(kind: Kind, length: usize) -> Result<[u8; HEADER_BYTES], FrameError> {
    if length > MAX_PAYLOAD_BYTES {
        return Err(FrameError::TooLong(length));
    }
    let [a, b, c, d] = (length as u32).to_le_bytes();
    Ok([kind as u8, a, b, c, d])
}

/// Writes one frame.
///
/// # Errors
/// `InvalidData` when the payload is too long, before anything is written; otherwise what
/// the writer answers.
pub fn write(writer: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&header(kind, payload.len())?);
    frame.extend_from_slice(payload);
    writer.write_all(&frame)
}

/// Reads one frame; `None` at the end of the stream between two frames.
///
/// # Errors
/// `InvalidData` for what is not a frame, `UnexpectedEof` for a stream that ends inside one.
pub fn read(reader: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; HEADER_BYTES];
    if !fill_or_end(reader, &mut head)? {
        return Ok(None);
    }
    let (kind, length) = parse_header(head)?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

fn fill_or_end(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_frame_reads_back() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Stdout, b"hello").unwrap();
        write(&mut bytes, Kind::Started, b"").unwrap();
        let mut reader = bytes.as_slice();
        assert_eq!(read(&mut reader).unwrap(), Some((Kind::Stdout, b"hello".to_vec())));
        assert_eq!(read(&mut reader).unwrap(), Some((Kind::Started, Vec::new())));
        assert_eq!(read(&mut reader).unwrap(), None);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_allocated() {
        let mut head = header(Kind::Stdout, 0).unwrap();
        head[1..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse_header(head), Err(FrameError::TooLong(u32::MAX as usize)));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(parse_header([0, 0, 0, 0, 0]), Err(FrameError::UnknownKind(0)));
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Stdout, b"hello").unwrap();
        let cut = &bytes[..bytes.len() - 1];
        let error = read(&mut &cut[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Numbers that are the same in every run (xorshift64).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }

        fn bytes(&mut self, bound: usize) -> Vec<u8> {
            (0..self.below(bound)).map(|_| self.below(256) as u8).collect()
        }
    }

    const KINDS: [Kind; 21] = [
        Kind::ToCode,
        Kind::ToCodeEnd,
        Kind::HostTook,
        Kind::ChannelOpen,
        Kind::FromCode,
        Kind::FromCodeEnd,
        Kind::CodeTook,
        Kind::ChannelClosed,
        Kind::Boot,
        Kind::File,
        Kind::FileData,
        Kind::Run,
        Kind::Cancel,
        Kind::Ready,
        Kind::Started,
        Kind::Stdout,
        Kind::Stderr,
        Kind::Artifact,
        Kind::ArtifactData,
        Kind::Exited,
        Kind::Fault,
    ];

    #[test]
    fn any_sequence_of_frames_reads_back_and_any_cut_of_it_is_noticed() {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for _ in 0..300 {
            let frames: Vec<(Kind, Vec<u8>)> =
                (0..numbers.below(6)).map(|_| (KINDS[numbers.below(KINDS.len())], numbers.bytes(300))).collect();
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for (kind, payload) in &frames {
                write(&mut bytes, *kind, payload).unwrap();
                ends.push(bytes.len());
            }
            let cut = numbers.below(bytes.len() + 1);
            let mut whole = bytes.as_slice();
            for (kind, payload) in &frames {
                assert_eq!(read(&mut whole).unwrap(), Some((*kind, payload.clone())));
            }
            assert_eq!(read(&mut whole).unwrap(), None);

            let mut rest = &bytes[..cut];
            let last = loop {
                match read(&mut rest) {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert_eq!(last.is_ok(), ends.contains(&cut), "cut at {cut} of {ends:?}");
        }
    }

    #[test]
    fn noise_is_refused_or_read_and_never_more_than_it_is() {
        let mut numbers = Numbers(1);
        for _ in 0..2000 {
            let noise = numbers.bytes(64);
            let mut rest = noise.as_slice();
            let mut total = 0;
            while let Ok(Some((_, payload))) = read(&mut rest) {
                total += HEADER_BYTES + payload.len();
            }
            assert!(total <= noise.len());
        }
    }
}
