//! What a listing of the kernel's table lacks of a ruleset.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Present, Ruleset, TABLE};

impl Ruleset {
    /// What `nft -j list table inet causeway` does not show of this: chains, sets, maps and
    /// counters by name, and chains with another number of rules. Empty when everything is there.
    #[must_use]
    pub fn absent_from(&self, listing: &str) -> Vec<String> {
        let Ok(listing) = serde_json::from_str(listing) else {
            return vec!["a listing that can be read".to_owned()];
        };
        let present = Present::of(&listing);
        let mut absent = Vec::new();
        let mut need = |there: bool, what: String| {
            if !there {
                absent.push(what);
            }
        };
        let rules = rules_by_chain(&listing);
        for chain in &self.chains {
            let name = &chain.name;
            need(present.chains.contains(name), format!("chain {name}"));
            let (wanted, found) = (chain.rules.len(), rules.get(name).copied().unwrap_or(0));
            need(wanted == found, format!("{wanted} rules in chain {name}, where {found} are"));
        }
        for set in &self.sets {
            let there = present.sets.contains(&set.name) || present.maps.contains(&set.name);
            need(there, format!("{} {}", set.kind(), set.name));
        }
        for counter in self.counters() {
            need(present.counters.contains(&counter), format!("counter {counter}"));
        }
        absent
    }
}

fn rules_by_chain(listing: &Value) -> BTreeMap<String, usize> {
    let mut rules = BTreeMap::new();
    for rule in listing.get("nftables").and_then(Value::as_array).into_iter().flatten() {
        let Some(rule) = rule.get("rule") else { continue };
        let field = |key| rule.get(key).and_then(Value::as_str);
        if let (Some("inet"), Some(TABLE), Some(chain)) = (field("family"), field("table"), field("chain")) {
            *rules.entry(chain.to_owned()).or_insert(0) += 1;
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::Source;
    use crate::gateway::parse;

    const EXAMPLE: &str = include_str!("../../../configs/gateway.toml");

    #[test]
    fn what_was_installed_is_not_absent_and_every_lost_object_is() {
        let policy = parse(&Source { name: Path::new("gateway.toml"), text: EXAMPLE }).unwrap();
        let ruleset = policy.plan().ruleset;
        let objects: Vec<Value> = ruleset.install(&Present::nothing())["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|command| command.get("add").cloned())
            .collect();
        let listing = |objects: &[Value]| json!({"nftables": objects}).to_string();
        assert_eq!(ruleset.absent_from(&listing(&objects)), Vec::<String>::new());
        for (index, object) in objects.iter().enumerate() {
            if object.get("table").is_some() || object.get("element").is_some() {
                continue;
            }
            let mut fewer = objects.clone();
            fewer.remove(index);
            assert!(!ruleset.absent_from(&listing(&fewer)).is_empty(), "{object}");
        }
        assert!(!ruleset.absent_from("").is_empty());
    }
}
