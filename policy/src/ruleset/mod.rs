//! The edge's nftables rules, as data: one table `inet causeway`, one transaction per change.
//!
//! The service of a new flow is decided once, in `prerouting` (for the edge's own packets in
//! `output`), on the addresses that the packet came with: the conntrack mark then names the
//! service, and every later chain only checks the mark. A packet without a mark may not enter the
//! tunnel.

mod absent;
mod admit;
mod chains;
mod compile;
mod diff;
mod json;
mod links;
mod owned;
mod reply_path;
mod services;
mod sets;

use std::collections::BTreeSet;

use serde_json::{Value, json};

pub use admit::{Refused, admit};
pub use diff::describe;
pub use services::{DropCounter, ServiceKind, ServiceMark, marks_in_force};

use crate::conditions::Conditions;
use crate::gateway::Policy;

/// The name of the table; its family is `inet`.
pub const TABLE: &str = "causeway";
/// The chain that leads what the edge itself sends to its own addresses to services.
const OWN_DSTNAT: &str = "dstnat_own";

/// Everything that must be in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    chains: Vec<Chain>,
    sets: Vec<Set>,
    /// Publishes and allows with their conntrack marks and counters.
    pub services: Vec<ServiceMark>,
    /// Counters of dropped packets.
    pub drops: Vec<DropCounter>,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    name: String,
    hook: Option<Hook>,
    rules: Vec<Value>,
}

/// Where a base chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hook {
    kind: &'static str,
    hook: &'static str,
    priority: i32,
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    name: String,
    /// Type, flags, size and so on, as nftables' JSON has them; with `map` it is a map.
    declaration: Value,
    content: Content,
}

/// Who fills a set.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// The policy: flushed and filled again by every change.
    Static(Vec<Value>),
    /// Bans fill it; its content survives every change.
    Outside,
    /// Packets fill it, through rules; its content survives every change. nft 1.0.6 cannot declare
    /// one a second time in JSON.
    Packets,
}

/// What the table held before a change, from `nft -j list table inet causeway`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    chains: BTreeSet<String>,
    sets: BTreeSet<String>,
    maps: BTreeSet<String>,
    counters: BTreeSet<String>,
}

impl Present {
    /// There is no table.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Reads the names out of a listing; objects of other tables are left out.
    ///
    /// # Errors
    /// When the text is not the JSON that nft prints.
    pub fn from_listing(text: &str) -> Result<Self, serde_json::Error> {
        Ok(Self::of(&serde_json::from_str(text)?))
    }

    fn of(listing: &Value) -> Self {
        let mut present = Self::default();
        for object in listing.get("nftables").and_then(Value::as_array).into_iter().flatten() {
            let Some((kind, body)) = object.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            let field = |key| body.get(key).and_then(Value::as_str);
            let (Some("inet"), Some(TABLE), Some(name)) = (field("family"), field("table"), field("name"))
            else {
                continue;
            };
            let names = match kind.as_str() {
                "chain" => &mut present.chains,
                "set" => &mut present.sets,
                "map" => &mut present.maps,
                "counter" => &mut present.counters,
                _ => continue,
            };
            names.insert(name.to_owned());
        }
        present
    }
}

impl Ruleset {
    /// Compiles a policy; `mtu` is the inner MTU in bytes that the MSS of passing connections is
    /// clamped to.
    #[must_use]
    pub fn compile(policy: &Policy, mtu: u16, conditions: &Conditions) -> Self {
        compile::compile(policy, mtu, conditions)
    }

    /// The table at boot, before there is a TUN device or a daemon.
    ///
    /// It is the policy without its services: nothing may enter or leave the tunnel's prefixes, and
    /// the WAN guard accepts what the edge itself needs. Which interface is the LAN's is not known
    /// then, so nothing is trusted.
    #[must_use]
    pub fn guard(policy: &Policy, mtu: u16) -> Self {
        let closed = Policy { publish: Vec::new(), allow: Vec::new(), ..policy.clone() };
        compile::compile(&closed, mtu, &Conditions::default())
    }

    /// A smaller guard that needs little of the kernel and of `nft`: no sets, maps or counters of
    /// its own.
    ///
    /// Whatever passes it passes [`Ruleset::guard`] as well. It lacks the WireGuard port and most
    /// ICMP, which nothing needs before the daemon runs; related errors pass.
    #[must_use]
    pub fn minimal_guard(policy: &Policy) -> Self {
        Self::of_chains(chains::minimal(policy))
    }

    /// The least guard, for when no policy can be read: one rule that drops whatever would pass
    /// through the machine.
    #[must_use]
    pub fn no_forwarding() -> Self {
        Self::of_chains(chains::no_forwarding())
    }

    const fn of_chains(chains: Vec<Chain>) -> Self {
        Self { chains, sets: Vec::new(), services: Vec::new(), drops: Vec::new() }
    }

    /// The transaction, for `nft -j -f -`, that makes the table what it must be from whatever it
    /// is.
    ///
    /// Rules, chains, static sets and counters that are not wanted any more go; bans, meters of
    /// services that stay and counters that stay keep their content.
    #[must_use]
    pub fn install(&self, present: &Present) -> Value {
        let mut commands = vec![add("table", &json!({"family": "inet", "name": TABLE})), flush_table()];
        self.forget(present, &mut commands);
        for name in self.counters() {
            commands.push(add("counter", &object(&name, &json!({}))));
        }
        for chain in &self.chains {
            commands.push(add("chain", &object(&chain.name, &declared(chain.hook))));
        }
        for set in &self.sets {
            set.install(present, &mut commands);
        }
        for chain in &self.chains {
            let rule = |rule: &Value| {
                add("rule", &json!({"family": "inet", "table": TABLE, "chain": chain.name, "expr": rule}))
            };
            commands.extend(chain.rules.iter().map(rule));
        }
        json!({"nftables": commands})
    }

    /// The transaction that deletes the table with its content and creates it again.
    ///
    /// For a table that another version left, whose sets have other types.
    #[must_use]
    pub fn replace(&self) -> Value {
        let mut commands = teardown_commands();
        if let Some(Value::Array(install)) = self.install(&Present::nothing()).get_mut("nftables") {
            commands.append(install);
        }
        json!({"nftables": commands})
    }

    /// The transaction that removes the table, present or not.
    #[must_use]
    pub fn teardown() -> Value {
        json!({"nftables": teardown_commands()})
    }

    /// Names of every counter: two per service and one per reason to drop.
    fn counters(&self) -> BTreeSet<String> {
        let services = self.services.iter().flat_map(|service| [service.counter_in(), service.counter_out()]);
        services.chain(self.drops.iter().map(DropCounter::counter)).collect()
    }

    /// Deletes what is not wanted any more; the rules that referred to it have been flushed.
    ///
    /// Static maps are emptied first, since their elements may refer to chains and counters.
    fn forget(&self, present: &Present, commands: &mut Vec<Value>) {
        let is_map = |set: &&Set| set.declaration.get("map").is_some();
        let wanted: BTreeSet<&str> = self.sets.iter().map(|set| set.name.as_str()).collect();
        for set in self.sets.iter().filter(is_map).filter(|set| present.maps.contains(&set.name)) {
            commands.push(flush("map", &set.name));
        }
        for (kind, names) in [("map", &present.maps), ("set", &present.sets)] {
            let stale = names.iter().filter(|name| !wanted.contains(name.as_str()));
            commands.extend(stale.map(|name| delete(kind, name)));
        }
        let chains: BTreeSet<&str> = self.chains.iter().map(|chain| chain.name.as_str()).collect();
        let stale = present.chains.iter().filter(|name| !chains.contains(name.as_str()));
        commands.extend(stale.map(|name| delete("chain", name)));
        let counters = self.counters();
        commands.extend(present.counters.difference(&counters).map(|name| delete("counter", name)));
    }
}

impl Set {
    fn kind(&self) -> &'static str {
        if self.declaration.get("map").is_some() { "map" } else { "set" }
    }

    fn install(&self, present: &Present, commands: &mut Vec<Value>) {
        let exists = present.sets.contains(&self.name) || present.maps.contains(&self.name);
        if !(exists && self.content == Content::Packets) {
            commands.push(add(self.kind(), &object(&self.name, &self.declaration)));
        }
        if let Content::Static(elements) = &self.content {
            commands.push(flush(self.kind(), &self.name));
            if !elements.is_empty() {
                commands.push(add("element", &object(&self.name, &json!({"elem": elements}))));
            }
        }
    }
}

fn declared(hook: Option<Hook>) -> Value {
    match hook {
        Some(hook) => {
            json!({"type": hook.kind, "hook": hook.hook, "prio": hook.priority, "policy": "accept"})
        }
        None => json!({}),
    }
}

/// `rest` with the family, the table and a name.
fn object(name: &str, rest: &Value) -> Value {
    let mut object = json!({"family": "inet", "table": TABLE, "name": name});
    if let (Some(object), Some(rest)) = (object.as_object_mut(), rest.as_object()) {
        object.extend(rest.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    object
}

fn add(kind: &str, body: &Value) -> Value {
    json!({"add": {kind: body}})
}

fn flush(kind: &str, name: &str) -> Value {
    json!({"flush": {kind: object(name, &json!({}))}})
}

fn delete(kind: &str, name: &str) -> Value {
    json!({"delete": {kind: object(name, &json!({}))}})
}

fn flush_table() -> Value {
    json!({"flush": {"table": {"family": "inet", "name": TABLE}}})
}

fn teardown_commands() -> Vec<Value> {
    let table = json!({"family": "inet", "name": TABLE});
    vec![add("table", &table), json!({"delete": {"table": table}})]
}
