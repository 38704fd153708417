//! All links of an edge: which peer a connection is of, how many there may be, and how much memory
//! they may take.
//!
//! Whoever owns the connections calls [`Links::accept`] for each, passes bytes and time, and closes
//! a connection once [`Links::is_over`]; [`Links::take_touched`] names the connections for which
//! something changed that they did not cause.

mod histories;
mod owner;
mod questions;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use policy::Name;
use tunnel::bucket::Bucket;
use tunnel::key::{PresharedKey, PrivateKey, PublicKey};
use tunnel::time::Instant;

use super::hello::{Identity, Role};
use super::message::{About, Notice};
use super::publish::Asked;
use super::remote::{Change, Remote};
use super::session::{Ended, Event, Session};
use histories::Histories;
pub use histories::{HistoryOf, HistoryOfHere};
pub use owner::owner;
pub use questions::Question;
use questions::Questions;
pub use requests::Requested;
use requests::Waiting;

/// Connections of one peer at a time.
pub const MAX_PER_PEER: usize = 4;
/// Memory of all links.
pub const MAX_HELD: usize = 8 << 20;
/// What a connection takes outside its session, in the kernel and in its task.
const CONNECTION: usize = 4 << 10;
/// New connections of one peer: one in this time, and so many at once.
const ACCEPT_PACE: (Duration, u32) = (Duration::from_secs(1), 8);
/// Reports about one peer: one in this time, and so many at once; an hour has at most twice as
/// many.
const REPORT_PACE: (Duration, u32) = (Duration::from_secs(720), 5);

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

/// A peer that may have a link.
#[derive(Clone)]
pub struct LinkPeer {
    /// Its name.
    pub name: Name,
    /// Its key.
    pub public_key: PublicKey,
    /// The preshared key with it.
    pub preshared_key: Option<PresharedKey>,
    /// Its prefixes.
    pub allowed_ips: Vec<IpNetwork>,
}

impl LinkPeer {
    fn is_same(&self, other: &Self) -> bool {
        self.public_key == other.public_key
            && self.preshared_key == other.preshared_key
            && self.allowed_ips == other.allowed_ips
    }
}

/// Why a connection was refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Its source is no peer's own address.
    NotAPeer,
    /// The peer has as many as it may.
    TooMany,
    /// The peer connects too often.
    TooOften,
    /// All links together take as much memory as they may.
    Memory,
}

impl Refused {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotAPeer => "not_a_peer",
            Self::TooMany => "too_many",
            Self::TooOften => "too_often",
            Self::Memory => "memory",
        }
    }
}

/// A peer with what is known of it.
struct Known {
    peer: LinkPeer,
    /// Made when it first connects.
    identity: Option<Identity>,
    remote: Remote,
    /// The link that is open.
    open: Option<LinkId>,
    accepts: Bucket,
    reports: Bucket,
    /// The ports that it requested last, until they are taken.
    waiting: Waiting,
}

impl Known {
    fn new(peer: LinkPeer) -> Self {
        Self {
            peer,
            identity: None,
            remote: Remote::default(),
            open: None,
            accepts: Bucket::every(ACCEPT_PACE.0, ACCEPT_PACE.1),
            reports: Bucket::every(REPORT_PACE.0, REPORT_PACE.1),
            waiting: Waiting::default(),
        }
    }
}

/// A connection with its session.
struct Connection {
    peer: Name,
    session: Session,
    /// What it held when that was last counted.
    held: usize,
}

/// All links of an edge.
///
/// It has more methods than a type should have because its callers know a connection by its id
/// alone: twelve pass one call on to the session of that connection and count what it holds then.
pub struct Links {
    key: PrivateKey,
    about: About,
    addresses: Vec<IpNetwork>,
    peers: BTreeMap<Name, Known>,
    connections: BTreeMap<LinkId, Connection>,
    next: u64,
    held: usize,
    touched: Vec<LinkId>,
    /// Whether a peer requested ports since that was last looked at.
    is_asked: bool,
    questions: Questions,
    changes: VecDeque<(Name, Change)>,
    histories: Histories,
    refused: BTreeMap<&'static str, u64>,
}

impl Links {
    /// Without peers.
    #[must_use]
    pub const fn new(key: PrivateKey, about: About) -> Self {
        Self {
            key,
            about,
            addresses: Vec::new(),
            peers: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 0,
            held: 0,
            touched: Vec::new(),
            is_asked: false,
            questions: Questions::new(),
            changes: VecDeque::new(),
            histories: Histories::new(),
            refused: BTreeMap::new(),
        }
    }

    /// What the hellos of further connections have of this machine.
    pub fn set_about(&mut self, about: About) {
        self.about = about;
    }

    /// Takes a configuration: this machine's key and tunnel addresses, and the peers. Links of
    /// peers that changed end.
    pub fn configure(
        &mut self,
        now: Instant,
        key: PrivateKey,
        addresses: Vec<IpNetwork>,
        peers: Vec<LinkPeer>,
    ) {
        let is_another_end = key.public() != self.key.public() || addresses != self.addresses;
        let stays = |known: &Known| {
            let same = peers.iter().any(|peer| peer.name == known.peer.name && peer.is_same(&known.peer));
            same && !is_another_end
        };
        let gone: Vec<Name> =
            self.peers.iter().filter(|(_, known)| !stays(known)).map(|(name, _)| name.clone()).collect();
        let is_gone = |(_, connection): &(&LinkId, &Connection)| gone.contains(&connection.peer);
        for id in self.connections.iter().filter(is_gone).map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(now, id, Ended::Reconfigured);
        }
        self.peers.retain(|name, _| !gone.contains(name));
        (self.key, self.addresses) = (key, addresses);
        for peer in peers {
            self.peers.entry(peer.name.clone()).or_insert_with(|| Known::new(peer));
        }
    }

    /// A connection came from this source; `nonce` is random and used once.
    ///
    /// # Errors
    /// Why it is to be closed at once.
    pub fn accept(&mut self, now: Instant, source: IpAddr, nonce: [u8; 32]) -> Result<LinkId, Refused> {
        let accepted = self.admit(now, source, nonce);
        if let Err(refused) = accepted {
            count(&mut self.refused, refused.label());
        }
        accepted
    }

    fn admit(&mut self, now: Instant, source: IpAddr, nonce: [u8; 32]) -> Result<LinkId, Refused> {
        let peers = self.peers.values().map(|known| &known.peer);
        let name = owner(&self.addresses, peers, source).cloned().ok_or(Refused::NotAPeer)?;
        let of_peer = self.connections.values().filter(|connection| connection.peer == name).count();
        let known = self.peers.get_mut(&name).ok_or(Refused::NotAPeer)?;
        if of_peer >= MAX_PER_PEER {
            return Err(Refused::TooMany);
        }
        if self.held + CONNECTION > MAX_HELD {
            return Err(Refused::Memory);
        }
        if !known.accepts.take(now) {
            return Err(Refused::TooOften);
        }
        let Known { peer, identity, .. } = known;
        let identity = identity
            .get_or_insert_with(|| Identity::new(&self.key, &peer.public_key, peer.preshared_key.as_ref()));
        let session = Session::new(now, Role::Edge, identity.clone(), self.about.clone(), nonce);
        if self.held + CONNECTION + session.held() > MAX_HELD {
            return Err(Refused::Memory);
        }
        let id = LinkId(self.next);
        self.next += 1;
        self.connections.insert(id, Connection { peer: name, session, held: 0 });
        self.count_held(id);
        Ok(id)
    }

    /// Whether bytes of this connection are to be read now.
    #[must_use]
    pub fn wants_input(&self, now: Instant, id: LinkId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.session.wants_input(now))
    }

    /// Takes bytes of a connection; returns how many. The rest is to be given again.
    pub fn handle_input(&mut self, now: Instant, id: LinkId, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(connection) = self.connections.get_mut(&id) {
            let more = connection.session.handle_input(now, bytes.get(taken..).unwrap_or_default());
            let peer = &connection.peer;
            if let Some(known) = self.peers.get_mut(peer) {
                known.remote.bytes.0 += more as u64;
            }
            taken += more;
            self.handle_events(now, id);
            if more == 0 || taken == bytes.len() {
                break;
            }
        }
        self.count_held(id);
        self.bound_memory(now);
        taken
    }

    /// What is to be sent next on a connection.
    #[must_use]
    pub fn poll_output(&self, id: LinkId) -> &[u8] {
        self.connections.get(&id).map(|connection| connection.session.poll_output()).unwrap_or_default()
    }

    /// So many bytes of it were sent.
    pub fn handle_sent(&mut self, now: Instant, id: LinkId, count: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.session.handle_sent(now, count);
        if let Some(known) = self.peers.get_mut(&connection.peer) {
            known.remote.bytes.1 += count as u64;
        }
        self.count_held(id);
    }

    /// The other end closed a connection, or it failed.
    pub fn handle_hangup(&mut self, now: Instant, id: LinkId) {
        self.end(now, id, Ended::Hangup);
    }

    /// Does what is due on a connection.
    pub fn handle_timeout(&mut self, now: Instant, id: LinkId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.session.handle_timeout(now);
        self.handle_events(now, id);
        self.count_held(id);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called for a connection.
    #[must_use]
    pub fn poll_timeout(&self, id: LinkId) -> Option<Instant> {
        self.connections.get(&id)?.session.poll_timeout()
    }

    /// Whether a connection is to be closed, and then [forgotten](Self::forget).
    #[must_use]
    pub fn is_over(&self, id: LinkId) -> bool {
        self.connections.get(&id).is_none_or(|connection| connection.session.is_closed())
    }

    /// A connection was closed.
    pub fn forget(&mut self, now: Instant, id: LinkId) {
        self.end(now, id, Ended::Hangup);
        if let Some(connection) = self.connections.remove(&id) {
            self.held = self.held.saturating_sub(connection.held);
        }
    }

    /// The connections for which something changed that they did not cause: they have output, or
    /// are over.
    pub fn take_touched(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.touched)
    }

    /// What changed for a peer, to be logged.
    pub fn poll_change(&mut self) -> Option<(Name, Change)> {
        self.changes.pop_front()
    }

    /// Announces on every link that this end stops, and ends it; no connection is taken any more.
    pub fn stop(&mut self, now: Instant, back_within: Duration) {
        let seconds = u32::try_from(back_within.as_secs()).unwrap_or(u32::MAX);
        for (id, connection) in &mut self.connections {
            connection.session.send_notice(now, Notice::Stopping { seconds });
            connection.session.finish(Ended::Stopping);
            self.touched.push(*id);
        }
        self.addresses.clear();
    }

    /// What is known of each peer.
    pub fn remotes(&self) -> impl Iterator<Item = (&Name, &Remote)> {
        self.peers.iter().map(|(name, known)| (name, &known.remote))
    }

    /// What is known of one peer.
    #[must_use]
    pub fn remote(&self, peer: &Name) -> Option<&Remote> {
        self.peers.get(peer).map(|known| &known.remote)
    }

    /// Connections that were refused, by reason.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// Bytes of memory that all links hold.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    fn handle_events(&mut self, now: Instant, id: LinkId) {
        while let Some(connection) = self.connections.get_mut(&id) {
            let Some(event) = connection.session.poll_event() else { return };
            let peer = connection.peer.clone();
            self.handle_event(now, id, peer, event);
        }
    }

    fn handle_event(&mut self, now: Instant, id: LinkId, peer: Name, event: Event) {
        let event = match event {
            Event::Asked(request, asked) => return self.handle_asked(id, &peer, (request, asked)),
            Event::Question(question, _) => return self.handle_question(id, &peer, question),
            Event::Replied(question, reply) => return self.handle_reply(id, question, reply),
            Event::HistoryAsked(..) | Event::History(..) => {
                let open = self.peers.get(&peer).and_then(|known| known.open);
                return self.histories.handle_event(open, id, peer, event);
            }
            event => event,
        };
        if let Event::Closed(reason) = event
            && reason.is_refusal()
        {
            count(&mut self.refused, reason.label());
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let replaced = match event {
            Event::Opened(_) => known.open.replace(id),
            Event::Health(_)
            | Event::Notice(_)
            | Event::Closed(_)
            | Event::Asked(..)
            | Event::Question(..)
            | Event::Replied(..)
            | Event::Answers(..)
            | Event::HistoryAsked(..)
            | Event::History(..) => None,
        };
        let change = match event {
            Event::Closed(Ended::Replaced) => None,
            Event::Closed(reason) if known.open != Some(id) => Some(known.remote.handle_refused(reason)),
            event => known.remote.handle_event(now, event),
        };
        if known.open == Some(id) && known.remote.far().is_none() {
            known.open = None;
        }
        let is_quiet = |change: &Change| matches!(change, Change::Refused(reason) if !reason.is_refusal());
        if let Some(change) = change.filter(|change| !is_quiet(change) && known.reports.take(now)) {
            self.changes.push_back((peer, change));
        }
        if let Some(replaced) = replaced {
            self.end(now, replaced, Ended::Replaced);
        }
    }

    /// A peer requests ports: only its open link may, and only the last request counts.
    fn handle_asked(&mut self, id: LinkId, peer: &Name, (request, asked): (u32, Asked)) {
        if let Some(known) = self.peers.get_mut(peer).filter(|known| known.open == Some(id)) {
            known.waiting.replace(id, request, asked);
            self.is_asked = true;
        }
    }

    /// Ends a connection for another reason than its own input.
    fn end(&mut self, now: Instant, id: LinkId, reason: Ended) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.session.close(reason);
        self.touched.push(id);
        self.handle_events(now, id);
        self.count_held(id);
    }

    /// While all links hold too much, ends the one that holds most.
    fn bound_memory(&mut self, now: Instant) {
        while self.held > MAX_HELD {
            let alive = self.connections.iter().filter(|(_, connection)| !connection.session.is_closed());
            let Some(id) = alive.max_by_key(|(_, connection)| connection.held).map(|(id, _)| *id) else {
                return;
            };
            self.end(now, id, Ended::Memory);
        }
    }

    fn count_held(&mut self, id: LinkId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let known = self.peers.get(&connection.peer).filter(|known| known.open == Some(id));
        let reported = known.map_or(0, |known| known.remote.health.held() + known.waiting.held());
        let held = CONNECTION + connection.session.held() + reported;
        self.held = (self.held + held).saturating_sub(connection.held);
        connection.held = held;
    }
}

fn count(refused: &mut BTreeMap<&'static str, u64>, label: &'static str) {
    *refused.entry(label).or_default() += 1;
}
