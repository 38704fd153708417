//! What a rule does.

use serde_json::Value;

use super::expression::{self, map};
use super::{
    Judged, Refused, TARGETS, array, field, fields, name, number, one_of, reference, single, string, within,
};

/// Kinds of statements.
#[cfg(test)]
pub(super) const KINDS: [&str; 14] = [
    "accept",
    "counter",
    "ct count",
    "dnat",
    "drop",
    "goto",
    "jump",
    "limit",
    "mangle",
    "masquerade",
    "match",
    "return",
    "set",
    "vmap",
];

pub(super) fn judge(statement: &Value) -> Judged {
    let (kind, body) = single(statement)?;
    match kind {
        "accept" | "drop" | "return" | "masquerade" if body.is_null() => Ok(()),
        "jump" | "goto" => name(field(fields(body, &["target"])?, "target")?),
        "match" => matches(body),
        "counter" => counter(body),
        "vmap" => map(body),
        "mangle" => mangle(body),
        "dnat" => dnat(body),
        "limit" => limit(body),
        "ct count" => {
            let body = fields(body, &["val", "inv"])?;
            within(field(body, "val")?, 0, u32::MAX.into())
        }
        "set" => meter(body),
        _ => Err(Refused(format!("no statement of the gateway: {kind}"))),
    }
}

fn matches(body: &Value) -> Judged {
    let body = fields(body, &["op", "left", "right"])?;
    one_of(field(body, "op")?, &["==", "!=", "in"], "op")?;
    expression::judge(field(body, "left")?)?;
    expression::judge(field(body, "right")?)
}

/// A named counter, or the one that a map names.
fn counter(body: &Value) -> Judged {
    if body.is_string() {
        return name(body);
    }
    let (kind, body) = single(body)?;
    if kind == "map" { map(body) } else { Err(Refused(format!("a counter by {kind}"))) }
}

/// Changes the conntrack mark, a connection's MSS, or a packet's mark to that of an uplink.
fn mangle(body: &Value) -> Judged {
    let body = fields(body, &["key", "value"])?;
    let (kind, _) = single(field(body, "key")?)?;
    let key = field(body, "key")?;
    if kind == "meta" {
        return mark_of_uplink(key, field(body, "value")?);
    }
    let is_mark = kind == "ct" && key.pointer("/ct/key").and_then(Value::as_str) == Some("mark");
    if !is_mark && kind != "tcp option" {
        return Err(Refused::because("only the conntrack mark and the MSS are changed"));
    }
    expression::judge(key)?;
    expression::judge(field(body, "value")?)
}

/// A packet's mark, from the map of uplinks alone, by what its flow was sent to at first.
fn mark_of_uplink(key: &Value, value: &Value) -> Judged {
    let is_mark = key.pointer("/meta/key").and_then(Value::as_str) == Some("mark");
    let is_original = value.pointer("/map/key/ct/dir").is_some();
    let data = value.pointer("/map/data").and_then(Value::as_str).and_then(|data| data.strip_prefix('@'));
    if !is_mark || !is_original || !data.is_some_and(|map| super::UPLINKS.contains(&map)) {
        return Err(Refused::because("a packet's mark comes from the map of uplinks alone"));
    }
    expression::judge(key)?;
    expression::judge(value)
}

/// To the address that the map of targets has for a service, never to one in the rule.
fn dnat(body: &Value) -> Judged {
    let body = fields(body, &["family", "addr", "port"])?;
    let (kind, lookup) = single(field(body, "addr")?)?;
    let data = lookup.get("data").and_then(Value::as_str).and_then(|data| data.strip_prefix('@'));
    let family = string(field(body, "family")?)?;
    let wanted = match family {
        "ip" => Some(TARGETS[0].0),
        "ip6" => Some(TARGETS[1].0),
        _ => None,
    };
    if kind != "map" || data.is_none() || data != wanted {
        return Err(Refused::because("dnat goes only where the map of targets says"));
    }
    map(lookup)?;
    body.get("port").map_or(Ok(()), expression::judge)
}

fn limit(body: &Value) -> Judged {
    let body = fields(body, &["rate", "rate_unit", "per", "burst", "burst_unit", "inv"])?;
    number(field(body, "rate")?)?;
    one_of(field(body, "per")?, &["second", "minute", "hour", "day"], "per")?;
    body.get("burst").map_or(Ok(0), number)?;
    for key in ["rate_unit", "burst_unit"] {
        body.get(key).map_or(Ok(()), |unit| one_of(unit, &["bytes"], key))?;
    }
    Ok(())
}

/// Remembers a source in a set that packets fill.
fn meter(body: &Value) -> Judged {
    let body = fields(body, &["op", "elem", "set", "stmt"])?;
    one_of(field(body, "op")?, &["add", "update"], "op")?;
    expression::judge(field(body, "elem")?)?;
    reference(field(body, "set")?)?;
    for statement in array(field(body, "stmt")?)? {
        match single(statement)?.0 {
            "limit" | "ct count" => judge(statement)?,
            kind => return Err(Refused(format!("{kind} within a set"))),
        }
    }
    Ok(())
}
