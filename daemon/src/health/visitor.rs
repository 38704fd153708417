//! The public path of a name, as both ends show it.

use serde::{Deserialize, Serialize};

use super::Place;
use super::fix::at_peer;
use crate::link::visitor::{Cause, Proof, Visited};
use crate::text::period;

/// What the origin found as its own visitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitorShown {
    /// `proven`, `failing` or `unknown`.
    pub state: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// The hop that is failing: `public_name`, `forward`, `ruleset`, `upstream` or `certificate`.
    pub hop: Option<String>,
    /// Why it is not proven, in one word.
    pub reason: Option<String>,
    /// Whether the origin's system trusts who signed the certificate; `None` where it is not known.
    pub trusted: Option<bool>,
    /// How to fix it; `None` where nothing is failing.
    pub fix: Option<String>,
}

impl VisitorShown {
    /// The path of a name of the entry that `place` has.
    #[must_use]
    pub fn of(visited: &Visited, name: &str, place: &Place) -> Self {
        let cause = visited.cause.filter(|_| visited.state != Proof::Proven);
        let failing = cause.filter(|_| visited.state == Proof::Failing);
        Self {
            state: visited.state.label().to_owned(),
            seconds: visited.seconds,
            hop: failing.map(|cause| hop(cause).to_owned()),
            reason: cause.map(|cause| cause.label().to_owned()),
            trusted: visited.trusted,
            fix: failing.map(|cause| fix(cause, name, place)),
        }
    }

    /// Whether a hop is failing.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state == Proof::Failing.label()
    }

    /// Whether it is proven.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.state == Proof::Proven.label()
    }

    /// For people, such as `path proven` or `path unknown (proxy)`.
    #[must_use]
    pub fn text(&self) -> String {
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let untrusted =
            if self.trusted == Some(false) { ", certificate not trusted by the origin" } else { "" };
        format!("path {}{reason}{untrusted}", self.state)
    }

    /// For people: which hop of the public path of `name` is failing since when and why, and how to
    /// fix it.
    #[must_use]
    pub fn line(&self, name: &str) -> String {
        let hop = self.hop.as_deref().unwrap_or("path").replace('_', " ");
        let reason = self.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let fix = self.fix.as_deref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
        format!("{name} from the internet: {hop} is {} for {}{reason}{fix}", self.state, period(self.seconds))
    }
}

/// The hop that a cause belongs to.
const fn hop(cause: Cause) -> &'static str {
    match cause {
        Cause::Unresolved | Cause::Elsewhere => "public_name",
        Cause::NotForwarded | Cause::PortRefused | Cause::OtherServer | Cause::ClientAddressLost => "forward",
        Cause::NotPublished => "ruleset",
        Cause::NoReply | Cause::UpstreamFailing => "upstream",
        Cause::CertificateExpired
        | Cause::CertificateNotYetValid
        | Cause::WrongCertificate
        | Cause::OtherCertificate => "certificate",
        Cause::NotTried
        | Cause::Stale
        | Cause::PrivateAddress
        | Cause::NoRoute
        | Cause::NoResolver
        | Cause::Restricted
        | Cause::Proxy
        | Cause::AnotherWay
        | Cause::TunnelDown
        | Cause::Other => "path",
    }
}

fn fix(cause: Cause, name: &str, place: &Place) -> String {
    let entry = place.entry.as_deref().unwrap_or("-");
    let at_origin = |text: &str| at_peer(place, text);
    match cause {
        Cause::Unresolved => format!("add a DNS record for {name} with the edge's public address"),
        Cause::Elsewhere => format!(
            "correct the DNS record of {name}: it leads to an address that is not the edge's, and this origin does \
             not reply there"
        ),
        Cause::NotForwarded => {
            "at the router in front of the edge, forward the port to the edge; without a router, \
             run `gatewayctl services` at the edge and ask its provider whether the port is blocked"
                .to_owned()
        }
        Cause::PortRefused => {
            "publish the port at the edge ([[publish]], or may_publish of the peer), and see that the \
             router forwards it to the edge, not to itself"
                .to_owned()
        }
        Cause::OtherServer => {
            "at the router in front of the edge, forward the port to the edge: another server \
             replies there, such as the router's own page"
                .to_owned()
        }
        Cause::ClientAddressLost => {
            "at the router in front of the edge, turn off masquerading (hairpin NAT, \"source \
             NAT\") for the forwarded port: visitors arrive with the router's address"
                .to_owned()
        }
        Cause::NotPublished => at_origin("run `forwarder status`: it names why no edge opens the port"),
        Cause::NoReply => at_origin(&format!(
            "see the log of the upstream of [[service]] {entry}: it does not reply as a server for {name} does"
        )),
        Cause::CertificateExpired => {
            at_origin(&format!("renew the certificate for {name} at the upstream of [[service]] {entry}"))
        }
        Cause::CertificateNotYetValid => at_origin(&format!(
            "set the clock, or replace the certificate for {name} at the upstream of [[service]] {entry}"
        )),
        Cause::WrongCertificate => {
            format!("give the server that replies for {name} a certificate for that name")
        }
        Cause::OtherCertificate => format!(
            "find out who answers for {name}: the certificate that visitors get is not the upstream's, as when a \
             machine on the path ends TLS"
        ),
        Cause::NotTried
        | Cause::Stale
        | Cause::PrivateAddress
        | Cause::NoRoute
        | Cause::NoResolver
        | Cause::Restricted
        | Cause::Proxy
        | Cause::AnotherWay
        | Cause::TunnelDown
        | Cause::UpstreamFailing
        | Cause::Other => at_origin("run `forwarder status`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_path_shows_its_hop_with_reason_time_and_fix() {
        let shown = shown(Proof::Failing, Some(Cause::NotForwarded));
        assert_eq!(
            (shown.hop.as_deref(), shown.text().as_str()),
            (Some("forward"), "path failing (not_forwarded)")
        );
        let line = shown.line("emby.example.com");
        let begin = "emby.example.com from the internet: forward is failing for 1 minute (not_forwarded); fix: at the router";
        assert!(line.starts_with(begin), "{line}");
    }

    #[test]
    fn every_failing_cause_has_a_hop_and_a_fix_of_its_own() {
        let failing = |cause: &&Cause| hop(**cause) != "path" && **cause != Cause::UpstreamFailing;
        let causes: Vec<_> = Cause::KNOWN.iter().filter(failing).collect();
        let mut fixes: Vec<_> =
            causes.iter().map(|cause| fix(**cause, "emby.example.com", &place())).collect();
        fixes.sort();
        fixes.dedup();
        assert_eq!((fixes.len(), causes.len()), (12, 12));
    }

    #[test]
    fn what_is_unknown_has_a_reason_and_no_fix_and_a_proven_path_neither() {
        let unknown = shown(Proof::Unknown, Some(Cause::Proxy));
        assert_eq!((unknown.text().as_str(), unknown.fix, unknown.hop), ("path unknown (proxy)", None, None));
        let proven = VisitorShown { trusted: Some(false), ..shown(Proof::Proven, Some(Cause::Stale)) };
        assert!(proven.is_proven());
        assert_eq!(proven.text(), "path proven, certificate not trusted by the origin");
    }

    fn shown(state: Proof, cause: Option<Cause>) -> VisitorShown {
        VisitorShown::of(&Visited { state, seconds: 60, cause, trusted: None }, "emby.example.com", &place())
    }

    fn place() -> Place {
        Place { peer: Some("wroclaw".to_owned()), entry: Some("https".to_owned()), target: String::new() }
    }
}
