//! What every thread of the device has: the socket in use, a heartbeat, and datagrams to send.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::io::Wait;
use crate::io::tun::is_gone;
use crate::io::udp::{ReceiveBatch, UdpSocket};
use crate::progress::Heartbeat;
use crate::time::Instant;
use crate::transmit::SendQueue;

/// A thread's place in [`Shared::seen`] and [`Shared::heartbeats`].
pub(super) const MAIN: usize = 0;
pub(super) const RX_HELPER: usize = 1;
pub(super) const TIMERS: usize = 2;

/// What a thread waits for, as the flags of
/// [`Heartbeat::begin_wait`](crate::progress::Heartbeat::begin_wait).
pub(super) const FROM_TUN: u8 = 1;
pub(super) const FROM_SOCKET: u8 = 2;
pub(super) const TO_SOCKET: u8 = 4;
/// When a thread wakes that waits until something comes.
pub(super) const NEVER: Instant = Instant::from_boot(Duration::MAX);

/// Room for replies: the 256 packets that may wait for a session all go out when it is agreed.
pub(super) const REPLY_ROOM: usize = 256 * 1600;
/// Bytes of a datagram from which on a run is held back to be filled: a small packet does not wait.
const HOLD_FROM: usize = 1024;
/// Pause after an error that is no sign of the next call's result, so that no error makes a thread
/// spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// So much was carried that more is likely to be there.
    Busy,
    /// There was little or nothing to carry, or a signal came first.
    Idle,
    /// The TUN was deleted.
    Gone,
}

pub(super) fn read_error(error: &io::Error, from: &str) -> Round {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return Round::Idle;
    }
    if from == "tun" && is_gone(error) {
        return Round::Gone;
    }
    // An error that was queued on a socket, for example: the call has taken it off, so the next one
    // may succeed.
    tracing::debug!(%error, from, "read failed");
    std::thread::sleep(ERROR_PAUSE);
    Round::Idle
}

/// Datagrams on their way out.
pub(super) struct Outbox {
    pub(super) queue: SendQueue,
    /// Whether the socket had no room for all of them.
    pub(super) is_stuck: bool,
}

impl Outbox {
    pub(super) fn new(room: usize) -> Self {
        Self { queue: SendQueue::with_capacity(room), is_stuck: false }
    }

    /// Sends what is queued through the socket that is in use by then; with `keep_open` not a last
    /// run that may still grow. False when the socket had no room, or the thread is to end: what is
    /// left stays queued.
    pub(super) fn flush(
        &mut self,
        shared: &Shared,
        worker: &mut Worker,
        wait: Wait,
        keep_open: bool,
    ) -> bool {
        let holds = keep_open && self.queue.open_segment().is_some_and(|size| size >= HOLD_FROM);
        let total = self.queue.transmits().len() - usize::from(holds);
        let mut done = 0;
        while done < total {
            done += worker.socket.send(self.queue.transmits().take(total).skip(done), wait);
            if done < total && (wait == Wait::No || !worker.step(shared)) {
                break;
            }
        }
        if done > 0 {
            self.queue.discard(done);
        }
        self.is_stuck = done < total;
        !self.is_stuck
    }
}

/// What a thread knows of the device: the socket in use, and which changes it has seen.
pub(super) struct Worker {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) heartbeat: Arc<Heartbeat>,
    generation: u64,
    place: usize,
}

impl Worker {
    pub(super) fn new(shared: &Shared, place: usize) -> Self {
        // Generation zero is older than any change, so the first step loads the socket in use.
        Self { socket: shared.socket.load_full(), heartbeat: shared.heartbeat(place), generation: 0, place }
    }

    /// Receives; the heartbeat shows that it waits.
    pub(super) fn receive(&self, batch: &mut ReceiveBatch, wait: Wait) -> io::Result<usize> {
        if wait == Wait::No {
            return self.socket.receive(batch, wait);
        }
        self.heartbeat.begin_wait(FROM_SOCKET, NEVER);
        let received = self.socket.receive(batch, wait);
        self.heartbeat.step();
        received
    }

    /// Sleeps until another thread wakes this one.
    pub(super) fn park(&self) {
        self.heartbeat.begin_wait(0, NEVER);
        std::thread::park();
    }

    /// Begins a round of the thread's loop: picks up changes; false when the thread is to end.
    pub(super) fn step(&mut self, shared: &Shared) -> bool {
        self.heartbeat.step();
        let generation = shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.socket = shared.socket.load_full();
            if let Some(seen) = shared.seen.get(self.place) {
                seen.store(generation, Ordering::Release);
            }
        }
        !shared.stop.load(Ordering::Acquire)
    }
}
