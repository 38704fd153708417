//! The node's own key and what is derived from it once.

use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use super::handshake_limiter::HandshakeLimiter;
use super::wire::INITIATION_LEN;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// The node's own key.
pub(super) struct Identity {
    pub(super) private: PrivateKey,
    pub(super) public: PublicKey,
    secret: x25519::StaticSecret,
    exchange: x25519::PublicKey,
    pub(super) limiter: HandshakeLimiter,
    /// What every `Tunn` gets in place of a limiter of its own: `limiter` has counted each
    /// handshake already.
    unlimited: Arc<RateLimiter>,
}

impl Identity {
    pub(super) fn new(private: PrivateKey) -> Self {
        let secret = x25519::StaticSecret::from(*private.as_bytes());
        let exchange = x25519::PublicKey::from(&secret);
        Self {
            public: private.public(),
            limiter: HandshakeLimiter::new(&exchange),
            unlimited: Arc::new(RateLimiter::new(&exchange, u64::MAX)),
            private,
            secret,
            exchange,
        }
    }

    /// A fresh `Tunn` for a peer; the timestamps of its handshakes count from the wall clock of
    /// this moment.
    pub(super) fn tunn(&self, peer: &PublicKey, preshared: Option<&PresharedKey>, index: u32) -> Tunn {
        let peer = x25519::PublicKey::from(*peer.as_bytes());
        let preshared = preshared.map(|key| *key.as_bytes());
        Tunn::new(self.secret.clone(), peer, preshared, None, index, Some(Arc::clone(&self.unlimited)))
    }

    /// The key that an initiation names, not yet proven to be its sender's: one Diffie-Hellman,
    /// outside every peer's lock.
    pub(super) fn initiator(&self, message: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(message) else { return None };
        let half = parse_handshake_anon(&self.secret, &self.exchange, &initiation).ok()?;
        Some(PublicKey::to_compare(half.peer_static_public))
    }

    /// Whether an initiation was made by the holder of this key, now or at any time before.
    pub(super) fn is_initiation_of(&self, key: &PublicKey, message: &[u8]) -> bool {
        let mut scratch = [0; INITIATION_LEN];
        // A preshared key has no part in an initiation.
        let mut tunn = self.tunn(key, None, 0);
        matches!(tunn.decapsulate(None, message, &mut scratch), TunnResult::WriteToNetwork(_))
    }
}
