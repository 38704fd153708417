//! Who may open another flow: caps on flows and unanswered dials, global and per client.

use std::collections::HashMap;

use policy::forwarder::Limits;

use super::key::ClientPrefix;

/// Why a new flow was refused; flows already there are never touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shed {
    /// As many flows as `[limits] flows` allows.
    Flows,
    /// As many flows of this client as `flows_per_client` allows.
    FlowsOfClient,
    /// As many unanswered dials as `pending_dials` allows.
    Dials,
    /// As many flows whose upstream or client has not answered as a quarter of `[limits] flows`.
    HalfOpen,
    /// As many unanswered dials of this client as `pending_per_client` allows.
    DialsOfClient,
    /// The buffers of all flows hold as much as `buffer_bytes` allows.
    Buffers,
}

/// Counts flows and dials against the limits; its own size is bounded by the number of flows.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    total: Usage,
    half_open: u32,
    clients: HashMap<ClientPrefix, Usage>,
    buffered: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// Flows of any kind, dials included.
    flows: u32,
    dials: u32,
}

impl Admission {
    /// Nothing admitted yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, total: Usage::default(), half_open: 0, clients: HashMap::new(), buffered: 0 }
    }

    /// New limits; what is admitted stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Admits a dial on behalf of a client.
    ///
    /// # Errors
    /// [`Shed`]; then nothing is counted.
    pub fn dial(&mut self, client: ClientPrefix) -> Result<(), Shed> {
        let limits = &self.limits;
        let usage = self.clients.get(&client).copied().unwrap_or_default();
        let shed = [
            (self.total.flows >= limits.flows, Shed::Flows),
            (self.total.dials >= limits.pending_dials, Shed::Dials),
            (self.total.dials + self.half_open >= (limits.flows / 4).max(1), Shed::HalfOpen),
            (usage.flows >= limits.flows_per_client, Shed::FlowsOfClient),
            (usage.dials >= limits.pending_per_client, Shed::DialsOfClient),
            (self.buffered >= limits.buffer_bytes, Shed::Buffers),
        ];
        if let Some((_, shed)) = shed.into_iter().find(|(over, _)| *over) {
            return Err(shed);
        }
        let usage = self.clients.entry(client).or_default();
        usage.flows += 1;
        usage.dials += 1;
        self.total.flows += 1;
        self.total.dials += 1;
        Ok(())
    }

    /// Admits a flow that begins on this machine: only the total counts, no client's limit.
    ///
    /// # Errors
    /// [`Shed`]; then nothing is counted.
    pub fn local(&mut self) -> Result<(), Shed> {
        if self.total.flows >= self.limits.flows {
            return Err(Shed::Flows);
        }
        self.total.flows += 1;
        Ok(())
    }

    /// A flow that began on this machine is over.
    pub fn release_local(&mut self) {
        self.total.flows = self.total.flows.saturating_sub(1);
    }

    /// The upstream has answered; the client is expected to finish the handshake.
    pub fn half_opened(&mut self) {
        self.half_open += 1;
    }

    /// The client has finished the handshake, or the flow is over before it did.
    pub fn half_open_ended(&mut self) {
        self.half_open = self.half_open.saturating_sub(1);
    }

    /// The dial was answered: the flow goes on, the dial no longer counts.
    pub fn dialled(&mut self, client: ClientPrefix) {
        self.total.dials = self.total.dials.saturating_sub(1);
        if let Some(usage) = self.clients.get_mut(&client) {
            usage.dials = usage.dials.saturating_sub(1);
        }
    }

    /// The flow is over; [`dialled`](Self::dialled) came before.
    pub fn release(&mut self, client: ClientPrefix) {
        self.total.flows = self.total.flows.saturating_sub(1);
        if let Some(usage) = self.clients.get_mut(&client) {
            usage.flows = usage.flows.saturating_sub(1);
            if usage.flows == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Accounts for buffer pages that a flow began to use (or gave back).
    pub fn buffers(&mut self, taken: u64, given_back: u64) {
        self.buffered = self.buffered.saturating_add(taken).saturating_sub(given_back);
    }

    /// Bytes of buffer in use by all flows.
    #[must_use]
    pub fn buffered(&self) -> u64 {
        self.buffered
    }

    /// Flows of any kind, and those among them that their upstream or their client has not
    /// answered.
    #[must_use]
    pub fn counts(&self) -> (u32, u32) {
        (self.total.flows, self.total.dials + self.half_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::time::Duration;

    #[test]
    fn one_client_cannot_take_every_dial() {
        let mut admission = Admission::new(limits());
        assert_eq!(admission.dial(client(1)), Ok(()));
        assert_eq!(admission.dial(client(1)), Ok(()));
        assert_eq!(admission.dial(client(1)), Err(Shed::DialsOfClient));
        assert_eq!(admission.dial(client(2)), Ok(()));
    }

    #[test]
    fn an_answered_dial_counts_as_a_flow_only() {
        let mut admission = Admission::new(limits());
        for _ in 0..3 {
            assert_eq!(admission.dial(client(1)), Ok(()));
            admission.dialled(client(1));
        }
        assert_eq!(admission.dial(client(1)), Err(Shed::FlowsOfClient));
        admission.release(client(1));
        assert_eq!(admission.dial(client(1)), Ok(()));
    }

    #[test]
    fn the_global_limits_hold_across_clients() {
        let mut admission = Admission::new(limits());
        for host in 0..3 {
            assert_eq!(admission.dial(client(host)), Ok(()));
        }
        assert_eq!(admission.dial(client(9)), Err(Shed::Dials));
        for host in 0..3 {
            admission.dialled(client(host));
        }
        for host in 10..23 {
            assert_eq!(admission.dial(client(host)), Ok(()));
            admission.dialled(client(host));
        }
        assert_eq!(admission.dial(client(99)), Err(Shed::Flows));
    }

    #[test]
    fn flows_whose_client_is_silent_take_a_quarter_of_the_table_and_no_more() {
        let mut admission = Admission::new(Limits { flows: 8, ..limits() });
        for host in 0..2 {
            assert_eq!(admission.dial(client(host)), Ok(()));
            admission.dialled(client(host));
            admission.half_opened();
        }
        assert_eq!(admission.dial(client(9)), Err(Shed::HalfOpen));
        admission.half_open_ended();
        assert_eq!(admission.dial(client(9)), Ok(()));
    }

    #[test]
    fn full_buffers_refuse_new_flows() {
        let mut admission = Admission::new(limits());
        admission.buffers(1_000, 0);
        assert_eq!(admission.dial(client(1)), Err(Shed::Buffers));
        admission.buffers(0, 1);
        assert_eq!(admission.dial(client(1)), Ok(()));
    }

    #[test]
    fn a_client_without_flows_is_forgotten() {
        let mut admission = Admission::new(limits());
        for host in 0..200 {
            admission.dial(client(host)).unwrap();
            admission.dialled(client(host));
            admission.release(client(host));
        }
        assert!(admission.clients.is_empty());
        assert_eq!(admission.counts(), (0, 0));
    }

    fn client(host: u8) -> ClientPrefix {
        IpAddr::from([203, 0, 113, host]).into()
    }

    fn limits() -> Limits {
        Limits {
            flows: 16,
            pending_dials: 3,
            flows_per_client: 3,
            pending_per_client: 2,
            buffer_bytes: 1_000,
            dial_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            ..Limits::default()
        }
    }
}
