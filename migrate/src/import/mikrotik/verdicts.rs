//! What became of each rule of a router, once it is known what is carried.

use super::flows::Flow;
use super::notes::{EDGE, Notes};
use super::ranges::{Family, Ranges};
use super::rule::{Action, Rule};
use super::site::Site;
use crate::import::outcome::FindingKind::{self, Carried, NoCounterpart, Replaced, Stays};

type Verdict = (FindingKind, String);

/// Notes what became of every rule of one family.
pub(super) fn verdicts(site: &Site<'_>, side: usize, notes: &mut Notes) {
    for rule in &site.filter {
        let (kind, text) = filter(site, rule, side, notes);
        notes.verdict(side, rule.index, kind, text);
    }
    for rule in &site.nat {
        if let Some((kind, text)) = nat(site, rule, side, notes) {
            notes.verdict(side, rule.index, kind, text);
        }
    }
    for rule in &site.raw {
        let (kind, text) = effects(site, rule, side, notes)
            .unwrap_or_else(|| early(site, rule, "about packets before the router forwards them"));
        notes.verdict(side, rule.index, kind, text);
    }
    for rule in &site.bridge {
        let (kind, text) = effects(site, rule, side, notes)
            .unwrap_or_else(|| early(site, rule, "about frames of a bridge, none of them carried"));
        notes.verdict(side, rule.index, kind, text);
    }
}

/// A rule that is asked before or after the router's filter, and takes nothing of what is carried.
fn early(site: &Site<'_>, rule: &Rule, text: &str) -> Verdict {
    match (&rule.action, rule.doubts.first()) {
        // No packet that the router forwards goes from one port of a bridge to another.
        _ if rule.chain == "forward" => (Stays, text.to_owned()),
        (Action::Drop | Action::Other, Some(doubt)) => {
            let text = format!("{doubt}: nothing that it may refuse is carried: {}", summary(site, rule));
            (NoCounterpart, text)
        }
        _ => (Stays, text.to_owned()),
    }
}

fn summary(site: &Site<'_>, rule: &Rule) -> String {
    site.router.entry(rule.index).map(|entry| entry.summary()).unwrap_or_default()
}

/// What a rule does to what is carried.
fn effects(site: &Site<'_>, rule: &Rule, side: usize, notes: &Notes) -> Option<Verdict> {
    if let Some(what) = notes.limited(side, rule.index) {
        return Some(match rule.doubts.first() {
            None => (Carried, format!("what it takes is no part of {what}")),
            Some(doubt) => {
                let text = format!("{doubt}: what it may take is no part of {what}: {}", summary(site, rule));
                (NoCounterpart, text)
            }
        });
    }
    notes.passed(side, rule.index).map(|what| (Carried, what))
}

/// Whether a rule may be about packets that cross the tunnel.
fn is_about_tunnel(site: &Site<'_>, rule: &Rule) -> bool {
    let link = site.link.id;
    rule.possible.arrives.contains(link) || rule.possible.leaves.contains(link)
}

/// Whether a rule is about nothing but packets that cross the tunnel, or about everything.
fn is_only_about_tunnel(site: &Site<'_>, rule: &Rule) -> bool {
    let link = Ranges::one(site.link.id);
    let beyond = |ends: &Ranges| site.beyond.covers(ends) && !ends.is_empty();
    rule.is_for_everything()
        || link.covers(&rule.possible.arrives)
        || link.covers(&rule.possible.leaves)
        || beyond(&rule.possible.sources)
        || beyond(&rule.possible.destinations)
}

fn filter(site: &Site<'_>, rule: &Rule, side: usize, notes: &Notes) -> Verdict {
    let is_last = rule.action == Action::Drop && rule.is_for_everything();
    if let Some(verdict) = effects(site, rule, side, notes).filter(|_| !is_last) {
        return verdict;
    }
    let itself = "about the router itself";
    match (rule.chain.as_str(), &rule.action) {
        ("input" | "output", _) if side == EDGE => {
            (Stays, format!("{itself}; the edge's own ports are [wan] accept and [[allow]] to \"self\""))
        }
        ("input" | "output", _) => (Stays, itself.to_owned()),
        (_, Action::Continue) => (Replaced, "it does not decide about the first packet of a flow".to_owned()),
        (_, Action::Jump(_) | Action::Return) if !rule.doubts.is_empty() => {
            let doubt = rule.doubts.first().map(String::as_str).unwrap_or_default();
            (
                NoCounterpart,
                format!("{doubt}: nothing of what it may take is carried: {}", summary(site, rule)),
            )
        }
        (_, Action::Jump(target)) => {
            (Replaced, format!("the rules of chain {target:?} were read where it jumps"))
        }
        (_, Action::Return) => (Replaced, "its chain was read in order".to_owned()),
        (_, Action::Drop) => refusing(site, rule),
        (_, Action::Accept) => accepting(site, rule, side),
        (_, Action::Translate(_) | Action::Hide(_) | Action::Other) => (NoCounterpart, summary(site, rule)),
    }
}

fn refusing(site: &Site<'_>, rule: &Rule) -> Verdict {
    let listed = "across the tunnel only what is listed passes";
    if !is_about_tunnel(site, rule) {
        return (Stays, "not about the tunnel".to_owned());
    }
    if let Some(doubt) = rule.doubts.first() {
        let text = format!("{doubt}: nothing that it may refuse is carried: {}", summary(site, rule));
        return (NoCounterpart, text);
    }
    if !rule.is_for_such || is_only_about_tunnel(site, rule) || rule.translated == Some(false) {
        return (Replaced, format!("{listed}; the rest is dropped and counted"));
    }
    (Stays, format!("{listed}; elsewhere the router still refuses it"))
}

fn accepting(site: &Site<'_>, rule: &Rule, side: usize) -> Verdict {
    if !rule.is_for_such {
        return (Replaced, "packets of known flows pass".to_owned());
    }
    if !is_about_tunnel(site, rule) {
        return (Stays, "not about the tunnel".to_owned());
    }
    if let Some(doubt) = rule.doubts.first() {
        return (NoCounterpart, format!("{doubt}: {}", summary(site, rule)));
    }
    let named = is_only_about_tunnel(site, rule);
    match (rule.translated, named, side) {
        (Some(true), _, _) => (Replaced, "it is for published ports, of which it lets none pass".to_owned()),
        (_, true, EDGE) => {
            let text =
                "nothing that it accepts both passes both routers and ends at a peer, the edge or its LAN";
            (NoCounterpart, format!("{text}: {}", summary(site, rule)))
        }
        (_, true, _) => {
            let text = "nothing that it accepts is sent by the edge or to it by host and port";
            (NoCounterpart, format!("{text}: {}", summary(site, rule)))
        }
        _ => (Stays, "what is carried needs it not".to_owned()),
    }
}

fn nat(site: &Site<'_>, rule: &Rule, side: usize, notes: &Notes) -> Option<Verdict> {
    match (&rule.action, side) {
        // Each has a verdict of its own already.
        (Action::Translate(_), EDGE) => return None,
        (Action::Translate(_), _) => {
            return Some(notes.passed(side, rule.index).map_or_else(
                || (NoCounterpart, format!("no flow of the edge needs it: {}", summary(site, rule))),
                |what| (Carried, format!("where {what} leads")),
            ));
        }
        (Action::Hide(_), _) => return Some(hiding(site, rule, side, notes)),
        _ => {}
    }
    if let Some(verdict) = effects(site, rule, side, notes) {
        return Some(verdict);
    }
    Some(match (rule.chain.as_str(), &rule.action) {
        ("srcnat", Action::Accept) if rule.possible.leaves.contains(site.link.id) => (
            Replaced,
            "NAT exemption: nothing through the tunnel is translated unless an entry says so".to_owned(),
        ),
        (_, Action::Continue) => (Replaced, "it decides nothing".to_owned()),
        (_, Action::Jump(target)) => {
            (Replaced, format!("the rules of chain {target:?} were read where it jumps"))
        }
        (_, Action::Return) => (Replaced, "its chain was read in order".to_owned()),
        _ => (Stays, "it changes nothing that is carried".to_owned()),
    })
}

/// A rule that gives packets another source.
fn hiding(site: &Site<'_>, rule: &Rule, side: usize, notes: &Notes) -> Verdict {
    let into_tunnel = rule.possible.and(&Flow { leaves: Ranges::one(site.link.id), ..Flow::all() });
    let own = site.family == Family::V4;
    match into_tunnel {
        None => {
            (Stays, if own { "the LAN's own internet access" } else { "not about the tunnel" }.to_owned())
        }
        Some(_) if side == EDGE && notes.hides => {
            (Carried, "source = \"masquerade\" of what it hides from the origin".to_owned())
        }
        Some(_) if side != EDGE => {
            (Replaced, "what leaves the forwarder has its own address in the tunnel".to_owned())
        }
        Some(_) => {
            let text = "it may hide clients from the origin, of which nothing is carried; write source = \"masquerade\" \
                        where that is wanted";
            (NoCounterpart, format!("{text}: {}", summary(site, rule)))
        }
    }
}
