//! The temporary peer of a pairing: in the node alone, and among no peers that are shown or counted.

use daemon::pairing::relay::TemporaryPeer;
use ipnetwork::IpNetwork;
use policy::gateway::Policy;
use tunnel::io::clock;
use tunnel::key::PublicKey;
use tunnel::node::{PeerConfig, PeerId, PeerState};
use tunnel::reason::DropReason;

use super::DataPlane;

/// What came to WireGuard's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::edge) struct Came {
    /// Datagrams since its socket was opened.
    pub(in crate::edge) datagrams: u64,
    /// Handshakes that no known peer made.
    pub(in crate::edge) unknown: u64,
}

impl DataPlane {
    /// Gives the node a temporary peer, or none, in place of the one before.
    ///
    /// # Errors
    /// What is wrong with its key; then there is none.
    pub(in crate::edge) fn set_temporary(&self, peer: Option<&TemporaryPeer>) -> Result<(), String> {
        let update = |upsert: &[PeerConfig], remove: &[PublicKey]| {
            self.device.node().update_peers(upsert, remove, clock::now()).map_err(|error| error.to_string())
        };
        if let Some(before) = self.temporary.take() {
            update(&[], &[before])?;
        }
        if let Some(added) = peer.map(config).transpose()? {
            let key = added.public_key;
            update(&[added], &[])?;
            self.temporary.set(Some(key));
            self.last_temporary.set(Some(key));
        }
        self.device.wake();
        Ok(())
    }

    /// The key of the temporary peer that the node has.
    pub(in crate::edge) const fn temporary(&self) -> Option<PublicKey> {
        self.temporary.get()
    }

    /// The key of the latest temporary peer, which may be the present one.
    pub(in crate::edge) const fn last_temporary(&self) -> Option<PublicKey> {
        self.last_temporary.get()
    }

    /// Whether this is the number of the temporary peer.
    pub(in crate::edge) fn is_temporary(&self, id: PeerId) -> bool {
        self.temporary().is_some_and(|key| self.device.node().peer_id(&key) == Some(id))
    }

    /// Whether an authentic datagram of the temporary peer came, and whether it has a session.
    pub(in crate::edge) fn temporary_is_heard(&self) -> (bool, bool) {
        let peers = self.device.node().peers(clock::now());
        let temporary = peers.iter().find(|peer| Some(peer.public_key) == self.temporary());
        temporary.map_or((false, false), |peer| (peer.endpoint.is_some(), peer.state == PeerState::Up))
    }

    /// What came to the port so far.
    pub(in crate::edge) fn came(&self) -> Came {
        let node = self.device.node();
        Came {
            datagrams: self.device.socket().stats().received_datagrams.read(),
            unknown: node.dropped(DropReason::BadMac) + node.dropped(DropReason::UnknownPeer),
        }
    }

    /// The temporary peer that stays with this policy: one that it has as a peer of its own is no
    /// longer temporary.
    pub(super) fn temporary_with(&self, policy: &Policy) -> Option<PublicKey> {
        let is_of_policy =
            |key: &PublicKey| policy.peers.iter().any(|peer| peer.public_key.as_bytes() == key.as_bytes());
        self.temporary().filter(|key| !is_of_policy(key))
    }
}

fn config(peer: &TemporaryPeer) -> Result<PeerConfig, String> {
    Ok(PeerConfig {
        public_key: PublicKey::from_bytes(*peer.key.as_bytes()).map_err(|error| error.to_string())?,
        preshared_key: None,
        endpoint: None,
        keepalive: None,
        allowed_ips: vec![IpNetwork::from(peer.address)],
        probe: None,
        initiate: false,
    })
}
