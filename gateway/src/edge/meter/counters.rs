//! What nftables has counted and whom it has banned, out of `nft -j list`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::control::report::Ban;

/// Bytes and packets of every named counter.
pub(in crate::edge) type Counters = BTreeMap<String, (u64, u64)>;

/// Reads a listing of counters; what is not understood is left out.
#[must_use]
pub(super) fn parse_counters(listing: &str) -> Counters {
    let counter = |object: &Value| {
        let counter = object.get("counter")?;
        let number = |field| counter.get(field).and_then(Value::as_u64).unwrap_or(0);
        Some((counter.get("name")?.as_str()?.to_owned(), (number("bytes"), number("packets"))))
    };
    objects(listing).iter().filter_map(counter).collect()
}

/// Reads a listing of a set of bans.
#[must_use]
pub(in crate::edge) fn parse_bans(listing: &str) -> Vec<Ban> {
    let elements = |object: &Value| object.get("set")?.get("elem")?.as_array().cloned();
    let elements = objects(listing).iter().filter_map(elements).flatten().collect::<Vec<_>>();
    elements.iter().filter_map(parse_ban).collect()
}

fn parse_ban(element: &Value) -> Option<Ban> {
    // An address alone, or an object with its expiry.
    let Some(inside) = element.get("elem") else {
        return Some(Ban { address: element.as_str()?.parse().ok()?, expires_in_seconds: None });
    };
    let expires_in_seconds = inside.get("expires").and_then(Value::as_u64);
    Some(Ban { address: inside.get("val")?.as_str()?.parse().ok()?, expires_in_seconds })
}

fn objects(listing: &str) -> Vec<Value> {
    let listing: Value = serde_json::from_str(listing).unwrap_or_default();
    listing.get("nftables").and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let listing = r#"{"nftables":[{"metainfo":{}},{"counter":{"family":"inet","name":"drop_forward_leak",
            "table":"causeway","handle":1,"packets":3,"bytes":180}}]}"#;
        assert_eq!(parse_counters(listing)["drop_forward_leak"], (180, 3));
        assert!(parse_counters("").is_empty());
    }

    #[test]
    fn bans_with_and_without_an_end_are_listed() {
        let listing = r#"{"nftables":[{"set":{"name":"bans4","elem":["198.51.100.1",
            {"elem":{"val":"198.51.100.2","timeout":600,"expires":599}}]}}]}"#;
        let bans = parse_bans(listing);
        assert_eq!(bans.len(), 2);
        assert_eq!(bans[0].expires_in_seconds, None);
        assert_eq!(bans[1].expires_in_seconds, Some(599));
    }
}
