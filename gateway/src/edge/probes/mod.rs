//! The services of peers without a link, which the edge probes itself: what is probed and when, and
//! what the replies say.

mod serve;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::health::{CONFIRM_AFTER, CheckFailure, Hop, HopName, Reason, State, Tries};
use daemon::link::message::{Evidence, Reason as Why};
use daemon::metrics::Number;
use policy::Protocol;
use policy::gateway::{Policy, Publish, Target};
use tunnel::node::{MAX_SERVICE_PROBES, NotProbed, ServiceReply};
use tunnel::time::Instant;

pub(super) use serve::{Probing, follow, handle_reply, serve};

/// How often a service is probed.
const EVERY: Duration = Duration::from_secs(10);
/// How long a tunnel is up before its services are probed: a peer that has a link opens it first.
const AFTER_UP: Duration = Duration::from_secs(5);
/// How long a peer that had a link is without one before its services are probed.
const AFTER_LINK: Duration = Duration::from_secs(15);
/// How long a result is waited for. One comes within two seconds, unless the session ended.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// When a service is probed again that found no place.
const BUSY: Duration = Duration::from_secs(1);

/// A peer at one moment.
#[derive(Clone, Debug)]
pub(super) struct PeerNow {
    pub(super) name: String,
    /// Whether packets can reach it.
    pub(super) is_up: bool,
    pub(super) has_link: bool,
}

/// What is probed, and what is known of it.
#[derive(Default)]
pub(super) struct Probes {
    targets: BTreeMap<SocketAddr, Probed>,
    peers: BTreeMap<String, Watched>,
    results: BTreeMap<ServiceReply, u64>,
}

/// Since when a peer is as it is.
#[derive(Clone, Copy, Default)]
struct Watched {
    up_since: Option<Instant>,
    has_link: bool,
    last_link: Option<Instant>,
}

/// Whether the services of a peer are probed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// They are.
    Ours,
    /// They were not, or will be: the tunnel is not up, or the link may come.
    Later,
    /// The origin reports.
    Origins,
}

/// One target.
struct Probed {
    /// Whether it is the first port of several: then others may listen although this one does not.
    is_range: bool,
    is_active: bool,
    tries: Tries,
    /// Whether it ever replied itself: only then does silence mean anything, since a firewall may
    /// drop what the edge sends and let clients through.
    has_replied: bool,
    has_been_open: bool,
    /// Whether the last probe had no reply that counts.
    is_silent: bool,
    since: Instant,
    next: Instant,
    /// Until when a result is waited for.
    waits_until: Option<Instant>,
}

/// Where a published port is probed: its first port there; `None` without TCP.
pub(super) fn probed_at(publish: &Publish, target: &Target) -> Option<SocketAddr> {
    let is_tcp = publish.protocols.contains(Protocol::Tcp);
    is_tcp.then(|| SocketAddr::new(target.address, target.ports.first()))
}

impl Probes {
    /// Takes what is published now, and how the peers are.
    pub(super) fn follow(&mut self, now: Instant, policy: &Policy, peers: &[PeerNow]) {
        let before = std::mem::take(&mut self.peers);
        for peer in peers {
            let Watched { up_since, last_link, .. } = before.get(&peer.name).copied().unwrap_or_default();
            let watched = Watched {
                up_since: peer.is_up.then(|| up_since.unwrap_or(now)),
                has_link: peer.has_link,
                last_link: if peer.has_link { Some(now) } else { last_link },
            };
            self.peers.insert(peer.name.clone(), watched);
        }
        let mut known = std::mem::take(&mut self.targets);
        for (at, (peer, is_range)) in wanted(policy) {
            let mut probed = known.remove(&at).unwrap_or_else(|| Probed::new(now));
            probed.is_range = is_range;
            probed.take_turn(self.turn(now, peer), now);
            self.targets.insert(at, probed);
        }
    }

    fn turn(&self, now: Instant, peer: &str) -> Turn {
        let Watched { up_since, has_link, last_link } = self.peers.get(peer).copied().unwrap_or_default();
        if has_link {
            return Turn::Origins;
        }
        let is_up = up_since.is_some_and(|at| now.since(at) >= AFTER_UP);
        let is_linkless = last_link.is_none_or(|at| now.since(at) >= AFTER_LINK);
        if is_up && is_linkless { Turn::Ours } else { Turn::Later }
    }

    /// The next target to be probed now, the one that waits longest; its result is waited for.
    pub(super) fn poll(&mut self, now: Instant) -> Option<SocketAddr> {
        for probed in self.targets.values_mut() {
            probed.waits_until = probed.waits_until.filter(|until| *until > now);
        }
        if self.waiting().count() >= MAX_SERVICE_PROBES {
            return None;
        }
        let is_due = |probed: &Probed| probed.is_active && probed.waits_until.is_none() && probed.next <= now;
        let due = self.targets.iter_mut().filter(|(_, probed)| is_due(probed));
        let (target, probed) = due.min_by_key(|(_, probed)| probed.next)?;
        probed.waits_until = Some(now.after(LOST_AFTER));
        probed.next = now.after(EVERY);
        Some(*target)
    }

    /// When [`poll`](Self::poll) has something next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let is_full = self.waiting().count() >= MAX_SERVICE_PROBES;
        let idle = self.targets.values().filter(|probed| probed.is_active && probed.waits_until.is_none());
        let next = idle.map(|probed| probed.next).filter(|_| !is_full);
        next.chain(self.waiting()).min()
    }

    fn waiting(&self) -> impl Iterator<Item = Instant> {
        self.targets.values().filter_map(|probed| probed.waits_until)
    }

    /// A target could not be probed.
    pub(super) fn handle_not_probed(&mut self, now: Instant, target: SocketAddr, why: NotProbed) {
        let Some(probed) = self.targets.get_mut(&target) else { return };
        probed.waits_until = None;
        if why == NotProbed::Busy {
            probed.next = now.after(BUSY);
        }
    }

    /// Takes the result of a probe.
    pub(super) fn handle_reply(&mut self, now: Instant, target: SocketAddr, reply: ServiceReply) {
        let count = self.results.entry(reply).or_default();
        *count = count.saturating_add(1);
        if let Some(probed) = self.targets.get_mut(&target).filter(|probed| probed.is_active) {
            probed.handle_reply(now, target, reply);
        }
    }

    /// What is known of a target; `None` where nothing is probed.
    pub(super) fn upstream(&self, now: Instant, target: SocketAddr) -> Option<Hop> {
        let probed = self.targets.get(&target)?;
        let state = probed.tries.state();
        // What failed is failing until a probe finds it well, although its tunnel may be down.
        if !probed.is_active && state != State::Failing {
            return None;
        }
        let hop = match (state, probed.tries.failure()) {
            (State::Failing, failure) => {
                let why = failure.map_or(Why::Other, |failure| failure.reason);
                let evidence = failure.map(|failure| failure.evidence.clone());
                Hop::failing(HopName::Upstream, Reason::Probe(why), evidence)
            }
            (State::Ok, _) => Hop::ok(HopName::Upstream),
            (State::Unknown, _) if probed.is_silent => Hop::unknown(HopName::Upstream, Reason::Silent),
            (State::Unknown, _) => Hop::unknown(HopName::Upstream, Reason::NotChecked),
        };
        Some(Hop { seconds: Some(now.since(probed.since).as_secs()), ..hop })
    }

    /// How probes ended, for Prometheus.
    pub(super) fn numbers(&self) -> Vec<Number> {
        let help = "Probes of services behind peers without a link, by result.";
        let number = |reply: ServiceReply| {
            let count = self.results.get(&reply).copied().unwrap_or_default();
            Number::counter("gateway_service_probes_total", help, count).with("result", reply.label())
        };
        ServiceReply::ALL.into_iter().map(number).collect()
    }
}

impl Probed {
    fn new(now: Instant) -> Self {
        Self {
            is_range: false,
            is_active: false,
            tries: Tries::default(),
            has_replied: false,
            has_been_open: false,
            is_silent: false,
            since: now,
            next: now,
            waits_until: None,
        }
    }

    fn take_turn(&mut self, turn: Turn, now: Instant) {
        match turn {
            Turn::Ours if self.is_active => {}
            Turn::Ours => {
                (self.is_active, self.next) = (true, now);
            }
            Turn::Later => {
                self.is_active = false;
                self.waits_until = None;
                if self.tries.state() != State::Failing {
                    self.forget(now);
                }
            }
            Turn::Origins => {
                self.is_active = false;
                self.waits_until = None;
                self.forget(now);
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        if self.tries.state() != State::Unknown {
            self.since = now;
        }
        self.tries = Tries::default();
    }

    fn handle_reply(&mut self, now: Instant, target: SocketAddr, reply: ServiceReply) {
        self.waits_until = None;
        let result = self.judge(target, reply);
        self.is_silent = result.is_none();
        self.has_replied |= matches!(reply, ServiceReply::Open | ServiceReply::Refused);
        self.has_been_open |= reply == ServiceReply::Open;
        let Some(result) = result else { return };
        if self.tries.handle_probe(result) {
            self.since = now;
        }
        if self.tries.is_in_doubt() {
            self.next = self.next.min(now.after(CONFIRM_AFTER));
        }
    }

    /// What a reply says; `None` when it says nothing.
    fn judge(&self, target: SocketAddr, reply: ServiceReply) -> Option<Result<(), CheckFailure>> {
        let failure = |reason, text: &str| {
            let evidence = Evidence::of(&format!("{target}: {text}"));
            Some(Err(CheckFailure { reason, evidence }))
        };
        match reply {
            ServiceReply::Open => Some(Ok(())),
            ServiceReply::Refused if self.is_range && !self.has_been_open => None,
            ServiceReply::Refused => failure(Why::Refused, "connection refused"),
            ServiceReply::Unreachable => {
                failure(Why::Unreachable, "a router reports that it cannot be reached")
            }
            ServiceReply::Prohibited | ServiceReply::Silent if !self.has_replied => None,
            ServiceReply::Prohibited => failure(Why::Unreachable, "a firewall refuses the probe"),
            ServiceReply::Silent => failure(Why::TimedOut, "no reply to three SYNs within 2 s"),
        }
    }
}

/// The targets to probe, with their peers, and whether each is the first port of several.
fn wanted(policy: &Policy) -> BTreeMap<SocketAddr, (&str, bool)> {
    let mut wanted = BTreeMap::new();
    for (publish, target) in
        policy.publish.iter().flat_map(|publish| publish.targets.iter().map(move |target| (publish, target)))
    {
        let is_probed = policy.peers.iter().any(|peer| peer.name == target.peer && peer.is_probed);
        if let Some(at) = probed_at(publish, target).filter(|_| is_probed) {
            let (_, is_range) = wanted.entry(at).or_insert((target.peer.as_str(), true));
            *is_range &= target.ports.count() > 1;
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
