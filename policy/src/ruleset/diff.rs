//! A ruleset as lines for people, close to how nft(8) writes rules.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Content, Ruleset};
use crate::Name;

impl Ruleset {
    /// One line per rule and per element that the policy puts there.
    ///
    /// Elements and rules of services carry their conntrack mark, as `nft list ruleset` shows it;
    /// elements of sets the name as well.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let names: BTreeMap<u64, &Name> =
            self.services.iter().map(|service| (u64::from(service.mark), &service.name)).collect();
        let mut lines = Vec::new();
        for chain in &self.chains {
            lines.extend(chain.rules.iter().map(|rule| format!("{}: {}", chain.name, text(rule))));
        }
        for set in &self.sets {
            if let Content::Static(elements) = &set.content {
                lines.extend(
                    elements
                        .iter()
                        .map(|element| format!("@{}: {}", set.name, element_text(element, &names))),
                );
            }
        }
        lines
    }
}

/// One command of a transaction on the table, in the words of [`Ruleset::lines`]; elements are not
/// listed.
#[must_use]
pub fn describe(command: &Value) -> String {
    let Some((verb, (kind, body))) = entry(command).and_then(|(verb, object)| Some((verb, entry(object)?)))
    else {
        return text(command);
    };
    let field = |name: &str| body.get(name).map(text).unwrap_or_default();
    match kind {
        "rule" => format!("{verb} rule in chain {}: {}", field("chain"), field("expr")),
        "element" => format!("{verb} elements of {}", field("name")),
        "chain" if body.get("hook").is_some() => {
            let (name, hook) = (field("name"), field("hook"));
            format!("{verb} chain {name}: type {} hook {hook} priority {}", field("type"), field("prio"))
        }
        "set" | "map" if body.get("type").is_some() => {
            let data = body.get("map").map(|data| format!(" : {}", text(data))).unwrap_or_default();
            format!("{verb} {kind} {}: type {}{data} flags {}", field("name"), field("type"), field("flags"))
        }
        _ => format!("{verb} {kind} {}", field("name")),
    }
}

fn entry(value: &Value) -> Option<(&str, &Value)> {
    value.as_object()?.iter().next().map(|(key, body)| (key.as_str(), body))
}

fn element_text(element: &Value, names: &BTreeMap<u64, &Name>) -> String {
    if let Some([key, value]) = element.as_array().map(Vec::as_slice) {
        return format!("{} → {}", text(key), text(value));
    }
    let mark = element.pointer("/concat/0").unwrap_or(element).as_u64();
    match mark.and_then(|mark| names.get(&mark)) {
        Some(name) => format!("{} ({name})", text(element)),
        None => text(element),
    }
}

/// One expression or statement; what has no special form is written as its words in a row.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "exists".to_owned(),
        Value::Bool(false) => "missing".to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(large) if large > 0xffff => format!("{large:#x}"),
            _ => number.to_string(),
        },
        Value::String(word) => word.clone(),
        Value::Array(items) => joined(items, " "),
        Value::Object(object) => object_text(object),
    }
}

fn joined(items: &[Value], separator: &str) -> String {
    items.iter().map(text).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(separator)
}

fn object_text(object: &Map<String, Value>) -> String {
    let Some((kind, body)) = object.iter().next() else { return String::new() };
    let field = |name: &str| body.get(name).map(text).unwrap_or_default();
    let items = |separator| joined(body.as_array().map(Vec::as_slice).unwrap_or_default(), separator);
    match kind.as_str() {
        "match" => match body.get("op").and_then(Value::as_str) {
            Some("!=") => format!("{} != {}", field("left"), field("right")),
            _ => format!("{} {}", field("left"), field("right")),
        },
        "meta" => field("key"),
        "payload" => format!("{} {}", field("protocol"), field("field")),
        "ct" => format!("ct {}", field("key")),
        "rt" => format!("rt {}", field("key")),
        "fib" => format!("fib {} {}", field("flags"), field("result")),
        "tcp option" => format!("tcp option {} {}", field("name"), field("field")),
        "prefix" => format!("{}/{}", field("addr"), field("len")),
        "range" => items("-"),
        "concat" => items(" . "),
        "&" => items(" & "),
        "set" if body.is_array() => format!("{{ {} }}", items(", ")),
        "set" => format!("{} {} {{ {} {} }}", field("op"), field("set"), field("elem"), field("stmt")),
        "map" => format!("{} map {}", field("key"), field("data")),
        "vmap" => format!("{} vmap {}", field("key"), field("data")),
        "mangle" => format!("{} set {}", field("key"), field("value")),
        "dnat" => format!("dnat {} to {} : {}", field("family"), field("addr"), field("port")),
        "jump" | "goto" => format!("{kind} {}", field("target")),
        "limit" => format!("limit over {} {}/{}", field("rate"), field("rate_unit"), field("per")),
        "ct count" => format!("ct count over {}", field("val")),
        _ => format!("{kind} {}", text(body)).trim_end().to_owned(),
    }
}
