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

/// The name of an edge's UDP socket: its number in the old process, its own name, and where it is.
#[must_use]
pub fn edge(id: EdgeId, name: &Name, endpoint: Option<SocketAddr>) -> String {
    let endpoint = endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default();
    format!("{EDGES}{} {name} {endpoint}", id.0)
}

/// The name of a listener of `[[reach]]`.
#[must_use]
pub fn reach(protocol: &str, address: SocketAddr) -> String {
    format!("reach {protocol} {address}")
}

/// What the names of the edges' sockets begin with.
const EDGES: &str = "edge ";

/// The UDP socket of an edge in the old process.
#[derive(Debug)]
pub struct PassedEdge {
    /// The number of the edge there.
    pub id: EdgeId,
    /// Where the edge was heard last.
    pub endpoint: Option<SocketAddr>,
    /// The socket.
    pub socket: OwnedFd,
}

/// The sockets of the edges by name.
pub fn take_edges(descriptors: &mut Descriptors) -> BTreeMap<String, PassedEdge> {
    let parsed = descriptors.take_all(EDGES).filter_map(|(rest, socket)| {
        let mut words = rest.split(' ');
        let id = EdgeId(words.next()?.parse().ok()?);
        let name = words.next()?.to_owned();
        Some((name, PassedEdge { id, endpoint: words.next().and_then(|word| word.parse().ok()), socket }))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_edge_is_found_by_its_name_with_its_number_and_where_it_is() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let (mut descriptors, endpoint) = (Descriptors::default(), "[2001:db8::2]:51820".parse().unwrap());
        let name = |text: &str| Name::new(text).unwrap();
        descriptors.add(edge(EdgeId(7), &name("kyiv"), Some(endpoint)), null());
        descriptors.add(edge(EdgeId(9), &name("odesa"), None), null());
        descriptors.add("edge of another release".to_owned(), null());
        descriptors.add(LOCK.to_owned(), null());
        let edges = take_edges(&mut descriptors);
        let seen: Vec<_> =
            edges.iter().map(|(name, edge)| (name.as_str(), edge.id.0, edge.endpoint)).collect();
        assert_eq!(seen, [("kyiv", 7, Some(endpoint)), ("odesa", 9, None)]);
        assert!(descriptors.take(LOCK).is_some());
    }
}
