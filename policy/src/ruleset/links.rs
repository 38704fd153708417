//! Sets of what is trusted, by interface index: an index is given to no other interface, as a name
//! can be.

use serde_json::{Value, json};

use super::Set;
use super::json::{Family, concat, prefix};
use super::sets::fixed;
use crate::trust::Trust;

/// The interfaces of the LAN, their own sources, container networks, and next hops.
pub(super) fn sets(trust: &Trust) -> Vec<Set> {
    let index = json!("iface_index");
    let links = |links: &mut dyn Iterator<Item = u32>| links.map(Value::from).collect::<Vec<_>>();
    let mut of_lan: Vec<u32> = trust.lan.iter().map(|(link, _)| *link).collect();
    of_lan.dedup();
    let set = |name: &str, elements| fixed(name, json!({"type": index}), elements);
    let mut sets = vec![
        set("lan_links", links(&mut of_lan.into_iter())),
        set("containers", links(&mut trust.containers.iter().copied())),
        set("own_containers", links(&mut trust.own_containers.iter().copied())),
    ];
    for family in Family::BOTH {
        let here = trust.lan.iter().filter(|(_, source)| family.holds(*source));
        let elements = here.map(|&(link, source)| concat([json!(link), prefix(source)])).collect();
        let kind = json!({"type": [index, family.address_type()], "flags": ["interval"]});
        sets.push(fixed(format!("lan_at{}", family.digit()), kind, elements));
    }
    let next_hops = trust.next_hops.iter().map(|(link, mac)| concat([json!(link), json!(written(*mac))]));
    sets.push(fixed("next_hops", json!({"type": [index, "ether_addr"]}), next_hops.collect()));
    sets
}

fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
