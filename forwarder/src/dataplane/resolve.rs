//! Names to addresses, on threads of their own: the data thread never waits for DNS.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use policy::{Host, HostPort};

use crate::flow::{EdgeId, SlotId};

/// Dials that may wait for their name; beyond it they fail at once.
const MAX_WAITING: usize = 256;
/// Threads that resolve the names of upstreams.
const THREADS: usize = 2;
/// Edges whose names may wait.
const MAX_EDGES: usize = 64;

/// The flow that waits for an upstream's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A TCP flow that is being dialled.
    Tcp(SlotId),
    /// A UDP flow.
    Udp(SlotId),
}

/// A name that was resolved; without addresses when it has none or the resolver failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The name of an upstream.
    Upstream {
        /// For which flow.
        requester: Requester,
        /// In the system's order.
        addresses: Vec<SocketAddr>,
    },
    /// The name of an edge's endpoint.
    Endpoint {
        /// For which edge.
        edge: EdgeId,
        /// In the system's order.
        addresses: Vec<SocketAddr>,
    },
}

/// An upstream's name and port, with the flow that waits for it.
type Request = (Requester, Arc<str>, u16);

/// Takes requests for addresses; the replies go to the function it was started with.
#[derive(Clone)]
pub(crate) struct Resolver {
    upstreams: SyncSender<Request>,
    edges: SyncSender<(EdgeId, HostPort)>,
}

impl Resolver {
    /// Starts the threads, which give what they resolved to `send`; they end when the last resolver
    /// is dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(send: impl Fn(Resolved) + Clone + Send + 'static) -> io::Result<Self> {
        let (upstreams, requests) = sync_channel::<Request>(MAX_WAITING);
        let requests = Arc::new(Mutex::new(requests));
        for _ in 0..THREADS {
            let (requests, send) = (Arc::clone(&requests), send.clone());
            thread::Builder::new()
                .name("fw-resolve".into())
                .spawn(move || serve_upstreams(&requests, &send))?;
        }
        let (edges, requests) = sync_channel::<(EdgeId, HostPort)>(MAX_EDGES);
        thread::Builder::new().name("fw-endpoint".into()).spawn(move || {
            while let Ok((edge, endpoint)) = requests.recv() {
                send(Resolved::Endpoint { edge, addresses: resolve(&endpoint) });
            }
        })?;
        Ok(Self { upstreams, edges })
    }

    /// Requests the addresses of an upstream; `false` when too many requests wait already.
    #[must_use]
    pub(crate) fn request_upstream(&self, requester: Requester, name: &Arc<str>, port: u16) -> bool {
        self.upstreams.try_send((requester, Arc::clone(name), port)).is_ok()
    }

    /// Requests the addresses of an edge; dropped when too many requests wait already.
    pub(crate) fn request_endpoint(&self, edge: EdgeId, endpoint: HostPort) {
        // A full queue means that many requests are under way; the edge repeats its own by itself.
        let _ = self.edges.try_send((edge, endpoint));
    }
}

fn serve_upstreams(requests: &Mutex<Receiver<Request>>, send: &impl Fn(Resolved)) {
    loop {
        let Ok(Ok((requester, name, port))) = requests.lock().map(|requests| requests.recv()) else { return };
        let addresses = resolve(&HostPort { host: Host::Name(name), port });
        send(Resolved::Upstream { requester, addresses });
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
