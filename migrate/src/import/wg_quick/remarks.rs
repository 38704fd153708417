//! What became of every rule of a file.

use std::collections::BTreeSet;

use super::super::draft::Draft;
use super::super::netfilter::evaluate::Refuser;
use super::super::netfilter::{Action, Hook, Kind, Rule, State};
use super::super::outcome::{Finding, FindingKind};
use super::Reader;
use super::carry::{Carried, Weighed};
use super::hooks::shown;
use super::services::Services;
use policy::Protocol;

impl Reader<'_> {
    /// One finding for every rule of the edge.
    pub(super) fn remarks_of_edge(
        &self,
        (found, weighed): (&Services, Option<&Weighed>),
        carried: &[Carried],
        draft: &mut Draft,
    ) {
        self.signs(draft);
        for &number in &self.machine.made {
            let Some(rule) = self.machine.rules.rule(number) else { continue };
            let names = |is: &dyn Fn(&Carried) -> bool| {
                let names = carried.iter().filter(|entry| is(entry)).map(|entry| format!("{:?}", entry.name));
                names.collect::<Vec<_>>().join(", ")
            };
            let by = names(&|entry| entry.service.by.contains(&number));
            let through = names(&|entry| entry.service.through.contains(&number));
            let (kind, text) = if !by.is_empty() {
                let text = format!(
                    "publish {by}; its server sees the forwarder's address unless proxy_protocol is set"
                );
                (FindingKind::Carried, text)
            } else {
                let is_in = |of: fn(&Weighed) -> &BTreeSet<usize>| {
                    weighed.is_some_and(|weighed| of(weighed).contains(&number))
                };
                let (is_needed, is_blocking) =
                    (is_in(|weighed| &weighed.needed), is_in(|weighed| &weighed.blocking));
                let passes = !through.is_empty() && rule.unread.is_none();
                match (is_blocking, is_needed || weighed.is_none(), passes) {
                    (true, ..) => (FindingKind::NoCounterpart, "no entry can say what it decides".to_owned()),
                    (_, true, true) => (FindingKind::Carried, format!("it decides about publish {through}")),
                    (_, _, false) if is_needed => {
                        (FindingKind::Carried, "what it excludes is not published".to_owned())
                    }
                    (_, false, true) => (
                        FindingKind::Replaced,
                        "what passes it is published, and would be without it".to_owned(),
                    ),
                    _ => self.left(number, rule, found, draft),
                }
            };
            draft.findings.push(self.of_rule(rule, kind, &text));
        }
    }

    /// Says by which sign a chain that the file does not make was given its place.
    pub(super) fn signs(&self, draft: &mut Draft) {
        for (number, sign) in &self.placed {
            let Some(chain) = self.machine.rules.chains.get(*number) else { continue };
            let first = chain.rules.first().and_then(|rule| self.machine.rules.rule(*rule));
            let Some((rule, base)) = first.zip(chain.base) else { continue };
            let text = format!(
                "the chain {:?} of the table {:?}, which the file does not make, is called at {:?} before others, by {sign}",
                chain.id.name, chain.id.table, base.hook
            );
            draft.findings.push(self.finding(rule.place.line, None, FindingKind::Assumed, text));
        }
    }

    /// A finding with the place of what was not read, or that of the rule.
    pub(super) fn of_rule(&self, rule: &Rule, kind: FindingKind, text: &str) -> Finding {
        let command = shown(&rule.text);
        match &rule.unread {
            Some(unread) if kind == FindingKind::NoCounterpart => {
                let text = format!("`{command}`: {}", unread.why);
                self.finding(unread.place.line, Some(unread.place.column), kind, text)
            }
            _ => self.finding(rule.place.line, None, kind, format!("`{command}`: {text}")),
        }
    }

    /// What to do about a rule that no published port needs.
    fn left(&self, number: usize, rule: &Rule, found: &Services, draft: &Draft) -> (FindingKind, String) {
        if let Some(why) = found.refused.get(&number) {
            return (FindingKind::NoCounterpart, why.clone());
        }
        let home = self.machine.rules.home(number);
        let hook = home.and_then(|chain| chain.base).map(|base| base.hook);
        if home.is_none() {
            return (FindingKind::Replaced, "a later command removes it".to_owned());
        }
        let to_tunnel = rule.conditions.iter().any(
            |condition| matches!(&condition.kind, Kind::Outgoing(names) if names.contains(&self.tunnel)),
        );
        match &rule.action {
            Action::Dnat(_) => (FindingKind::NoCounterpart, self.not_published(number, rule, hook, found)),
            Action::ClampMss => (FindingKind::Replaced, "the gateway does this itself".to_owned()),
            Action::Masquerade | Action::Snat(_) if to_tunnel => {
                (FindingKind::NoCounterpart, "no published port needs it".to_owned())
            }
            Action::Masquerade | Action::Snat(_) => (
                FindingKind::NoCounterpart,
                "peers and LANs get no way to the internet through the edge, and published connections keep their \
                 clients' addresses"
                    .to_owned(),
            ),
            Action::Accept => self.accepted(rule, hook, draft.edge.listen_port),
            Action::Refuse => refused(hook),
            Action::Return | Action::Jump(_) | Action::Goto(_) | Action::Redirect(_) | Action::Nothing | Action::Unclear => {
                (FindingKind::NoCounterpart, "no entry says this".to_owned())
            }
        }
    }

    fn not_published(&self, number: usize, rule: &Rule, hook: Option<Hook>, found: &Services) -> String {
        let line = |by: usize| self.machine.rules.rule(by).map_or(0, |rule| rule.place.line);
        let from_tunnel = rule.conditions.iter().any(|condition| {
            matches!(&condition.kind, Kind::Incoming(names) if names.contains(&self.tunnel))
                && !condition.is_negated
        });
        if hook == Some(Hook::Output) {
            return "it is for connections of this machine itself, not for the internet".to_owned();
        }
        if from_tunnel {
            return "it is for what comes out of the tunnel, not for the internet".to_owned();
        }
        match (found.stopped.get(&number), found.unclear) {
            (Some(by), _) => self.refuser(*by),
            (None, Some(by)) => format!("line {} is not read in full, and may decide before it", line(by)),
            (None, None) => {
                "an earlier rule decides about all its connections, or nothing leads to it".to_owned()
            }
        }
    }

    /// What refuses connections, in words.
    fn refuser(&self, by: Refuser) -> String {
        let line = |number: usize| self.machine.rules.rule(number).map(|rule| rule.place.line);
        let far = self.beyond.as_ref().map_or("the origin", |beyond| beyond.reader.file);
        match by {
            Refuser::Rule(by) => match line(by) {
                Some(line) => format!("line {line} refuses its connections"),
                None => {
                    let there = by.saturating_sub(self.machine.rules.rules.len());
                    let rule =
                        self.beyond.as_ref().and_then(|beyond| beyond.reader.machine.rules.rule(there));
                    let line = rule.map_or(0, |rule| rule.place.line);
                    format!("line {line} of {far} refuses its connections")
                }
            },
            Refuser::Policy => {
                "nothing lets its connections through, and what is not let through is refused".to_owned()
            }
            Refuser::PolicyThere => format!(
                "nothing in {far} lets its connections through, and what is not let through is refused there"
            ),
            Refuser::AllowedIps => {
                format!("AllowedIPs in {far} do not hold its clients' addresses, so the origin drops them")
            }
            Refuser::OwnOrNot => format!(
                "{far} treats connections to itself and to hosts behind it differently, or by interface, and does not \
                 say which its target is"
            ),
        }
    }

    fn accepted(&self, rule: &Rule, hook: Option<Hook>, listen_port: u16) -> (FindingKind, String) {
        let mut conditions = rule.conditions.iter().filter(|condition| !condition.is_negated);
        let ports = conditions.find_map(|condition| condition.kind.ports());
        let is_for = |protocol| {
            rule.conditions.iter().any(|condition| {
                matches!(&condition.kind, Kind::Protocol(protocols) if *protocols == [Some(protocol)])
                    && !condition.is_negated
            })
        };
        let are_later =
            |states: &[State]| states.iter().all(|state| matches!(state, State::Established | State::Other));
        let only_replies = rule.conditions.iter().any(|condition| {
            matches!(&condition.kind, Kind::State(states) if are_later(states)) && !condition.is_negated
        });
        if only_replies {
            return (FindingKind::Replaced, "replies pass with their flow".to_owned());
        }
        match (hook, ports) {
            (Some(Hook::Input), Some(ports)) if is_for(Protocol::Udp) && ports == [(listen_port, listen_port)] => {
                (FindingKind::Replaced, "the tunnel's own port is open".to_owned())
            }
            (Some(Hook::Input), Some(_)) => (
                FindingKind::NoCounterpart,
                "ports of the edge itself are opened in [wan] accept, or for peers by an [[allow]] to \"self\"".to_owned(),
            ),
            (Some(Hook::Forward), _) => (
                FindingKind::NoCounterpart,
                "no published port needs it; private flows between peers, the edge and its LAN are listed in [[allow]]"
                    .to_owned(),
            ),
            _ => (FindingKind::NoCounterpart, "no published port needs it".to_owned()),
        }
    }

    /// One finding for every rule of an origin, which publishes nothing itself.
    pub(super) fn remarks_of_origin(&self, draft: &mut Draft) {
        for &number in &self.machine.made {
            let Some(rule) = self.machine.rules.rule(number) else { continue };
            let (kind, text) = match &rule.action {
                Action::Dnat(_) => (
                    FindingKind::NoCounterpart,
                    "a port of the tunnel that leads elsewhere is a [[service]] with that upstream",
                ),
                Action::Masquerade | Action::Snat(_) => (
                    FindingKind::Replaced,
                    "the forwarder connects to its upstreams from this machine itself",
                ),
                Action::ClampMss => (FindingKind::Replaced, "the forwarder does this itself"),
                Action::Accept
                | Action::Refuse
                | Action::Return
                | Action::Jump(_)
                | Action::Goto(_)
                | Action::Redirect(_)
                | Action::Nothing
                | Action::Unclear => (
                    FindingKind::NoCounterpart,
                    "the forwarder carries what [[service]] and [[reach]] list, and nothing else",
                ),
            };
            draft.findings.push(self.of_rule(rule, kind, text));
        }
    }
}

/// A rule that refuses what the gateway refuses as well, as far as its place says so.
fn refused(hook: Option<Hook>) -> (FindingKind, String) {
    match hook {
        Some(Hook::Forward | Hook::Input) => {
            (FindingKind::Replaced, "the gateway refuses what no entry lists".to_owned())
        }
        _ => (
            FindingKind::NoCounterpart,
            "the gateway refuses what no entry lists, and nothing more".to_owned(),
        ),
    }
}
