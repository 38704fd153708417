//! The ports that peers request: the last request of each, at most one a second and peer.

use std::time::Duration;

use ipnetwork::IpNetwork;
use policy::Name;
use tunnel::time::Instant;

use super::{LinkId, Links};
use crate::link::message::Notice;
use crate::link::publish::{Answer, Asked, Port};

/// A peer's requests are taken at most once in this time: each may be a change of the rules.
const PACE: Duration = Duration::from_secs(1);

/// A request that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// Who requests.
    pub peer: Name,
    /// What is requested.
    pub asked: Asked,
    link: LinkId,
    id: u32,
}

/// The last request of a peer.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    last: Option<(LinkId, u32, Asked)>,
    next: Instant,
}

impl Waiting {
    /// Another request is the last one; the one before is not replied to.
    pub(super) fn replace(&mut self, link: LinkId, id: u32, asked: Asked) {
        self.last = Some((link, id, asked));
    }

    /// Bytes of memory that it holds.
    pub(super) fn held(&self) -> usize {
        let ports = self.last.iter().flat_map(|(_, _, asked)| asked.ports());
        let from = |port: &Port| {
            port.from.as_ref().map_or(0, |from| {
                from.prefixes.len() * size_of::<IpNetwork>() + from.lists.len() * size_of::<[u8; 64]>()
            })
        };
        ports.map(|port| size_of::<Port>() + from(port)).sum()
    }
}

impl Links {
    /// Whether a peer requested ports since the last call.
    pub fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.is_asked)
    }

    /// The next request that is due: of the peer that was served longest ago, so that peers that
    /// request without end keep no other one waiting.
    pub fn poll_requested(&mut self, now: Instant) -> Option<Requested> {
        let is_due = |waiting: &Waiting| waiting.last.is_some() && waiting.next <= now;
        let due = self.peers.iter_mut().filter(|(_, known)| is_due(&known.waiting));
        let (peer, known) = due.min_by_key(|(_, known)| known.waiting.next)?;
        let (link, id, asked) = known.waiting.last.take()?;
        known.waiting.next = now.after(PACE);
        Some(Requested { peer: peer.clone(), asked, link, id })
    }

    /// When a request is due.
    #[must_use]
    pub fn next_requested(&self) -> Option<Instant> {
        let waiting = self.peers.values().map(|known| &known.waiting);
        waiting.filter(|waiting| waiting.last.is_some()).map(|waiting| waiting.next).min()
    }

    /// Replies to a request that was taken, if its link is still there.
    pub fn answer(&mut self, now: Instant, requested: &Requested, answers: Vec<Answer>) {
        if let Some(connection) = self.connections.get_mut(&requested.link) {
            connection.session.answer(now, requested.id, answers);
            self.touched.push(requested.link);
        }
    }

    /// Announces to a peer that what it is granted is another than it was replied last.
    pub fn announce_grants(&mut self, now: Instant, peer: &Name) {
        let Some(id) = self.peers.get(peer).and_then(|known| known.open) else { return };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.session.send_notice(now, Notice::Grants);
            self.touched.push(id);
        }
    }
}
