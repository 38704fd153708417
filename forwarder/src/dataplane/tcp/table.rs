//! The TCP flows with their timers and their turns.

use std::collections::VecDeque;
use std::time::Duration;

use tunnel::time::Instant;

use super::dial::Dial;
use super::flow::Flow;
use super::open::Open;
use crate::deadlines::Deadlines;
use crate::flow::{FlowKey, FlowTable, SlotId};

/// Finished flows whose late segments are still answered; beyond it they are forgotten at once.
const MAX_LINGERING: usize = 4_096;
/// How long a finished flow is remembered: smoltcp's TIME-WAIT.
const LINGER: Duration = Duration::from_secs(10);

/// Every TCP flow, when each is due, and which wait for their turn.
///
/// The fields are open to the handlers, so that a flow and its timer are changed by one look-up.
pub(super) struct Table {
    pub(super) flows: FlowTable<FlowKey, Flow>,
    pub(super) deadlines: Deadlines<SlotId>,
    /// Flows that wait for their turn, each once.
    pub(super) queue: VecDeque<SlotId>,
    /// Flows that ended, once that is noted.
    ended: Option<Vec<FlowKey>>,
    lingering: usize,
}

impl Table {
    /// No flows yet; at most `limit` that are not over.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            flows: FlowTable::new(limit as usize + MAX_LINGERING),
            deadlines: Deadlines::new(),
            queue: VecDeque::new(),
            ended: None,
            lingering: 0,
        }
    }

    /// Changes how many flows it may hold; existing ones stay.
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.flows.set_limit(limit as usize + MAX_LINGERING);
    }

    /// An open flow.
    pub(super) fn open_mut(&mut self, id: SlotId) -> Option<(&FlowKey, &mut Open)> {
        match self.flows.get_mut(id)? {
            (key, Flow::Open(open)) => Some((key, open)),
            (_, Flow::Dial(_) | Flow::Lingering { .. }) => None,
        }
    }

    /// A flow whose upstream has not answered.
    pub(super) fn dial_mut(&mut self, id: SlotId) -> Option<(&FlowKey, &mut Dial)> {
        match self.flows.get_mut(id)? {
            (key, Flow::Dial(dial)) => Some((key, dial)),
            (_, Flow::Open(_) | Flow::Lingering { .. }) => None,
        }
    }

    /// Gives a flow a turn soon.
    pub(super) fn mark(&mut self, id: SlotId) {
        if let Some((_, Flow::Open(open))) = self.flows.get_mut(id) {
            open.mark(id, &mut self.queue);
        }
    }

    /// The slots of all flows, for a walk that changes them.
    pub(super) fn ids(&self) -> Vec<SlotId> {
        self.flows.ids().collect()
    }

    /// Takes an open flow and its timer out.
    pub(super) fn take_open(&mut self, id: SlotId) -> Option<(FlowKey, Box<Open>)> {
        self.open_mut(id)?;
        let (key, Flow::Open(mut open)) = self.flows.remove(id)? else { return None };
        self.deadlines.disarm(id, &mut open.armed);
        self.note_end(key);
        Some((key, open))
    }

    /// Takes a dial and its timer out.
    pub(super) fn take_dial(&mut self, id: SlotId) -> Option<Box<Dial>> {
        self.dial_mut(id)?;
        let (key, Flow::Dial(mut dial)) = self.flows.remove(id)? else { return None };
        self.deadlines.disarm(id, &mut dial.armed);
        self.note_end(key);
        Some(dial)
    }

    fn note_end(&mut self, key: FlowKey) {
        self.ended.iter_mut().for_each(|ended| ended.push(key));
    }

    /// The keys of the flows that are not over; from now on [`Self::take_ended`] has those that end.
    pub(super) fn pass(&mut self) -> Vec<FlowKey> {
        self.ended = Some(Vec::new());
        let mut keys = Vec::new();
        for id in self.ids() {
            if let Some((key, Flow::Open(_) | Flow::Dial(_))) = self.flows.get_mut(id) {
                keys.push(*key);
            }
        }
        keys
    }

    /// The flows that ended since the last call.
    pub(super) fn take_ended(&mut self) -> Vec<FlowKey> {
        self.ended.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Remembers a finished flow for a while, if there is room: its next sequence number and what
    /// we have acknowledged.
    pub(super) fn linger(&mut self, now: Instant, key: FlowKey, (sequence, acknowledgement): (u32, u32)) {
        if self.lingering >= MAX_LINGERING {
            return;
        }
        let flow = Flow::Lingering { sequence, acknowledgement, armed: None };
        let Ok(id) = self.flows.insert(key, flow) else { return };
        self.lingering += 1;
        if let Some((_, Flow::Lingering { armed, .. })) = self.flows.get_mut(id) {
            self.deadlines.arm(id, armed, now.after(LINGER));
        }
    }

    /// Forgets a finished flow.
    pub(super) fn forget(&mut self, id: SlotId) {
        if let Some((_, Flow::Lingering { mut armed, .. })) = self.flows.remove(id) {
            self.lingering -= 1;
            self.deadlines.disarm(id, &mut armed);
        }
    }

    /// Flows that are open or being dialled.
    pub(super) fn active(&self) -> usize {
        self.flows.len() - self.lingering
    }
}
