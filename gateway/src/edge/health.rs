//! Whether each service works, hop by hop: what the edge itself sees, then what the origin reports
//! over the link; without one, what the edge's own probes find.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use daemon::health::{
    Hop, HopName, Lead, NameShown, Path, PathShown, Place, Reason, Since, State, Wanted, leads_to,
};
use daemon::link::health::Reported;
use daemon::link::message::{Evidence, Reason as Why, Service as Entry, State as EntryState};
use daemon::link::shown::ServiceShown;
use daemon::peers::Peers;
use policy::gateway::{Policy, Publish, Target};
use tunnel::io::clock;
use tunnel::node::{PeerState, PeerStatus};
use tunnel::time::Instant;

use super::Edge;
use super::meter::{self, Counters};
use super::past::Seen;
use super::probes::probed_at;
use crate::control::report::Service;

/// How often is looked when no report is asked for, so that it is known since when a hop is
/// failing.
const LOOKS: Duration = Duration::from_secs(5);

/// What earlier looks found.
pub(super) struct Health {
    since: RefCell<Since>,
    next_look: Cell<Instant>,
    /// Whether the edge's table was there when the kernel was last asked.
    pub(super) has_table: Cell<bool>,
}

impl Health {
    /// No look so far.
    pub(super) fn new() -> Self {
        Self { since: RefCell::default(), next_look: Cell::default(), has_table: Cell::new(true) }
    }
}

/// What is seen of the edge and its origins at one moment.
struct Look<'l> {
    /// The rules.
    ruleset: Hop,
    /// By the name of the peer: its state, and whether it ever answered a probe.
    tunnels: BTreeMap<String, (PeerState, bool)>,
    /// What the peers with a link reported.
    reported: BTreeMap<String, Reported>,
    /// What the edge's own probes found at a target.
    probed: &'l dyn Fn(SocketAddr) -> Option<Hop>,
    /// What is wrong with the way of packets to a target.
    route_fault: &'l dyn Fn(IpAddr) -> Option<String>,
}

/// Published ports and private flows: what they carried, and whether they work.
pub(super) fn services(edge: &Edge, counters: &Counters) -> Vec<Service> {
    let peers = edge.plane.peers();
    let (paths, mut names) = look(edge, &peers);
    let mut services = meter::services(&edge.in_force.borrow(), &peers, counters);
    for service in &mut services {
        service.health = paths.get(&service.name).map(PathShown::from).unwrap_or_default();
        service.names = names.remove(&service.name).unwrap_or_default();
    }
    services
}

/// The peers with what the edge's own probes found behind those without a link.
pub(super) fn with_probed(edge: &Edge, mut peers: Peers) -> Peers {
    let (in_force, probes) = (edge.in_force.borrow(), edge.probing.probes.borrow());
    let now = clock::instant();
    for peer in peers.peers.iter_mut().filter(|peer| peer.link.as_ref().is_none_or(|link| !link.up)) {
        let of_publish = |publish: &Publish| {
            let its = publish.targets.iter().filter(|target| target.peer.as_str() == peer.name);
            let found = its.filter_map(|target| probes.upstream(now, probed_at(publish, target)?));
            found.map(|hop| ServiceShown::of(publish.name.as_str(), &hop)).collect::<Vec<_>>()
        };
        peer.services = in_force.served().publish.iter().flat_map(of_publish).collect();
    }
    peers
}

/// The path of every service by its name.
pub(super) fn paths(edge: &Edge) -> Vec<(String, Path)> {
    look(edge, &edge.plane.peers()).0.into_iter().collect()
}

/// Looks at every service when that is due.
pub(super) fn note(edge: &Edge) {
    let now = clock::instant();
    // What does not work here is carried by the other edge of the pair.
    if edge.health.next_look.get() <= now && !edge.standby.role().is_silent() {
        edge.health.next_look.set(now.after(LOOKS));
        let (paths, mut names) = look(edge, &edge.plane.peers());
        let seen = |(name, path): (String, Path)| Seen {
            path: PathShown::from(&path),
            names: names.remove(&name).unwrap_or_default(),
            peer: path.place.peer,
            name,
        };
        let seen: Vec<Seen> = paths.into_iter().map(seen).collect();
        let peers = edge.meter.borrow().peers_as_sampled(&edge.in_force.borrow(), &edge.plane);
        edge.past.handle_look(now, &edge.links.with_links(peers).peers, &seen);
    }
}

/// The path of every service, and the names of those that have some.
fn look(edge: &Edge, peers: &[PeerStatus]) -> (BTreeMap<String, Path>, BTreeMap<String, Vec<NameShown>>) {
    if edge.standby.role().is_silent() {
        return (BTreeMap::new(), BTreeMap::new());
    }
    let (in_force, watch) = (edge.in_force.borrow(), edge.watch.borrow());
    let (now, probes) = (clock::instant(), edge.probing.probes.borrow());
    let state = |peer: &PeerStatus| (in_force.name_of(&peer.public_key), (peer.state, peer.rtt.is_some()));
    let look = Look {
        ruleset: ruleset(edge.health.has_table.get(), watch.failing_problem()),
        tunnels: peers.iter().map(state).collect(),
        reported: edge.links.reported(now),
        probed: &|target| probes.upstream(now, target),
        route_fault: &|target| watch.route_fault(target),
    };
    let mut paths = look.paths(in_force.served());
    let named = paths.iter_mut().map(|(name, path)| (name.as_str(), path));
    edge.health.since.borrow_mut().handle_look(now, named);
    (paths, look.names(in_force.served()))
}

/// Rules that cannot be checked may be as they should.
fn ruleset(has_table: bool, problem: Option<String>) -> Hop {
    if !has_table {
        return Hop::failing(HopName::Ruleset, Reason::TableMissing, None);
    }
    match problem {
        Some(problem) => {
            let evidence = Some(Evidence::of(&problem));
            Hop { evidence, ..Hop::unknown(HopName::Ruleset, Reason::NotRepaired) }
        }
        None => Hop::ok(HopName::Ruleset),
    }
}

impl Look<'_> {
    /// The path of every service by its name.
    fn paths(&self, policy: &Policy) -> BTreeMap<String, Path> {
        let published = policy.publish.iter().map(|publish| {
            let paths = publish.targets.iter().map(|target| self.published(publish, target)).collect();
            (publish.name.to_string(), Path::worst(paths))
        });
        let allowed = policy.allow.iter().map(|allow| {
            let peers = meter::peers_of(allow);
            let paths = peers.iter().map(|peer| self.private(Some(peer))).collect::<Vec<_>>();
            let path = if paths.is_empty() { self.private(None) } else { Path::worst(paths) };
            (allow.name.to_string(), path)
        });
        published.chain(allowed).collect()
    }

    /// The hops to one target of a published port.
    fn published(&self, publish: &Publish, target: &Target) -> Path {
        let peer = target.peer.as_str();
        let (entry, upstream, name) = self.beyond(publish, target);
        let link = match self.reported.contains_key(peer) {
            true => Hop::ok(HopName::Link),
            false => Hop::unknown(HopName::Link, Reason::NoLink),
        };
        let hops =
            vec![self.ruleset.clone(), self.route(target.address), self.tunnel(peer), link, entry, upstream];
        let place = Place { peer: Some(peer.to_owned()), entry: name, target: target.to_string() };
        Path { hops, place }
    }

    /// The hops of a private flow: what is behind the peer is not known.
    fn private(&self, peer: Option<&str>) -> Path {
        let tunnel = peer.map(|peer| self.tunnel(peer));
        let hops = std::iter::once(self.ruleset.clone()).chain(tunnel).collect();
        Path { hops, place: Place { peer: peer.map(str::to_owned), ..Place::default() } }
    }

    fn route(&self, target: IpAddr) -> Hop {
        match (self.route_fault)(target) {
            Some(fault) => Hop::failing(HopName::Route, Reason::OtherRoute, Some(Evidence::of(&fault))),
            None => Hop::ok(HopName::Route),
        }
    }

    fn tunnel(&self, peer: &str) -> Hop {
        match self.tunnels.get(peer).copied().unwrap_or((PeerState::Never, false)) {
            (PeerState::Up, _) => Hop::ok(HopName::Tunnel),
            (PeerState::Never, _) => Hop::failing(HopName::Tunnel, Reason::NeverHeard, None),
            // A plain peer is silent while no packet goes through it.
            (PeerState::Stale | PeerState::Down, false) => Hop::unknown(HopName::Tunnel, Reason::Silent),
            (PeerState::Stale | PeerState::Down, true) => Hop::failing(HopName::Tunnel, Reason::Silent, None),
        }
    }

    /// The names of every published port that has some.
    fn names(&self, policy: &Policy) -> BTreeMap<String, Vec<NameShown>> {
        let of_publish = |publish: &Publish| {
            let mut names: Vec<NameShown> = Vec::new();
            for name in publish.targets.iter().flat_map(|target| self.names_at(publish, target)) {
                // Two targets may lead to one entry, or to two that have the name: it works when it
                // does at both.
                match names.iter_mut().find(|known| known.name == name.name) {
                    None => names.push(name),
                    Some(known) if name.is_failing() && !known.is_failing() => *known = name,
                    // A probe shows one path: that of the other target is not less proven by it.
                    Some(known) if name.is_proven() && !known.is_proven() => known.visitor = name.visitor,
                    Some(_) => {}
                }
            }
            (publish.name.to_string(), names)
        };
        policy.publish.iter().map(of_publish).filter(|(_, names)| !names.is_empty()).collect()
    }

    /// The names of the entries that a target leads to.
    fn names_at(&self, publish: &Publish, target: &Target) -> Vec<NameShown> {
        let Some(reported) = self.reported.get(target.peer.as_str()) else { return Vec::new() };
        let Lead::Entries(entries) =
            leads_to(&reported.services, reported.is_whole, &wanted(publish, target))
        else {
            return Vec::new();
        };
        let of_entry = |entry: &Entry| {
            let place = Place {
                peer: Some(target.peer.to_string()),
                entry: Some(entry.name.to_string()),
                ..Place::default()
            };
            let names = reported.names.iter().filter(|name| name.service == entry.name);
            names.map(|name| NameShown::of(name, &place)).collect::<Vec<_>>()
        };
        entries.iter().flat_map(of_entry).collect()
    }

    /// The service entry and the upstream behind a target, and the entry's name.
    fn beyond(&self, publish: &Publish, target: &Target) -> (Hop, Hop, Option<String>) {
        let unknown = |reason| {
            let hop = |name| Hop::unknown(name, reason);
            (hop(HopName::ServiceEntry), hop(HopName::Upstream), None)
        };
        let Some(reported) = self.reported.get(target.peer.as_str()) else {
            let (entry, upstream, name) = unknown(Reason::NoLink);
            let found = probed_at(publish, target).and_then(self.probed);
            return (entry, found.unwrap_or(upstream), name);
        };
        match leads_to(&reported.services, reported.is_whole, &wanted(publish, target)) {
            Lead::Unknown => unknown(Reason::NotChecked),
            Lead::Nowhere(protocol, port) => {
                let evidence = Evidence::of(&format!("no entry takes {}/{port}", protocol.as_str()));
                let entry = Hop::failing(HopName::ServiceEntry, Reason::NoEntry, Some(evidence));
                (entry, Hop::unknown(HopName::Upstream, Reason::NotChecked), None)
            }
            Lead::Entries(entries) => {
                let (upstream, name) = upstream(&entries);
                (Hop::ok(HopName::ServiceEntry), upstream, name)
            }
        }
    }
}

/// What a published port wants of an entry.
pub(super) fn wanted<'w>(publish: &'w Publish, target: &Target) -> Wanted<'w> {
    Wanted { name: &publish.name, protocols: publish.protocols, address: target.address, ports: target.ports }
}

/// The upstreams of entries together: the failing one decides, and one that works is enough to know
/// that others may.
fn upstream(entries: &[Entry]) -> (Hop, Option<String>) {
    let with = |state| entries.iter().find(|entry| entry.state == state);
    let decides = with(EntryState::Failing).or_else(|| with(EntryState::Up)).or_else(|| entries.first());
    let Some(entry) = decides else { return (Hop::unknown(HopName::Upstream, Reason::NotChecked), None) };
    let hop = match State::from(entry.state) {
        State::Ok => Hop::ok(HopName::Upstream),
        State::Unknown => Hop::unknown(HopName::Upstream, Reason::NotChecked),
        State::Failing => {
            let reason = Reason::Probe(entry.reason.unwrap_or(Why::Other));
            Hop::failing(HopName::Upstream, reason, entry.evidence.clone())
        }
    };
    (Hop { seconds: Some(entry.seconds), ..hop }, Some(entry.name.to_string()))
}

#[cfg(test)]
mod tests {
    use daemon::link::message::{Matches, Ports};
    use daemon::link::names::{HostName, NameHealth};
    use policy::{Name, PortRange};

    use super::*;
    use crate::edge::example::{TEXT, policy};

    #[test]
    fn the_first_failing_hop_from_the_rules_to_the_upstream_is_named() {
        let failing = entry("web", EntryState::Failing, (443, 443), true);
        let mut scene = Scene { reported: Some((vec![failing], true)), ..Scene::default() };
        assert_eq!(scene.decides("https"), Some((HopName::Upstream, "refused")));
        let path = scene.paths().remove("https").unwrap();
        assert_eq!((path.place.entry.as_deref(), path.failing().unwrap().seconds), (Some("web"), Some(7)));
        scene.reported = Some((vec![], true));
        assert_eq!(scene.decides("https"), Some((HopName::ServiceEntry, "no_entry")));
        scene.tunnel = (PeerState::Stale, true);
        assert_eq!(scene.decides("https"), Some((HopName::Tunnel, "silent")));
        scene.route = Some("packets would go by eth0");
        assert_eq!(scene.decides("https"), Some((HopName::Route, "other_route")));
        scene.has_table = false;
        assert_eq!(scene.decides("https"), Some((HopName::Ruleset, "table_missing")));
    }

    #[test]
    fn without_a_link_or_its_digest_nothing_behind_the_tunnel_is_failing() {
        for reported in [None, Some((vec![], false))] {
            let path = Scene { reported, ..Scene::default() }.paths().remove("https").unwrap();
            assert_eq!((path.failing(), path.state()), (None, State::Unknown));
        }
    }

    #[test]
    fn without_a_link_the_edges_own_probe_decides_about_the_upstream_and_names_the_target_in_the_fix() {
        let refused = Hop::failing(HopName::Upstream, Reason::Probe(Why::Refused), None);
        let mut scene = Scene { probed: Some(refused), ..Scene::default() };
        assert_eq!(scene.decides("https"), Some((HopName::Upstream, "refused")));
        let fix = PathShown::from(&scene.paths()["https"]).failing.unwrap().fix.unwrap();
        assert!(fix.starts_with("nothing listens on 192.168.88.2:443 behind peer wroclaw: "), "{fix}");
        assert_eq!(scene.paths()["game"].state(), State::Unknown, "UDP is not probed");

        scene.reported = Some((vec![entry("web", EntryState::Up, (443, 443), true)], true));
        assert_eq!(scene.paths()["https"].state(), State::Ok, "what the origin reports replaces it at once");
        scene = Scene { probed: Some(Hop::ok(HopName::Upstream)), ..Scene::default() };
        let path = scene.paths().remove("https").unwrap();
        let states: Vec<_> = path.hops.iter().map(|hop| hop.state).collect();
        let (ok, unknown) = (State::Ok, State::Unknown);
        assert_eq!((path.state(), states), (ok, vec![ok, ok, ok, unknown, unknown, ok]));
    }

    #[test]
    fn udp_that_is_not_checked_is_unknown() {
        let reported = Some((vec![entry("game", EntryState::Unknown, (6_000, 6_000), false)], true));
        let path = Scene { reported, ..Scene::default() }.paths().remove("game").unwrap();
        assert_eq!((path.failing(), path.state()), (None, State::Unknown));
    }

    #[test]
    fn a_plain_peer_that_is_idle_is_not_failing_and_one_that_was_never_heard_is() {
        let mut scene = Scene { tunnel: (PeerState::Down, false), ..Scene::default() };
        assert_eq!(scene.decides("https"), None);
        scene.tunnel = (PeerState::Never, false);
        assert_eq!(scene.decides("https"), Some((HopName::Tunnel, "never_heard")));
    }

    #[test]
    fn rules_that_cannot_be_checked_are_unknown_with_the_evidence() {
        let hop = ruleset(true, Some("nft hangs".to_owned()));
        assert_eq!((hop.state, hop.evidence.unwrap().as_str()), (State::Unknown, "nft hangs"));
    }

    #[test]
    fn a_failing_name_is_a_row_of_its_service_and_leaves_the_service_and_the_other_names_as_they_are() {
        let entries = vec![
            entry("web", EntryState::Up, (443, 443), true),
            entry("other", EntryState::Up, (8_443, 8_443), true),
        ];
        let name = |service, name, state, reason| NameHealth {
            service: Name::new(service).unwrap(),
            name: HostName::new(name).unwrap(),
            state,
            seconds: 5,
            reason,
            certificate: None,
            visitor: None,
        };
        let names = vec![
            name("web", "emby.example.com", EntryState::Failing, Some(Why::CertificateExpired)),
            name("web", "photos.example.com", EntryState::Up, None),
            name("other", "wiki.example.com", EntryState::Up, None),
        ];
        let scene = Scene { reported: Some((entries, true)), names, ..Scene::default() };
        assert_eq!(scene.decides("https"), None);
        let shown = scene.look(|look| look.names(&policy(TEXT)));
        assert_eq!(shown.keys().collect::<Vec<_>>(), ["https"]);
        let rows: Vec<_> = shown["https"]
            .iter()
            .map(|row| (row.name.as_str(), row.state.as_str(), row.fix.is_some()))
            .collect();
        assert_eq!(rows, [("emby.example.com", "failing", true), ("photos.example.com", "ok", false)]);
    }

    struct Scene {
        has_table: bool,
        route: Option<&'static str>,
        tunnel: (PeerState, bool),
        reported: Option<(Vec<Entry>, bool)>,
        names: Vec<NameHealth>,
        probed: Option<Hop>,
    }

    impl Default for Scene {
        fn default() -> Self {
            let tunnel = (PeerState::Up, true);
            Self { has_table: true, route: None, tunnel, reported: None, names: Vec::new(), probed: None }
        }
    }

    impl Scene {
        fn decides(&self, service: &str) -> Option<(HopName, &'static str)> {
            let path = self.paths().remove(service).unwrap();
            path.failing().map(|hop| (hop.name, hop.reason.map_or("", Reason::label)))
        }

        fn paths(&self) -> BTreeMap<String, Path> {
            self.look(|look| look.paths(&policy(TEXT)))
        }

        fn look<T>(&self, seen: impl Fn(&Look<'_>) -> T) -> T {
            let names = self.names.clone();
            let reported = self.reported.clone();
            let reported = reported.map(|(services, is_whole)| Reported { services, names, is_whole });
            seen(&Look {
                ruleset: ruleset(self.has_table, None),
                tunnels: BTreeMap::from([("wroclaw".to_owned(), self.tunnel)]),
                reported: reported.into_iter().map(|reported| ("wroclaw".to_owned(), reported)).collect(),
                probed: &|target| self.probed.clone().filter(|_| target.port() == 443),
                route_fault: &|_| self.route.map(str::to_owned),
            })
        }
    }

    fn entry(name: &str, state: EntryState, (first, last): (u16, u16), tcp: bool) -> Entry {
        let ports = Ports(PortRange::new(first, last).unwrap());
        let reason = (state == EntryState::Failing).then_some(Why::Refused);
        let matches = Some(Matches { addresses: Vec::new(), ports, tcp, udp: !tcp });
        Entry { name: Name::new(name).unwrap(), state, seconds: 7, reason, evidence: None, matches }
    }
}
