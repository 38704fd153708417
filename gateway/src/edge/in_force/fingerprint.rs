//! Whether our table is unchanged, from what `nft -j list table` prints.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// A number that depends on rules, chains, maps and static sets, and not on packets, bans or
/// meters; `None` when there is no table.
#[must_use]
pub(super) fn fingerprint(listing: &str) -> Option<u64> {
    let mut listing: Value = serde_json::from_str(listing).ok()?;
    let objects = listing.get_mut("nftables")?.as_array_mut()?;
    objects.retain(|object| object.get("metainfo").is_none());
    objects.iter_mut().for_each(strip);
    // The order of listed sets and maps may change; that of rules within a chain may not.
    let (rules, others): (Vec<_>, Vec<_>) = objects.iter().partition(|object| object.get("rule").is_some());
    let mut others: Vec<String> = others.into_iter().map(Value::to_string).collect();
    others.sort_unstable();
    let mut hasher = DefaultHasher::new();
    for object in others.into_iter().chain(rules.into_iter().map(Value::to_string)) {
        object.hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// Removes what packets and time change.
fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(fields) => {
            fields.remove("handle");
            for kind in ["counter", "quota"] {
                if let Some(Value::Object(counter)) = fields.get_mut(kind) {
                    for number in ["packets", "bytes", "used"] {
                        counter.remove(number);
                    }
                }
            }
            for kind in ["set", "map"] {
                if let Some(Value::Object(set)) = fields.get_mut(kind) {
                    strip_set(set);
                }
            }
            fields.values_mut().for_each(strip);
        }
        _ => {}
    }
}

fn strip_set(set: &mut serde_json::Map<String, Value>) {
    let flags = set.get("flags").and_then(Value::as_array).into_iter().flatten();
    let is_filled = flags.into_iter().any(|flag| matches!(flag.as_str(), Some("timeout" | "dynamic")));
    // nft 1.0.6 does not print `dynamic`; sets of the policy have no size.
    if is_filled || set.contains_key("size") {
        set.remove("elem");
    }
    if let Some(Value::Array(elements)) = set.get_mut("elem") {
        elements.sort_by_cached_key(ToString::to_string);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.6"}},
        {"chain":{"family":"inet","table":"causeway","name":"input","handle":1}},
        {"counter":{"family":"inet","name":"drop_input_wan","table":"causeway","handle":2,"packets":3,"bytes":4}},
        {"set":{"family":"inet","name":"bans4","table":"causeway","flags":["timeout"],"elem":["198.51.100.1"]}},
        {"set":{"family":"inet","name":"peer_flows_w","table":"causeway","size":65535,"elem":["gw0"]}},
        {"set":{"family":"inet","name":"lan4","table":"causeway","elem":["192.168.1.0","192.168.2.0"]}},
        {"rule":{"chain":"input","handle":5,"expr":[{"counter":{"packets":1,"bytes":2}},{"drop":null}]}}]}"#;

    #[test]
    fn packets_bans_and_handles_do_not_change_it() {
        let later = LISTING
            .replace("\"packets\":3", "\"packets\":30")
            .replace("\"packets\":1", "\"packets\":10")
            .replace("[\"198.51.100.1\"]", "[\"198.51.100.1\",\"198.51.100.2\"]")
            .replace("[\"gw0\"]", "[]")
            .replace("\"handle\":5", "\"handle\":50")
            .replace("[\"192.168.1.0\",\"192.168.2.0\"]", "[\"192.168.2.0\",\"192.168.1.0\"]");
        assert_ne!(later, LISTING);
        assert_eq!(fingerprint(&later), fingerprint(LISTING));
    }

    #[test]
    fn a_changed_rule_or_static_set_changes_it() {
        for (old, new) in [
            ("\"drop\"", "\"accept\""),
            ("192.168.2.0", "192.168.3.0"),
            ("\"name\":\"input\"", "\"name\":\"output\""),
        ] {
            assert_ne!(fingerprint(&LISTING.replace(old, new)), fingerprint(LISTING), "{new}");
        }
    }

    #[test]
    fn no_table_has_none() {
        assert_eq!(fingerprint(""), None);
    }
}
