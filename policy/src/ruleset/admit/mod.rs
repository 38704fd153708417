//! What the kernel helper passes on to `nft`: the transactions that this crate makes, and nothing
//! else.
//!
//! The text is read strictly, checked against lists of what the compiler emits, and written again,
//! so that `nft` never sees the caller's own bytes. The lists say what is allowed; whatever they do
//! not name is refused.

mod expression;
mod statement;
mod strict;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use super::json::{Family, to_own_address};
use super::{OWN_DSTNAT, TABLE};
use crate::prefix::lies_within;

/// Type, hook and priority of the base chains that may be added.
const BASES: [(&str, &str, i64); 10] = [
    ("filter", "prerouting", -150),
    ("nat", "prerouting", -101),
    ("filter", "forward", -150),
    ("route", "output", -150),
    // Only under the name OWN_DSTNAT, whose rules are held to own addresses.
    ("nat", "output", -101),
    ("filter", "input", 0),
    ("filter", "forward", 0),
    ("filter", "output", 0),
    ("nat", "postrouting", 100),
    ("filter", "postrouting", 300),
];
/// Types of the keys of sets and maps.
const KEY_TYPES: [&str; 6] = ["ether_addr", "iface_index", "inet_service", "ipv4_addr", "ipv6_addr", "mark"];
/// Types of what maps lead to; addresses only in the maps of [`TARGETS`].
const DATA_TYPES: [&str; 4] = ["counter", "inet_service", "mark", "verdict"];
/// The maps from a service to its target, and the type of their data.
const TARGETS: [(&str, &str); 2] = [("target4", "ipv4_addr"), ("target6", "ipv6_addr")];
/// The maps from an address of an uplink to the mark of its packets.
const UPLINKS: [&str; 2] = ["uplinks4", "uplinks6"];
/// Flags of sets.
const SET_FLAGS: [&str; 2] = ["interval", "timeout"];
/// Most elements that a set may be declared to hold.
const MAX_SET_SIZE: i64 = 1 << 20;
/// The longest timeout of an element, in seconds: ten years.
const MAX_TIMEOUT: i64 = 315_360_000;
/// Most characters of a name of a chain, set or counter.
const MAX_NAME: usize = 128;

/// Why a transaction is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Refused {
    fn because(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

type Judged = Result<(), Refused>;

/// The transaction `text` written again, when it is one that this crate could have made.
///
/// Only the table `inet causeway` may be named, services may lead only to addresses inside
/// `targets`, and packets get no other marks than `marks`.
///
/// # Errors
/// [`Refused`] with the first thing that is not allowed.
pub fn admit(text: &str, targets: &BTreeSet<IpNetwork>, marks: &BTreeSet<u32>) -> Result<String, Refused> {
    let bounds = Bounds { targets, marks };
    let transaction = strict::parse(text)?;
    for command in array(field(fields(&transaction, &["nftables"])?, "nftables")?)? {
        let (verb, object) = single(command)?;
        let (kind, body) = single(object)?;
        judge(verb, kind, body, &bounds).map_err(|why| Refused(format!("{verb} {kind}: {why}")))?;
    }
    Ok(transaction.to_string())
}

/// Where elements of maps may lead.
struct Bounds<'a> {
    targets: &'a BTreeSet<IpNetwork>,
    marks: &'a BTreeSet<u32>,
}

fn judge(verb: &str, kind: &str, body: &Value, bounds: &Bounds<'_>) -> Judged {
    match (verb, kind) {
        ("add" | "delete" | "flush", "table") => {
            let body = fields(body, &["family", "name"])?;
            is(body, "family", "inet")?;
            is(body, "name", TABLE)
        }
        ("add", "chain") => chain(body),
        ("add", "rule") => {
            let body = within_table(body, &["chain", "expr"])?;
            name(field(body, "chain")?)?;
            let statements = array(field(body, "expr")?)?;
            if is(body, "chain", OWN_DSTNAT).is_ok() {
                only_to_own_addresses(statements)?;
            }
            statements.iter().try_for_each(statement::judge)
        }
        ("add", "set" | "map") => declaration(kind, body),
        ("add" | "delete", "element") => elements(body, bounds),
        ("add" | "delete", "counter") | ("delete", "chain" | "set" | "map") | ("flush", "set" | "map") => {
            let body = within_table(body, &["name"])?;
            name(field(body, "name")?)
        }
        _ => Err(Refused::because("is no command of the gateway")),
    }
}

fn chain(body: &Value) -> Judged {
    let body = within_table(body, &["name", "type", "hook", "prio", "policy"])?;
    name(field(body, "name")?)?;
    if ["type", "hook", "prio", "policy"].iter().all(|key| !body.contains_key(*key)) {
        return Ok(());
    }
    is(body, "policy", "accept")?;
    let (kind, hook) = (string(field(body, "type")?)?, string(field(body, "hook")?)?);
    let priority = number(field(body, "prio")?)?;
    if (kind, hook) == ("nat", "output") {
        is(body, "name", OWN_DSTNAT)?;
    }
    if BASES.contains(&(kind, hook, priority)) {
        return Ok(());
    }
    Err(Refused(format!("no base chain of type {kind} at {hook} {priority}")))
}

/// A rule for the edge's own packets: it leads to no other chain, and holds for none that leave
/// this machine.
fn only_to_own_addresses(statements: &[Value]) -> Judged {
    let begins = Family::BOTH.into_iter().any(|family| statements.starts_with(&to_own_address(family)));
    let kinds = statements.iter().map(|statement| single(statement).map(|(kind, _)| kind));
    let is_plain = kinds.into_iter().all(|kind| kind.is_ok_and(|kind| ["match", "dnat"].contains(&kind)));
    if begins && is_plain {
        return Ok(());
    }
    Err(Refused::because("what the edge itself sends is led elsewhere only when it goes to an own address"))
}

fn declaration(kind: &str, body: &Value) -> Judged {
    let body = within_table(body, &["name", "type", "map", "flags", "size", "timeout"])?;
    let own = name(field(body, "name")?).and(string(field(body, "name")?))?;
    one_or_more(field(body, "type")?).iter().try_for_each(|key| one_of(key, &KEY_TYPES, "type of key"))?;
    if let Some(flags) = body.get("flags") {
        array(flags)?.iter().try_for_each(|flag| one_of(flag, &SET_FLAGS, "flag"))?;
    }
    for (key, most) in [("size", MAX_SET_SIZE), ("timeout", MAX_TIMEOUT)] {
        if let Some(value) = body.get(key) {
            within(value, 1, most)?;
        }
    }
    match (kind, body.get("map"), TARGETS.iter().find(|(target, _)| *target == own)) {
        ("set", None, None) => Ok(()),
        ("map", Some(data), Some((_, kind))) => one_of(data, &[kind], "type of data"),
        ("map", Some(data), None) => one_of(data, &DATA_TYPES, "type of data"),
        _ => Err(Refused(format!("{own} is not declared as the gateway does"))),
    }
}

fn elements(body: &Value, bounds: &Bounds<'_>) -> Judged {
    let body = within_table(body, &["name", "elem"])?;
    let own = name(field(body, "name")?).and(string(field(body, "name")?))?;
    let leads_to_target = TARGETS.iter().any(|(target, _)| *target == own);
    for element in array(field(body, "elem")?)? {
        match element.as_array().map(Vec::as_slice) {
            Some([key, target]) if leads_to_target => {
                expression::judge(key)?;
                within_targets(target, bounds.targets)?;
            }
            Some([key, mark]) if UPLINKS.contains(&own) => {
                expression::judge(key)?;
                one_of_marks(mark, bounds.marks)?;
            }
            Some([key, data]) if !leads_to_target => {
                expression::judge(key)?;
                data_of_map(data)?;
            }
            None if !leads_to_target => member(element)?,
            _ => return Err(Refused(format!("{own} has no such element"))),
        }
    }
    Ok(())
}

/// The target of a service: one address inside the prefixes.
fn within_targets(target: &Value, targets: &BTreeSet<IpNetwork>) -> Judged {
    let address = string(target)?;
    let parsed: IpAddr = address.parse().map_err(|_| Refused(format!("{address} is no address")))?;
    if lies_within(targets, IpNetwork::from(parsed)) {
        return Ok(());
    }
    Err(Refused(format!("{address} lies in no prefix of a peer")))
}

fn one_of_marks(mark: &Value, marks: &BTreeSet<u32>) -> Judged {
    let known = mark.as_u64().and_then(|mark| u32::try_from(mark).ok());
    if known.is_some_and(|mark| marks.contains(&mark)) {
        return Ok(());
    }
    Err(Refused(format!("{mark} is the mark of no uplink")))
}

/// A value, a name, or a jump.
fn data_of_map(data: &Value) -> Judged {
    if data.is_object() {
        let (verdict, target) = single(data)?;
        if verdict != "jump" {
            return Err(Refused(format!("a map to the verdict {verdict}")));
        }
        return name(field(fields(target, &["target"])?, "target")?);
    }
    expression::immediate(data)
}

/// A member of a set, with or without a timeout.
fn member(element: &Value) -> Judged {
    match element.as_object().and_then(|object| object.get("elem")) {
        None => expression::judge(element),
        Some(timed) => {
            fields(element, &["elem"])?;
            let timed = fields(timed, &["val", "timeout"])?;
            within(field(timed, "timeout")?, 1, MAX_TIMEOUT)?;
            expression::judge(field(timed, "val")?)
        }
    }
}

/// The fields of an object of our table that has no others than `own` besides.
fn within_table<'v>(body: &'v Value, own: &[&str]) -> Result<&'v Map<String, Value>, Refused> {
    let body = fields(body, &[own, &["family", "table"]].concat())?;
    is(body, "family", "inet")?;
    is(body, "table", TABLE)?;
    Ok(body)
}

/// The fields of an object that has no others than `allowed`.
fn fields<'v>(value: &'v Value, allowed: &[&str]) -> Result<&'v Map<String, Value>, Refused> {
    let object = value.as_object().ok_or_else(|| Refused::because("not an object"))?;
    match object.keys().find(|key| !allowed.contains(&key.as_str())) {
        None => Ok(object),
        Some(key) => Err(Refused(format!("no field {key} is allowed"))),
    }
}

/// The one field of an object.
fn single(value: &Value) -> Result<(&str, &Value), Refused> {
    let mut fields = value.as_object().into_iter().flatten();
    match (fields.next(), fields.next()) {
        (Some((key, value)), None) => Ok((key, value)),
        _ => Err(Refused::because("not an object of one field")),
    }
}

fn field<'v>(object: &'v Map<String, Value>, key: &str) -> Result<&'v Value, Refused> {
    object.get(key).ok_or_else(|| Refused(format!("the field {key} is missing")))
}

fn is(object: &Map<String, Value>, key: &str, wanted: &str) -> Judged {
    match field(object, key)?.as_str() {
        Some(found) if found == wanted => Ok(()),
        _ => Err(Refused(format!("{key} is not {wanted}"))),
    }
}

fn array(value: &Value) -> Result<&[Value], Refused> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| Refused::because("not an array"))
}

fn one_or_more(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

fn string(value: &Value) -> Result<&str, Refused> {
    value.as_str().ok_or_else(|| Refused::because("not a string"))
}

fn number(value: &Value) -> Result<i64, Refused> {
    value.as_i64().ok_or_else(|| Refused::because("not a number"))
}

fn within(value: &Value, least: i64, most: i64) -> Judged {
    match number(value)? {
        number if (least..=most).contains(&number) => Ok(()),
        number => Err(Refused(format!("{number} is not from {least} to {most}"))),
    }
}

fn one_of(value: &Value, allowed: &[&str], what: &str) -> Judged {
    match string(value)? {
        found if allowed.contains(&found) => Ok(()),
        found => Err(Refused(format!("{what} {found}"))),
    }
}

/// A name of a chain, set or counter.
fn name(value: &Value) -> Judged {
    let name = string(value)?;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    if plain && !name.is_empty() && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(Refused::because("a name that the gateway does not give"))
}

/// A name behind an `@`.
fn reference(value: &Value) -> Judged {
    match string(value)?.strip_prefix('@') {
        Some(named) => name(&Value::from(named)),
        None => Err(Refused::because("not a named set")),
    }
}

#[cfg(test)]
mod tests;
