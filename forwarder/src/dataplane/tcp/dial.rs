//! A flow whose upstream has not answered: its SYN is held.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use policy::forwarder::Service;
use tunnel::time::Instant;

use crate::dataplane::owner::Owner;
use crate::flow::ClientPrefix;
use crate::stats::EntryStats;
use crate::upstream::{Lease, Member, Stream};

/// Bytes of a SYN that are kept: headers with all options of either family, and no data.
const MAX_SYN: usize = 160;

/// A flow whose upstream has not answered.
pub(super) struct Dial {
    pub(super) service: Service,
    pub(super) client: ClientPrefix,
    pub(super) stats: Arc<EntryStats>,
    /// The SYN as it came, from its IP header.
    pub(super) syn: Vec<u8>,
    /// Upstreams that were not tried yet.
    pub(super) members: VecDeque<Arc<Member>>,
    /// Addresses of the upstream in hand that were not tried yet.
    pub(super) addresses: VecDeque<SocketAddr>,
    /// The claim on the upstream that is being tried.
    pub(super) lease: Option<Lease>,
    pub(super) stream: Option<Stream>,
    /// How long each try may take.
    pub(super) try_timeout: Duration,
    /// When the dial as a whole is given up.
    pub(super) until: Instant,
    /// Where its timer entry is.
    pub(super) armed: Option<Instant>,
}

impl Dial {
    /// Takes another segment of the flow: a repeated SYN, perhaps of a new try with another number,
    /// replaces the one held.
    pub(super) fn handle_again(&mut self, packet: &[u8], is_syn: bool) {
        if is_syn && packet.len() <= MAX_SYN {
            self.syn.clear();
            self.syn.extend_from_slice(packet);
        }
    }

    /// The entry of the flow.
    pub(super) fn owner(&self) -> Owner {
        Owner::Service(self.service.name.clone(), self.client)
    }

    /// The upstream in hand did not answer; it is noted once its other addresses have failed as
    /// well.
    pub(super) fn note_failure(&self, now: Instant) {
        if let Some(lease) = self.lease.as_ref().filter(|_| self.addresses.is_empty()) {
            lease.member().handle_failure(now);
        }
    }
}
