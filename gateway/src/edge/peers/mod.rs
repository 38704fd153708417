//! Where peers are: the endpoints kept on disk, and those that are names, each address of which is
//! tried in turn.

pub(super) mod config;
mod resolve;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use daemon::endpoint_name::EndpointName;
use policy::gateway::Policy;
use policy::{HostPort, Name};
use tunnel::key::PublicKey;
use tunnel::time::Now;

use crate::state::Endpoints;

pub(super) use resolve::{handle_silence, resolve_due};

/// What is known of where peers are.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// The endpoints as they are in the state folder.
    kept: Endpoints,
    /// Whether they were written since the last tick.
    is_noted: bool,
    /// Endpoints that are names in the configuration, by the peer's key.
    names: BTreeMap<PublicKey, (Name, EndpointName)>,
}

impl Peers {
    /// The peers of a policy at the start, with the endpoints that were `kept`.
    pub(super) fn new(policy: &Policy, kept: Endpoints) -> Self {
        let mut peers = Self { kept, ..Self::default() };
        peers.follow(policy);
        peers
    }

    /// Follows the endpoints that are names in this policy; what is known of those that stay is
    /// kept.
    pub(super) fn follow(&mut self, policy: &Policy) {
        let mut before = std::mem::take(&mut self.names);
        for peer in &policy.peers {
            let Some(endpoint) = config::name_to_resolve(peer) else { continue };
            // Validation refused low-order keys already, so no peer is left out here.
            let Ok(key) = PublicKey::from_bytes(*peer.public_key.as_bytes()) else { continue };
            let known = before.remove(&key).map(|(_, known)| known);
            let known = known.filter(|known| known.endpoint() == endpoint);
            let known = known.unwrap_or_else(|| EndpointName::new(endpoint.clone()));
            self.names.insert(key, (peer.name.clone(), known));
        }
    }

    /// The endpoints as they were last kept.
    pub(super) const fn kept(&self) -> &Endpoints {
        &self.kept
    }

    /// The names to resolve now.
    fn due(&mut self, now: Now) -> Vec<(PublicKey, HostPort)> {
        let names = self.names.iter_mut();
        let due =
            names.filter_map(|(key, (_, name))| name.is_due(now).then(|| (*key, name.endpoint().clone())));
        due.collect()
    }

    /// Takes the addresses of a peer's name; the address to try next, if it is another than
    /// `current`.
    fn handle_addresses(
        &mut self,
        now: Now,
        key: &PublicKey,
        addresses: &[SocketAddr],
        current: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let (peer, name) = self.names.get_mut(key)?;
        if addresses.is_empty() {
            tracing::info!(peer = %peer, "the peer's name does not resolve; trying again");
        }
        name.handle_resolved(now, addresses, current)
    }

    /// The peer is silent: the addresses of its name, if it has one, are tried in turn until it
    /// replies.
    fn handle_silence(&mut self, now: Now, key: &PublicKey) {
        if let Some((_, name)) = self.names.get_mut(key) {
            name.handle_silence(now);
        }
    }

    /// The peer has replied from where it is.
    pub(super) fn handle_reply(&mut self, key: &PublicKey) {
        if let Some((_, name)) = self.names.get_mut(key) {
            name.handle_reply();
        }
    }

    /// Notes that an endpoint changed; whether it is to be written at once, as after a quiet
    /// second, or by the next tick.
    pub(super) const fn note(&mut self) -> bool {
        !std::mem::replace(&mut self.is_noted, true)
    }

    /// A tick is over: the next change is written at once.
    pub(super) const fn handle_tick(&mut self) {
        self.is_noted = false;
    }

    /// Takes the endpoints of the peers `heard` since the start, by their keys; what is to be
    /// written, if it is other than before. Peers that were not heard keep the place they had, and
    /// those that `policy` has not are forgotten.
    pub(super) fn moved(
        &mut self,
        policy: &Policy,
        heard: impl IntoIterator<Item = (String, SocketAddr)>,
    ) -> Option<&Endpoints> {
        let mut endpoints = self.kept.clone();
        endpoints.peers.extend(heard);
        endpoints.peers.retain(|key, _| policy.peers.iter().any(|peer| peer.public_key.to_string() == *key));
        if endpoints == self.kept {
            return None;
        }
        self.kept = endpoints;
        Some(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;
    use tunnel::time::Instant;

    use super::*;

    const KEY: &str = "j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs=";

    #[test]
    fn endpoints_of_configured_peers_are_written_once_and_kept_while_a_peer_is_not_heard() {
        let policy = policy("198.51.100.7:51820");
        let kept = |address: &str| Endpoints { peers: [(KEY.to_owned(), address.parse().unwrap())].into() };
        let heard = |key: &str, address: &str| vec![(key.to_owned(), address.parse().unwrap())];
        let mut peers = Peers::new(&policy, kept("198.51.100.7:1"));

        assert_eq!(peers.moved(&policy, []), None);
        assert_eq!(peers.moved(&policy, heard(KEY, "198.51.100.7:2")), Some(&kept("198.51.100.7:2")));
        assert_eq!(peers.moved(&policy, heard(KEY, "198.51.100.7:2")), None);
        assert_eq!(peers.moved(&policy, heard("another", "198.51.100.9:3")), None);
        let without = Policy { peers: Vec::new(), ..policy };
        assert_eq!(peers.moved(&without, []), Some(&Endpoints::default()));
    }

    #[test]
    fn only_the_first_change_between_two_ticks_is_written_at_once() {
        let mut peers = Peers::default();
        assert!(peers.note() && !peers.note());
        peers.handle_tick();
        assert!(peers.note());
    }

    #[test]
    fn a_name_that_stays_keeps_what_is_known_of_it_and_another_is_resolved_at_once() {
        let first = policy("one.example.com:51820");
        let key = KEY.parse().unwrap();
        let mut peers = Peers::new(&first, Endpoints::default());
        assert_eq!(peers.due(at(0)).len(), 1);
        let address = "198.51.100.7:51820".parse().unwrap();
        assert_eq!(peers.handle_addresses(at(0), &key, &[address], None), Some(address));

        peers.follow(&first);
        assert!(peers.due(at(60)).is_empty(), "it is resolved already");
        peers.handle_silence(at(60), &key);
        assert_eq!(peers.due(at(60)).len(), 1);

        peers.follow(&policy("two.example.com:51820"));
        assert_eq!(peers.due(at(60))[0].1.to_string(), "two.example.com:51820");
        peers.follow(&policy("198.51.100.7:51820"));
        assert!(peers.due(at(120)).is_empty(), "an address is no name");
        assert_eq!(peers.handle_addresses(at(120), &key, &[address], None), None);
    }

    fn policy(endpoint: &str) -> Policy {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"kyiv.key\"\n[wan]\ninterface = \"eth0\"\n\
             [[peer]]\nname = \"wroclaw\"\nallowed_ips = [\"10.77.88.2/32\"]\npublic_key = \"{KEY}\"\n\
             endpoint = \"{endpoint}\"\n"
        );
        policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text: &text }).unwrap()
    }

    fn at(seconds: u64) -> Now {
        let seconds = std::time::Duration::from_secs(seconds);
        Now { instant: Instant::from_boot(seconds), wall: seconds }
    }
}
