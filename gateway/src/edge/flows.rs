//! Who talks to whom through the edge now.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use policy::gateway::Policy;
use policy::ruleset::ServiceMark;

use super::in_force::InForce;
use crate::control::protocol::MAX_FLOWS;
use crate::control::report::{Flow, Flows, SCHEMA};
use crate::kernel::{self, FlowQuery};
use daemon::exit::{Exit, ExitError};

/// States of TCP connections as conntrack numbers them (`enum tcp_conntrack`).
const TCP_STATES: [&str; 10] = [
    "none",
    "syn_sent",
    "syn_recv",
    "established",
    "fin_wait",
    "close_wait",
    "last_ack",
    "time_wait",
    "close",
    "syn_sent2",
];
/// The upper half of a conntrack mark says that a flow is ours.
const OURS: u32 = 0xffff_0000;

/// What to read for the flows of a service, of an address, or of all.
///
/// # Errors
/// [`Exit::Usage`] for a service that there is not.
pub(super) fn query(
    in_force: &InForce,
    service: Option<&str>,
    address: Option<IpAddr>,
    limit: usize,
) -> Result<FlowQuery, ExitError> {
    let marks = in_force.ruleset().services.iter().filter(|mark| service == Some(mark.name.as_str()));
    let marks: Vec<u32> = marks.map(|mark| mark.mark).collect();
    if let (Some(name), true) = (service, marks.is_empty()) {
        let message = format!("there is no service {name}; gatewayctl services lists them");
        return Err(ExitError::new(Exit::Usage, message));
    }
    let limit = limit.clamp(1, MAX_FLOWS);
    Ok(FlowQuery { mark: in_force.policy().kernel.ct_mark, mask: OURS, marks, address, limit })
}

/// Flows of published ports and private flows, those that carried most first, out of `total`.
pub(super) fn report(in_force: &InForce, (flows, total): (Vec<kernel::Flow>, usize), now: Duration) -> Flows {
    let (policy, services) = (in_force.policy(), &in_force.ruleset().services);
    let flows: Vec<_> = flows.iter().map(|flow| described(flow, policy, services, now)).collect();
    Flows { schema: SCHEMA, total, truncated: total > flows.len(), flows }
}

fn described(flow: &kernel::Flow, policy: &Policy, services: &[ServiceMark], now: Duration) -> Flow {
    let service = services.iter().find(|service| service.mark == flow.mark);
    // What `[wan] accept` lets in, and flows of services that ended a moment ago, have no entry.
    let (name, kind) = service.map_or(("-", "wan"), |service| (service.name.as_str(), service.kind.as_str()));
    let started = flow.started_nanoseconds.map(Duration::from_nanos);
    let state = flow.tcp_state.and_then(|state| TCP_STATES.get(usize::from(state)));
    Flow {
        service: name.to_owned(),
        kind: kind.to_owned(),
        protocol: protocol(flow.protocol),
        client: end(flow.client),
        listen: end(flow.listen),
        target: end(flow.target),
        masqueraded: flow.answered.ip() != flow.client.ip(),
        peer: peer(policy, flow.target.ip()).or_else(|| peer(policy, flow.client.ip())),
        state: state.map(|&state| state.to_owned()),
        packets_in: flow.packets[0],
        bytes_in: flow.bytes[0],
        packets_out: flow.packets[1],
        bytes_out: flow.bytes[1],
        age_seconds: started.map(|started| now.saturating_sub(started).as_secs_f64()),
    }
}

/// The peer whose most specific routed prefix holds the address.
fn peer(policy: &Policy, address: IpAddr) -> Option<String> {
    let prefixes =
        policy.peers.iter().flat_map(|peer| peer.allowed_ips.iter().map(move |&prefix| (peer, prefix)));
    let holding = prefixes.filter(|(_, prefix)| policy::prefix::routes(*prefix, address));
    holding.max_by_key(|(_, prefix)| prefix.prefix()).map(|(peer, _)| peer.name.to_string())
}

fn protocol(number: u8) -> String {
    match number {
        1 | 58 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn end(end: SocketAddr) -> String {
    if end.port() == 0 { end.ip().to_string() } else { end.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;

    use super::*;

    #[test]
    fn a_flow_is_shown_with_its_service_its_peer_and_its_age() {
        let text = include_str!("../../../configs/gateway.toml");
        let policy = policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text }).unwrap();
        let services = policy.plan().ruleset.services;
        let https = services.iter().find(|service| service.name.as_str() == "https").unwrap();
        let flow = kernel::Flow {
            mark: https.mark,
            protocol: 6,
            client: "203.0.113.10:40000".parse().unwrap(),
            listen: "192.0.2.2:443".parse().unwrap(),
            target: "192.168.88.2:443".parse().unwrap(),
            answered: "203.0.113.10:40000".parse().unwrap(),
            packets: [1, 2],
            bytes: [100, 200],
            started_nanoseconds: Some(5_000_000_000),
            tcp_state: Some(3),
        };
        let shown = described(&flow, &policy, &services, Duration::from_secs(7));
        assert_eq!((shown.service.as_str(), shown.kind.as_str()), ("https", "publish"));
        assert_eq!((shown.peer.as_deref(), shown.state.as_deref()), (Some("wroclaw"), Some("established")));
        assert_eq!((shown.age_seconds, shown.masqueraded), (Some(2.0), false));

        let foreign = kernel::Flow {
            mark: 0x4357_ffff,
            protocol: 1,
            listen: "192.0.2.2:0".parse().unwrap(),
            target: "192.0.2.2:0".parse().unwrap(),
            started_nanoseconds: None,
            tcp_state: Some(99),
            ..flow
        };
        let shown = described(&foreign, &policy, &services, Duration::ZERO);
        assert_eq!((shown.service.as_str(), shown.peer, shown.state), ("-", None, None));
        assert_eq!((shown.protocol.as_str(), shown.listen.as_str()), ("icmp", "192.0.2.2"));
    }
}
