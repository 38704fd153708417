//! The TCP flows and everything that lives as long as they do.

use policy::forwarder::Limits;
use tunnel::time::Instant;

use super::admission::TcpAdmission;
use super::dial::Dial;
use super::table::Table;
use crate::cell::{Ending, SCRATCH, Settings};
use crate::flow::ports::Ports;
use crate::flow::{FlowKey, SlotId};
use crate::stats::{Dialled, Stats, add};

/// The TCP flows, their admission, the ports of those that began here, and the cells' working
/// memory.
pub(crate) struct TcpFlows {
    pub(super) table: Table,
    pub(super) admission: TcpAdmission,
    pub(super) ports: Ports,
    pub(super) scratch: Box<[u8]>,
}

impl TcpFlows {
    /// No flows yet.
    pub(crate) fn new(limits: Limits, seed: u16) -> Self {
        Self {
            table: Table::new(limits.flows),
            admission: TcpAdmission::new(limits),
            ports: Ports::new(seed),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
        }
    }

    /// Applies new limits; existing flows stay.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.admission.set_limits(limits);
        self.table.set_limit(limits.flows);
    }

    /// Flows that are open or being dialled.
    pub(crate) fn active(&self) -> usize {
        self.table.active()
    }

    /// The keys of the flows that are not over; from now on [`Self::take_ended`] has those that end.
    pub(crate) fn pass(&mut self) -> Vec<FlowKey> {
        self.table.pass()
    }

    /// The flows that ended since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<FlowKey> {
        self.table.take_ended()
    }

    /// When the next timer of a flow is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.table.deadlines.next()
    }

    /// Writes the gauges.
    pub(crate) fn publish(&self, stats: &Stats) {
        self.admission.publish(stats);
    }

    /// What a new cell is made with; `None` when the system gives no randomness.
    pub(super) fn settings(&self, mtu: u16) -> Option<Settings> {
        let seed = getrandom::u64().ok()?;
        Some(Settings { mtu, ring: self.admission.ring_size(), seed })
    }

    /// Ends an open flow: its socket is closed, its late segments are answered for a while.
    pub(super) fn finish(&mut self, now: Instant, id: SlotId, ending: Ending) {
        let Some((key, mut open)) = self.table.take_open(id) else { return };
        self.admission.release(id, &mut open);
        if open.owner.is_local() {
            self.ports.release(now, key);
        }
        match ending {
            Ending::Reset => open.upstream.reset(),
            Ending::Closed => self.table.linger(now, key, open.cell.final_numbers()),
        }
    }

    /// Ends the oldest flow whose client has not finished the handshake, and sends nothing: the
    /// client may not exist.
    pub(super) fn evict_half_open(&mut self, now: Instant, stats: &Stats) -> bool {
        let Some(id) = self.admission.poll_half_open() else { return false };
        add(&stats.half_open_evicted, 1);
        self.finish(now, id, Ending::Reset);
        true
    }

    /// Ends a dial.
    pub(super) fn remove_dial(&mut self, id: SlotId, result: Dialled) -> Option<Box<Dial>> {
        let dial = self.table.take_dial(id)?;
        self.admission.release_dial(dial.client);
        dial.stats.dialled(result);
        Some(dial)
    }

    /// Ends a dial whose client gave up before the upstream answered.
    pub(super) fn abandon(&mut self, id: SlotId) {
        self.remove_dial(id, Dialled::Abandoned);
    }
}
