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

/// What was requested before a request, and whether it was left out.
#[derive(Debug)]
pub(in crate::edge) struct Before {
    requests: Requests,
    is_left_out: bool,
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

    /// Whether a request changes nothing: there is none, and there was none.
    pub(in crate::edge) fn is_nothing(&self, peer: &Name, requested: &[Requested]) -> bool {
        requested.is_empty() && self.requests_of(peer).is_empty()
    }

    /// Takes all that a peer requests now; what was before.
    pub(in crate::edge) fn replace(&mut self, peer: &Name, requested: Vec<Requested>) -> Before {
        let before = Before { requests: self.requests.clone(), is_left_out: self.is_left_out };
        self.requests.replace(peer, requested);
        self.is_left_out = false;
        // It is replied to in any case, so there is nothing to announce.
        self.sent.remove(peer);
        before
    }

    /// Takes all that every peer requests at the other edge of a pair; what was before.
    pub(in crate::edge) fn take_over(&mut self, requests: Requests) -> Before {
        let is_left_out = std::mem::take(&mut self.is_left_out);
        Before { requests: std::mem::replace(&mut self.requests, requests), is_left_out }
    }

    /// Takes back what was before: the kernel refused what is requested now.
    pub(in crate::edge) fn put_back(&mut self, Before { requests, is_left_out }: Before) {
        (self.requests, self.is_left_out) = (requests, is_left_out);
    }

    /// Whether what is granted is left out, whatever it is, since the kernel refused it; whether it
    /// was.
    pub(in crate::edge) const fn leave_out(&mut self, is_left_out: bool) -> bool {
        std::mem::replace(&mut self.is_left_out, is_left_out)
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
            self.open
                .iter()
                .any(|open| open.protocols.contains(used.protocol) && open.ports.contains(used.port))
        };
        let counts = |used: &&Listener| !is_open(used) || self.seen.contains(used);
        self.in_use = found.iter().filter(counts).copied().collect();
        self.seen = found;
    }

    /// Why nothing is granted, and how to fix it.
    pub(in crate::edge) fn problem(&self) -> Option<String> {
        self.is_left_out.then(|| {
            "the ports that peers publish by themselves are closed, since the kernel refused the rules with them; see the log, and \
             run: gatewayctl reload"
                .to_owned()
        })
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
        // Most of many peers request nothing, and judging is the work of all.
        if self.requests_of(peer).is_empty() {
            return Vec::new();
        }
        self.answers_of(&self.requests.judge(policy, &self.in_use), peer)
    }

    fn requests_of(&self, peer: &Name) -> &[Request] {
        let asked = self.requests.peers().find(|(known, _)| *known == peer);
        asked.map(|(_, requests)| requests).unwrap_or_default()
    }

    fn answers_of(&self, judged: &Judged, peer: &Name) -> Vec<Answer> {
        let Some(replies) = judged.replies.get(peer) else {
            return vec![Answer::from(Err(Refusal::NotAllowed)); self.requests_of(peer).len()];
        };
        let requests = judged.requests.peers().find(|(known, _)| *known == peer);
        let requests = requests.map(|(_, requests)| requests).unwrap_or_default();
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
        let asking: Vec<_> = self.sent.iter().filter(|(_, sent)| !sent.is_empty()).collect();
        if asking.is_empty() {
            return Vec::new();
        }
        let judged = self.requests.judge(policy, &self.in_use);
        let is_news = |(peer, sent): &(&Name, &Vec<Answer>)| **sent != self.answers_of(&judged, peer);
        let news: Vec<Name> = asking.into_iter().filter(is_news).map(|(peer, _)| peer.clone()).collect();
        // Each is announced once: the peer asks again.
        news.iter().for_each(|peer| drop(self.sent.remove(peer)));
        news
    }
}

#[cfg(test)]
mod tests {
    use policy::gateway::Policy;
    use policy::{AllowList, PortRange, Protocol, PublicPorts};

    use super::*;
    use crate::edge::example;

    #[test]
    fn a_port_is_granted_once_it_is_open_and_failed_when_the_kernel_did_not_take_it() {
        let (policy, mut grants) = (policy(), Granting::default());
        grants.replace(&wroclaw(), vec![request(80), request(9_999)]);
        assert_eq!(grants.answers(&policy, &wroclaw()), [Answer::Failed, Answer::NotAllowed]);
        open(&mut grants, &policy);
        assert_eq!(grants.answers(&policy, &wroclaw()), [Answer::Granted, Answer::NotAllowed]);
        let unknown = Name::new("unknown").unwrap();
        grants.replace(&unknown, vec![request(80)]);
        assert_eq!(grants.answers(&policy, &unknown), [Answer::NotAllowed]);
    }

    #[test]
    fn a_port_that_a_program_of_the_edge_takes_is_closed_when_two_looks_found_it() {
        let (policy, mut grants) = (policy(), Granting::default());
        grants.replace(&wroclaw(), vec![request(80), request(81)]);
        grants.handle_look(vec![socket(81)], Some(Vec::new()));
        open(&mut grants, &policy);
        assert_eq!(grants.answers(&policy, &wroclaw()), [Answer::Granted, Answer::InUse]);
        let mut look = |sockets: &[u16], redirected: Option<&[u16]>| {
            let listeners = |ports: &[u16]| ports.iter().map(|port| socket(*port)).collect::<Vec<_>>();
            grants.handle_look(listeners(sockets), redirected.map(listeners));
            open(&mut grants, &policy);
            grants.answers(&policy, &wroclaw())
        };
        assert_eq!(look(&[80], Some(&[])), [Answer::Granted; 2], "for a moment only");
        assert_eq!(
            look(&[], Some(&[80])),
            [Answer::InUse, Answer::Granted],
            "as a container's it is the same port"
        );
        assert_eq!(look(&[], None), [Answer::InUse, Answer::Granted], "what containers publish is not known");
        assert_eq!(look(&[], Some(&[])), [Answer::Granted; 2]);
    }

    #[test]
    fn what_the_kernel_refused_is_left_out_until_something_else_is_requested() {
        let (policy, mut grants) = (policy(), Granting::default());
        grants.replace(&wroclaw(), vec![request(80)]);
        grants.leave_out(true);
        open(&mut grants, &policy);
        assert_eq!(grants.judge(&policy).served, policy);
        assert_eq!(grants.answers(&policy, &wroclaw()), [Answer::Failed]);
        grants.replace(&wroclaw(), vec![request(81)]);
        open(&mut grants, &policy);
        assert_eq!(grants.answers(&policy, &wroclaw()), [Answer::Granted]);
    }

    #[test]
    fn what_was_left_out_stays_so_when_the_kernel_refuses_what_is_requested_instead() {
        let (policy, mut grants) = (policy(), Granting::default());
        grants.replace(&wroclaw(), vec![request(80)]);
        grants.leave_out(true);
        let before = grants.replace(&wroclaw(), vec![request(80)]);
        assert_ne!(grants.judge(&policy).served, policy, "it is tried again");
        grants.put_back(before);
        assert_eq!(grants.judge(&policy).served, policy);
        assert!(grants.problem().is_some());
    }

    #[test]
    fn a_peer_that_requests_nothing_and_requested_nothing_changes_nothing() {
        let (policy, mut grants) = (policy(), Granting::default());
        assert!(grants.is_nothing(&wroclaw(), &[]) && !grants.is_nothing(&wroclaw(), &[request(80)]));
        assert_eq!(grants.answers(&policy, &wroclaw()), []);
        grants.replace(&wroclaw(), vec![request(80)]);
        assert!(!grants.is_nothing(&wroclaw(), &[]), "it is a withdrawal");
    }

    #[test]
    fn a_peer_that_is_replied_to_has_no_news_besides() {
        let (policy, mut grants) = (policy(), Granting::default());
        grants.replace(&wroclaw(), vec![request(80)]);
        open(&mut grants, &policy);
        let answers = grants.answers(&policy, &wroclaw());
        grants.handle_sent(&wroclaw(), answers);
        grants.replace(&wroclaw(), vec![request(80), request(81)]);
        open(&mut grants, &policy);
        assert_eq!(grants.take_news(&policy), []);
    }

    #[test]
    fn a_peer_has_news_once_when_another_policy_grants_something_else() {
        let (policy, mut grants) = (policy(), Granting::default());
        grants.replace(&wroclaw(), vec![request(80)]);
        open(&mut grants, &policy);
        assert_eq!(grants.take_news(&policy), [], "it was replied nothing yet");
        let answers = grants.answers(&policy, &wroclaw());
        grants.handle_sent(&wroclaw(), answers);
        assert_eq!(grants.take_news(&policy), []);
        let smaller = example::policy(example::TEXT);
        open(&mut grants, &smaller);
        assert_eq!(grants.take_news(&smaller), [wroclaw()]);
        assert_eq!(grants.take_news(&smaller), []);
    }

    /// Puts into force what this policy grants.
    fn open(grants: &mut Granting, policy: &Policy) {
        let judged = grants.judge(policy);
        grants.handle_in_force(&judged);
    }

    fn policy() -> Policy {
        let prefixes = "allowed_ips = [";
        example::policy(
            &example::TEXT.replace(prefixes, &format!("may_publish = [\"80\", \"81\"]\n{prefixes}")),
        )
    }

    fn wroclaw() -> Name {
        Name::new("wroclaw").unwrap()
    }

    fn request(port: u16) -> Requested {
        let ports = PortRange::new(port, port).unwrap();
        Requested {
            service: Name::new("web").unwrap(),
            port: PublicPorts { protocol: Protocol::Tcp, ports },
            targets: vec![[10, 77, 88, 2].into()],
            target_ports: ports,
            allow: AllowList::Any,
        }
    }

    fn socket(port: u16) -> Listener {
        Listener { protocol: Protocol::Tcp, address: [0, 0, 0, 0].into(), port }
    }
}
