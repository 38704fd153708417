//! Local listeners whose connections go into the tunnel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Interest, Registry};
use policy::forwarder::{OnDown, Reach};
use tunnel::node::PeerState;
use tunnel::time::{Instant, Now};

use super::open::{Open, Owner};
use crate::cell::{Cell, Path};
use crate::dataplane::edge::Edge;
use crate::dataplane::flows::{Flow, Flows};
use crate::dataplane::token;
use crate::flow::FlowKey;
use crate::stats::{Dialled, EntryStats};
use crate::upstream::{self, Stream, Upstream};

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
        Ok(Self { reach, socket, is_ready: true, rests_until: None, held: Vec::new() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// From the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Starts to watch it.
    ///
    /// # Errors
    /// From the system.
    pub fn watch(&mut self, registry: &Registry, place: usize) -> io::Result<()> {
        registry.register(&mut self.socket, token::listener(place), Interest::READABLE)
    }

    /// Watches it at another place; one that was not watched is from now on.
    ///
    /// # Errors
    /// From the system.
    pub fn rewatch(&mut self, registry: &Registry, place: usize) -> io::Result<()> {
        match registry.reregister(&mut self.socket, token::listener(place), Interest::READABLE) {
            Ok(()) => Ok(()),
            Err(_) => self.watch(registry, place),
        }
    }

    /// The poll says that connections wait.
    pub fn ready(&mut self) {
        self.is_ready = true;
    }

    /// When it wants a turn although the poll says nothing.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Accepts what waits; `true` when more waits still.
    pub fn accept(&mut self, now: Now, flows: &mut Flows, edges: &mut [Edge]) -> bool {
        if self.rests_until.is_some_and(|until| until > now.instant) {
            return false;
        }
        self.is_ready |= self.rests_until.take().is_some();
        let Some(edge) = edges.iter_mut().find(|edge| edge.name == self.reach.peer) else { return false };
        let is_up = edge.state == PeerState::Up;
        if is_up {
            for stream in std::mem::take(&mut self.held) {
                flows.reach(now, edge, &self.reach, stream);
            }
        }
        for _ in 0..ACCEPT_BATCH {
            if !self.is_ready {
                return false;
            }
            match self.socket.accept() {
                Ok((stream, _)) if is_up => flows.reach(now, edge, &self.reach, Stream::Tcp(stream)),
                Ok((stream, _)) => self.wait_or_refuse(flows, Stream::Tcp(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_ready = false,
                Err(error) if upstream::failure(&error) == Dialled::Exhausted => {
                    if upstream::lacks_descriptor(&error) {
                        flows.stats.lack_descriptor(now.instant);
                    }
                    self.rests_until = Some(now.instant.after(REST));
                    return false;
                }
                // The connection was gone before it was taken.
                Err(_) => {}
            }
        }
        self.is_ready
    }

    fn wait_or_refuse(&mut self, flows: &Flows, stream: Stream) {
        if self.reach.on_down == OnDown::Hold && self.held.len() < MAX_HELD && !flows.is_stopping {
            self.held.push(stream);
        } else {
            flows.refuse_reach(&self.reach, &stream, Dialled::Down);
        }
    }

    /// Turns away those that wait for the tunnel.
    pub fn release_held(&mut self, flows: &Flows) {
        for stream in std::mem::take(&mut self.held) {
            flows.refuse_reach(&self.reach, &stream, Dialled::Down);
        }
    }
}

impl Flows {
    /// Carries an accepted connection into the tunnel, or resets it.
    pub(in crate::dataplane) fn reach(&mut self, now: Now, edge: &mut Edge, reach: &Reach, stream: Stream) {
        let Some((key, cell, stats)) = self.prepare_reach(now, edge, reach) else {
            return self.refuse_reach(reach, &stream, Dialled::Exhausted);
        };
        let owner = Owner::Reach(reach.name.clone());
        let open = Open::new(now.instant, cell, (Upstream::new(stream, Vec::new()), None), owner, stats);
        let Ok(id) = self.table.insert(key, Flow::Open(Box::new(open))) else {
            return self.admission.release_local();
        };
        if let Some((_, Flow::Open(open))) = self.table.get_mut(id)
            && open.upstream.watch(&self.registry, token::flow(id)).is_err()
        {
            open.abort();
        }
        self.mark(id);
    }

    fn prepare_reach(
        &mut self,
        now: Now,
        edge: &Edge,
        reach: &Reach,
    ) -> Option<(FlowKey, Cell, Arc<EntryStats>)> {
        let stats = self.reach_stats(reach)?;
        let local = SocketAddr::new(edge.address_like(reach.target.ip())?, 0);
        let settings = self.settings(edge).filter(|_| !self.is_stopping)?;
        let table = &self.table;
        let in_use = |key: &FlowKey| table.find(key).is_some();
        let key =
            self.ports.allocate(now.instant, edge.id, (local, reach.target), reach.source_port, in_use)?;
        self.admission.local().ok()?;
        let path = Path { local: key.local, remote: key.remote };
        Some((key, Cell::connect(now.instant, path, settings), stats))
    }

    fn reach_stats(&self, reach: &Reach) -> Option<Arc<EntryStats>> {
        self.stats.reach.load().get(&reach.name).cloned()
    }

    fn refuse_reach(&self, reach: &Reach, stream: &Stream, result: Dialled) {
        if let Some(stats) = self.reach_stats(reach) {
            stats.dialled(result);
        }
        stream.reset();
    }
}
