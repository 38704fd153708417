//! The sending side: from the TUN through the node to the socket.

use super::Shared;
use super::backlog::Backlog;
use super::unreachable::Unreachable;
use super::worker::{Outbox, Round, Worker, read_error};
use crate::io::tun::BUFFER_LEN;
use crate::io::{Wait, clock};
use crate::node::Verdict;
use crate::offload::{Offload, SuperPacket};
use crate::transmit::MAX_RUN_BYTES;

/// Super-packets per round: what they are encrypted to still lies in the cache when it is sent.
const BATCH: usize = 4;
/// Bytes above which a packet counts towards the batch: small ones are bounded by the room of the
/// send queue alone.
const LARGE: usize = 4096;
/// Most reads before the next round of encryption: enough to empty the TUN faster than it fills.
const FILL: usize = 64;
/// Most reads between two batches of the other direction: the acknowledgements of a batch, and a
/// few requests. What is bulk itself stays in the TUN until a round can carry it.
const FILL_BETWEEN: usize = 16;
/// Room of the send queue: a round of super-packets with what encryption adds, behind a run that
/// was left open.
const SEND_ROOM: usize = BATCH * 72 * 1024 + MAX_RUN_BYTES;
/// Least room for another super-packet of segments of common size.
const SUPER_ROOM: usize = 70 * 1024;

/// The sending side's own memory.
pub(super) struct Tx {
    backlog: Backlog,
    out: Outbox,
    unreachable: Unreachable,
    /// Whether the last round carried a large packet.
    is_bulk: bool,
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

    /// Reads what the TUN has; a round only if something sparse is among it, which then does not
    /// wait until what the other direction has to do is done.
    pub(super) fn round_if_sparse(&mut self, shared: &Shared, worker: &mut Worker) -> Round {
        if self.out.is_stuck {
            return Round::Idle;
        }
        let end = self.fill(shared, FILL_BETWEEN);
        if end == Round::Gone || !self.backlog.has_sparse() {
            return end;
        }
        self.carry(shared, worker, end)
    }

    /// Reads everything the TUN has, encrypts a batch of it into one queue, and sends that as far
    /// as there is room.
    pub(super) fn round(&mut self, shared: &Shared, worker: &mut Worker) -> Round {
        if self.out.is_stuck && !self.out.flush(shared, worker, Wait::No, false) {
            return Round::Idle;
        }
        let end = self.fill(shared, FILL);
        self.carry(shared, worker, end)
    }

    /// Encrypts a batch of what was read and sends it; `end` is how the reading ended.
    fn carry(&mut self, shared: &Shared, worker: &mut Worker, end: Round) -> Round {
        self.backlog.forget_sparse();
        let (mut packets, mut large, mut now) = (0, 0, None);
        while large < BATCH && self.out.queue.room() >= SUPER_ROOM {
            let Some(packet) = self.backlog.pop() else { break };
            packets += 1;
            large += usize::from(packet.bytes.len() > LARGE);
            let now = *now.get_or_insert_with(clock::now);
            let SuperPacket { bytes, offload } = packet;
            let packet = SuperPacket { bytes: &mut *bytes, offload };
            if let Verdict::Drop(reason) = shared.node.handle_inner(now, packet, &mut self.out.queue)
                && shared.answers_with_errors(now.instant)
                && let Some(mut error) = self.unreachable.error_for(now.instant, reason, bytes)
            {
                shared.stats.tx_unreachable.add(1);
                let error = SuperPacket { bytes: &mut error, offload: Offload::None };
                if shared.tun.send(error).is_err() {
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
        // A segmented send costs as much as a full one: while more follows at once, the last run
        // may fill up.
        self.out.flush(shared, worker, Wait::No, !self.backlog.is_empty());
        match end {
            Round::Idle if packets > 1 => Round::Busy,
            Round::Idle | Round::Busy | Round::Gone => end,
        }
    }

    fn fill(&mut self, shared: &Shared, most: usize) -> Round {
        for _ in 0..most {
            match shared.tun.receive(self.backlog.read_buffer()) {
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
