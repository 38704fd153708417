//! Where flows out of the tunnel are carried to, and how the health of those places is checked.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::Host;

/// One place that a flow out of the tunnel may be carried to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A port of a machine.
    Network {
        /// The machine; a name is resolved per dial.
        host: Host,
        /// The port there.
        port: UpstreamPort,
    },
    /// A Unix-domain socket, by its absolute path; TCP only.
    Unix(PathBuf),
}

/// Which port of the upstream is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamPort {
    /// The one that the packet carried, written `*`.
    Keep,
    /// The same place in a range that begins here; for a single matched port simply this one.
    From(u16),
}

/// `health`: how an upstream is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    /// What is checked.
    pub check: Check,
    /// From the end of one check to the next.
    pub every: Duration,
    /// How long a reply may take.
    pub timeout: Duration,
}

/// What a health check verifies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// Whether it accepts a connection.
    Tcp,
    /// Whether it replies to a request with a status from 200 to 399.
    Http {
        /// The `Host` of the request.
        name: Arc<str>,
        /// The path of the request.
        path: Arc<str>,
    },
    /// Whether it starts a TLS session for this name; its certificate is not verified.
    Tls {
        /// The server name (SNI).
        name: Arc<str>,
    },
}

impl Upstream {
    /// Whether it is an address of one of these networks.
    #[must_use]
    pub fn is_within(&self, networks: &[IpNetwork]) -> bool {
        match self {
            Self::Network { host: Host::Address(address), .. } => {
                networks.iter().any(|network| network.contains(*address))
            }
            Self::Network { host: Host::Name(_), .. } | Self::Unix(_) => false,
        }
    }
}

impl UpstreamPort {
    /// The upstream's port for a flow that was sent to `asked`, in a matched range that begins at
    /// `first`.
    #[must_use]
    pub const fn of(self, asked: u16, first: u16) -> u16 {
        match self {
            Self::Keep => asked,
            Self::From(from) => from.saturating_add(asked.saturating_sub(first)),
        }
    }
}

impl fmt::Display for UpstreamPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("*"),
            Self::From(port) => write!(f, "{port}"),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { host: Host::Address(std::net::IpAddr::V6(address)), port } => {
                write!(f, "[{address}]:{port}")
            }
            Self::Network { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
