//! Foreign rules that block the tunnel.
//!
//! A packet must be accepted by every base chain of its hook: what we accept, Docker's FORWARD
//! policy or the REJECT of a cloud image's INPUT still drops. Foreign tables are never changed;
//! what blocks the tunnel is named, with the command that fixes it; never one of `nft` for a table
//! that only its owner may change. It looks at the form of the rules and does not simulate them: a
//! chain that drops by default must have an accept rule for our device or our port.

use std::net::Ipv4Addr;

use policy::Protocol;
use policy::trust::Listener;
use serde_json::Value;

use crate::kernel::nft;

/// What has to pass foreign chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The TUN device, whose packets are forwarded both ways.
    pub device: String,
    /// The UDP port of the tunnel.
    pub port: u16,
}

/// A foreign chain that blocks the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Whether it is the tunnel's port that is not let in, as opposed to packets of its device.
    pub blocks_port: bool,
    /// What blocks, and how to fix it.
    pub text: String,
}

/// One line for each foreign chain that blocks the tunnel, from what `nft -j list ruleset` prints.
#[must_use]
pub fn obstacles(listing: &str, needs: &Needs) -> Vec<String> {
    blocking_chains(listing, needs).into_iter().map(|obstacle| obstacle.text).collect()
}

/// The foreign chains that block the tunnel, from what `nft -j list ruleset` prints.
#[must_use]
pub fn blocking_chains(listing: &str, needs: &Needs) -> Vec<Obstacle> {
    let listing: Value = serde_json::from_str(listing).unwrap_or_default();
    let objects = listing.get("nftables").and_then(Value::as_array).cloned().unwrap_or_default();
    let rules: Vec<Rule<'_>> = objects.iter().filter_map(|object| rule(object.get("rule")?)).collect();
    let tables: Vec<&Value> = objects.iter().filter_map(|object| object.get("table")).collect();
    let chains = objects.iter().filter_map(|object| base_chain(object.get("chain")?));
    let chains = chains.filter(|chain| !is_ours(chain));
    let found = |chain: Chain<'_>| {
        let text = obstacle(&chain, writer(&chain, &tables), &rules, needs)?;
        Some(Obstacle { blocks_port: chain.hook == "input", text })
    };
    chains.filter_map(found).collect()
}

/// The ports of this machine that foreign rules redirect, as those that containers publish, from what
/// `nft -j list ruleset` prints.
#[must_use]
pub fn redirected_ports(listing: &str) -> Vec<Listener> {
    let listing: Value = serde_json::from_str(listing).unwrap_or_default();
    let objects = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let rules = objects.filter_map(|object| rule(object.get("rule")?));
    let foreign = rules.filter(|rule| !(rule.family == nft::FAMILY && rule.table == nft::TABLE));
    let mut found: Vec<Listener> = foreign.flat_map(|rule| rule.redirected()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Who may change a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WritableBy {
    /// Every program that may change any table.
    Any,
    /// firewalld, by its own command: it makes the table again, and 2.x owns it.
    Firewalld,
    /// The process that made it and no other.
    Owner,
}

fn writer(chain: &Chain<'_>, tables: &[&Value]) -> WritableBy {
    if chain.table == "firewalld" {
        return WritableBy::Firewalld;
    }
    let is = |table: &Value, key, value| table.get(key).and_then(Value::as_str) == Some(value);
    let table =
        tables.iter().find(|table| is(table, "family", chain.family) && is(table, "name", chain.table));
    // `dormant` is the only flag without an owner; nft 1.0.6 writes anything in the place of
    // `owner`.
    let is_dormant = |flag: &Value| flag.as_str() == Some("dormant");
    match table.and_then(|table| table.get("flags")) {
        None => WritableBy::Any,
        Some(Value::Array(flags)) if flags.iter().all(is_dormant) => WritableBy::Any,
        Some(flag) if is_dormant(flag) => WritableBy::Any,
        Some(_) => WritableBy::Owner,
    }
}

struct Chain<'a> {
    family: &'a str,
    table: &'a str,
    name: &'a str,
    hook: &'a str,
    drops: bool,
}

struct Rule<'a> {
    family: &'a str,
    table: &'a str,
    chain: &'a str,
    parts: &'a [Value],
}

fn base_chain(chain: &Value) -> Option<Chain<'_>> {
    let field = |key| chain.get(key).and_then(Value::as_str);
    let filters = field("type") == Some("filter") && matches!(field("hook"), Some("input" | "forward"));
    filters.then_some(())?;
    Some(Chain {
        family: field("family")?,
        table: field("table")?,
        name: field("name")?,
        hook: field("hook")?,
        drops: field("policy") == Some("drop"),
    })
}

fn rule(rule: &Value) -> Option<Rule<'_>> {
    let field = |key| rule.get(key).and_then(Value::as_str);
    let parts = rule.get("expr").and_then(Value::as_array)?;
    Some(Rule { family: field("family")?, table: field("table")?, chain: field("chain")?, parts })
}

fn is_ours(chain: &Chain<'_>) -> bool {
    chain.family == nft::FAMILY && chain.table == nft::TABLE
}

fn obstacle(chain: &Chain<'_>, writer: WritableBy, rules: &[Rule<'_>], needs: &Needs) -> Option<String> {
    let Chain { family, table, name, .. } = chain;
    let reached = reachable(chain, rules);
    let closing = reached.iter().position(|rule| rule.closes());
    let before = reached.get(..closing.unwrap_or(reached.len())).unwrap_or_default();
    let lets_in = |rule: &Rule<'_>| rule.accepts() || leads_to_accept(chain, rule, rules);
    let accepts = |what: &dyn Fn(&Rule<'_>) -> bool| before.iter().any(|rule| lets_in(rule) && what(rule));
    let why = match closing {
        Some(_) => "a rule there refuses everything",
        None if chain.drops => "its policy is drop",
        None => return None,
    };
    let place = format!("the foreign chain {family} {table} {name} blocks the tunnel: {why}");
    if chain.hook == "input" {
        let open = accepts(&|rule| rule.matches_port(needs.port) || rule.is_unconditional());
        let rule = format!("udp dport {} accept", needs.port);
        let own = format!("UDP port {}", needs.port);
        let fix = || writer.fix(needs, &own, || insertion(chain, &rule));
        return (!open).then(|| format!("{place}, and the tunnel's port is not let in; {}", fix()));
    }
    let device = &needs.device;
    let open = |key| accepts(&move |rule| rule.matches_device(key, device) || rule.is_unconditional());
    // What is published passes firewalld by the rule for DNATed flows, whichever zones it leads
    // between.
    let passes = |key| {
        open(key)
            || writer == WritableBy::Firewalld && key == "oifname" && accepts(&|rule| rule.matches_dnat())
    };
    let missing: Vec<_> = ["iifname", "oifname"].into_iter().filter(|key| !passes(key)).collect();
    if missing.is_empty() {
        return None;
    }
    let into = if has_docker_user(chain, rules) { "DOCKER-USER" } else { name };
    let into = Chain { name: into, ..*chain };
    let commands = || {
        let command = |key: &&str| insertion(&into, &format!("{key} {device} accept"));
        missing.iter().map(command).collect::<Vec<_>>().join(" && ")
    };
    let fix = writer.fix(needs, &format!("packets from and to {device}"), commands);
    Some(format!("{place}, and packets of {device} are not let through; {fix}"))
}

impl WritableBy {
    /// How to make a table let something pass.
    fn fix(self, needs: &Needs, what: &str, insertions: impl FnOnce() -> String) -> String {
        match self {
            Self::Any => format!("run: {}", insertions()),
            Self::Firewalld => format!(
                "run: firewall-cmd --permanent --zone=trusted --add-interface={} && firewall-cmd --permanent --add-port={}/udp \
                 && firewall-cmd --reload",
                needs.device, needs.port
            ),
            Self::Owner => {
                format!(
                    "only the program that owns the table can change it: have its configuration let {what} pass"
                )
            }
        }
    }
}

/// Whether all that a rule matches goes to a chain whose first verdict for everything is accept.
fn leads_to_accept(chain: &Chain<'_>, rule: &Rule<'_>, rules: &[Rule<'_>]) -> bool {
    let Some(name) = rule.jump() else { return false };
    let mut reached = Vec::new();
    expand(chain, name, rules, 2, &mut reached);
    let first = reached.iter().find(|rule| rule.is_unconditional() && (rule.accepts() || rule.closes()));
    first.is_some_and(|rule| rule.accepts())
}

/// Docker keeps this chain for others' rules.
fn has_docker_user(chain: &Chain<'_>, rules: &[Rule<'_>]) -> bool {
    rules.iter().any(|rule| rule.is_in(chain, chain.name) && rule.jump() == Some("DOCKER-USER"))
}

fn insertion(chain: &Chain<'_>, rule: &str) -> String {
    format!("nft insert rule {} {} {} {rule}", chain.family, chain.table, chain.name)
}

/// The rules of a chain with those of the chains it jumps to without a condition in their place,
/// three levels deep.
fn reachable<'r>(chain: &Chain<'_>, rules: &'r [Rule<'r>]) -> Vec<&'r Rule<'r>> {
    let mut found = Vec::new();
    expand(chain, chain.name, rules, 3, &mut found);
    found
}

fn expand<'r>(
    chain: &Chain<'_>,
    name: &str,
    rules: &'r [Rule<'r>],
    depth: u8,
    found: &mut Vec<&'r Rule<'r>>,
) {
    for rule in rules.iter().filter(|rule| rule.is_in(chain, name)) {
        match rule.jump().filter(|_| rule.conditions().next().is_none() && depth > 0) {
            Some(next) => expand(chain, next, rules, depth - 1, found),
            None => found.push(rule),
        }
    }
}

impl Rule<'_> {
    fn is_in(&self, chain: &Chain<'_>, name: &str) -> bool {
        self.family == chain.family && self.table == chain.table && self.chain == name
    }

    fn conditions(&self) -> impl Iterator<Item = &Value> {
        // What is no statement without effect narrows the rule, among it what nft cannot show
        // (`xt`).
        self.parts.iter().filter(|part| {
            let effects = ["counter", "log", "comment", "accept", "drop", "reject", "jump", "goto", "return"];
            !effects.iter().any(|effect| part.get(effect).is_some())
        })
    }

    fn is_unconditional(&self) -> bool {
        self.conditions().next().is_none()
    }

    fn has(&self, statement: &str) -> bool {
        self.parts.iter().any(|part| part.get(statement).is_some())
    }

    fn accepts(&self) -> bool {
        self.has("accept")
    }

    fn closes(&self) -> bool {
        self.is_unconditional() && (self.has("drop") || self.has("reject"))
    }

    fn jump(&self) -> Option<&str> {
        let target = |verb| self.parts.iter().find_map(|part| part.get(verb)?.get("target")?.as_str());
        target("jump").or_else(|| target("goto"))
    }

    fn matches_port(&self, port: u16) -> bool {
        self.conditions().all(|part| {
            // A match that iptables wrote and nft cannot show may be the one for the port.
            if matches!(part.pointer("/xt/name").and_then(Value::as_str), Some("udp" | "multiport")) {
                return true;
            }
            if part.pointer("/match/left/payload/protocol").and_then(Value::as_str) == Some("tcp") {
                return false;
            }
            let udp = part.pointer("/match/right").and_then(Value::as_str) == Some("udp");
            let named = part.pointer("/match/left/payload/field").and_then(Value::as_str) == Some("dport");
            udp || named && part.pointer("/match/right").is_some_and(|right| holds(right, port))
        })
    }

    /// The ports that it redirects elsewhere.
    fn redirected(&self) -> Vec<Listener> {
        let by_iptables = |part: &Value| {
            matches!(part.pointer("/xt/name").and_then(Value::as_str), Some("DNAT" | "REDIRECT"))
        };
        if !(self.has("dnat") || self.has("redirect") || self.parts.iter().any(by_iptables)) {
            return Vec::new();
        }
        let listener = |protocol, port| Listener { protocol, address: Ipv4Addr::UNSPECIFIED.into(), port };
        let of_match = |part: &Value| {
            let left = part.pointer("/match/left/payload")?;
            (left.get("field")?.as_str()? == "dport").then_some(())?;
            let protocols: &[Protocol] = match left.get("protocol")?.as_str()? {
                "tcp" => &[Protocol::Tcp],
                "udp" => &[Protocol::Udp],
                _ => &Protocol::BOTH,
            };
            let ports = ports_of(part.pointer("/match/right")?);
            Some(
                ports
                    .into_iter()
                    .flat_map(|port| protocols.iter().map(move |protocol| (*protocol, port)))
                    .collect(),
            )
        };
        let matched: Vec<Vec<(Protocol, u16)>> = self.parts.iter().filter_map(of_match).collect();
        matched.into_iter().flatten().map(|(protocol, port)| listener(protocol, port)).collect()
    }

    /// Whether it accepts all that DNAT redirected.
    fn matches_dnat(&self) -> bool {
        let mut conditions = self.conditions();
        let only = conditions.next().filter(|_| conditions.next().is_none());
        only.is_some_and(|part| {
            part.pointer("/match/left/ct/key").and_then(Value::as_str) == Some("status")
                && part.pointer("/match/right").and_then(Value::as_str) == Some("dnat")
        })
    }

    /// Whether it accepts all that comes from (`iifname`) or goes to (`oifname`) the device.
    fn matches_device(&self, key: &str, device: &str) -> bool {
        let mut conditions = self.conditions();
        let only = conditions.next().filter(|_| conditions.next().is_none());
        only.is_some_and(|part| {
            part.pointer("/match/left/meta/key").and_then(Value::as_str) == Some(key)
                && part.pointer("/match/right").and_then(Value::as_str) == Some(device)
        })
    }
}

/// The ports that a match names: one, a range or a set of both.
fn ports_of(right: &Value) -> Vec<u16> {
    let one = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    if let Some(items) = right.get("set").and_then(Value::as_array) {
        return items.iter().flat_map(ports_of).collect();
    }
    if let Some(ends) = right.get("range").and_then(Value::as_array) {
        let mut ends = ends.iter().map(one);
        return match (ends.next().flatten(), ends.next().flatten()) {
            (Some(low), Some(high)) => (low..=high).collect(),
            _ => Vec::new(),
        };
    }
    one(right).into_iter().collect()
}

fn holds(right: &Value, port: u16) -> bool {
    let is = |value: &Value| value.as_u64() == Some(port.into());
    let range = right.get("range").and_then(Value::as_array).is_some_and(|ends| {
        let end = |index: usize| ends.get(index).and_then(Value::as_u64);
        end(0).zip(end(1)).is_some_and(|(low, high)| (low..=high).contains(&port.into()))
    });
    let set = right.get("set").and_then(Value::as_array);
    is(right) || range || set.is_some_and(|items| items.iter().any(|item| holds(item, port)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_open_machine_has_no_obstacles() {
        assert_eq!(found(&[]), Vec::<String>::new());
        assert_eq!(
            found(&[chain("forward", "FORWARD", "accept"), chain("input", "INPUT", "accept")]),
            [""; 0]
        );
    }

    #[test]
    fn our_own_table_is_none() {
        let own = json!({"chain": {"family": "inet", "table": "causeway", "name": "forward", "type": "filter",
            "hook": "forward", "policy": "drop"}});
        assert_eq!(found(&[own]), [""; 0]);
    }

    #[test]
    fn dockers_forward_policy_is_named_with_both_commands() {
        let jump = rule("FORWARD", &[json!({"counter": {}}), json!({"jump": {"target": "DOCKER-USER"}})]);
        let lines = found(&[chain("forward", "FORWARD", "drop"), jump.clone()]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("ip filter FORWARD"), "{lines:?}");
        assert!(
            lines[0].ends_with(
                "run: nft insert rule ip filter DOCKER-USER iifname gw0 accept && nft insert rule ip filter DOCKER-USER oifname gw0 accept"
            ),
            "{lines:?}"
        );
        let fixed = |key: &str| rule("DOCKER-USER", &[device(key), json!({"accept": null})]);
        let half = found(&[chain("forward", "FORWARD", "drop"), jump.clone(), fixed("iifname")]);
        assert!(half[0].contains("oifname gw0") && !half[0].contains("iifname gw0"), "{half:?}");
        let whole = [chain("forward", "FORWARD", "drop"), jump, fixed("iifname"), fixed("oifname")];
        assert_eq!(found(&whole), [""; 0]);
    }

    #[test]
    fn a_reject_at_the_end_of_input_hides_what_comes_after_it() {
        let reject = rule("INPUT", &[json!({"counter": {}}), json!({"reject": {"type": "icmp"}})]);
        let ssh = rule("INPUT", &[dport(json!(22)), json!({"accept": null})]);
        let open = |port: Value| rule("INPUT", &[dport(port), json!({"accept": null})]);
        let chain = || chain("input", "INPUT", "accept");
        let lines = found(&[chain(), ssh.clone(), reject.clone()]);
        assert!(
            lines[0].ends_with("run: nft insert rule ip filter INPUT udp dport 51820 accept"),
            "{lines:?}"
        );
        assert_eq!(found(&[chain(), reject.clone(), open(json!(51820))]).len(), 1);
        for port in [json!(51820), json!({"range": [51000, 52000]}), json!({"set": [53, 51820]})] {
            assert_eq!(found(&[chain(), ssh.clone(), open(port), reject.clone()]), [""; 0]);
        }
    }

    #[test]
    fn a_table_with_an_owner_is_never_to_be_changed_by_nft() {
        for (flags, is_owned) in [
            (json!("dormant"), false),
            (json!(["dormant"]), false),
            (json!("owner"), true),
            (json!("Lester Gooch #5"), true),
            (json!(["owner", "persist"]), true),
        ] {
            let table = json!({"table": {"family": "ip", "name": "filter", "flags": flags}});
            for hook in ["input", "forward"] {
                let lines = found(&[table.clone(), chain(hook, "X", "drop")]);
                assert_eq!(lines[0].contains("nft insert"), !is_owned, "{lines:?}");
                assert_eq!(lines[0].contains("only the program that owns the table"), is_owned, "{lines:?}");
            }
        }
        let command = "run: firewall-cmd --permanent --zone=trusted --add-interface=gw0 && firewall-cmd --permanent \
                       --add-port=51820/udp && firewall-cmd --reload";
        for hook in ["input", "forward"] {
            let lines = found(&[in_firewalld(chain(hook, "X", "drop"))]);
            assert!(lines[0].ends_with(command), "{lines:?}");
        }
    }

    #[test]
    fn what_the_command_for_firewalld_makes_of_its_chains_is_no_obstacle() {
        let jump = |to: &str| json!({"goto": {"target": to}});
        let dnat = json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}});
        let mut before = vec![
            chain("forward", "filter_FORWARD", "accept"),
            rule("filter_FORWARD", &[dnat, json!({"accept": null})]),
            rule("filter_FORWARD", &[json!({"jump": {"target": "zones"}})]),
            rule("filter_FORWARD", &[json!({"reject": {}})]),
            rule("zones", &[jump("public")]),
            rule("public", &[json!({"reject": {}})]),
            rule("trusted", &[json!({"jump": {"target": "trusted_allow"}})]),
            rule("trusted", &[json!({"accept": null})]),
        ];
        let found = |objects: &[Value]| found(&objects.iter().cloned().map(in_firewalld).collect::<Vec<_>>());
        assert_eq!(found(&before).len(), 1);
        before.insert(4, rule("zones", &[device("iifname"), jump("trusted")]));
        assert_eq!(found(&before), [""; 0]);
        let closed = rule("trusted_allow", &[json!({"drop": null})]);
        before.push(closed);
        assert_eq!(found(&before).len(), 1, "a chain that drops first lets nothing pass");
    }

    #[test]
    fn the_ports_that_foreign_rules_redirect_are_known_however_they_are_written() {
        let dnat = || json!({"dnat": {"addr": "172.17.0.2", "port": 80}});
        let redirected = |objects: &[Value]| -> Vec<String> {
            let found = redirected_ports(&json!({"nftables": objects}).to_string());
            found.iter().map(|found| format!("{}/{}", found.protocol, found.port)).collect()
        };
        let port = |protocol: &str, port: Value| json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": port}});
        for (statement, right, expected) in [
            (dnat(), json!(9091), vec!["tcp/9091"]),
            (json!({"redirect": {"port": 80}}), json!({"range": [8000, 8001]}), vec!["tcp/8000", "tcp/8001"]),
            (
                json!({"xt": {"type": "target", "name": "DNAT"}}),
                json!({"set": [80, {"range": [90, 91]}]}),
                vec!["tcp/80", "tcp/90", "tcp/91"],
            ),
            (json!({"accept": null}), json!(9091), vec![]),
        ] {
            assert_eq!(
                redirected(&[rule("DOCKER", &[port("tcp", right), statement.clone()])]),
                expected,
                "{statement}"
            );
        }
        assert_eq!(redirected(&[rule("DOCKER", &[port("udp", json!(53)), dnat()])]), ["udp/53"]);
        assert_eq!(redirected(&[rule("X", &[port("th", json!(53)), dnat()])]), ["tcp/53", "udp/53"]);
        let own = json!({"rule": {"family": "inet", "table": "causeway", "chain": "dstnat",
            "expr": [port("tcp", json!(443)), dnat()]}});
        assert_eq!(redirected(&[own]), [""; 0]);
        assert_eq!(redirected_ports(""), []);
    }

    #[test]
    fn nonsense_is_no_obstacle() {
        assert_eq!(obstacles("", &needs()), [""; 0]);
        assert_eq!(found(&[json!({"chain": {}}), json!({"rule": {"expr": []}})]), [""; 0]);
    }

    fn found(objects: &[Value]) -> Vec<String> {
        obstacles(&json!({"nftables": objects}).to_string(), &needs())
    }

    fn needs() -> Needs {
        Needs { device: "gw0".to_owned(), port: 51820 }
    }

    fn chain(hook: &str, name: &str, policy: &str) -> Value {
        json!({"chain": {"family": "ip", "table": "filter", "name": name, "type": "filter", "hook": hook, "policy": policy}})
    }

    fn rule(chain: &str, parts: &[Value]) -> Value {
        json!({"rule": {"family": "ip", "table": "filter", "chain": chain, "expr": parts}})
    }

    fn in_firewalld(object: Value) -> Value {
        let text = object.to_string().replace("\"table\":\"filter\"", "\"table\":\"firewalld\"");
        serde_json::from_str(&text).unwrap()
    }

    fn device(key: &str) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": "gw0"}})
    }

    fn dport(port: Value) -> Value {
        json!({"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": port}})
    }
}
