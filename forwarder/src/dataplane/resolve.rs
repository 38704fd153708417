//! Names to addresses, on threads of its own: the data thread never waits for DNS.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use policy::{Host, HostPort};

use crate::dataplane::{Command, Commands};
use crate::flow::{EdgeId, SlotId};

/// Dials that may wait for their name; beyond it they fail at once.
const MAX_WAITING: usize = 256;
/// Threads that resolve the names of upstreams.
const THREADS: usize = 2;
/// Edges whose names may wait.
const MAX_EDGES: usize = 64;

/// Who waits for an upstream's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A TCP flow that is being dialled.
    Dial(SlotId),
    /// A UDP flow.
    Datagrams(SlotId),
}

/// Asks for addresses; the answers come as commands.
#[derive(Clone)]
pub struct Resolver {
    dials: SyncSender<(Asker, Arc<str>, u16)>,
    edges: SyncSender<(EdgeId, HostPort)>,
}

impl Resolver {
    /// Starts the threads; they end when the last resolver is dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(commands: &Commands) -> std::io::Result<Self> {
        let (dials, asked) = sync_channel::<(Asker, Arc<str>, u16)>(MAX_WAITING);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..THREADS {
            let (asked, commands) = (Arc::clone(&asked), commands.clone());
            thread::Builder::new().name("fw-resolve".into()).spawn(move || serve_dials(&asked, &commands))?;
        }
        let (edges, asked) = sync_channel::<(EdgeId, HostPort)>(MAX_EDGES);
        let commands = commands.clone();
        thread::Builder::new().name("fw-endpoint".into()).spawn(move || {
            while let Ok((edge, endpoint)) = asked.recv() {
                let addresses = resolve(&endpoint);
                commands.send(Command::Endpoint { edge, addresses });
            }
        })?;
        Ok(Self { dials, edges })
    }

    /// Asks for the address of an upstream; `false` when too many ask already.
    #[must_use]
    pub fn dial(&self, asker: Asker, name: &Arc<str>, port: u16) -> bool {
        self.dials.try_send((asker, Arc::clone(name), port)).is_ok()
    }

    /// Asks where an edge is now; dropped when the question waits already.
    pub fn endpoint(&self, edge: EdgeId, endpoint: HostPort) {
        // A full queue means that many questions are under way; the edge asks again by itself.
        let _ = self.edges.try_send((edge, endpoint));
    }
}

fn serve_dials(asked: &Mutex<Receiver<(Asker, Arc<str>, u16)>>, commands: &Commands) {
    loop {
        let Ok(Ok((asker, name, port))) = asked.lock().map(|asked| asked.recv()) else { return };
        let addresses = resolve(&HostPort { host: Host::Name(name), port });
        commands.send(Command::Resolved { asker, addresses });
    }
}

/// The addresses of a name, in the system's order; none when it has none or the resolver fails.
fn resolve(endpoint: &HostPort) -> Vec<SocketAddr> {
    match &endpoint.host {
        Host::Address(address) => vec![SocketAddr::new(*address, endpoint.port)],
        Host::Name(name) => {
            (&**name, endpoint.port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
        }
    }
}
