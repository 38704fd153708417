//! What peers request to publish, and what of it is granted: the published ports that no file has.

use std::collections::BTreeMap;

use super::may_publish::granted;
use super::model::{Grant, Limits, Policy, Publish, Refusal, Requested, SourceHandling, Target};
use crate::trust::Listener;
use crate::{Name, Protocols};

/// The most grants of all peers together: there are twice as many conntrack marks for them.
pub const MAX_ALL_GRANTS: usize = 4_096;

/// One request of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is requested.
    pub requested: Requested,
    /// The name that it got when it was first granted, which it keeps: rules and flows know it by
    /// that.
    pub name: Option<Name>,
}

/// What each peer requested last, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    peers: BTreeMap<Name, Vec<Request>>,
}

/// Requests, judged by a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The requests, those that are granted with their names.
    pub requests: Requests,
    /// What each peer of the policy is replied, in the order of its requests.
    pub replies: BTreeMap<Name, Vec<Result<(), Refusal>>>,
    /// The policy with what is granted among what it publishes, behind its own.
    pub served: Policy,
}

impl Requests {
    /// Takes all that a peer requests now; what it requested before and does not any more is
    /// withdrawn.
    pub fn replace(&mut self, peer: &Name, requested: Vec<Requested>) {
        let before = self.peers.remove(peer).unwrap_or_default();
        let name_of = |requested: &Requested| {
            let same = |request: &&Request| {
                request.requested.service == requested.service && request.requested.port == requested.port
            };
            before.iter().find(same).and_then(|request| request.name.clone())
        };
        let requests: Vec<Request> =
            requested.into_iter().map(|requested| Request { name: name_of(&requested), requested }).collect();
        self.restore(peer, requests);
    }

    /// Takes the requests of a peer with the names that they had.
    pub fn restore(&mut self, peer: &Name, requests: Vec<Request>) {
        if !requests.is_empty() {
            self.peers.insert(peer.clone(), requests);
        }
    }

    /// What each peer requested.
    pub fn peers(&self) -> impl Iterator<Item = (&Name, &[Request])> {
        self.peers.iter().map(|(peer, requests)| (peer, requests.as_slice()))
    }

    /// Judges everything by a policy and by what the edge uses itself, as [`granted`] does. What
    /// peers requested that the policy does not have is forgotten.
    #[must_use]
    pub fn judge(&self, policy: &Policy, in_use: &[Listener]) -> Judged {
        let mut requests = self.clone();
        requests.peers.retain(|name, _| policy.peers.iter().any(|peer| peer.name == *name));
        let mut judged = Judged { requests, replies: BTreeMap::new(), served: policy.clone() };
        for peer in &policy.peers {
            judged.judge_peer(policy, in_use, &peer.name);
        }
        judged
    }

    /// How many requests of other peers have been granted.
    fn named_besides(&self, peer: &Name) -> usize {
        let others = self.peers.iter().filter(|(other, _)| *other != peer);
        others.flat_map(|(_, requests)| requests).filter(|request| request.name.is_some()).count()
    }
}

impl Judged {
    fn judge_peer(&mut self, policy: &Policy, in_use: &[Listener], peer: &Name) {
        let room = MAX_ALL_GRANTS.saturating_sub(self.requests.named_besides(peer));
        let Some(requests) = self.requests.peers.get_mut(peer) else { return };
        let requested: Vec<Requested> = requests.iter().map(|request| request.requested.clone()).collect();
        let mut published: Vec<Publish> = Vec::new();
        let mut replies = Vec::new();
        for (at, grant) in granted(policy, in_use, peer, &requested).into_iter().enumerate() {
            let reply = grant.and_then(|grant| {
                let name = name(requests, at, &grant).filter(|_| published.len() < room);
                let name = name.ok_or(Refusal::TooMany)?;
                if let Some(request) = requests.get_mut(at) {
                    request.name = Some(name.clone());
                }
                published.push(publish(grant, name));
                Ok(())
            });
            replies.push(reply);
        }
        self.served.publish.extend(published);
        self.replies.insert(peer.clone(), replies);
    }
}

/// The name of a grant: the one that it has, else PEER/SERVICE, and where the service has that for
/// another port, the port behind it.
fn name(requests: &[Request], at: usize, grant: &Grant) -> Option<Name> {
    let is_taken = |name: &Name| {
        let mut others = requests.iter().enumerate().filter(|(other, _)| *other != at);
        others.any(|(_, request)| request.name.as_ref() == Some(name))
    };
    // Of two with one name, which only a damaged state has, the first keeps it.
    let is_first = |name: &Name| !requests.iter().take(at).any(|other| other.name.as_ref() == Some(name));
    if let Some(name) = requests.get(at).and_then(|request| request.name.clone()).filter(is_first) {
        return Some(name);
    }
    let mut text = grant.to_string();
    loop {
        let name = Name::granted(&text)?;
        if !is_taken(&name) {
            return Some(name);
        }
        text.push_str(&format!("-{}", grant.port));
    }
}

fn publish(grant: Grant, name: Name) -> Publish {
    let Grant { peer, target_ports, .. } = grant;
    let target = |address| Target { address, ports: target_ports, peer: peer.clone() };
    Publish {
        name,
        protocols: Protocols::from(grant.port.protocol),
        address: None,
        ports: grant.port.ports,
        wan_only: true,
        targets: grant.targets.into_iter().map(target).collect(),
        source: SourceHandling::Preserve,
        allow: grant.allow,
        limits: Limits::default(),
    }
}
