//! The edge's file and the origin's, read together.

use ipnetwork::IpNetwork;

use super::super::draft::{Draft, NO_KEY};
use super::super::netfilter::{Action, Kind, Rule};
use super::super::outcome::{FindingKind, ImportError};
use super::carry::{Carried, Weighed};
use super::file::with_defaults;
use super::kinds::is_virtual;
use super::role::Role;
use super::services::Services;
use super::{Reader, Section};
use policy::PublicKey;

/// The origin's file next to the edge's.
pub(super) struct Beyond<'a> {
    pub(super) reader: Reader<'a>,
    /// The public key that the edge has it under, and that it has the edge under.
    keys: [String; 2],
    /// The section of its peer that is the edge.
    edge: usize,
    /// By which sign both files are one tunnel.
    sign: String,
}

/// An interface that no rule names.
const UNNAMED: &str = "(another)";

/// Reads the origin's file as the other end of the edge's.
///
/// # Errors
/// [`ImportError`], when no peer of one is the other.
pub(super) fn join<'a>(edge: &Reader<'_>, origin: Reader<'a>) -> Result<Beyond<'a>, ImportError> {
    if let (None, Ok((Role::Origin, signs))) = (edge.options.role, edge.role()) {
        let what = format!("it is given as the edge's file, and {signs}: give the edge's file first");
        return Err(ImportError::Ambiguous { at: edge.file.to_owned(), what });
    }
    let (near, near_sign) = peer(edge, &origin)?;
    let (far, far_sign) = peer(&origin, edge)?;
    let key = |reader: &Reader<'_>, number: usize| {
        let key = reader.peers.get(number).and_then(|peer| peer.public_key());
        key.map_or_else(|| NO_KEY.to_owned(), |key| key.to_string())
    };
    let keys = [key(edge, near), key(&origin, far)];
    let sign = format!("in {} {near_sign}, in {} {far_sign}", edge.file, origin.file);
    Ok(Beyond { reader: origin, keys, edge: far, sign })
}

/// The peer of one file that is the other, and the sign.
fn peer(one: &Reader<'_>, other: &Reader<'_>) -> Result<(usize, &'static str), ImportError> {
    let refused = |what: String| ImportError::Ambiguous { at: one.file.to_owned(), what };
    let own = other.interface.value("privatekey").and_then(|key| (one.derive)(key));
    let has = |key: PublicKey| one.peers.iter().position(|peer| peer.public_key() == Some(key));
    if let Some(at) = own.and_then(has) {
        return Ok((at, "[Peer] has its public key"));
    }
    let hosts = other.address();
    let holds = |peer: &&Section| {
        let allowed = peer.prefixes("allowedips", false);
        allowed.iter().any(|prefix| prefix.prefix() > 0 && hosts.iter().any(|own| prefix.contains(own.ip())))
    };
    let found: Vec<usize> =
        (0..).zip(&one.peers[..]).filter(|(_, peer)| holds(peer)).map(|(at, _)| at).collect();
    match (found.as_slice(), one.peers.len(), own) {
        ([at], _, None) => Ok((*at, "AllowedIPs hold its address")),
        ([at], _, Some(_)) => Ok((
            *at,
            "AllowedIPs hold its address, though PublicKey is not that of its PrivateKey: correct one of them",
        )),
        ([], 1, None) => Ok((0, "it is the only peer")),
        _ => Err(refused(format!(
            "which [Peer] is {} is not known: none has the public key of its PrivateKey, and not exactly one AllowedIPs \
             holds its address; give the two files of one tunnel",
            other.file
        ))),
    }
}

impl Beyond<'_> {
    /// The name of the origin as a peer of the edge.
    pub(super) fn name(&self, draft: &Draft) -> String {
        let [key, _] = &self.keys;
        let peer = draft.edge.peers.iter().find(|peer| peer.public_key == *key);
        peer.map(|peer| peer.name.clone()).unwrap_or_default()
    }

    /// The name of the edge as a peer of the origin.
    pub(super) fn edge_name(&self, draft: &Draft) -> String {
        let [_, key] = &self.keys;
        let peer = draft.origin.peers.iter().find(|peer| peer.public_key == *key);
        peer.map(|peer| peer.name.clone()).unwrap_or_default()
    }

    /// Whose packets the origin takes from the edge, besides the edge itself.
    pub(super) fn allowed(&self) -> Vec<IpNetwork> {
        let peer = self.reader.peers.get(self.edge);
        peer.map(|peer| with_defaults(&peer.prefixes("allowedips", false))).unwrap_or_default()
    }

    /// Interfaces that may lead to hosts behind the origin: those that its rules name.
    pub(super) fn inside(&self) -> Vec<String> {
        let mut named: Vec<String> = Vec::new();
        let rules = &self.reader.machine.rules.rules;
        for condition in rules.iter().flat_map(|rule| &rule.conditions) {
            let (Kind::Incoming(names) | Kind::Outgoing(names)) = &condition.kind else { continue };
            let names = names.iter().map(|name| name.replace('+', "0"));
            named.extend(names.filter(|name| *name != self.reader.tunnel && name != "lo"));
        }
        named.sort();
        named.dedup();
        // Virtual ones lead to containers, which are reached by other addresses.
        if named.iter().any(|name| !is_virtual(name)) {
            named.retain(|name| !is_virtual(name));
        }
        if named.is_empty() { vec![UNNAMED.to_owned()] } else { named }
    }

    /// The origin's half of both configurations, and what is known of both files.
    pub(super) fn add_to(&self, draft: &mut Draft) -> Result<(), ImportError> {
        let far = self.reader.origin()?;
        draft.origin = far.origin;
        for key in far.keys {
            match draft.keys.iter().find(|known| known.name == key.name) {
                Some(known) if known.text != key.text => {
                    let text = format!(
                        "{}: the two files have different keys for it, of which one is written",
                        key.name
                    );
                    draft.note(FindingKind::NoCounterpart, text);
                }
                Some(_) => {}
                None => draft.keys.push(key),
            }
        }
        draft.findings.extend(far.findings);
        draft.note(FindingKind::Assumed, format!("both files are one tunnel: {}", self.sign));
        if self.name(draft).is_empty() || self.edge_name(draft).is_empty() {
            let what = "the peer that is the other end has no prefix, Endpoint or key of its own".to_owned();
            return Err(ImportError::Ambiguous { at: self.reader.file.to_owned(), what });
        }
        Ok(())
    }

    /// One finding for every rule of the origin; its rules are numbered on from `first`.
    pub(super) fn remarks(
        &self,
        (found, weighed): (&Services, Option<&Weighed>),
        carried: &[Carried],
        first: usize,
        draft: &mut Draft,
    ) {
        let reader = &self.reader;
        reader.signs(draft);
        for &there in &reader.machine.made {
            let Some(rule) = reader.machine.rules.rule(there) else { continue };
            let number = first.saturating_add(there);
            let through = carried.iter().filter(|entry| entry.service.through.contains(&number));
            let through: Vec<String> = through.map(|entry| format!("{:?}", entry.name)).collect();
            let is_in = |of: &std::collections::BTreeSet<usize>| of.contains(&number);
            let is_needed = weighed.is_none_or(|weighed| is_in(&weighed.needed));
            let is_blocking = weighed.is_some_and(|weighed| is_in(&weighed.blocking));
            let through = through.join(", ");
            let (kind, text) = match &rule.action {
                _ if is_blocking => {
                    (FindingKind::NoCounterpart, "no entry can say what it decides".to_owned())
                }
                Action::Dnat(_) | Action::Redirect(_) if !through.is_empty() => (
                    FindingKind::Carried,
                    format!(
                        "the upstream of {through}; it sees the forwarder's address unless proxy_protocol is set"
                    ),
                ),
                _ if is_needed && weighed.is_some() => (
                    FindingKind::Carried,
                    format!("it decides about what is published{}", of_names(&through)),
                ),
                Action::Dnat(_) | Action::Redirect(_) => {
                    (FindingKind::NoCounterpart, self.not_led(rule, found))
                }
                Action::Accept
                | Action::Refuse
                | Action::Return
                | Action::Jump(_)
                | Action::Goto(_)
                | Action::Masquerade
                | Action::Snat(_)
                | Action::ClampMss
                | Action::Nothing
                | Action::Unclear => self.left(rule, !through.is_empty()),
            };
            draft.findings.push(reader.of_rule(rule, kind, &text));
        }
    }

    /// Why a rule that changes a destination becomes no upstream.
    fn not_led(&self, rule: &Rule, found: &Services) -> String {
        let from_tunnel = |is_negated: bool| {
            rule.conditions.iter().any(|condition| {
                matches!(&condition.kind, Kind::Incoming(names) if names.contains(&self.reader.tunnel))
                    && condition.is_negated == is_negated
            })
        };
        let names_another = rule
            .conditions
            .iter()
            .any(|condition| matches!(condition.kind, Kind::Incoming(_)) && !condition.is_negated);
        if from_tunnel(true) || names_another && !from_tunnel(false) {
            return "it is not for what comes out of the tunnel".to_owned();
        }
        if found.services.is_empty() {
            return "nothing is published that leads to it".to_owned();
        }
        "no port that is published leads to it: see what refuses its connections".to_owned()
    }

    /// What to do about a rule that nothing published needs.
    fn left(&self, rule: &Rule, passes: bool) -> (FindingKind, String) {
        match &rule.action {
            Action::Masquerade | Action::Snat(_) => (
                FindingKind::Replaced,
                "the forwarder connects to its upstreams from this machine itself".to_owned(),
            ),
            Action::ClampMss => (FindingKind::Replaced, "the forwarder does this itself".to_owned()),
            Action::Accept | Action::Refuse | Action::Return | Action::Jump(_) | Action::Goto(_)
                if passes =>
            {
                (FindingKind::Replaced, "what passes it is published, and would be without it".to_owned())
            }
            Action::Refuse => (
                FindingKind::Replaced,
                "the forwarder carries what [[service]] and [[reach]] list, and nothing else".to_owned(),
            ),
            Action::Accept
            | Action::Return
            | Action::Jump(_)
            | Action::Goto(_)
            | Action::Dnat(_)
            | Action::Redirect(_)
            | Action::Nothing
            | Action::Unclear => (
                FindingKind::NoCounterpart,
                "no published port needs it; the forwarder carries what [[service]] and [[reach]] list"
                    .to_owned(),
            ),
        }
    }
}

fn of_names(names: &str) -> String {
    if names.is_empty() { String::new() } else { format!(": {names}") }
}
