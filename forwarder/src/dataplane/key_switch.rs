//! The key by which an edge's node knows its only peer, where the edge may have one of two.

use policy::Name;
use tokio::sync::watch;
use tunnel::key::PublicKey;
use tunnel::node::{Node, PeerError};
use tunnel::time::{Instant, Now};

use crate::edge_keys::{EdgeKeys, Keys};

/// Switches a node from one key of its peer to the other, and shows other threads which is in use.
pub struct KeySwitch {
    keys: EdgeKeys,
    shown: watch::Sender<EdgeKeys>,
}

impl KeySwitch {
    /// The switch of a node whose peer has the current key.
    #[must_use]
    pub fn new(node: &Node, keys: Keys) -> Self {
        let keys = EdgeKeys::new(keys);
        node.await_key(keys.other());
        Self { keys, shown: watch::Sender::new(keys) }
    }

    /// For other threads: the keys, and which of them is in use.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<EdgeKeys> {
        self.shown.subscribe()
    }

    /// The key in use.
    pub(super) const fn in_use(&self) -> PublicKey {
        self.keys.in_use()
    }

    /// Takes the keys of another configuration.
    pub(super) fn configure(&mut self, node: &Node, keys: Keys, now: Now) -> Result<(), PeerError> {
        self.change(node, now, |own| own.configure(keys))
    }

    /// A session was agreed.
    pub(super) fn handle_session(&mut self, peer: &Name) {
        if self.keys.handle_session() {
            tracing::info!(
                %peer,
                key = %self.keys.in_use(),
                "the edge replies by next_public_key: write it as public_key, and remove next_public_key"
            );
        }
        self.show();
    }

    /// The holder of the key that is not in use begins a handshake.
    pub(super) fn handle_initiation(&mut self, node: &Node, peer: &Name, key: PublicKey, now: Now) {
        let mut is_taken = false;
        let changed = self.change(node, now, |keys| is_taken = keys.handle_initiation(key));
        if is_taken {
            match changed {
                Ok(()) => tracing::info!(%peer, %key, "the edge has changed to next_public_key"),
                Err(error) => refused(peer, key, error),
            }
        }
    }

    /// Takes the other key when that is due.
    pub(super) fn handle_timeout(&mut self, node: &Node, peer: &Name, now: Now) {
        if self.keys.other().is_none() {
            return;
        }
        let (mut is_taken, unanswered) = (false, self.unanswered(node));
        let changed = self.change(node, now, |keys| is_taken = keys.handle_timeout(now.instant, unanswered));
        if is_taken {
            let key = self.keys.in_use();
            match changed {
                Ok(()) => tracing::debug!(%peer, %key, "the edge does not reply, its other key is tried"),
                Err(error) => refused(peer, key, error),
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self, node: &Node) -> Option<Instant> {
        self.keys.other()?;
        self.keys.poll_timeout(self.unanswered(node))
    }

    fn unanswered(&self, node: &Node) -> Option<Instant> {
        node.unanswered_since(&self.keys.in_use())
    }

    fn change(&mut self, node: &Node, now: Now, change: impl FnOnce(&mut EdgeKeys)) -> Result<(), PeerError> {
        let before = self.keys;
        change(&mut self.keys);
        if self.keys == before {
            return Ok(());
        }
        let changed = node.set_peer_key(&before.in_use(), self.keys.in_use(), now);
        node.await_key(self.keys.other());
        self.show();
        changed
    }

    fn show(&self) {
        let keys = self.keys;
        self.shown.send_if_modified(|shown| std::mem::replace(shown, keys) != keys);
    }
}

fn refused(peer: &Name, key: PublicKey, error: PeerError) {
    tracing::warn!(%peer, %key, %error, "the edge's other key cannot be used");
}
