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
        HopName::Ruleset => "run `gatewayctl status`: it names what fails and how to fix it".to_owned(),
        HopName::Route => {
            "run `gatewayctl status`: it names the rule or route that is in the way; see also `ip rule`".to_owned()
        }
        HopName::Tunnel => tunnel(place),
        HopName::Link => "run `gatewayctl peers`: it shows why there is no link".to_owned(),
        HopName::ServiceEntry => {
            let (target, peer) = (&place.target, place.peer.as_deref().unwrap_or("the origin"));
            format!("add a [[service]] with match = \"{target}\" to forwarder.toml of {peer}, and run `forwarder reload` there")
        }
        HopName::Upstream => at_peer(place, &upstream(hop.reason, place)),
    })
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

fn at_peer(place: &Place, text: &str) -> String {
    place.peer.as_ref().map_or_else(|| text.to_owned(), |peer| format!("at {peer}: {text}"))
}

fn upstream(reason: Option<Reason>, place: &Place) -> String {
    let entry = place.entry.as_deref().unwrap_or("-");
    match reason {
        Some(Reason::Probe(Why::Refused)) => {
            format!("start the program that listens on the upstream of [[service]] {entry}, or correct `upstream`")
        }
        Some(Reason::Probe(Why::TimedOut)) => format!(
            "restart the program that listens on the upstream of [[service]] {entry}: it accepts no connection, or does not reply"
        ),
        Some(Reason::Probe(Why::Unreachable)) => {
            format!("bring up the network to the upstream of [[service]] {entry}, or correct `upstream`")
        }
        Some(Reason::Probe(Why::Unresolved)) => {
            format!("correct the host name in `upstream` of [[service]] {entry}, or the DNS that resolves it")
        }
        Some(Reason::Probe(Why::BadReply)) => {
            format!("see the log of the upstream of [[service]] {entry}, and its `health` and `proxy_protocol`")
        }
        Some(Reason::Probe(Why::Exhausted)) => {
            "raise the limit of open files of the forwarder (LimitNOFILE= of the unit, NumberOfFiles of the plist)".to_owned()
        }
        _ => format!("run `forwarder status`, and see the log of the upstream of [[service]] {entry}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::Evidence;

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
