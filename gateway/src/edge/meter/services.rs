//! Published ports and private flows as reports show them.

use std::collections::BTreeMap;

use daemon::health::PathShown;
use policy::gateway::{Allow, Party, Policy, Publish, Service as Opened};
use policy::ruleset::{ServiceKind, ServiceMark};

use super::counters::Counters;
use crate::control::report::Service;

/// A service with its state, that of the worst peer it needs, and what it carried.
pub(super) fn service(
    policy: &Policy,
    mark: &ServiceMark,
    states: &BTreeMap<String, &'static str>,
    counters: &Counters,
) -> Option<Service> {
    let (protocol, from, to, peers) = match mark.kind {
        ServiceKind::Publish => {
            describe_publish(policy.publish.iter().find(|entry| entry.name == mark.name)?)
        }
        ServiceKind::Allow => describe_allow(policy.allow.iter().find(|entry| entry.name == mark.name)?),
    };
    let of = |name: &str| counters.get(name).copied().unwrap_or_default();
    let ((bytes_in, packets_in), (bytes_out, packets_out)) =
        (of(&mark.counter_in()), of(&mark.counter_out()));
    let rank = |state: &str| ["up", "stale", "never", "down"].iter().position(|known| *known == state);
    let state =
        peers.iter().map(|peer| states.get(peer).copied().unwrap_or("never")).max_by_key(|state| rank(state));
    Some(Service {
        name: mark.name.to_string(),
        kind: mark.kind.as_str().to_owned(),
        protocol,
        from,
        to,
        peers,
        state: state.unwrap_or("up").to_owned(),
        health: PathShown::default(),
        names: Vec::new(),
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
    })
}

type Description = (String, String, String, Vec<String>);

fn describe_publish(publish: &Publish) -> Description {
    let from = match publish.address {
        Some(std::net::IpAddr::V6(address)) => format!("[{address}]:{}", publish.ports),
        Some(address) => format!("{address}:{}", publish.ports),
        None => publish.ports.to_string(),
    };
    let to = publish.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let peers = publish.targets.iter().map(|target| target.peer.to_string()).collect();
    (protocols(publish.protocols), from, to, distinct(peers))
}

fn describe_allow(allow: &Allow) -> Description {
    let (protocol, ports) = match &allow.service {
        Opened::Ports { protocols: which, ports } => {
            let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            (protocols(*which), format!(" port {ports}"))
        }
        Opened::Echo => ("icmp".to_owned(), String::new()),
    };
    let list = |parties: &[Party]| parties.iter().map(party).collect::<Vec<_>>().join(",");
    (protocol, list(&allow.from), format!("{}{ports}", list(&allow.to)), peers_of(allow))
}

/// The peers that a private flow needs.
pub(in crate::edge) fn peers_of(allow: &Allow) -> Vec<String> {
    distinct(allow.from.iter().chain(&allow.to).filter_map(peer_of).collect())
}

fn party(party: &Party) -> String {
    match party {
        Party::Peer(name) => format!("peer:{name}"),
        Party::Edge => "self".to_owned(),
        Party::Wan => "wan".to_owned(),
        Party::Lan(prefix) | Party::Behind { prefix, .. } => prefix.to_string(),
    }
}

fn peer_of(party: &Party) -> Option<String> {
    match party {
        Party::Peer(name) | Party::Behind { peer: name, .. } => Some(name.to_string()),
        Party::Edge | Party::Lan(_) | Party::Wan => None,
    }
}

fn protocols(protocols: policy::Protocols) -> String {
    protocols.iter().map(policy::Protocol::as_str).collect::<Vec<_>>().join("+")
}

fn distinct(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::example::{TEXT, policy};

    #[test]
    fn a_service_is_as_well_as_the_worst_peer_it_needs() {
        let policy = policy(TEXT);
        let mark = &policy.plan().ruleset.services[0];
        let states = BTreeMap::from([("wroclaw".to_owned(), "stale")]);
        let counters = BTreeMap::from([(mark.counter_in(), (10, 1)), (mark.counter_out(), (20, 2))]);
        let service = service(&policy, mark, &states, &counters).unwrap();
        assert_eq!(service.state, "stale");
        assert_eq!((service.from.as_str(), service.to.as_str()), ("443", "192.168.88.2:443"));
        assert_eq!((service.bytes_in, service.packets_out), (10, 2));
    }
}
