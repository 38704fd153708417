//! Which DNS records are made for an edge, once, at the holder of the zone: pure.

use policy::Host;

use super::machine::{Machine, Reach};
use super::proposal::Settings;

/// The three kinds of records; none where the internet cannot reach this machine.
pub(super) fn records(machine: &Machine, settings: &Settings) -> Vec<String> {
    let kinds = [false, true].map(|ipv6| (if ipv6 { "AAAA" } else { "A" }, machine.reach(ipv6)));
    let record = |(kind, reach): (&str, Reach)| match reach {
        Reach::Own(address) => Some(format!("{kind} {address}")),
        Reach::Router { .. } => Some(format!("{kind} with the router's internet address")),
        Reach::No | Reach::Shared(_) => None,
    };
    let addresses: Vec<String> = kinds.into_iter().filter_map(record).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let (edge, zone) = match &settings.name {
        Some(Host::Name(name)) => {
            (name.as_ref(), name.split_once('.').map_or("example.com", |(_, zone)| zone))
        }
        Some(Host::Address(_)) | None => ("edge.example.com", "example.com"),
    };
    vec![
        "DNS records, once, where your zone is (docs/NAMES.md):".to_owned(),
        format!(
            "  this edge: {edge} {}, without a proxy; [dns] and causeway-agent keep the A record where the address changes",
            addresses.join(", ")
        ),
        format!("  the home: home.{zone} {}; with more edges the addresses of all", addresses.join(", ")),
        format!("  each service, or *.{zone}: CNAME home.{zone}"),
    ]
}
