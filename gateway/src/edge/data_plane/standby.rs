//! Silence of an edge of a pair that does not have the shared address.
//!
//! A node without a key has no session, sends nothing and answers nothing, and knows its peers all
//! the same. The socket sends from the shared address alone, so that a process that was frozen while
//! the address went is silent before it knows.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tunnel::io::clock;
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::time::Instant;

use super::DataPlane;
use crate::standby::Turn;

/// How long what arrives after a take-over is not answered with errors: the sessions need a round
/// trip, and senders repeat what was dropped.
const NO_ERRORS: Duration = Duration::from_secs(2);
/// When a silent edge sends errors again.
const NEVER: Instant = Instant::from_boot(Duration::MAX);

impl DataPlane {
    /// Sends from this address alone; `is_here` says whether the machine has it now.
    pub(in crate::edge) fn send_from(&self, address: Option<IpAddr>, is_here: bool) {
        let socket = self.device.socket();
        if let Err(error) = socket.set_source(address) {
            tracing::warn!("the outer socket cannot send from the address of [standby] ({error})");
        }
        socket.note_source(is_here);
    }

    /// Begins to carry the tunnel with this key, and opens every session at once; or ends them all.
    pub(in crate::edge) fn turn(&self, turn: Turn, key: &PrivateKey) {
        let (node, now) = (self.device.node(), clock::now());
        match turn {
            Turn::Begin => {
                self.is_silent.set(false);
                self.device.withhold_errors_until(now.instant.after(NO_ERRORS));
                node.set_private_key(Some(key.clone()), now);
                node.handle_network_change(now);
            }
            Turn::End => {
                self.is_silent.set(true);
                self.device.withhold_errors_until(NEVER);
                node.set_private_key(None, now);
            }
        }
        self.device.wake();
    }

    /// Moves a peer to where the active edge has heard it; for a silent edge.
    pub(in crate::edge) fn place(&self, key: &PublicKey, endpoint: SocketAddr) {
        let node = self.device.node();
        if let Some(id) = node.peer_id(key) {
            node.set_endpoint(id, endpoint, clock::now());
        }
    }
}
