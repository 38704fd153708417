//! The receiving side: from the socket through the node to the TUN.

use std::sync::atomic::Ordering;

use super::Shared;
use super::worker::{Outbox, REPLY_ROOM, Round, Worker, read_error};
use crate::io::udp::ReceiveBatch;
use crate::io::{Wait, clock};
use crate::offload::Coalescer;

/// Messages per receive call, when they are short.
const MESSAGES: usize = 16;
/// Receive calls in a row before what is joined so far is handed on, while messages are long.
const RECEIVES: usize = 4;

/// The receiving side's own memory; the thread that holds it receives.
pub(super) struct Rx {
    batch: ReceiveBatch,
    coalescer: Coalescer,
    coalesce: u8,
    out: Outbox,
    /// Whether the last round carried a long message.
    is_bulk: bool,
}

impl Rx {
    pub(super) fn new(shared: &Shared) -> Self {
        let coalesce = shared.coalesce.load(Ordering::Acquire);
        Self {
            batch: ReceiveBatch::new(MESSAGES),
            coalescer: Coalescer::new(Shared::coalesce_options(coalesce)),
            coalesce,
            out: Outbox::new(REPLY_ROOM),
            is_bulk: false,
        }
    }

    /// Whether the last round carried part of something large.
    pub(super) const fn was_bulk(&self) -> bool {
        self.is_bulk
    }

    /// Whether the socket had no room for every reply.
    pub(super) fn is_stuck(&self) -> bool {
        self.out.is_stuck
    }

    /// Receives what is there, up to a few batches of long messages, decrypts and joins what they
    /// hold, and writes that to the TUN. With [`Wait::No`], replies that the socket has no room for
    /// wait for the next round. `between` runs after each batch that another may follow.
    pub(super) fn round(
        &mut self,
        shared: &Shared,
        worker: &mut Worker,
        wait: Wait,
        mut between: impl FnMut(&mut Worker) -> Round,
    ) -> Round {
        if self.out.is_stuck {
            self.out.flush(shared, worker, wait, false);
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
            match worker.receive(&mut self.batch, first) {
                Ok(messages) if messages > 1 => end = Round::Busy,
                Ok(_) => {}
                Err(error) => {
                    read_error(&error, "udp");
                    break;
                }
            }
            if self.take_in(shared, worker, wait) {
                return Round::Gone;
            }
            // Behind a long message there may be one that continues it; it is not waited for.
            first = Wait::No;
            if !self.batch.was_long() {
                break;
            }
            self.is_bulk = true;
            if between(worker) == Round::Gone {
                return Round::Gone;
            }
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

    /// Decrypts what was just received, and writes what is complete while it lies in the cache;
    /// whether the TUN turned out to be gone.
    fn take_in(&mut self, shared: &Shared, worker: &mut Worker, wait: Wait) -> bool {
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
        // Before what is still open: a handshake does not wait for packets.
        self.out.flush(shared, worker, wait, false);
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
