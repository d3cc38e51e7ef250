//! Connections of a job's code, between the frame stream and the job's gate.
//!
//! Each is a channel with a window in each direction: what is on its way and not yet taken is
//! bounded, so that a slow end holds up its own channel and nothing else. Dropping the relay ends
//! every connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tako_guest::frame::Kind;
use tako_guest::protocol::{CHANNEL_WINDOW_BYTES, MAX_CHANNELS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::egress::Gate;

const PIECE_BYTES: usize = 16 << 10;

/// A frame for the guest.
pub type Outgoing = (Kind, Vec<u8>);

/// The guest broke a promise about channels.
#[derive(Debug)]
pub struct Broken(pub &'static str);

pub struct Relay {
    gate: Arc<Gate>,
    channels: HashMap<u32, Channel>,
    tasks: JoinSet<()>,
    outgoing: mpsc::Sender<Outgoing>,
}

struct Channel {
    /// From the code; gone once it has ended.
    pieces: Option<mpsc::UnboundedSender<Bytes>>,
    /// Bytes of `pieces` that nobody has taken yet.
    waiting: Arc<AtomicUsize>,
    /// Bytes the code takes now.
    credit: Arc<Semaphore>,
    task: AbortHandle,
}

impl Relay {
    pub fn new(gate: Arc<Gate>, outgoing: mpsc::Sender<Outgoing>) -> Self {
        Self { gate, channels: HashMap::new(), tasks: JoinSet::new(), outgoing }
    }

    /// Takes a channel's frame. Never waits.
    pub fn take(&mut self, kind: Kind, mut payload: Bytes) -> Result<(), Broken> {
        // What has ended is of no interest, and would pile up.
        while self.tasks.try_join_next().is_some() {}
        let Some(head) = payload.first_chunk::<4>() else { return Err(Broken("a channel has a number")) };
        let id = u32::from_le_bytes(*head);
        let rest = payload.split_off(4);
        if kind == Kind::ChannelOpen {
            return self.open(id);
        }
        let Some(channel) = self.channels.get_mut(&id) else { return Err(Broken("there is no such channel")) };
        match kind {
            Kind::FromCode => {
                let Some(pieces) = &channel.pieces else { return Err(Broken("the channel has ended")) };
                let waiting = channel.waiting.fetch_add(rest.len(), Ordering::AcqRel) + rest.len();
                if waiting > CHANNEL_WINDOW_BYTES {
                    return Err(Broken("more than the window was sent"));
                }
                // Whoever took the pieces may be gone.
                let _ = pieces.send(rest);
            }
            Kind::FromCodeEnd => channel.pieces = None,
            Kind::CodeTook => {
                let Some(bytes) = rest.first_chunk::<4>() else { return Err(Broken("how much was taken")) };
                let bytes = u32::from_le_bytes(*bytes) as usize;
                if bytes > CHANNEL_WINDOW_BYTES - channel.credit.available_permits().min(CHANNEL_WINDOW_BYTES) {
                    return Err(Broken("more was taken than sent"));
                }
                channel.credit.add_permits(bytes);
            }
            Kind::ChannelClosed => {
                channel.task.abort();
                self.channels.remove(&id);
            }
            _ => return Err(Broken("it is no channel's frame")),
        }
        Ok(())
    }

    fn open(&mut self, id: u32) -> Result<(), Broken> {
        if self.channels.len() >= MAX_CHANNELS || self.channels.contains_key(&id) {
            return Err(Broken("a channel was opened that cannot be"));
        }
        let (pieces, incoming) = mpsc::unbounded_channel();
        let (waiting, credit) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(CHANNEL_WINDOW_BYTES)));
        let carried = carry(
            id,
            Arc::clone(&self.gate),
            incoming,
            Arc::clone(&waiting),
            Arc::clone(&credit),
            self.outgoing.clone(),
        );
        let task = self.tasks.spawn(carried);
        self.channels.insert(id, Channel { pieces: Some(pieces), waiting, credit, task });
        Ok(())
    }
}

/// Carries one channel until both ways have ended.
async fn carry(
    id: u32,
    gate: Arc<Gate>,
    mut incoming: mpsc::UnboundedReceiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    credit: Arc<Semaphore>,
    outgoing: mpsc::Sender<Outgoing>,
) {
    let (near, far) = tokio::io::duplex(CHANNEL_WINDOW_BYTES);
    let (mut from_gate, mut to_gate) = tokio::io::split(near);
    let frame = |kind, rest: &[u8]| (kind, [&id.to_le_bytes()[..], rest].concat());
    let outward = async {
        while let Some(piece) = incoming.recv().await {
            // A gate that is done with the connection takes no more; what comes is dropped, and the
            // code may go on writing.
            let _ = to_gate.write_all(&piece).await;
            waiting.fetch_sub(piece.len(), Ordering::AcqRel);
            let _ = outgoing.send(frame(Kind::HostTook, &(piece.len() as u32).to_le_bytes())).await;
        }
        let _ = to_gate.shutdown().await;
    };
    let inward = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from_gate.read(&mut buffer).await {
            match credit.acquire_many(count as u32).await {
                Ok(permits) => permits.forget(),
                Err(_) => break,
            }
            let _ = outgoing.send(frame(Kind::ToCode, &buffer[..count])).await;
        }
        let _ = outgoing.send(frame(Kind::ToCodeEnd, &[])).await;
    };
    tokio::join!(gate.serve(far), outward, inward);
}
