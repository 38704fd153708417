//! What the sending and the receiving side do in one round.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use super::backlog::Backlog;
use super::threads::{FROM_SOCKET, NEVER};
use super::unreachable::Unreachable;
use crate::io::tun::{BUFFER_LEN, is_gone};
use crate::io::udp::{ReceiveBatch, UdpSocket};
use crate::io::{Wait, clock};
use crate::node::Verdict;
use crate::offload::{Coalescer, Offload, SuperPacket};
use crate::progress::Pulse;
use crate::transmit::{MAX_RUN_BYTES, SendQueue};

/// Super-packets per round: what they are encrypted to still lies in the cache when it is sent.
const BATCH: usize = 4;
/// Messages per receive call, when they are short.
const MESSAGES: usize = 16;
/// Bytes above which a packet counts towards the batch: small ones are bounded by the room of the send queue alone.
const LARGE: usize = 4096;
/// Most reads before the next round of encryption: enough to empty the TUN faster than it fills.
const FILL: usize = 64;
/// Room of the send queue: a round of super-packets with what encryption adds, behind a run that was left open.
const SEND_ROOM: usize = BATCH * 72 * 1024 + MAX_RUN_BYTES;
/// Room for answers: the 256 packets that may wait for a session all go out when it is agreed.
pub(super) const ANSWER_ROOM: usize = 256 * 1600;
/// Least room for another super-packet of segments of common size.
const SUPER_ROOM: usize = 70 * 1024;
/// Receive calls in a row before what is joined so far is handed on, while messages are long.
const RECEIVES: usize = 4;
/// Bytes of a datagram from which on a run is held back to be filled: a small packet waits for nobody.
const HOLD_FROM: usize = 1024;
/// Pause after an error that says nothing about the next call, so that none of them makes a thread spin.
const WEATHER_PAUSE: Duration = Duration::from_millis(10);

/// The sending side's own memory.
pub(super) struct Tx {
    backlog: Backlog,
    out: Outbox,
    unreachable: Unreachable,
    /// Whether the last round carried a large packet.
    is_bulk: bool,
}

/// The receiving side's own memory. Whoever has it does the receiving.
pub(super) struct Rx {
    batch: ReceiveBatch,
    coalescer: Coalescer,
    coalesce: u8,
    out: Outbox,
    /// Whether the last round carried a long message.
    is_bulk: bool,
}

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

impl Tx {
    pub(super) fn new() -> Self {
        Self {
            backlog: Backlog::new(BUFFER_LEN),
            out: Outbox::new(SEND_ROOM),
            unreachable: Unreachable::new(clock::instant()),
            is_bulk: false,
        }
    }

    /// Whether the last round carried part of something large.
    pub(super) const fn was_bulk(&self) -> bool {
        self.is_bulk
    }

    /// Whether packets wait that could go on at once.
    pub(super) fn is_waiting(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether the socket had no room for everything: nothing is read until it has.
    pub(super) fn is_stuck(&self) -> bool {
        self.out.is_stuck
    }

    /// Takes in whatever the TUN has, encrypts a batch of it into one queue, and sends that as far as there is room.
    pub(super) fn round(&mut self, shared: &Shared, socket: &mut Follow) -> Round {
        if self.out.is_stuck && !self.out.flush(shared, socket, Wait::No, false) {
            return Round::Idle;
        }
        let end = self.fill(shared);
        let (mut packets, mut large, mut now) = (0, 0, None);
        while large < BATCH && self.out.queue.room() >= SUPER_ROOM {
            let Some(packet) = self.backlog.pop() else { break };
            packets += 1;
            large += usize::from(packet.bytes.len() > LARGE);
            let now = *now.get_or_insert_with(clock::now);
            let SuperPacket { bytes, offload } = packet;
            let packet = SuperPacket { bytes: &mut *bytes, offload };
            if let Verdict::Drop(reason) = shared.node.handle_inner(now, packet, &mut self.out.queue)
                && let Some(mut answer) = self.unreachable.answer(now.instant, reason, bytes)
            {
                shared.stats.tx_unreachable.add(1);
                let answer = SuperPacket { bytes: &mut answer, offload: Offload::None };
                if shared.tun.send(answer).is_err() {
                    return Round::Gone;
                }
            }
        }
        self.is_bulk = large > 0;
        if packets > 0 {
            shared.stats.tx_rounds.add(1);
            shared.stats.tx_packets.add(packets);
            shared.stats.tx_queue_drops.add(self.backlog.take_dropped());
        }
        // A segmented send costs as much as a full one: while more follows at once, the last run may fill up.
        self.out.flush(shared, socket, Wait::No, !self.backlog.is_empty());
        match end {
            Round::Idle if packets > 1 => Round::Busy,
            Round::Idle | Round::Busy | Round::Gone => end,
        }
    }

    fn fill(&mut self, shared: &Shared) -> Round {
        for _ in 0..FILL {
            match shared.tun.receive(self.backlog.landing()) {
                Ok(Some(packet)) => {
                    let (len, offload) = (packet.bytes.len(), packet.offload);
                    self.backlog.push(len, offload);
                }
                Ok(None) => {}
                Err(error) => return read_error(&error, "tun"),
            }
        }
        Round::Busy
    }
}

impl Rx {
    pub(super) fn new(shared: &Shared) -> Self {
        let coalesce = shared.coalesce.load(Ordering::Acquire);
        Self {
            batch: ReceiveBatch::new(MESSAGES),
            coalescer: Coalescer::new(Shared::coalesce_options(coalesce)),
            coalesce,
            out: Outbox::new(ANSWER_ROOM),
            is_bulk: false,
        }
    }

    /// Whether the last round carried part of something large.
    pub(super) const fn was_bulk(&self) -> bool {
        self.is_bulk
    }

    /// Whether the socket had no room for every answer.
    pub(super) fn is_stuck(&self) -> bool {
        self.out.is_stuck
    }

    /// Receives what is there, up to a few batches of long messages, decrypts and joins what they hold, and writes
    /// that to the TUN. With [`Wait::No`], answers that the socket has no room for wait for the next round.
    pub(super) fn round(&mut self, shared: &Shared, socket: &mut Follow, wait: Wait) -> Round {
        if self.out.is_stuck {
            self.out.flush(shared, socket, wait, false);
        }
        let coalesce = shared.coalesce.load(Ordering::Acquire);
        if coalesce != self.coalesce {
            self.coalesce = coalesce;
            self.coalescer.set_options(Shared::coalesce_options(coalesce));
        }
        let before = self.coalescer.stats();
        let (mut end, mut first) = (Round::Idle, wait);
        self.is_bulk = false;
        for _ in 0..RECEIVES {
            match socket.receive(&mut self.batch, first) {
                Ok(messages) if messages > 1 => end = Round::Busy,
                Ok(_) => {}
                Err(error) => {
                    read_error(&error, "udp");
                    break;
                }
            }
            if self.take_in(shared, socket, wait) {
                return Round::Gone;
            }
            // Behind a long message there may be one that continues it; nobody waits for it.
            first = Wait::No;
            if !self.batch.was_long() {
                break;
            }
            self.is_bulk = true;
        }
        if drain(&mut self.coalescer, shared) {
            return Round::Gone;
        }
        let after = self.coalescer.stats();
        if after != before {
            shared.stats.rx_rounds.add(1);
            shared.stats.rx_packets.add((after.packets - before.packets) as usize);
            shared.stats.rx_emitted.add((after.emitted - before.emitted) as usize);
            shared.stats.rx_bad_checksums.add((after.bad_checksums - before.bad_checksums) as usize);
        }
        end
    }

    /// Decrypts what was just received, and writes what is complete while it lies in the cache; whether the TUN
    /// turned out to be gone.
    fn take_in(&mut self, shared: &Shared, socket: &mut Follow, wait: Wait) -> bool {
        let now = clock::now();
        let mut is_gone = false;
        for received in self.batch.iter_mut() {
            if !self.coalescer.has_room() {
                is_gone |= drain(&mut self.coalescer, shared);
            }
            shared.node.handle_received(now, received, &mut self.coalescer, &mut self.out.queue);
            while let Some((_, packet)) = self.coalescer.poll_complete() {
                is_gone |= shared.tun.send(packet).is_err();
            }
        }
        // Before what is still open: a handshake waits for nobody's packets.
        self.out.flush(shared, socket, wait, false);
        is_gone
    }
}

/// Writes everything to the TUN; whether it turned out to be gone.
fn drain(coalescer: &mut Coalescer, shared: &Shared) -> bool {
    let mut is_gone = false;
    while let Some((_, packet)) = coalescer.poll_packet() {
        is_gone |= shared.tun.send(packet).is_err();
    }
    is_gone
}

fn read_error(error: &io::Error, from: &str) -> Round {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return Round::Idle;
    }
    if from == "tun" && is_gone(error) {
        return Round::Gone;
    }
    // An error that was queued on a socket, say: the call has taken it off, so the next one may succeed.
    tracing::debug!(%error, from, "read failed");
    std::thread::sleep(WEATHER_PAUSE);
    Round::Idle
}

/// Datagrams on their way out.
pub(super) struct Outbox {
    pub(super) queue: SendQueue,
    /// Whether the socket had no room for all of them.
    is_stuck: bool,
}

impl Outbox {
    pub(super) fn new(room: usize) -> Self {
        Self { queue: SendQueue::with_capacity(room), is_stuck: false }
    }

    /// Sends what is queued through the socket that is in place by then; with `keep_open` not a last run that may
    /// still grow. False when the socket had no room, or the thread is to end: what is left stays queued.
    pub(super) fn flush(
        &mut self,
        shared: &Shared,
        socket: &mut Follow,
        wait: Wait,
        keep_open: bool,
    ) -> bool {
        let holds = keep_open && self.queue.open_segment().is_some_and(|size| size >= HOLD_FROM);
        let total = self.queue.transmits().len() - usize::from(holds);
        let mut done = 0;
        while done < total {
            done += socket.socket.send(self.queue.transmits().take(total).skip(done), wait);
            if done < total && (wait == Wait::No || !socket.follow(shared)) {
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

/// A thread's hold on the socket that is in place.
pub(super) struct Follow {
    pub(super) socket: Arc<UdpSocket>,
    /// The thread's own.
    pub(super) pulse: Arc<Pulse>,
    generation: u64,
    place: usize,
}

impl Follow {
    pub(super) fn new(shared: &Shared, place: usize) -> Self {
        // Generation zero is older than any change, so the first call to `follow` loads whatever is there.
        Self { socket: shared.socket.load_full(), pulse: shared.pulse(place), generation: 0, place }
    }

    /// Receives, and says so while it waits.
    fn receive(&self, batch: &mut ReceiveBatch, wait: Wait) -> io::Result<usize> {
        if wait == Wait::No {
            return self.socket.receive(batch, wait);
        }
        self.pulse.rest(FROM_SOCKET, NEVER);
        let received = self.socket.receive(batch, wait);
        self.pulse.work();
        received
    }

    /// Sleeps until another thread wakes this one.
    pub(super) fn park(&self) {
        self.pulse.rest(0, NEVER);
        std::thread::park();
    }

    /// A step of the thread's: takes up changes; false when the thread is to end.
    pub(super) fn follow(&mut self, shared: &Shared) -> bool {
        self.pulse.work();
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
