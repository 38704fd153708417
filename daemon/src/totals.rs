//! What was carried with each peer, kept from an orderly end of the daemon to its next start.
//!
//! The totals are taken once: after a crash the counters begin at zero, as readers of counters
//! expect of a new process. A total that is older than what was shown last would look to them like
//! a counter that began again and then grew by all of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tunnel::node::{Carried, Node, PeerStatus};
use tunnel::time::Now;

use crate::files;

/// The file's name in a state folder.
const NAME: &str = "totals.json";
/// The version of the file; another one counts as none.
const SCHEMA: u32 = 1;

/// The totals in one state folder.
#[derive(Clone, Debug)]
pub struct Totals {
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    schema: u32,
    /// By public key in base64.
    peers: BTreeMap<String, Counts>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    rx_bytes: u64,
    tx_bytes: u64,
    rx_packets: u64,
    tx_packets: u64,
}

impl Totals {
    /// Those in `folder`.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { path: folder.join(NAME) }
    }

    /// Keeps what was carried with these peers, as the last thing before the daemon ends.
    ///
    /// # Errors
    /// Whatever the file system says; then the counters begin at zero.
    pub fn keep(&self, peers: &[PeerStatus]) -> io::Result<()> {
        let carried = peers.iter().map(|peer| (peer.public_key.to_string(), peer.carried()));
        let peers = carried.filter(|(_, carried)| *carried != Carried::default());
        let peers = peers.map(|(key, carried)| (key, Counts::from(carried))).collect();
        files::replace_json(&self.path, &Stored { schema: SCHEMA, peers })
    }

    /// Adds what was kept to the peers that these nodes have, and forgets it.
    pub fn give_back<'n>(&self, nodes: impl IntoIterator<Item = &'n Node>, now: Now) {
        let mut kept = self.take();
        for node in nodes {
            for peer in node.peers(now) {
                if let Some(carried) = kept.remove(&peer.public_key.to_string()) {
                    node.add_carried(&peer.public_key, carried);
                }
            }
        }
    }

    /// What was kept, by public key, and forgets it; empty where there is nothing, or where it
    /// cannot be forgotten.
    fn take(&self) -> BTreeMap<String, Carried> {
        let stored: Option<Stored> = files::read_json(&self.path);
        if let Err(error) = files::remove(&self.path) {
            tracing::info!(%error, file = %self.path.display(), "the totals of before cannot be removed, and count as none");
            return BTreeMap::new();
        }
        let stored = stored.filter(|stored| stored.schema == SCHEMA);
        let peers = stored.map(|stored| stored.peers).unwrap_or_default();
        peers.into_iter().map(|(key, counts)| (key, counts.into())).collect()
    }
}

impl From<Carried> for Counts {
    fn from(carried: Carried) -> Self {
        let Carried { rx_bytes, tx_bytes, rx_packets, tx_packets } = carried;
        Self { rx_bytes, tx_bytes, rx_packets, tx_packets }
    }
}

impl From<Counts> for Carried {
    fn from(counts: Counts) -> Self {
        let Counts { rx_bytes, tx_bytes, rx_packets, tx_packets } = counts;
        Self { rx_bytes, tx_bytes, rx_packets, tx_packets }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tunnel::key::{PrivateKey, PublicKey};
    use tunnel::node::{NodeConfig, PeerConfig};
    use tunnel::time::Instant;

    use super::*;

    const BEFORE: Carried = Carried { rx_bytes: 1_000, tx_bytes: 70, rx_packets: 3, tx_packets: 1 };

    #[test]
    fn totals_continue_once_after_an_orderly_end_and_begin_at_zero_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let totals = Totals::of(folder.path());
        let (first, key) = node();
        first.add_carried(&key, BEFORE);
        totals.keep(&first.peers(now())).unwrap();

        let (second, _) = node();
        totals.give_back([&second], now());
        assert_eq!(second.peers(now())[0].carried(), BEFORE);

        let (after_a_crash, _) = node();
        totals.give_back([&after_a_crash], now());
        assert_eq!(after_a_crash.peers(now())[0].carried(), Carried::default());
    }

    #[test]
    fn what_is_damaged_or_of_another_version_counts_as_none_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let totals = Totals::of(folder.path());
        for text in
            ["{", r#"{"schema": 2, "peers": {}}"#, r#"{"schema": 1, "peers": {"k": {"rx_bytes": -1}}}"#]
        {
            fs::write(folder.path().join(NAME), text).unwrap();
            assert_eq!(totals.take(), BTreeMap::new(), "{text}");
            assert!(!folder.path().join(NAME).exists());
        }
    }

    #[test]
    fn totals_that_cannot_be_forgotten_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let totals = Totals::of(folder.path());
        fs::create_dir(folder.path().join(NAME)).unwrap();
        assert_eq!(totals.take(), BTreeMap::new());
    }

    fn node() -> (Node, PublicKey) {
        let config = NodeConfig {
            private_key: Some(PrivateKey::from_bytes([1; 32])),
            addresses: Vec::new(),
            mtu: 1_420,
            listen_port: 0,
            liveness: None,
            wall_watermark: Duration::ZERO,
        };
        let (node, key) = (Node::new(config, now()), PrivateKey::from_bytes([2; 32]).public());
        node.update_peers(&[PeerConfig::of(key)], &[], now()).unwrap();
        (node, key)
    }

    fn now() -> Now {
        Now { instant: Instant::from_boot(Duration::from_secs(1)), wall: Duration::from_secs(1) }
    }
}
