//! Local listeners whose connections go into the tunnel.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Interest, Registry};
use policy::forwarder::{OnDown, Reach};
use tunnel::node::PeerState;
use tunnel::time::Instant;

use super::handler::TcpHandler;
use super::local::Local;
use crate::dataplane::edge::Edge;
use crate::dataplane::edges::Edges;
use crate::dataplane::owner::Owner;
use crate::dataplane::token;
use crate::flow::EdgeId;
use crate::stats::{Dialled, EntryStats, Stats};
use crate::upstream::Stream;

/// Connections taken from one listener before others have their turn.
const ACCEPT_BATCH: usize = 64;
/// How long a listener rests when the process is out of descriptors.
const REST: Duration = Duration::from_millis(500);
/// Connections that may wait for the tunnel at one listener; beyond it they are refused.
const MAX_HELD: usize = 256;

/// One `[[reach]]` entry at work.
pub struct Listener {
    /// Its entry.
    pub reach: Reach,
    /// The edge that it leads to, known once it is watched.
    edge: Option<EdgeId>,
    socket: TcpListener,
    is_ready: bool,
    rests_until: Option<Instant>,
    held: Vec<Stream>,
}

impl Listener {
    /// Binds the entry's local address.
    ///
    /// # Errors
    /// From the system: the address is taken, or the port needs a privilege.
    pub fn bind(reach: Reach) -> io::Result<Self> {
        let socket = TcpListener::bind(reach.listen)?;
        Ok(Self { reach, edge: None, socket, is_ready: true, rests_until: None, held: Vec::new() })
    }

    /// Takes the socket of an old process that listened on the entry's address.
    #[must_use]
    pub fn from_fd(reach: Reach, descriptor: OwnedFd) -> Self {
        let socket = TcpListener::from_std(descriptor.into());
        Self { reach, edge: None, socket, is_ready: true, rests_until: None, held: Vec::new() }
    }

    /// The socket and where it listens, for the new process.
    pub(crate) fn descriptor(&self) -> io::Result<(SocketAddr, OwnedFd)> {
        Ok((self.address()?, self.socket.as_fd().try_clone_to_owned()?))
    }

    /// Accepts nothing more.
    pub(crate) fn unwatch(&mut self, registry: &Registry) {
        // One that is not watched is not accepted from either.
        let _ = registry.deregister(&mut self.socket);
    }

    /// Where it listens.
    ///
    /// # Errors
    /// From the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Watches it as the listener number `index`, and finds its edge.
    ///
    /// # Errors
    /// From the system.
    pub(crate) fn watch(&mut self, registry: &Registry, index: usize, edges: &Edges) -> io::Result<()> {
        self.edge = edges.find(&self.reach.peer);
        registry.register(&mut self.socket, token::listener(index), Interest::READABLE)
    }

    /// Watches it under another number, and finds its edge, which may be another of the same name;
    /// one that was not watched is from now on.
    ///
    /// # Errors
    /// From the system.
    pub(crate) fn rewatch(&mut self, registry: &Registry, index: usize, edges: &Edges) -> io::Result<()> {
        self.edge = edges.find(&self.reach.peer);
        match registry.reregister(&mut self.socket, token::listener(index), Interest::READABLE) {
            Ok(()) => Ok(()),
            Err(_) => self.watch(registry, index, edges),
        }
    }

    /// The poll reports that connections wait.
    pub(crate) fn ready(&mut self) {
        self.is_ready = true;
    }

    /// When it wants a turn although the poll reports nothing.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Accepts what waits; `true` when more waits still.
    pub(crate) fn accept(&mut self, mut tcp: TcpHandler<'_>, edges: &mut Edges) -> bool {
        let now = tcp.now.instant;
        if self.rests_until.is_some_and(|until| until > now) {
            return false;
        }
        self.is_ready |= self.rests_until.take().is_some();
        let Some(edge) = self.edge.and_then(|id| edges.get_mut(id)) else { return false };
        let is_up = edge.state == PeerState::Up;
        if is_up {
            for stream in std::mem::take(&mut self.held) {
                self.connect(&mut tcp, edge, stream);
            }
        }
        for _ in 0..ACCEPT_BATCH {
            if !self.is_ready {
                return false;
            }
            match self.socket.accept() {
                Ok((stream, _)) if is_up => self.connect(&mut tcp, edge, Stream::Tcp(stream)),
                Ok((stream, _)) => self.wait_or_refuse(&tcp, Stream::Tcp(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_ready = false,
                Err(error) if tcp.context.dial_failure(now, &error) == Dialled::Exhausted => {
                    self.rests_until = Some(now.after(REST));
                    return false;
                }
                // The connection was gone before it was taken.
                Err(_) => {}
            }
        }
        self.is_ready
    }

    fn wait_or_refuse(&mut self, tcp: &TcpHandler<'_>, stream: Stream) {
        let may_wait = self.reach.on_down == OnDown::Hold && self.held.len() < MAX_HELD;
        if may_wait && !tcp.context.is_stopping {
            self.held.push(stream);
        } else {
            self.refuse(&tcp.context.stats, &stream, Dialled::Down);
        }
    }

    /// Refuses the connections that wait for the tunnel.
    pub(crate) fn release_held(&mut self, stats: &Stats) {
        for stream in std::mem::take(&mut self.held) {
            self.refuse(stats, &stream, Dialled::Down);
        }
    }

    /// Carries an accepted connection into the tunnel, or resets it.
    fn connect(&self, tcp: &mut TcpHandler<'_>, edge: &Edge, stream: Stream) {
        let Some(stats) = self.stats(&tcp.context.stats) else { return stream.reset() };
        let Reach { target, source_port, ref name, .. } = self.reach;
        let local = Local { target, source_port, owner: Owner::Reach(name.clone()), stats };
        if let Err(stream) = tcp.open_local(edge, local, stream) {
            self.refuse(&tcp.context.stats, &stream, Dialled::Exhausted);
        }
    }

    fn stats(&self, stats: &Stats) -> Option<Arc<EntryStats>> {
        stats.reach.load().get(&self.reach.name).cloned()
    }

    fn refuse(&self, stats: &Stats, stream: &Stream, result: Dialled) {
        if let Some(stats) = self.stats(stats) {
            stats.dialled(result);
        }
        stream.reset();
    }
}
