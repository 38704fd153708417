//! Whether the public name of a running edge still leads to this machine: a provider may have given
//! it another address.

use std::net::IpAddr;
use std::path::Path;

use daemon::health::HopName;
use gateway::commands::addresses_of;
use gateway::config::load_policy;
use gateway::kernel::read_system;
use ipnetwork::IpNetwork;
use policy::prefix::is_special;
use policy::{Host, HostPort};

use super::finding::Finding;

/// What is found of `[wan] name` in the configuration of an edge. `None` without a name, and where it
/// cannot be known: when the file cannot be read, the name is not resolved within two seconds, or
/// this machine has no address of the internet, as behind a router.
pub(super) fn finding(config: &Path) -> Option<Finding> {
    let name = load_policy(config).ok()?.wan.name?;
    let links = read_system(&[]).ok()?.links;
    let own: Vec<IpAddr> = links.iter().flat_map(|link| link.addresses.iter().map(IpNetwork::ip)).collect();
    let leads_to = match &name {
        Host::Address(address) => vec![*address],
        Host::Name(_) => addresses_of(&HostPort { host: name.clone(), port: 443 }),
    };
    judged(&name, &leads_to, &own)
}

/// The addresses of each family, where both the name and this machine have some.
fn judged(name: &Host, leads_to: &[IpAddr], own: &[IpAddr]) -> Option<Finding> {
    let public: Vec<IpAddr> = own.iter().copied().filter(|address| !is_special(*address)).collect();
    let of = |addresses: &[IpAddr], ipv6: bool| -> Vec<IpAddr> {
        addresses.iter().copied().filter(|address| address.is_ipv6() == ipv6).collect()
    };
    let mut families = [false, true].into_iter().map(|ipv6| (of(leads_to, ipv6), of(&public, ipv6)));
    let is_here = leads_to.iter().any(|address| own.contains(address));
    let moved = families.find(|(leads_to, public)| {
        !leads_to.is_empty() && !public.is_empty() && !leads_to.iter().any(|address| own.contains(address))
    });
    let Some((leads_to, public)) = moved else {
        let what = || format!("{name} leads to this machine");
        return is_here.then(|| Finding::ok(HopName::PublicName, "edge", what()).of(&name.to_string()));
    };
    let what = format!("{name} leads to {}, and this machine has {}", shown(&leads_to), shown(&public));
    let failing = Finding::failing(HopName::PublicName, "edge", "elsewhere", what).of(&name.to_string());
    Some(failing.fix(fix(name, public.first()?)))
}

fn fix(name: &Host, own: &IpAddr) -> String {
    let kind = if own.is_ipv4() { "A" } else { "AAAA" };
    let here = match name {
        Host::Name(name) => format!("set the DNS record {name} {kind} {own}"),
        Host::Address(_) => format!("write name = \"{own}\" in [wan] of gateway.toml, then apply it"),
    };
    format!("{here}; where the endpoint in a forwarder.toml is the old address, write the new one there")
}

fn shown(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use daemon::health::State;

    use super::*;

    fn judged_at(name: &str, leads_to: &[&str], own: &[&str]) -> Option<Finding> {
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let name = policy::text::host(name).unwrap();
        judged(&name, &parsed(leads_to), &parsed(own))
    }

    #[test]
    fn a_name_that_leads_to_an_old_address_is_wrong_for_each_family() {
        let own = ["192.168.1.2", "192.0.2.3", "2001:db8::3"];
        let found = judged_at("kyiv.example.com", &["192.0.2.2", "2001:db8::3"], &own).unwrap();
        assert_eq!((found.hop, found.state), (HopName::PublicName, State::Failing));
        assert!(found.evidence.unwrap().ends_with("leads to 192.0.2.2, and this machine has 192.0.2.3"));
        assert!(found.fix.unwrap().starts_with("set the DNS record kyiv.example.com A 192.0.2.3; "));
        let found = judged_at("192.0.2.2", &["192.0.2.2"], &own).unwrap();
        assert!(found.fix.unwrap().starts_with("write name = \"192.0.2.3\" in [wan] of gateway.toml"));
    }

    #[test]
    fn one_address_of_a_name_that_several_edges_have_is_enough() {
        let found = judged_at("kyiv.example.com", &["198.51.100.9", "192.0.2.3"], &["192.0.2.3"]).unwrap();
        assert_eq!(found.state, State::Ok);
    }

    #[test]
    fn nothing_is_known_behind_a_router_and_of_a_name_that_was_not_resolved() {
        assert_eq!(judged_at("kyiv.example.com", &["192.0.2.2"], &["192.168.1.2", "100.64.0.2"]), None);
        assert_eq!(judged_at("kyiv.example.com", &[], &["192.0.2.3"]), None);
    }
}
