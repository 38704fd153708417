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

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptGrants {
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
    pub(super) fn of(requests: &Requests, policy: &Policy, rules: &Ruleset) -> Self {
        let numbers: BTreeMap<&Name, u16> = rules
            .services
            .iter()
            .filter(|service| service.name.is_granted())
            .filter_map(|service| {
                let number = service.mark.checked_sub(policy.kernel.ct_mark)?;
                Some((&service.name, u16::try_from(number).ok()?))
            })
            .collect();
        let kept = |request: &Request| Kept {
            port: Port::from(&request.requested),
            name: request.name.as_ref().map(ToString::to_string),
            number: request.name.as_ref().and_then(|name| numbers.get(name).copied()),
        };
        let known = requests.peers().filter(|(name, _)| policy.peers.iter().any(|peer| peer.name == **name));
        let peers = known.map(|(name, requests)| (name.clone(), requests.iter().map(kept).collect()));
        Self { schema: SCHEMA, peers: peers.collect() }
    }

    /// The requests with their marks; what is more than peers may have is left out.
    pub(super) fn read(self, ct_mark: u32) -> (Requests, Vec<ServiceMark>) {
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
