//! What a packet is compared with, and what is looked up or written.

use std::net::IpAddr;

use serde_json::Value;

use super::{Judged, Refused, array, field, fields, is, number, one_of, reference, single, string, within};

/// Keys of `meta`.
const META: [&str; 7] = ["iif", "iifname", "l4proto", "mark", "nfproto", "oif", "oifname"];
/// Keys of `ct`.
pub(super) const CT: [&str; 4] = ["direction", "mark", "state", "status"];
/// Headers and their fields.
const PAYLOAD: [(&str, &str); 13] = [
    ("ether", "saddr"),
    ("icmp", "type"),
    ("icmpv6", "type"),
    ("ip", "daddr"),
    ("ip", "saddr"),
    ("ip", "ttl"),
    ("ip6", "daddr"),
    ("ip6", "hoplimit"),
    ("ip6", "saddr"),
    ("tcp", "flags"),
    ("th", "dport"),
    ("udp", "dport"),
    ("udp", "sport"),
];
/// Queries of the routing table: the kind of the result, and its inputs.
const FIB: [(&str, &[&str]); 2] = [("type", &["daddr"]), ("oif", &["saddr", "iif"])];

/// Kinds of expressions.
#[cfg(test)]
pub(super) const KINDS: [&str; 12] =
    ["&", "concat", "ct", "fib", "map", "meta", "payload", "prefix", "range", "rt", "set", "tcp option"];

pub(super) fn judge(expression: &Value) -> Judged {
    if !expression.is_object() {
        return immediate(expression);
    }
    let (kind, body) = single(expression)?;
    match kind {
        "meta" => one_of(key(body)?, &META, "meta"),
        "ct" if body.get("dir").is_some() => original(body),
        "ct" => one_of(key(body)?, &CT, "ct"),
        "rt" => one_of(key(body)?, &["mtu"], "rt"),
        "payload" => payload(body),
        "fib" => fib(body),
        "tcp option" => {
            let body = fields(body, &["name", "field"])?;
            is(body, "name", "maxseg").and_then(|()| is(body, "field", "size"))
        }
        "&" | "concat" | "set" => array(body)?.iter().try_for_each(judge),
        "range" => array(body)?.iter().try_for_each(end),
        "prefix" => prefix(body),
        "map" => map(body),
        _ => Err(Refused(format!("no expression of the gateway: {kind}"))),
    }
}

/// A number, a word, a yes or no, or several words.
pub(super) fn immediate(value: &Value) -> Judged {
    match value {
        Value::Number(_) | Value::Bool(_) => Ok(()),
        Value::String(word) if word.starts_with('@') => reference(value),
        Value::String(_) => Ok(()),
        Value::Array(words) => words.iter().try_for_each(|word| string(word).map(drop)),
        Value::Null | Value::Object(_) => Err(Refused::because("not a value")),
    }
}

/// A lookup in a named map.
pub(super) fn map(body: &Value) -> Judged {
    let body = fields(body, &["key", "data"])?;
    judge(field(body, "key")?)?;
    reference(field(body, "data")?)
}

/// What a flow was sent to at first.
fn original(body: &Value) -> Judged {
    let body = fields(body, &["key", "dir"])?;
    is(body, "dir", "original").and_then(|()| one_of(field(body, "key")?, &["ip daddr", "ip6 daddr"], "ct"))
}

/// An end of a range: a port or an address.
fn end(value: &Value) -> Judged {
    match value.as_str() {
        None => number(value).map(drop),
        Some(text) => text.parse::<IpAddr>().map(drop).map_err(|_| Refused(format!("{text} is no address"))),
    }
}

fn key(body: &Value) -> Result<&Value, Refused> {
    field(fields(body, &["key"])?, "key")
}

fn payload(body: &Value) -> Judged {
    let body = fields(body, &["protocol", "field"])?;
    let (protocol, field) = (string(field(body, "protocol")?)?, string(field(body, "field")?)?);
    if PAYLOAD.contains(&(protocol, field)) {
        return Ok(());
    }
    Err(Refused(format!("the field {protocol} {field}")))
}

fn fib(body: &Value) -> Judged {
    let body = fields(body, &["result", "flags"])?;
    let result = string(field(body, "result")?)?;
    let flags = array(field(body, "flags")?)?.iter().map(string).collect::<Result<Vec<_>, _>>()?;
    if FIB.contains(&(result, flags.as_slice())) {
        return Ok(());
    }
    Err(Refused(format!("the question fib {} {result}", flags.join(" . "))))
}

fn prefix(body: &Value) -> Judged {
    let body = fields(body, &["addr", "len"])?;
    within(field(body, "len")?, 0, 128)?;
    let address = string(field(body, "addr")?)?;
    address.parse::<IpAddr>().map(drop).map_err(|_| Refused(format!("{address} is no address")))
}
