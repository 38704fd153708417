//! The data thread: one loop that runs to completion, from the UDP socket to the loopback sockets and back.

pub mod edge;
pub mod flows;
mod named;

mod reload;
pub mod resolve;
pub mod tcp;
pub mod token;
pub mod udp;
mod waiting;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mio::{Events, Poll, Waker};
use policy::forwarder::Policy;
use rustix::event::{PollFd, PollFlags, Timespec};
use tunnel::io::clock;
use tunnel::io::udp::ReceiveBatch;
use tunnel::io::watchdog::{self, Watched};
use tunnel::node::{Event, PeerState, RecoveryStep};
use tunnel::offload::coalesce::{CoalesceOptions, Coalescer};
use tunnel::progress::Pulse;
use tunnel::time::{Instant, Now};

use crate::control::problems;
use crate::dataplane::resolve::Asker;
use crate::flow::EdgeId;
use crate::network::{Watch, Word};
use crate::state::StateFile;
use crate::stats::{Stats, add};
use edge::Edge;
use flows::Flows;
use named::Named;
pub use reload::Change;
use tcp::Listener;
pub use tcp::open::Owner;
use token::Source;
use waiting::Waiting;

/// The name of the thread that runs the loop.
pub const DATA_THREAD: &str = "fw-data";
/// Messages of joined datagrams taken by one receive call.
const MESSAGES: usize = 4;
/// Receive calls per edge and round, before flows have their turn.
const RECEIVES: usize = 4;
/// Events taken by one poll.
const EVENTS: usize = 1_024;
/// The longest sleep: how soon a jump of the clocks is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A sleep that took this much longer than asked for was a suspend of the machine.
const SUSPENDED: Duration = Duration::from_secs(10);

/// Something another thread wants of the data thread.
pub enum Command {
    /// The name of an upstream was resolved.
    Resolved {
        /// Whose.
        asker: Asker,
        /// To what; empty when it has no address.
        addresses: Vec<std::net::SocketAddr>,
    },
    /// The name of an edge's endpoint was resolved.
    Endpoint {
        /// Whose.
        edge: EdgeId,
        /// To what; empty when it has no address.
        addresses: Vec<std::net::SocketAddr>,
    },
    /// A new configuration, checked and prepared.
    Reload(Box<Change>),
    /// Stop: take no new flows, let those there finish for `drain`, then reset them.
    Stop {
        /// For how long.
        drain: Duration,
    },
}

/// How other threads reach the data thread.
#[derive(Clone)]
pub struct Commands {
    sender: Sender<Command>,
    waker: Arc<Waker>,
}

impl Commands {
    /// Hands a command over; lost only when the data thread has ended.
    pub fn send(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            // A failed wake means that the poll is gone, and with it the thread.
            let _ = self.waker.wake();
        }
    }
}

/// The data thread's whole state.
pub struct DataPlane {
    poll: Poll,
    edges: Vec<Edge>,
    names: Vec<Named>,
    listeners: Vec<Listener>,
    flows: Flows,
    inlet: Coalescer,
    batch: ReceiveBatch,
    commands: Receiver<Command>,
    state: StateFile,
    stats: Arc<Stats>,
    stop_at: Option<Instant>,
    /// `None` where the system does not tell.
    network: Option<Watch>,
    waiting: Waiting,
    pulse: Arc<Pulse>,
}

/// The poll and the ways into it, made before the data plane itself.
pub struct Inbox {
    poll: Poll,
    commands: Receiver<Command>,
}

impl Inbox {
    /// A new poll with its command queue.
    ///
    /// # Errors
    /// From the system.
    pub fn new() -> io::Result<(Self, Commands)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), token::WAKER)?);
        let (sender, commands) = channel();
        Ok((Self { poll, commands }, Commands { sender, waker }))
    }
}

/// What a data plane begins with.
pub struct Parts {
    /// The configuration.
    pub policy: Arc<Policy>,
    /// One edge per `[[peer]]`, in order.
    pub edges: Vec<Edge>,
    /// The listeners of `[[reach]]`.
    pub listeners: Listeners,
    /// Where it counts.
    pub stats: Arc<Stats>,
    /// Who resolves names.
    pub resolver: resolve::Resolver,
    /// Where the clock mark is kept.
    pub state: StateFile,
}

/// Listeners that are bound.
#[derive(Default)]
pub struct Listeners {
    /// For connections.
    pub tcp: Vec<Listener>,
    /// For datagrams.
    pub udp: Vec<udp::Listener>,
}

impl DataPlane {
    /// A data plane whose sources are watched.
    ///
    /// # Errors
    /// From the system.
    pub fn new(inbox: Inbox, parts: Parts) -> io::Result<Self> {
        let Inbox { poll, commands } = inbox;
        let Parts { policy, mut edges, mut listeners, stats, resolver, state } = parts;
        for (place, edge) in edges.iter_mut().enumerate() {
            edge.watch(poll.registry(), token::edge(place))?;
        }
        for (place, listener) in listeners.tcp.iter_mut().enumerate() {
            listener.watch(poll.registry(), place)?;
        }
        let waiting = Waiting::new(&policy, Arc::clone(&stats));
        let names = policy.peers.iter().map(|peer| Named::new(peer.endpoint.clone())).collect();
        let seed = getrandom::u32().map_err(io::Error::other)? as u16;
        let registry = poll.registry().try_clone()?;
        let network = Watch::open(poll.registry(), token::NETWORK)
            .map_err(|error| tracing::info!(%error, "changes of the network are noticed by silence alone"))
            .ok();
        let mut flows = Flows::new(policy, Arc::clone(&stats), registry, resolver, seed);
        for listener in listeners.udp {
            flows.add_listener(listener)?;
        }
        Ok(Self {
            flows,
            poll,
            edges,
            names,
            listeners: listeners.tcp,
            inlet: Coalescer::new(CoalesceOptions { tcp: true, udp: false }),
            batch: ReceiveBatch::new(MESSAGES),
            commands,
            state,
            stats,
            stop_at: None,
            network,
            waiting,
            pulse: Arc::new(Pulse::new(DATA_THREAD)),
        })
    }

    /// What a watchdog needs to look after the thread that will [`run`](Self::run) this.
    ///
    /// # Errors
    /// From the system.
    pub fn watched(&self) -> io::Result<Watched> {
        let registry = self.poll.registry().try_clone()?;
        // A poll is ready itself while it has events that were not taken.
        let has_work = move |_| {
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut fds = [PollFd::new(&registry, PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&none)).is_ok_and(|ready| ready > 0)
        };
        Ok(Watched { pulse: Arc::clone(&self.pulse), has_work: Box::new(has_work) })
    }

    /// Runs until a stop command has been carried out.
    ///
    /// # Errors
    /// Only when the poll itself fails.
    pub fn run(mut self) -> io::Result<()> {
        let pulse = Arc::clone(&self.pulse);
        let _life = watchdog::begin(&pulse);
        let mut events = Events::with_capacity(EVENTS);
        let mut again = false;
        let mut now = clock::now();
        while !self.is_done(now) {
            let timeout = if again { Duration::ZERO } else { self.sleep(now) };
            let bulk = self.edges.iter_mut().fold(false, |bulk, edge| edge.take_bulk() | bulk);
            pulse.rest(0, now.instant.after(timeout));
            self.waiting.wait(&mut self.poll, &mut events, timeout, bulk)?;
            pulse.work();
            let before = now;
            now = clock::now();
            if now.instant.since(before.instant) > timeout + SUSPENDED && !again {
                self.wake_up(now);
            }
            again = self.round(now, &events);
        }
        Ok(())
    }

    /// One round: what the poll said, packets in, what is due, turns of flows, packets out. `true` when there is more.
    fn round(&mut self, now: Now, events: &Events) -> bool {
        add(&self.stats.rounds, 1);
        for event in events {
            let ready = (
                event.is_readable() || event.is_read_closed() || event.is_error(),
                event.is_writable() || event.is_write_closed() || event.is_error(),
            );
            match token::source(event.token()) {
                Some(Source::Waker) => self.handle_commands(now),
                Some(Source::Network) => {
                    if let Some(network) = &mut self.network {
                        network.handle_ready(now.instant);
                    }
                }
                Some(Source::Edge(place)) => self.edge_ready(place, ready),
                Some(Source::Listener(place)) => {
                    if let Some(listener) = self.listeners.get_mut(place) {
                        listener.ready();
                    }
                }
                Some(Source::Flow(id)) => self.flows.handle_ready(now, id, ready, &mut self.edges),
                Some(Source::Datagrams(id)) => self.flows.datagrams_ready(id),
                Some(Source::UdpListener(number)) => self.flows.listener_ready(number),
                None => {}
            }
        }
        self.look_at_network(now);
        let mut again = self.receive(now);
        for listener in &mut self.listeners {
            again |= listener.accept(now, &mut self.flows, &mut self.edges);
        }
        self.flows.handle_timeout(now, &mut self.edges);
        self.resume_blocked();
        again |= self.flows.take_turns(now, &mut self.edges);
        again |= self.flows.take_datagram_turns(now, &mut self.edges);
        self.tend_edges(now);
        for edge in &mut self.edges {
            edge.flush();
        }
        self.flows.publish();
        again
    }

    fn edge_ready(&mut self, place: usize, ready: (bool, bool)) {
        let Some(edge) = self.edges.get_mut(place) else { return };
        if edge.ready(ready.0, ready.1) {
            edge.flush();
        }
    }

    /// Gives flows that waited for room in a send queue their turn once there is some, whatever made it.
    fn resume_blocked(&mut self) {
        for edge in self.edges.iter_mut().filter(|edge| edge.has_room()) {
            for id in std::mem::take(&mut edge.blocked) {
                self.flows.mark(id);
            }
        }
    }

    /// Receives from every edge that has something and hands the packets to the flows.
    fn receive(&mut self, now: Now) -> bool {
        let mut more = false;
        for edge in &mut self.edges {
            for _ in 0..RECEIVES {
                if !edge.is_readable() || !edge.receive(&mut self.batch) {
                    break;
                }
                for received in self.batch.iter_mut() {
                    // A message of many flows holds little that can be joined: the next may not fit beside it.
                    if !self.inlet.has_room() {
                        hand_over(now, &mut self.inlet, &mut self.flows, edge);
                    }
                    edge.handle_received(now, received, &mut self.inlet);
                }
                hand_over(now, &mut self.inlet, &mut self.flows, edge);
            }
            more |= edge.is_readable();
        }
        more
    }

    fn tend_edges(&mut self, now: Now) {
        for (place, edge) in self.edges.iter_mut().enumerate() {
            if edge.node.poll_timeout().is_some_and(|at| at <= now.instant) {
                edge.handle_timeout(now);
                edge.sample_queue_drops();
            }
            let Some(name) = self.names.get_mut(place) else { continue };
            while let Some(event) = edge.node.poll_event() {
                match event {
                    Event::StateChanged { from, to, .. } => {
                        tracing::info!(peer = %edge.name, from = from.label(), to = to.label(), "peer state changed");
                        edge.set_state(to);
                        if to == PeerState::Up {
                            name.trust();
                        }
                    }
                    Event::Recover { step: RecoveryStep::Rebind, .. } => {
                        match edge.rebind(self.poll.registry(), token::edge(place)) {
                            Ok(()) => tracing::info!(peer = %edge.name, "opened a new UDP socket to recover"),
                            Err(error) => {
                                tracing::info!(peer = %edge.name, %error, "no new UDP socket to recover with")
                            }
                        }
                    }
                    Event::Recover { step: RecoveryStep::Resolve, .. } => name.doubt(now),
                    Event::Recover { step: RecoveryStep::Handshake, .. } | Event::EndpointChanged { .. } => {}
                    Event::Handshake { .. } => {
                        tracing::debug!(peer = %edge.name, "session agreed");
                        name.trust();
                        self.flows.resume(now, edge.id);
                    }
                    Event::PathMtu { mtu, .. } => {
                        tracing::info!(peer = %edge.name, mtu, "found what the path carries");
                        edge.set_mtu(mtu);
                        self.flows.shrink(edge.id, mtu);
                    }
                    Event::Watermark { wall } => self.state.save_watermark(wall),
                    Event::ClockBehind { by } => {
                        let behind_seconds = by.as_secs();
                        tracing::info!(
                            behind_seconds,
                            "the wall clock is behind the latest one used here: an edge may answer by a handshake of its own"
                        );
                    }
                    Event::SharedKey { .. } => tracing::warn!("{}", problems::shared_key(&edge.name)),
                    Event::OldStamp { .. } => {
                        tracing::info!(
                            peer = %edge.name,
                            "a handshake of the peer is older than the one before: its clock went back, or it is a replay"
                        );
                    }
                }
            }
            edge.signs.is_unresolved.store(name.is_unresolved(), Ordering::Relaxed);
            name.ask(now, edge.id, &self.flows.resolver);
        }
    }

    fn handle_commands(&mut self, now: Now) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Resolved { asker: Asker::Dial(id), addresses } => {
                    self.flows.handle_resolved(now, id, &addresses, &mut self.edges);
                }
                Command::Resolved { asker: Asker::Datagrams(id), addresses } => {
                    self.flows.datagrams_resolved(now, id, &addresses);
                }
                Command::Endpoint { edge, addresses } => self.handle_endpoint(now, edge, &addresses),
                Command::Reload(change) => self.reload(now, *change),
                Command::Stop { drain } => self.stop(now, drain),
            }
        }
    }

    fn handle_endpoint(&mut self, now: Now, id: EdgeId, addresses: &[std::net::SocketAddr]) {
        let found = self.edges.iter_mut().zip(&mut self.names).find(|(edge, _)| edge.id == id);
        let Some((edge, name)) = found else { return };
        let current = edge.endpoint(now);
        match name.answer(now, addresses, current) {
            Some(address) => {
                edge.set_endpoint(now, address);
                // Nobody waits for the back-off of the address before.
                edge.node.handle_network_change(now);
            }
            None if addresses.is_empty() => {
                tracing::info!(peer = %edge.name, "the endpoint's name has no address yet, asking again");
            }
            None => {}
        }
    }

    fn stop(&mut self, now: Now, drain: Duration) {
        let flows = self.flows.active();
        tracing::info!(flows, seconds = drain.as_secs(), "stopping: flows may finish");
        self.flows.is_stopping = true;
        for listener in std::mem::take(&mut self.listeners).iter_mut() {
            listener.release_held(&self.flows);
        }
        self.stop_at = Some(now.instant.after(drain));
    }

    /// After a stop: all flows are over, or their time is and they are reset.
    fn is_done(&mut self, now: Now) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        let active = self.flows.active();
        if active > 0 && now.instant < stop_at {
            return false;
        }
        if active > 0 {
            tracing::info!(flows = active, "resetting the flows that did not finish");
            self.flows.abort(now, |_, _| true);
            self.flows.take_turns(now, &mut self.edges);
            for edge in &mut self.edges {
                edge.flush();
            }
        }
        true
    }

    /// The machine slept: every session is tried at once.
    fn wake_up(&mut self, now: Now) {
        tracing::info!("the machine slept, trying every peer at once");
        for (edge, name) in self.edges.iter_mut().zip(&mut self.names) {
            edge.look_at_path();
            edge.handle_timeout(now);
            edge.node.handle_network_change(now);
            name.doubt(now);
        }
    }

    /// Tries each edge at once to which the way is another than before, if the system told of a change.
    fn look_at_network(&mut self, now: Now) {
        let Some(word) = self.network.as_mut().and_then(|network| network.poll(now.instant)) else { return };
        for (edge, name) in self.edges.iter_mut().zip(&mut self.names) {
            if edge.look_at_path() || word == Word::Surely {
                tracing::info!(peer = %edge.name, "the network changed, trying the peer at once");
                edge.node.handle_network_change(now);
                name.doubt(now);
            }
        }
    }

    fn sleep(&self, now: Now) -> Duration {
        let nodes = self.edges.iter().filter_map(|edge| edge.node.poll_timeout());
        let names = self.names.iter().filter_map(Named::deadline);
        let listeners = self.listeners.iter().filter_map(Listener::deadline);
        let network = self.network.as_ref().and_then(Watch::deadline);
        let next = nodes
            .chain(names)
            .chain(network)
            .chain(listeners)
            .chain(self.flows.deadline())
            .chain(self.stop_at)
            .min();
        next.map_or(LONGEST_SLEEP, |at| at.since(now.instant)).min(LONGEST_SLEEP)
    }
}

/// Hands everything that was joined to the flows.
fn hand_over(now: Now, inlet: &mut Coalescer, flows: &mut Flows, edge: &mut Edge) {
    while let Some((_, packet)) = inlet.poll_packet() {
        flows.handle_packet(now, edge, packet);
    }
}
