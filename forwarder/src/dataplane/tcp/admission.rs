//! Which new TCP flows are admitted, and what the existing ones use of the limits.

use policy::forwarder::Limits;
use tunnel::time::Instant;

use super::open::Open;
use crate::dataplane::owner::Owner;
use crate::deadlines::Deadlines;
use crate::flow::{Admission, ClientPrefix, FlowKey, Greylist, Shed, SlotId};
use crate::stats::Stats;

/// The counts against the limits, the flows whose client is silent, and the SYNs to be repeated.
pub(super) struct TcpAdmission {
    counts: Admission,
    /// Flows out of the tunnel whose client has not finished the handshake, the oldest first.
    half_open: Deadlines<SlotId>,
    greylist: Greylist,
}

impl TcpAdmission {
    /// Nothing admitted yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self { counts: Admission::new(limits), half_open: Deadlines::new(), greylist: Greylist::default() }
    }

    /// New limits; what is admitted stays.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.counts.set_limits(limits);
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> &Limits {
        self.counts.limits()
    }

    /// Admits a dial on behalf of a client.
    pub(super) fn admit_dial(&mut self, client: ClientPrefix) -> Result<(), Shed> {
        self.counts.dial(client)
    }

    /// Admits a flow that begins on this machine.
    pub(super) fn admit_local(&mut self) -> Result<(), Shed> {
        self.counts.local()
    }

    /// A flow that began on this machine did not come to be.
    pub(super) fn release_local(&mut self) {
        self.counts.release_local();
    }

    /// Whether this flow's SYN came before, some time ago; if not, it is marked.
    pub(super) fn is_repeated(&mut self, now: Instant, key: &FlowKey) -> bool {
        self.greylist.is_repeated(now, key)
    }

    /// The upstream of a dial has answered: its client is expected to finish the handshake.
    pub(super) fn open(&mut self, now: Instant, id: SlotId, client: ClientPrefix, open: &mut Open) {
        self.counts.dialled(client);
        self.counts.half_opened();
        self.half_open.arm(id, &mut open.half_open, now);
    }

    /// The client has finished the handshake, or the flow is over before it did.
    pub(super) fn end_half_open(&mut self, id: SlotId, open: &mut Open) {
        if open.half_open.is_some() {
            self.half_open.disarm(id, &mut open.half_open);
            self.counts.half_open_ended();
        }
    }

    /// The flow whose client has been silent for the longest.
    pub(super) fn poll_half_open(&mut self) -> Option<SlotId> {
        self.half_open.poll_first()
    }

    /// A dial is over.
    pub(super) fn release_dial(&mut self, client: ClientPrefix) {
        self.counts.dialled(client);
        self.counts.release(client);
    }

    /// An open flow is over.
    pub(super) fn release(&mut self, id: SlotId, open: &mut Open) {
        self.counts.buffers(0, open.touched);
        match open.owner {
            Owner::Service(_, client) => {
                self.end_half_open(id, open);
                self.counts.release(client);
            }
            Owner::Reach(_) => self.counts.release_local(),
            // One per edge, that no flood of flows shuts out: it counts against no limit.
            Owner::Link => {}
        }
    }

    /// Accounts for the buffer pages that a flow took or gave back in its turn.
    pub(super) fn account(&mut self, open: &mut Open) {
        let touched = open.cell.touched();
        self.counts.buffers(touched.saturating_sub(open.touched), open.touched.saturating_sub(touched));
        open.touched = touched;
    }

    /// Bytes of each ring of a new cell.
    pub(super) fn ring_size(&self) -> usize {
        ring_size(self.limits().buffer_bytes, self.counts.buffered(), self.counts.counts().0)
    }

    /// Writes the gauges.
    pub(super) fn publish(&self, stats: &Stats) {
        use std::sync::atomic::Ordering;
        let (flows, dials) = self.counts.counts();
        stats.flows.store(u64::from(flows), Ordering::Relaxed);
        stats.pending_dials.store(u64::from(dials), Ordering::Relaxed);
        stats.buffer_bytes.store(self.counts.buffered(), Ordering::Relaxed);
    }
}

/// Bytes of each ring of a new cell: large while there are few flows, so that a long path is
/// filled; their pages are only taken once they are used.
fn ring_size(budget: u64, buffered: u64, flows: u32) -> usize {
    const LARGEST: u64 = 4 << 20;
    const SMALLEST: u64 = 64 << 10;
    let free = budget.saturating_sub(buffered);
    let share = free / (4 * u64::from(flows).max(8));
    let size = share.clamp(SMALLEST, LARGEST);
    usize::try_from(1u64 << size.ilog2()).unwrap_or(64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_shrink_as_flows_and_buffers_grow() {
        let budget = 256 << 20;
        assert_eq!(ring_size(budget, 0, 1), 4 << 20);
        assert_eq!(ring_size(budget, 0, 64), 1 << 20);
        assert_eq!(ring_size(budget, 0, 10_000), 64 << 10);
        assert_eq!(ring_size(budget, budget, 1), 64 << 10);
    }
}
