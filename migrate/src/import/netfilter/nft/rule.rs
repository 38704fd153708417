//! One rule of nft: conditions, then what is done.

use super::super::iptables::{prefix, states, target};
use super::super::{Action, Condition, Kind, Ports, Rule, Unread};
use super::Reader;
use policy::{Protocol, text};

impl<'t> Reader<'t> {
    /// A rule, up to the end of its statement.
    pub(super) fn statement(&mut self) -> Rule {
        let (place, begin) = (self.place(), self.at);
        let (mut conditions, mut action, mut unread) = (Vec::new(), None, None);
        while self.peek().is_some_and(|word| !matches!(word, ";" | "}")) {
            let start = self.at;
            if let Some(found) = self.action() {
                match found {
                    Ok(Action::Nothing) => {}
                    Ok(found) => action = Some(found),
                    Err(problem) => unread = unread.or(Some(problem)),
                }
            } else if let Some(found) = self.condition() {
                // What comes after a word that was not understood may be part of it.
                conditions.extend(found.into_iter().filter(|_| unread.is_none()));
            } else {
                // The word at which reading ended, and then the rest, word by word.
                let problem = self.unread::<()>().err();
                unread = unread.or(problem);
                self.at = self.at.max(start) + 1;
                while self.peek() == Some("{") {
                    self.braces();
                }
            }
        }
        let action = match (action, &unread) {
            (Some(Action::ClampMss), _) => Action::ClampMss,
            (None, None) => Action::Nothing,
            (Some(action), None) => action,
            (_, Some(_)) => Action::Unclear,
        };
        let words: Vec<&str> =
            self.tokens.iter().take(self.at).skip(begin).map(|token| token.text.as_str()).collect();
        Rule { conditions, action, unread, spec: Vec::new(), place, text: words.join(" ") }
    }

    /// Skips a set, of whatever.
    fn braces(&mut self) {
        while let Some(token) = self.next() {
            if token.text == "}" {
                break;
            }
        }
    }

    fn action(&mut self) -> Option<Result<Action, Unread>> {
        let start = self.at;
        let action = match self.next()?.text.as_str() {
            "accept" => Action::Accept,
            "drop" => Action::Refuse,
            "reject" => {
                if self.take("with") {
                    while self.peek().is_some_and(|word| !matches!(word, ";" | "}" | "comment")) {
                        self.at += 1;
                    }
                }
                Action::Refuse
            }
            "return" => Action::Return,
            "masquerade" => Action::Masquerade,
            "redirect" => {
                let mut ports = Ports::Same;
                if self.take("to") {
                    let written = text::ports(self.next()?.text.trim_start_matches(':'))?;
                    ports = Ports::Within(written.first(), written.last());
                }
                Action::Redirect(ports)
            }
            "jump" => Action::Jump(self.next()?.text.clone()),
            "goto" => Action::Goto(self.next()?.text.clone()),
            "continue" => Action::Nothing,
            "counter" => {
                for word in ["packets", "bytes"] {
                    let _ = self.take(word) && self.next().is_some();
                }
                Action::Nothing
            }
            "comment" => self.next().map(|_| Action::Nothing)?,
            "log" => {
                while matches!(self.peek(), Some("prefix" | "level" | "group")) {
                    self.at = (self.at + 2).min(self.tokens.len());
                }
                Action::Nothing
            }
            kind @ ("dnat" | "snat") => return Some(self.translation(kind == "dnat")),
            "tcp" if self.take("option") => {
                let words = ["maxseg", "size", "set"];
                if !words.iter().all(|word| self.take(word)) {
                    return Some(self.unread());
                }
                let _ = self.take("rt");
                self.at += 1;
                Action::ClampMss
            }
            _ => {
                self.at = start;
                return None;
            }
        };
        Some(Ok(action))
    }

    fn translation(&mut self, is_destination: bool) -> Result<Action, Unread> {
        let _ = self.take("ip") || self.take("ip6");
        let _ = self.take("to");
        let written = self.peek().unwrap_or_default();
        let action = if is_destination {
            target(written).map(Action::Dnat)
        } else {
            text::address(written).map(Action::Snat)
        };
        let Some(action) = action else { return self.unread() };
        self.at += 1;
        Ok(action)
    }

    /// The conditions of one expression; `None` at a word that is not understood.
    fn condition(&mut self) -> Option<Vec<Condition>> {
        let is_meta = self.take("meta");
        let first = self.next()?.text.as_str();
        match first {
            "iif" | "iifname" | "oif" | "oifname" => {
                let (is_negated, names) = self.values()?;
                let names = names.iter().map(|name| pattern(name)).collect();
                let is_incoming = first.starts_with('i');
                let kind = if is_incoming { Kind::Incoming(names) } else { Kind::Outgoing(names) };
                Some(vec![Condition { kind, is_negated }])
            }
            "nfproto" if is_meta => match self.values()? {
                (is_negated, names) if names == ["ipv6"] => {
                    Some(vec![Condition { kind: Kind::IsIpv6, is_negated }])
                }
                (is_negated, names) if names == ["ipv4"] => {
                    Some(vec![Condition { kind: Kind::IsIpv6, is_negated: !is_negated }])
                }
                _ => None,
            },
            "l4proto" if is_meta => self.compared(protocols),
            "ip" | "ip6" => self.header(first == "ip6"),
            "tcp" | "udp" | "th" => {
                let field = self.next()?.text.as_str();
                let made = |ports: Vec<(u16, u16)>| match field {
                    "dport" => Some(Kind::Port(ports)),
                    "sport" => Some(Kind::SourcePort(ports)),
                    _ => None,
                };
                if !matches!(field, "dport" | "sport") {
                    self.at -= 1;
                    return None;
                }
                let mut found =
                    self.compared(|items| made(items.iter().map(|i| range(i)).collect::<Option<_>>()?))?;
                let protocol = text::protocol(first).map(|protocol| Kind::Protocol(vec![Some(protocol)]));
                found.extend(protocol.map(|kind| Condition { kind, is_negated: false }));
                Some(found)
            }
            "ct" if self.take("state") => self.compared(|items| states(&items.join(",")).map(Kind::State)),
            "ct" if self.take("status") => {
                self.compared(|items| states(&items.join(",")).filter(|_| items == ["dnat"]).map(Kind::State))
            }
            "fib" => {
                let is_local = self.take("daddr") && self.take("type");
                self.compared(|items| Some(Kind::Local).filter(|_| is_local && items == ["local"]))
            }
            _ => {
                self.at -= 1;
                None
            }
        }
    }

    fn header(&mut self, is_v6: bool) -> Option<Vec<Condition>> {
        let field = self.next()?.text.as_str();
        let mut found = match field {
            "protocol" | "nexthdr" => self.compared(protocols),
            "saddr" | "daddr" => self.compared(|items| {
                let prefixes = items.iter().map(|item| prefix(item)).collect::<Option<Vec<_>>>()?;
                let fits = prefixes.iter().all(|prefix| prefix.is_ipv6() == is_v6);
                let made = if field == "saddr" { Kind::Source } else { Kind::Destination };
                fits.then(|| made(prefixes))
            }),
            _ => {
                self.at -= 1;
                None
            }
        }?;
        found.push(Condition { kind: Kind::IsIpv6, is_negated: !is_v6 });
        Some(found)
    }

    /// `[!=|==] VALUE`, as the kind that `made` makes of the values.
    fn compared(&mut self, made: impl FnOnce(&[String]) -> Option<Kind>) -> Option<Vec<Condition>> {
        let start = self.at;
        let (is_negated, values) = self.values()?;
        let Some(kind) = made(&values) else {
            // The value is what is not understood.
            self.at = start + usize::from(is_negated);
            return None;
        };
        Some(vec![Condition { kind, is_negated }])
    }

    /// One value, a list or a set, and whether it is negated.
    fn values(&mut self) -> Option<(bool, Vec<String>)> {
        let is_negated = self.take("!=");
        let _ = self.take("==");
        let mut values = Vec::new();
        if self.take("{") {
            while !self.take("}") {
                let value = self.next()?.text.clone();
                values.push(value);
                let _ = self.take(",");
            }
            return Some((is_negated, values));
        }
        values.push(self.next()?.text.clone());
        while self.take(",") {
            values.push(self.next()?.text.clone());
        }
        Some((is_negated, values))
    }
}

/// A name that ends in `*` matches any rest.
fn pattern(name: &str) -> String {
    name.strip_suffix('*').map_or_else(|| name.to_owned(), |stem| format!("{stem}+"))
}

fn protocols(names: &[String]) -> Option<Kind> {
    let one = |name: &String| match name.as_str() {
        "tcp" | "6" => Some(Some(Protocol::Tcp)),
        "udp" | "17" => Some(Some(Protocol::Udp)),
        "icmp" | "icmpv6" | "ipv6-icmp" | "esp" | "ah" | "gre" | "sctp" => Some(None),
        _ => None,
    };
    names.iter().map(one).collect::<Option<Vec<_>>>().map(Kind::Protocol)
}

fn range(written: &str) -> Option<(u16, u16)> {
    let (first, last) = written.split_once('-').unwrap_or((written, written));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}
