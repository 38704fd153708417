//! What peers request to publish, as it is kept.
//!
//! It is judged again by root's file when it is read: whatever the file holds opens nothing that
//! `may_publish` does not have.

use std::collections::BTreeMap;

use daemon::link::publish::{MAX_ASKED, Port};
use policy::Name;
use policy::gateway::{MAX_ALL_GRANTS, Policy, Request, Requested, Requests};
use policy::ruleset::{Ruleset, ServiceKind, ServiceMark};
use serde::{Deserialize, Serialize};

/// The version of the file; a file of another one counts as none.
const SCHEMA: u32 = 1;

/// What the file holds, and what an edge of a pair sends the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptGrants {
    schema: u32,
    peers: BTreeMap<Name, Vec<Kept>>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    port: Port,
    /// The name under which it was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The lower half of its conntrack mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u16>,
}

impl Default for KeptGrants {
    fn default() -> Self {
        Self { schema: SCHEMA, peers: BTreeMap::new() }
    }
}

impl KeptGrants {
    /// The requests of the peers of a policy, with the marks that they have in these rules.
    #[must_use]
    pub fn of(requests: &Requests, policy: &Policy, rules: &Ruleset) -> Self {
        let numbers: BTreeMap<&Name, u16> = rules
            .services
            .iter()
            .filter(|service| service.name.is_granted())
            .filter_map(|service| {
                let number = service.mark.checked_sub(policy.kernel.ct_mark)?;
                Some((&service.name, u16::try_from(number).ok()?))
            })
            .collect();
        let kept = |request: &Request| {
            Some(Kept {
                port: Port::of(&request.requested)?,
                name: request.name.as_ref().map(ToString::to_string),
                number: request.name.as_ref().and_then(|name| numbers.get(name).copied()),
            })
        };
        let known = requests.peers().filter(|(name, _)| policy.peers.iter().any(|peer| peer.name == **name));
        let peers = known.map(|(name, requests)| (name.clone(), requests.iter().filter_map(kept).collect()));
        Self { schema: SCHEMA, peers: peers.collect() }
    }

    /// The requests with their marks; what is more than peers may have is left out.
    #[must_use]
    pub fn read(self, ct_mark: u32) -> (Requests, Vec<ServiceMark>) {
        let (mut requests, mut marks) = (Requests::default(), Vec::new());
        if self.schema != SCHEMA {
            return (requests, marks);
        }
        let mut room = MAX_ALL_GRANTS;
        for (peer, kept) in self.peers {
            let mut restored = Vec::new();
            for Kept { port, name, number } in kept.into_iter().take(MAX_ASKED.min(room)) {
                let is_its = |name: &Name| name.as_str().split('/').next() == Some(peer.as_str());
                let name = name.and_then(|name| Name::granted(&name)).filter(is_its);
                let mark = name.clone().zip(number);
                marks.extend(mark.map(|(name, number)| ServiceMark {
                    name,
                    kind: ServiceKind::Publish,
                    mark: ct_mark | u32::from(number),
                }));
                restored.push(Request { requested: Requested::from(&port), name });
            }
            room = room.saturating_sub(restored.len());
            requests.restore(&peer, restored);
        }
        (requests, marks)
    }
}

#[cfg(test)]
mod tests {
    use policy::trust::Listener;

    use super::*;
    use crate::edge::example;
    use crate::state::State;

    #[test]
    fn requests_with_names_and_marks_of_what_is_granted_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let policy = policy();
        let mut requests = Requests::default();
        let ports = [port(80), port(9_999), port(81)];
        requests.replace(&wroclaw(), ports.iter().map(Requested::from).collect());
        let judged = requests.judge(&policy, &NOTHING);
        let rules = judged.served.plan().ruleset;
        state.keep_grants(&judged.requests, &judged.served, &rules).unwrap();

        let (found, marks) = state.grants(policy.kernel.ct_mark);
        assert_eq!(found, judged.requests);
        let granted: Vec<_> = rules.services.iter().filter(|mark| mark.name.is_granted()).cloned().collect();
        assert_eq!(marks, granted);
        assert_eq!(
            marks.iter().map(|mark| mark.name.as_str()).collect::<Vec<_>>(),
            ["wroclaw/web", "wroclaw/web-81"]
        );
    }

    #[test]
    fn a_damaged_or_forged_file_names_nothing_of_others_and_holds_no_more_than_may_be_requested() {
        let read = |kept: &str| {
            let text = format!(r#"{{"schema":1,"peers":{{"wroclaw":[{kept}]}}}}"#);
            serde_json::from_str::<KeptGrants>(&text).map(|kept| kept.read(0x4357_0000))
        };
        let port = r#""service":"web","ports":[80,80],"target":"10.77.88.2""#;
        for name in ["https", "gdansk/web", "wroclaw/", "wroclaw/a b", "wroclaw/$(reboot)"] {
            let (requests, marks) = read(&format!(r#"{{{port},"name":"{name}","number":1}}"#)).unwrap();
            assert!(
                requests.peers().flat_map(|(_, requests)| requests).all(|request| request.name.is_none()),
                "{name}"
            );
            assert_eq!(marks, [], "{name}");
        }
        assert!(read(r#"{"service":"web","ports":[0,80],"target":"10.77.88.2"}"#).is_err());
        let many = vec![format!("{{{port}}}"); 1_000].join(",");
        assert_eq!(
            read(&many).unwrap().0.peers().map(|(_, requests)| requests.len()).sum::<usize>(),
            MAX_ASKED
        );
        let other = KeptGrants {
            schema: 2,
            ..serde_json::from_str(&format!(r#"{{"schema":1,"peers":{{"wroclaw":[{{{port}}}]}}}}"#)).unwrap()
        };
        assert_eq!(other.read(0).0, Requests::default(), "another version's file counts as none");
    }

    const NOTHING: [Listener; 0] = [];

    fn policy() -> Policy {
        let prefixes = "allowed_ips = [";
        let may = format!("may_publish = [\"80\", \"81\"]\n{prefixes}");
        example::policy(&example::TEXT.replace(prefixes, &may))
    }

    fn wroclaw() -> Name {
        Name::new("wroclaw").unwrap()
    }

    fn port(number: u16) -> Port {
        let text = format!(r#"{{"service":"web","ports":[{number},{number}],"target":"10.77.88.2"}}"#);
        serde_json::from_str(&text).unwrap()
    }
}
