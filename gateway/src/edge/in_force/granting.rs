//! What peers request to publish, and what the edge uses itself.

use std::collections::BTreeMap;

use daemon::link::publish::Answer;
use policy::Name;
use policy::gateway::{Judged, Policy, Publish, Refusal, Request, Requested, Requests};
use policy::trust::Listener;

/// The requests of peers with what decides about them besides the policy.
#[derive(Clone, Debug, Default)]
pub(in crate::edge) struct Granting {
    requests: Requests,
    /// The ports that the edge uses itself.
    in_use: Vec<Listener>,
    /// As the last look found them.
    seen: Vec<Listener>,
    /// Those of them that containers publish.
    redirected: Vec<Listener>,
    /// Whether the kernel refused the rules with what is granted.
    is_left_out: bool,
    /// The ports that are open for peers.
    open: Vec<Publish>,
    /// What each peer was replied last.
    sent: BTreeMap<Name, Vec<Answer>>,
}

impl Granting {
    /// What peers had requested before this start.
    pub(in crate::edge) fn new(requests: Requests) -> Self {
        Self { requests, ..Self::default() }
    }

    /// Whether a peer requests anything, so that what the edge uses is to be known.
    pub(in crate::edge) fn is_needed(&self) -> bool {
        self.requests.peers().next().is_some()
    }

    /// What each peer requests.
    pub(in crate::edge) const fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Takes all that a peer requests now; what it requested before.
    pub(in crate::edge) fn replace(&mut self, peer: &Name, requested: Vec<Requested>) -> Requests {
        let before = self.requests.clone();
        self.requests.replace(peer, requested);
        self.is_left_out = false;
        before
    }

    /// Takes back what was requested before: the kernel refused what is requested now.
    pub(in crate::edge) fn put_back(&mut self, requests: Requests) {
        self.requests = requests;
    }

    /// Leaves out what is granted, whatever it is: the kernel refused it.
    pub(in crate::edge) const fn leave_out(&mut self) {
        self.is_left_out = true;
    }

    /// Takes in again what is granted: the kernel refused the rules without it as well.
    pub(in crate::edge) const fn take_in(&mut self) {
        self.is_left_out = false;
    }

    /// Takes the sockets of the edge's programs, and the ports that its containers publish if those
    /// are known.
    ///
    /// A port that is open for a peer is in use only when two looks found it so: a program that asks
    /// a question from some port for a moment takes it from no peer.
    pub(in crate::edge) fn handle_look(&mut self, sockets: Vec<Listener>, redirected: Option<Vec<Listener>>) {
        if let Some(redirected) = redirected {
            self.redirected = redirected;
        }
        let found: Vec<Listener> = sockets.into_iter().chain(self.redirected.iter().copied()).collect();
        let is_open = |used: &Listener| {
            self.open.iter().any(|open| open.protocols.contains(used.protocol) && open.ports.contains(used.port))
        };
        let counts = |used: &&Listener| !is_open(used) || self.seen.contains(used);
        self.in_use = found.iter().filter(counts).copied().collect();
        self.seen = found;
    }

    /// The policy with what it grants.
    pub(in crate::edge) fn judge(&self, policy: &Policy) -> Judged {
        let judged = self.requests.judge(policy, &self.in_use);
        if self.is_left_out { Judged { served: policy.clone(), ..judged } } else { judged }
    }

    /// Takes what is in force now: names of grants, and which ports are open.
    pub(in crate::edge) fn handle_in_force(&mut self, judged: &Judged) {
        self.requests = judged.requests.clone();
        let granted = judged.served.publish.iter().filter(|publish| publish.name.is_granted());
        self.open = granted.cloned().collect();
    }

    /// What a peer is replied: a port is granted once it is open.
    pub(in crate::edge) fn answers(&self, policy: &Policy, peer: &Name) -> Vec<Answer> {
        let judged = self.requests.judge(policy, &self.in_use);
        let requests = judged.requests.peers().find(|(known, _)| *known == peer);
        let requests = requests.map(|(_, requests)| requests).unwrap_or_default();
        let Some(replies) = judged.replies.get(peer) else {
            return vec![Answer::from(Err(Refusal::NotAllowed)); requests.len()];
        };
        let is_open = |request: &Request| {
            let publish = |publish: &&Publish| Some(&publish.name) == request.name.as_ref();
            let wanted = judged.served.publish.iter().find(publish);
            wanted.is_some_and(|wanted| self.open.contains(wanted))
        };
        let answer = |(request, reply): (&Request, &Result<(), Refusal>)| match reply {
            Ok(()) if !is_open(request) => Answer::Failed,
            reply => Answer::from(*reply),
        };
        requests.iter().zip(replies).map(answer).collect()
    }

    /// A peer was replied this.
    pub(in crate::edge) fn handle_sent(&mut self, peer: &Name, answers: Vec<Answer>) {
        self.sent.insert(peer.clone(), answers);
    }

    /// The peers for which something else is granted than they were replied last.
    pub(in crate::edge) fn take_news(&mut self, policy: &Policy) -> Vec<Name> {
        let is_news = |peer: &&Name| self.sent.get(*peer).is_some_and(|sent| *sent != self.answers(policy, peer));
        let news: Vec<Name> = self.sent.keys().filter(is_news).cloned().collect();
        // Each is announced once: the peer asks again.
        news.iter().for_each(|peer| drop(self.sent.remove(peer)));
        news
    }
}
