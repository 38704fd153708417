//! WireGuard's cross-platform configuration protocol, as `wg` speaks it over a UNIX socket.
//!
//! [`parse_set`] and [`Snapshot::write`] are pure; [`Change`] is what a request changes in a node;
//! [`server`] listens.

mod change;
mod parse;
pub mod server;
mod snapshot;

use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use crate::key::{PresharedKey, PrivateKey, PublicKey};

pub use change::{Change, apply_to_node};
pub use parse::parse_set;
pub use snapshot::{PeerSnapshot, Snapshot};

#[cfg(test)]
mod tests;

/// Longest line of a request in bytes.
pub const MAX_LINE: usize = 1024;
/// Longest request in bytes: a quarter of a million allowed-ips.
pub const MAX_REQUEST: usize = 16 << 20;

/// What a request fails with: the number of a system error, which `wg` prints in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Errno {
    /// A malformed value, or a key that a node cannot have.
    #[error("invalid argument")]
    Invalid,
    /// Not the protocol: an unknown line, or one without `=`.
    #[error("protocol error")]
    Protocol,
    /// The port is taken.
    #[error("address already in use")]
    AddressInUse,
    /// The mark or the socket is not permitted.
    #[error("operation not permitted")]
    NotPermitted,
    /// Longer than the limits above, or more peers than a node can have.
    #[error("too much")]
    TooBig,
    /// Anything else.
    #[error("input/output error")]
    Io,
}

impl Errno {
    /// The number on the wire: negative, as every implementation sends it.
    #[must_use]
    pub const fn code(self) -> i32 {
        -match self {
            Self::Invalid => libc::EINVAL,
            Self::Protocol => libc::EPROTO,
            Self::AddressInUse => libc::EADDRINUSE,
            Self::NotPermitted => libc::EPERM,
            Self::TooBig => libc::E2BIG,
            Self::Io => libc::EIO,
        }
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            Self::AddressInUse
        } else if error.kind() == std::io::ErrorKind::PermissionDenied {
            Self::NotPermitted
        } else {
            Self::Io
        }
    }
}

/// What a device must be able to do to be configured by `wg`.
pub trait Configure: Send + Sync {
    /// Everything that `wg show` prints.
    fn snapshot(&self) -> Snapshot;

    /// Makes a change, completely or not at all.
    ///
    /// # Errors
    /// [`Errno`]; then nothing changed.
    fn apply(&self, set: Set) -> Result<(), Errno>;
}

/// A parsed `set` request. A field that is `None` is left as it is.
#[derive(Default)]
pub struct Set {
    /// The node's own key; `Some(None)` removes it.
    pub private_key: Option<Option<PrivateKey>>,
    /// The UDP port; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// The firewall mark; 0 is none.
    pub fwmark: Option<u32>,
    /// Whether peers that are not named are removed.
    pub replace_peers: bool,
    /// Peers in the order named; one key may come more than once.
    pub peers: Vec<SetPeer>,
}

/// The part of a `set` request about one peer.
pub struct SetPeer {
    /// Which peer.
    pub public_key: PublicKey,
    /// Whether it is removed.
    pub remove: bool,
    /// Whether it is left out when it is not there yet.
    pub update_only: bool,
    /// Its preshared key; `Some(None)` removes it.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Its endpoint.
    pub endpoint: Option<SocketAddr>,
    /// Its persistent keepalive in seconds; 0 is none.
    pub keepalive: Option<u16>,
    /// Whether its allowed-ips are forgotten first.
    pub replace_allowed_ips: bool,
    /// Prefixes added and removed, in order.
    pub allowed_ips: Vec<AllowedIp>,
}

/// One change of a peer's allowed-ips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedIp {
    /// The prefix now belongs to this peer, and to no other.
    Add(IpNetwork),
    /// The prefix no longer belongs to this peer.
    Remove(IpNetwork),
}
