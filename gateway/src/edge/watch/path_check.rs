//! Asks the kernel by which way packets of each published service go and come back, and reports the
//! rule that leads them elsewhere.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use policy::gateway::Policy;
use policy::plan::Conditions;
use policy::system::System;
use tunnel::io::routes::RouteWatch;

use crate::edge::blocking::blocking;
use crate::edge::in_force::Blueprint;
use crate::edge::machine::Machine;
use crate::kernel::{Failure, FailureKind, rules_before};

/// How long a fault must last: in the middle of a change of addresses or routes there may be no way
/// for a moment.
pub(super) const LEAST: Duration = Duration::from_secs(2);
/// How the line of a fault on the way to a target begins.
pub(super) const PACKETS_FOR: &str = "packets for the target ";
/// Clients somewhere in the internet, by whose addresses the way back is asked for; nothing is sent
/// to them.
const CLIENTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), IpAddr::V6(Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe))];

/// The ways that lead elsewhere now.
pub(in crate::edge) async fn path_faults(blueprint: Arc<Blueprint>) -> Vec<String> {
    let asked = blocking(move || faults(blueprint.served(), &blueprint.conditions)).await;
    asked.unwrap_or_else(|failure| {
        vec![format!("the routes of services cannot be looked up ({failure}); see `ip rule` and `ip route`")]
    })
}

/// One line for each way that leads elsewhere.
fn faults(policy: &Policy, conditions: &Conditions) -> Result<Vec<String>, Failure> {
    let system = &Machine::read(policy)?;
    let failed =
        |error: std::io::Error| Failure::new(FailureKind::Kernel, format!("asking for routes: {error}"));
    let routes = RouteWatch::open().map_err(failed)?;
    let mut wrong = Vec::new();
    for (what, (to, from, mark), expected) in ways(policy, conditions, system) {
        let found = routes.interface_towards(to, from, mark).map_err(failed)?;
        if found != Some(expected) {
            wrong.push((what, to.is_ipv6(), found));
        }
    }
    if wrong.is_empty() {
        return Ok(Vec::new());
    }
    let kernel = &policy.kernel;
    let own = [kernel.route_protocol, kernel.route_protocol.saturating_add(1)];
    let first = system.rule_priority(kernel.rule_priority);
    let rules = rules_before(first + 2, &own)?;
    let describe = |(what, ipv6, found): (String, bool, Option<u32>)| {
        let by = found
            .and_then(|index| system.link(index))
            .map_or_else(|| "nowhere".to_owned(), |link| format!("by {}", link.name));
        let before: Vec<&str> =
            rules.iter().filter(|rule| rule.ipv6 == ipv6).map(|rule| rule.text.as_str()).collect();
        let cause = match before.as_slice() {
            [] => "see `ip rule` and `ip route`".to_owned(),
            rules => format!(
                "before the edge's own rules there is: {}; give it a priority above {}",
                rules.join("; "),
                first + 2
            ),
        };
        format!("{what} would go {by}: {cause}")
    };
    Ok(wrong.into_iter().map(describe).collect())
}

/// How the packets for a target are named in a fault of their way.
pub(super) fn packets_for(target: IpAddr) -> String {
    format!("{PACKETS_FOR}{target}")
}

/// What is asked: destination, source and mark.
type Question = (IpAddr, IpAddr, u32);

/// Every way that services need, with the interface that it must lead to.
fn ways(policy: &Policy, conditions: &Conditions, system: &System) -> Vec<(String, Question, u32)> {
    let mut ways = Vec::new();
    let own =
        |ipv6: bool| policy.interface.address.iter().map(|own| own.ip()).find(|own| own.is_ipv6() == ipv6);
    if let Some(tunnel) = system.named(policy.interface.name.as_str()) {
        let targets: BTreeSet<IpAddr> =
            policy.publish.iter().flat_map(|publish| &publish.targets).map(|target| target.address).collect();
        for target in targets {
            if let Some(source) = own(target.is_ipv6()) {
                ways.push((packets_for(target), (target, source, 0), tunnel.index));
            }
        }
    }
    // An uplink that has gone since is checked when it is back.
    for uplink in conditions.uplinks.iter().filter(|uplink| system.is_uplink(uplink.link)) {
        for client in CLIENTS {
            let carries = system
                .default_routes(uplink.link)
                .any(|route| route.destination.is_ipv6() == client.is_ipv6());
            let source = uplink.addresses.iter().find(|address| address.is_ipv6() == client.is_ipv6());
            if let Some(&source) = source.filter(|_| carries) {
                let what = format!("replies of flows that came in by {} to {source}", uplink.name);
                let mark = if conditions.is_only_way { 0 } else { uplink.mark(policy) };
                ways.push((what, (client, source, mark), uplink.link));
            }
        }
    }
    ways
}
