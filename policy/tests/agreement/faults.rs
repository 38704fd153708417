//! Faults that a compiler could have, planted in its output: rules, elements, priorities, routes.

use policy::plan::{RouteKind, Selector};
use serde_json::{Value, json};

use crate::stage::Compiled;

/// A fault, and the function that plants it.
pub(crate) type Fault = (&'static str, fn(&mut Compiled));

/// Each fault is tried in one policy after another. In a policy where it changes nothing it does
/// not count.
pub(crate) const FAULTS: &[Fault] = &[
    ("a range of public ports ends one early", |it| it.last_ports("publish_tcp4", -1)),
    ("a range of public ports ends one late", |it| it.last_ports("publish_tcp4", 1)),
    ("the target's port is one too high", |it| it.values("port4", |port| json!(port.as_u64().unwrap() + 1))),
    ("moved ports land one too high", |it| it.values("shifted4", |port| json!(port.as_u64().unwrap() + 1))),
    ("moved ports run backwards", |it| it.reverse_values("shifted4")),
    ("targets are swapped", |it| it.reverse_values("target4")),
    ("the LAN is led to services of the WAN side", |it| {
        it.rewrite("from_lan", "published", "published_to_wan")
    }),
    ("services of the WAN side are forgotten", |it| it.keep_elements("wan_tcp4", |_| false)),
    ("a service bound to an address is looked up by the source", |it| {
        it.rewrite("published", r#""field":"daddr","protocol":"ip""#, r#""field":"saddr","protocol":"ip""#);
    }),
    ("services are looked up by the source port", |it| {
        it.rewrite("published", r#""field":"dport""#, r#""field":"sport""#);
    }),
    ("UDP services are forgotten", |it| it.keep_elements("publish_udp4", |_| false)),
    ("UDP is not translated", |it| it.rewrite("dstnat", r#"{"set":["tcp","udp"]}"#, r#""tcp""#)),
    ("IPv6 services are not looked up", |it| {
        it.keep_rules("published", |rule| !(rule.contains("publish_") && rule.contains("6\"")))
    }),
    ("the tunnel's IPv6 prefixes are forgotten", |it| it.keep_elements("tunnel6", |_| false)),
    ("the LAN's IPv6 prefixes are forgotten", |it| it.keep_elements("lan6", |_| false)),
    ("the LAN's mask is three bits too long", |it| it.prefix_lengths("lan4", 3)),
    ("the mask of an allow-list is one bit too short", |it| it.prefix_lengths("sources4", -1)),
    ("an allow-list is turned round", |it| it.rewrite("sources", r#""op":"==""#, r#""op":"!=""#)),
    ("allow-lists are not asked", |it| it.keep_elements("restricted", |_| false)),
    ("services have the sources of others", |it| it.next_marks("sources4")),
    ("a named list opens services that do not name it", |it| it.without_statements("sources", "@users_")),
    ("a named list is empty", |it| it.keep_elements("list4_partners", |_| false)),
    ("sources that are not allowed are let in", |it| it.verdict("sources", r#""drop""#, r#""return""#)),
    ("the WAN guard of the edge accepts", |it| it.verdict("input_from_wan", r#""drop""#, r#""accept""#)),
    ("the WAN guard of the LAN is missing", |it| {
        it.keep_rules("forward_from_wan", |rule| !rule.contains("drop_forward_wan_guard"));
    }),
    ("the other edge is not let in", |it| it.keep_rules("input", |rule| !rule.contains("51898"))),
    ("everyone but the other edge is let in", |it| {
        for family in ["ip", "ip6"] {
            let source = format!(r#"{{"payload":{{"field":"saddr","protocol":"{family}"}}}},"op":"#);
            it.rewrite("input", &format!(r#"{source}"==""#), &format!(r#"{source}"!=""#));
        }
    }),
    ("the other edge is let in by every interface", |it| {
        it.without_statements("input", "\"result\":\"oif\"")
    }),
    ("services take flows in the middle", |it| it.keep_rules("admitted", |rule| !rule.contains("not_syn"))),
    ("private flows of the LAN may begin in the middle", |it| {
        it.keep_rules("opened", |rule| !rule.contains("not_syn"));
    }),
    ("flows of peers may begin in the middle", |it| {
        it.keep_rules("opened_by_peer", |rule| !rule.contains("not_syn"));
    }),
    ("a flow may not begin with a SYN alone", |it| {
        it.rewrite("opened_by_peer", r#""op":"!=""#, r#""op":"==""#);
    }),
    ("unlisted flows out of the tunnel reach the edge", |it| {
        it.verdict("input_from_tunnel", r#""drop""#, r#""accept""#);
    }),
    ("unlisted flows out of the tunnel pass", |it| {
        it.verdict("forward_from_tunnel", r#""drop""#, r#""accept""#)
    }),
    ("unlisted flows pass into the tunnel", |it| it.verdict("forward_to_tunnel", r#""drop""#, r#""accept""#)),
    ("the edge's own unlisted flows pass", |it| it.verdict("output", r#""drop""#, r#""accept""#)),
    ("new flows of the edge are taken for established ones", |it| {
        it.rewrite("output", r#""established","related""#, r#""new","established""#);
    }),
    ("forged sources are believed", |it| it.keep_rules("classify", |rule| !rule.contains("spoofed"))),
    ("bans are not asked", |it| it.keep_rules("from_wan", |rule| !rule.contains("bans4"))),
    ("a drop is counted as another", |it| {
        it.rewrite("input_from_tunnel", "drop_input_not_listed", "drop_input_wan_guard");
    }),
    ("a drop is not counted", |it| {
        it.rewrite("input_from_wan", r#"{"counter":"drop_input_wan_guard"},"#, "");
    }),
    ("flows are counted for other services", |it| it.reverse_values("count_in")),
    ("the directions of a flow are swapped", |it| {
        it.rewrite("carried", r#""original""#, r#""other""#);
        it.rewrite("carried", r#""reply""#, r#""original""#);
        it.rewrite("carried", r#""other""#, r#""reply""#);
    }),
    ("private flows out of the tunnel get no mark", |it| it.without_statements("private_in", "mangle")),
    ("accepted ports of the edge get no mark", |it| it.without_statements("from_wan", "mangle")),
    ("all private flows have one mark", Compiled::one_mark),
    ("any peer may what one may", |it| it.without_statements("private_in", "saddr")),
    ("a peer may what the owner of a larger prefix around it may", |it| {
        it.rewrite(
            "private_in",
            r#"{"range":["192.168.88.0","192.168.88.127"]}"#,
            r#"{"prefix":{"addr":"192.168.88.0","len":24}}"#,
        );
        it.rewrite(
            "private_in",
            r#"{"prefix":{"addr":"192.168.88.0","len":25}}"#,
            r#"{"prefix":{"addr":"192.168.88.0","len":24}}"#,
        );
    }),
    ("flows to the internet reach the edge itself", |it| {
        it.rewrite("private_in", r#""right":"local""#, r#""right":"blackhole""#);
    }),
    ("flows to the internet keep their source", |it| {
        it.rewrite("srcnat", r#"{"masquerade":null}"#, r#"{"accept":null}"#);
    }),
    ("the edge's own programs are not led to services", |it| it.keep_rules("own", |_| false)),
    ("private UDP flows are taken for TCP", |it| it.rewrite("private_lan", r#""udp""#, r#""tcp""#)),
    ("the edge's own private flows are forgotten", |it| it.keep_rules("private_self", |_| false)),
    ("masquerading is forgotten", |it| it.keep_elements("masquerade", |_| false)),
    ("everything is masqueraded", |it| it.without_statements("srcnat", "@masquerade")),
    ("services are translated behind Docker's", |it| it.priority("dstnat", -99)),
    ("flows are classified behind their translation", |it| it.priority("classify", -50)),
    ("unauthenticated sources are looked at behind services", Compiled::published_first),
    ("the LAN is on another interface", |it| {
        for list in ["lan_at4", "lan_at6"] {
            it.elements(list).into_iter().for_each(|e| e["concat"][0] = json!("br-x"));
        }
        it.element_lists("lan_links").for_each(|list| *list = vec![json!("br-x")]);
    }),
    ("every source on the LAN's interface is LAN", |it| {
        for chain in ["classify", "input", "forward"] {
            it.without_statements(chain, "@lan_at4");
        }
    }),
    ("a source of the LAN is LAN wherever it arrives", |it| {
        for chain in ["classify", "input", "forward"] {
            it.rewrite(
                chain,
                r#"{"concat":[{"meta":{"key":"iif"}},{"payload":{"field":"saddr","protocol":"ip"}}]}"#,
                r#"{"payload":{"field":"saddr","protocol":"ip"}}"#,
            );
            it.rewrite(chain, "@lan_at4", "@lan4");
            it.without_statements(chain, "@lan_links");
        }
    }),
    ("what the next hop sends is believed to be LAN", |it| {
        for chain in ["classify", "input", "forward"] {
            it.keep_rules(chain, |rule| !rule.contains("@next_hops"));
        }
    }),
    ("a bridge over a network card is a container network", |it| {
        it.element_lists("containers").for_each(|list| list.push(json!("br-x")));
    }),
    ("containers are no container network", |it| it.keep_elements("containers", |_| false)),
    ("a claimed source of the LAN is in an allow-list", |it| {
        it.keep_rules("sources", |rule| !rule.contains("lan4"));
    }),
    ("WireGuard's port is another", |it| it.rewrite("input_from_wan", "51820", "51821")),
    ("an echo request may be to any address of the edge", |it| {
        it.without_statements("input_from_tunnel", "@own4");
    }),
    ("the link is open to programs of the edge and to the LAN", |it| {
        it.keep_rules("link", |rule| !rule.contains("@link_peers"));
        it.without_statements("link", "iifname");
    }),
    ("the link is open to what a DNAT leads there", |it| {
        it.keep_rules("link", |rule| !rule.contains(r#""dnat""#));
    }),
    ("the link is open without a socket", |it| it.verdict("link", r#""drop""#, r#""accept""#)),
    ("the link is open at an address that has no socket", |it| {
        it.keep_rules("link", |rule| !rule.contains("@link_peers"));
        it.without_statements("link", "daddr");
    }),
    ("the link is open to hosts behind a peer", |it| {
        it.keep_rules("link", |rule| !rule.contains("@link_peers"));
    }),
    ("the link has another port", |it| it.rewrite("input", "51899", "51898")),
    ("the link is not looked at", |it| it.keep_rules("input", |rule| !rule.contains("51899"))),
    ("addresses of the tunnel may leave by the WAN", |it| {
        it.keep_rules("last", |rule| !(rule.contains("saddr") && rule.contains("drop")));
    }),
    ("a peer's prefix has no route", |it| {
        let lost = "192.168.88.0/24".parse().unwrap();
        it.routing.routes.retain(|route| route.destination != lost || route.kind == RouteKind::Unreachable);
    }),
    ("the tunnel's table is not asked for IPv6", |it| {
        it.routing.rules.retain(|rule| !(rule.ipv6 && rule.selector == Selector::All));
    }),
];

impl Compiled {
    /// The rules of a chain; of all those of services when the name ends with `_`.
    fn rules(&mut self, chain: &str) -> impl Iterator<Item = &mut Value> {
        let all = self.commands.iter_mut().filter_map(|command| command.pointer_mut("/add/rule"));
        let these = all.filter(move |rule| is_named(&rule["chain"], chain));
        these.map(|rule| &mut rule["expr"])
    }

    fn keep_rules(&mut self, chain: &str, keep: impl Fn(&str) -> bool) {
        self.commands.retain(|command| match command.pointer("/add/rule") {
            Some(rule) => !is_named(&rule["chain"], chain) || keep(&rule["expr"].to_string()),
            None => true,
        });
    }

    fn without_statements(&mut self, chain: &str, word: &str) {
        for rule in self.rules(chain) {
            rule.as_array_mut().unwrap().retain(|statement| !statement.to_string().contains(word));
        }
        self.keep_rules(chain, |rule| rule != "[]");
    }

    fn rewrite(&mut self, chain: &str, from: &str, to: &str) {
        for rule in self.rules(chain) {
            *rule = serde_json::from_str(&rule.to_string().replace(from, to)).unwrap();
        }
    }

    /// Swaps the verdict of the rules that count before they drop.
    fn verdict(&mut self, chain: &str, from: &str, to: &str) {
        self.rewrite(chain, &format!("{{{from}:null}}"), &format!("{{{to}:null}}"));
    }

    fn priority(&mut self, chain: &str, priority: i32) {
        let all = self.commands.iter_mut().filter_map(|command| command.pointer_mut("/add/chain"));
        all.filter(|body| body["name"] == chain).for_each(|body| body["prio"] = json!(priority));
    }

    /// The elements of a set or map; of all those of services when the name ends with `_`.
    fn element_lists(&mut self, set: &str) -> impl Iterator<Item = &mut Vec<Value>> {
        let all = self.commands.iter_mut().filter_map(|command| command.pointer_mut("/add/element"));
        let these = all.filter(move |body| is_named(&body["name"], set));
        these.map(|body| body["elem"].as_array_mut().unwrap())
    }

    fn elements(&mut self, set: &str) -> Vec<&mut Value> {
        self.element_lists(set).flatten().collect()
    }

    fn keep_elements(&mut self, set: &str, keep: impl Fn(&str) -> bool) {
        self.element_lists(set).for_each(|list| list.retain(|element| keep(&element.to_string())));
        self.commands.retain(|command| {
            command.pointer("/add/element/elem").is_none_or(|list| !list.as_array().unwrap().is_empty())
        });
    }

    /// Changes the values of a map's keys.
    fn values(&mut self, map: &str, change: impl Fn(&Value) -> Value) {
        self.elements(map).into_iter().for_each(|element| element[1] = change(&element[1]));
    }

    fn reverse_values(&mut self, map: &str) {
        let mut values: Vec<Value> = self.elements(map).iter().map(|element| element[1].clone()).collect();
        self.elements(map).into_iter().for_each(|element| element[1] = values.pop().unwrap());
    }

    /// Gives the elements of a set, which begin with a mark, the next mark instead.
    fn next_marks(&mut self, set: &str) {
        for element in self.elements(set) {
            element["concat"][0] = json!(element["concat"][0].as_u64().unwrap() + 1);
        }
    }

    fn last_ports(&mut self, map: &str, by: i64) {
        for element in self.elements(map) {
            if let Some(last) = element.pointer_mut("/0/range/1") {
                *last = json!(last.as_i64().unwrap() + by);
            }
        }
    }

    fn prefix_lengths(&mut self, set: &str, by: i64) {
        for element in self.elements(set) {
            let place = if element.get("concat").is_some() { "/concat/1/prefix/len" } else { "/prefix/len" };
            if let Some(length) = element.pointer_mut(place) {
                *length = json!(length.as_i64().unwrap() + by);
            }
        }
    }

    /// Every `[[allow]]` out of the tunnel marks flows as the first one does.
    fn one_mark(&mut self) {
        let mut first = None;
        for rule in self.rules("private_in") {
            for statement in rule.as_array_mut().unwrap() {
                if let Some(mark) = statement.pointer_mut("/mangle/value") {
                    *mark = first.get_or_insert_with(|| mark.clone()).clone();
                }
            }
        }
    }

    fn published_first(&mut self) {
        let of_chain =
            |command: &Value| command.pointer("/add/rule").is_some_and(|rule| rule["chain"] == "from_wan");
        let is_goto = |command: &Value| {
            of_chain(command) && command.to_string().contains(r#""target":"published_to_wan""#)
        };
        let at = self.commands.iter().position(is_goto).unwrap();
        let goto = self.commands.remove(at);
        let first = self.commands.iter().position(of_chain).unwrap();
        self.commands.insert(first, goto);
    }
}

fn is_named(name: &Value, wanted: &str) -> bool {
    let name = name.as_str().unwrap();
    name == wanted || (wanted.ends_with('_') && name.starts_with(wanted))
}
