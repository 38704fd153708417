//! An upgrade in place: a new process takes the tunnels and every new flow from the one that runs.
//!
//! The old process keeps its flows until they end, for `[limits] drain` at most. A WireGuard session
//! cannot be shared, so that inner packets of those flows cross between the two, each as one message
//! of a Unix socket that keeps their borders (`SOCK_SEQPACKET`):
//!
//! 1. The old process starts the installed program as a new process, and passes it its descriptors
//!    ([`Message::Descriptor`]). The new one reads its configuration and opens everything, and is
//!    [`Message::Ready`]. Until then the old one goes on as if nothing had happened.
//! 2. The old process admits no more flows and reads no more from the tunnels. It sends the keys of
//!    its flows ([`Message::Flows`]), then [`Message::TakeOver`].
//! 3. The new process begins its handshakes. What still comes for a session of the old one is passed
//!    to it as it came ([`Message::Datagram`]), and what the old one sends leaves by its own session,
//!    until the new one has one ([`Message::Session`]). From then on packets of the old one's flows
//!    cross both ways ([`Message::Packet`]).
//! 4. The old process reports each flow that ends ([`Message::Ended`]), and ends after the last.
//!
//! [`message`] is the form on the socket, [`old_process`] what the new process knows of the old one,
//! [`exchange`] the socket, and [`start`] what happens before the tunnels are taken over.

pub mod exchange;
pub mod message;
pub mod old_process;
pub mod start;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use policy::Name;

use crate::flow::EdgeId;
pub use exchange::Exchange;
pub use message::{BadMessage, Message};
pub use old_process::{OldProcess, PassedFlow};

/// Descriptors by name, as one process passes them to the other. A name that the new process does not
/// know, or does not need any more, is closed there.
#[derive(Debug, Default)]
pub struct Descriptors(BTreeMap<String, OwnedFd>);

impl Descriptors {
    /// Adds one.
    pub fn add(&mut self, name: String, descriptor: OwnedFd) {
        self.0.insert(name, descriptor);
    }

    /// Adds all of these.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Takes the one of this name out, if it is there.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }

    /// Takes out all whose name begins so, with the rest of their names.
    pub fn take_all<'a>(&'a mut self, prefix: &'a str) -> impl Iterator<Item = (String, OwnedFd)> + 'a {
        let taken = self.0.extract_if(.., move |name, _| name.starts_with(prefix));
        taken.map(move |(name, descriptor)| (name.trim_start_matches(prefix).to_owned(), descriptor))
    }

    /// All of them.
    pub fn into_all(self) -> impl Iterator<Item = (String, OwnedFd)> {
        self.0.into_iter()
    }
}

/// The name of the state folder's lock.
pub const LOCK: &str = "lock";
/// What the names of the pages' listeners begin with; the address follows.
pub const PAGES: &str = "page ";

/// The name of the control socket's listener.
#[must_use]
pub fn control(path: &Path) -> String {
    format!("control {}", path.display())
}

/// The name of an edge's UDP socket; `id` is its number in the old process.
#[must_use]
pub fn edge(id: EdgeId, name: &Name) -> String {
    format!("{EDGES}{} {name}", id.0)
}

/// The name of a listener of `[[reach]]`.
#[must_use]
pub fn reach(protocol: &str, address: SocketAddr) -> String {
    format!("reach {protocol} {address}")
}

/// What the names of the edges' sockets begin with.
const EDGES: &str = "edge ";

/// The sockets of the edges by name, with the numbers that the edges have in the old process.
pub fn take_edges(descriptors: &mut Descriptors) -> BTreeMap<String, (EdgeId, OwnedFd)> {
    let parsed = descriptors.take_all(EDGES).filter_map(|(rest, descriptor)| {
        let (id, name) = rest.split_once(' ')?;
        Some((name.to_owned(), (EdgeId(id.parse().ok()?), descriptor)))
    });
    parsed.collect()
}
