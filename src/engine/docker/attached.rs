//! The container's three streams as one connection: its standard input to write, its
//! standard output to read, and the beginning of its standard error for a diagnosis.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bollard::container::{AttachContainerResults, LogOutput};
use futures::StreamExt;
use tokio_util::io::StreamReader;

use crate::engine::session::{Reader, Writer};

/// Kept of the container's standard error: the guest and the runtime say little, and user
/// code never writes there.
const DIAGNOSIS_BYTES: usize = 4 << 10;

/// What the container wrote to its standard error, up to a limit.
#[derive(Clone, Default)]
pub(super) struct Diagnosis(Arc<Mutex<Vec<u8>>>);

/// Splits an attached container into what a session needs.
pub(super) fn split(attached: AttachContainerResults) -> (Reader, Writer, Diagnosis) {
    let diagnosis = Diagnosis::default();
    let errors = diagnosis.clone();
    let output = attached.output.filter_map(move |item| {
        let piece = match item {
            Ok(LogOutput::StdOut { message }) => Some(Ok(message)),
            Ok(LogOutput::StdErr { message }) => {
                errors.add(&message);
                None
            }
            Ok(LogOutput::StdIn { .. }) => None,
            // Bytes outside the multiplexed frames: the stream can no longer be trusted.
            Ok(LogOutput::Console { .. }) => {
                Some(Err(io::Error::new(io::ErrorKind::InvalidData, "the daemon's stream is not multiplexed")))
            }
            Err(error) => Some(Err(io::Error::other(error))),
        };
        futures::future::ready(piece)
    });
    (Box::new(StreamReader::new(output.boxed())), Box::new(attached.input), diagnosis)
}

impl Diagnosis {
    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = DIAGNOSIS_BYTES - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The text so far, on one line; empty when there is none.
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::AsyncReadExt;

    fn attached(items: Vec<LogOutput>) -> AttachContainerResults {
        AttachContainerResults {
            output: futures::stream::iter(items.into_iter().map(Ok)).boxed(),
            input: Box::pin(tokio::io::sink()),
        }
    }

    #[tokio::test]
    async fn only_standard_output_is_read() {
        let (mut reader, _, diagnosis) = split(attached(vec![
            LogOutput::StdOut { message: Bytes::from_static(b"ab") },
            LogOutput::StdErr { message: Bytes::from_static(b"no\nspace") },
            LogOutput::StdOut { message: Bytes::from_static(b"c") },
        ]));
        let mut read = String::new();
        reader.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "abc");
        assert_eq!(diagnosis.text(), "no space");
    }

    #[tokio::test]
    async fn the_diagnosis_never_grows_beyond_its_limit() {
        let flood = vec![LogOutput::StdErr { message: Bytes::from(vec![b'x'; 3000]) }; 5];
        let (mut reader, _, diagnosis) = split(attached(flood));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(diagnosis.text().len(), DIAGNOSIS_BYTES);
    }

    #[tokio::test]
    async fn bytes_outside_the_frames_end_the_stream() {
        let (mut reader, _, _) = split(attached(vec![LogOutput::Console { message: Bytes::from_static(b"x") }]));
        let error = reader.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
