//! Local UDP listeners.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use mio::net::UdpSocket;
use mio::{Interest, Registry};
use policy::forwarder::Reach;

use crate::dataplane::edges::Edges;
use crate::dataplane::token;
use crate::flow::EdgeId;

/// One `[[reach]]` entry that carries UDP, at work.
pub struct Listener {
    /// Its entry.
    pub reach: Reach,
    /// The edge that it leads to, known once it is watched.
    pub(super) edge: Option<EdgeId>,
    pub(super) socket: UdpSocket,
    pub(super) is_ready: bool,
}

impl Listener {
    /// Binds the entry's local address.
    ///
    /// # Errors
    /// From the system: the address is taken, or the port needs a privilege.
    pub fn bind(reach: Reach) -> io::Result<Self> {
        let socket = UdpSocket::bind(reach.listen)?;
        Ok(Self { reach, edge: None, socket, is_ready: true })
    }

    /// Takes the socket of an old process that listened on the entry's address.
    #[must_use]
    pub fn from_fd(reach: Reach, descriptor: OwnedFd) -> Self {
        let socket = UdpSocket::from_std(descriptor.into());
        Self { reach, edge: None, socket, is_ready: true }
    }

    /// Watches it under this number, and finds its edge.
    pub(super) fn watch(&mut self, registry: &Registry, number: u32, edges: &Edges) -> io::Result<()> {
        self.find_edge(edges);
        registry.register(&mut self.socket, token::udp_listener(number), Interest::READABLE)
    }

    /// Finds its edge, which may be another of the same name.
    pub(super) fn find_edge(&mut self, edges: &Edges) {
        self.edge = edges.find(&self.reach.peer);
    }

    /// Reads nothing more.
    pub(super) fn unwatch(&mut self, registry: &Registry) {
        self.is_ready = false;
        // One that is not watched is not read either.
        let _ = registry.deregister(&mut self.socket);
    }

    /// The socket and where it listens, for the new process.
    pub(crate) fn descriptor(&self) -> io::Result<(SocketAddr, OwnedFd)> {
        Ok((self.socket.local_addr()?, self.socket.as_fd().try_clone_to_owned()?))
    }

    pub(super) fn send(&self, payload: &[u8], client: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(payload, client)
    }
}
