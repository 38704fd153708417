//! How other threads reach the data thread.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mio::{Poll, Waker};
use policy::forwarder::Policy;
use tokio::sync::oneshot;
use tunnel::key::PrivateKey;
use tunnel::node::PeerConfig;

use super::edge::Edge;
use super::resolve::Resolved;
use super::{tcp, token, udp};
use crate::edge_keys::Keys;
use crate::flow::EdgeId;
use crate::handover::{Descriptors, Exchange};

/// A request of another thread to the data thread.
pub enum Command {
    /// A name was resolved.
    Resolved(Resolved),
    /// A new configuration, checked and prepared.
    Reload(Box<Change>),
    /// The link to an edge is to be dialled.
    Link(LinkDial),
    /// The descriptors that a new process needs.
    Descriptors(oneshot::Sender<io::Result<Descriptors>>),
    /// Another process takes the tunnels: take no new flows, let existing ones finish for `drain`,
    /// then reset them.
    HandOver {
        /// The socket to that process.
        exchange: Exchange,
        /// For how long.
        drain: Duration,
    },
    /// Stop: take no new flows, let existing ones finish for `drain`, then reset them.
    Stop {
        /// For how long.
        drain: Duration,
    },
}

/// A connection for the link to an edge.
pub struct LinkDial {
    /// The edge.
    pub edge: EdgeId,
    /// Its address inside the tunnel, and the link's port.
    pub target: SocketAddr,
    /// One half of a socket pair, nonblocking; it is closed when the connection ends.
    pub stream: UnixStream,
}

/// A change that can no longer fail: everything that could was done before it was sent.
pub struct Change {
    /// The new configuration.
    pub policy: Arc<Policy>,
    /// Edges that go.
    pub removed: Vec<EdgeId>,
    /// New keys of our own.
    pub keys: Vec<(EdgeId, PrivateKey)>,
    /// Edges that are new, in the order of their numbers, their sockets already open.
    pub added: Vec<Edge>,
    /// The settings of the peers that stay; the key is the current one of the keys.
    pub peers: Vec<(EdgeId, Keys, PeerConfig)>,
    /// Listeners that are new, already bound.
    pub bound: Listeners,
}

/// Listeners that are bound.
#[derive(Default)]
pub struct Listeners {
    /// For connections.
    pub tcp: Vec<tcp::Listener>,
    /// For datagrams.
    pub udp: Vec<udp::Listener>,
}

/// Sends commands to the data thread and wakes it.
#[derive(Clone)]
pub struct Commands {
    sender: Sender<Command>,
    waker: Arc<Waker>,
}

impl Commands {
    /// Sends a command; it is lost only when the data thread has ended.
    pub fn send(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            // A failed wake means that the poll is gone, and with it the thread.
            let _ = self.waker.wake();
        }
    }
}

/// The poll and the command queue, made before the data plane itself.
pub struct Inbox {
    pub(super) poll: Poll,
    pub(super) received: Receiver<Command>,
    /// For the threads that the data plane starts itself.
    pub(super) commands: Commands,
}

impl Inbox {
    /// A new poll with its command queue.
    ///
    /// # Errors
    /// From the system.
    pub fn new() -> io::Result<(Self, Commands)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), token::WAKER)?);
        let (sender, received) = channel();
        let commands = Commands { sender, waker };
        Ok((Self { poll, received, commands: commands.clone() }, commands))
    }
}
