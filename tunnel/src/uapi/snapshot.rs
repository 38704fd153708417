//! The text of the reply to `get`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use zeroize::Zeroizing;

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::node::Node;
use crate::time::Now;

/// A device as `wg show` prints it.
pub struct Snapshot {
    /// The node's own key.
    pub private_key: Option<PrivateKey>,
    /// The UDP port.
    pub listen_port: u16,
    /// The firewall mark; 0 is none.
    pub fwmark: u32,
    /// Its peers.
    pub peers: Vec<PeerSnapshot>,
}

/// A peer as `wg show` prints it.
pub struct PeerSnapshot {
    /// Its key.
    pub public_key: PublicKey,
    /// Its preshared key.
    pub preshared_key: Option<PresharedKey>,
    /// Its endpoint.
    pub endpoint: Option<SocketAddr>,
    /// Its persistent keepalive; whole seconds are shown.
    pub keepalive: Option<Duration>,
    /// Its allowed-ips.
    pub allowed_ips: Vec<IpNetwork>,
    /// Wall clock of the latest handshake, since the UNIX epoch.
    pub latest_handshake: Option<Duration>,
    /// Bytes received, whole messages.
    pub rx_bytes: u64,
    /// Bytes sent, whole messages.
    pub tx_bytes: u64,
}

impl Snapshot {
    /// The state of a node, with the port and the mark that only its caller knows.
    #[must_use]
    pub fn of_node(node: &Node, listen_port: u16, fwmark: u32, now: Now) -> Self {
        let peers = node.peers(now).into_iter().map(|status| PeerSnapshot {
            public_key: status.public_key,
            preshared_key: node.peer_config(&status.public_key).and_then(|config| config.preshared_key),
            endpoint: status.endpoint.map(|endpoint| endpoint.remote),
            keepalive: status.keepalive,
            allowed_ips: status.allowed_ips,
            latest_handshake: status.latest_handshake.map(|when| when.wall),
            rx_bytes: status.rx_bytes,
            tx_bytes: status.tx_bytes,
        });
        Self { private_key: node.private_key(), listen_port, fwmark, peers: peers.collect() }
    }

    /// The lines of the reply, without the final `errno`; wiped when dropped.
    #[must_use]
    pub fn write(&self) -> Zeroizing<String> {
        // Secrets must not stay behind in blocks that a growing string gave up.
        let prefixes: usize = self.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
        let mut text = Zeroizing::new(String::with_capacity(256 + self.peers.len() * 512 + prefixes * 64));
        if let Some(key) = &self.private_key {
            line_hex(&mut text, "private_key", key.as_bytes());
        }
        line(&mut text, "listen_port", self.listen_port);
        if self.fwmark != 0 {
            line(&mut text, "fwmark", self.fwmark);
        }
        for peer in &self.peers {
            peer.write(&mut text);
        }
        text
    }
}

impl PeerSnapshot {
    fn write(&self, text: &mut String) {
        line_hex(text, "public_key", self.public_key.as_bytes());
        line_hex(text, "preshared_key", self.preshared_key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
        line(text, "protocol_version", 1);
        if let Some(endpoint) = self.endpoint {
            line(text, "endpoint", endpoint);
        }
        let handshake = self.latest_handshake.unwrap_or_default();
        line(text, "last_handshake_time_sec", handshake.as_secs());
        line(text, "last_handshake_time_nsec", handshake.subsec_nanos());
        line(text, "tx_bytes", self.tx_bytes);
        line(text, "rx_bytes", self.rx_bytes);
        line(text, "persistent_keepalive_interval", self.keepalive.unwrap_or_default().as_secs());
        for prefix in &self.allowed_ips {
            line(text, "allowed_ip", prefix);
        }
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{key}={value}");
}

fn line_hex(text: &mut String, key: &str, bytes: &[u8; 32]) {
    text.push_str(key);
    text.push('=');
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
}
