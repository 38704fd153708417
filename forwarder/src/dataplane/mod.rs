//! The data thread: one loop that runs to completion, from the UDP socket to the loopback sockets
//! and back.
//!
//! A round takes what the poll reported, receives packets ([`edge`]), gives them to the flows of
//! their protocol ([`tcp`], [`udp`]), does what is due, gives flows their turns, and sends.

mod command;
mod context;
pub mod edge;
mod edge_round;
mod edges;
mod flows;
mod handover;
pub mod key_switch;
mod owner;
mod reload;
mod resolve;
pub mod tcp;
mod token;
pub mod udp;
mod waiting;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll};
use policy::forwarder::{Policy, SourcePort};
use rustix::event::{PollFd, PollFlags, Timespec};
use tunnel::io::clock;
use tunnel::io::udp::ReceiveBatch;
use tunnel::io::watchdog::{self, Watched};
use tunnel::node::PeerState;
use tunnel::offload::coalesce::{CoalesceOptions, Coalescer};
use tunnel::progress::Heartbeat;
use tunnel::time::{Instant, Now};

use crate::arrivals::Arrivals;
use crate::flow::EdgeId;
use crate::network::{NetworkChange, Watch};
use crate::state::MarkWriter;
use crate::stats::{Stats, add};
use crate::upstream::{Pools, Stream};
pub use command::{Change, Command, Commands, Inbox, LinkDial, Listeners};
use context::Context;
use edge::Edge;
use edge_round::EdgeRound;
use edges::Edges;
use flows::Flows;
use handover::Other;
pub use owner::Owner;
use resolve::{Requester, Resolved, Resolver};
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
/// A sleep that took this much longer than its timeout was a suspend of the machine.
const SUSPENDED: Duration = Duration::from_secs(10);
/// How long the connection of a link may take to end: it has nothing left to send but that.
const LINK_DRAIN: Duration = Duration::from_secs(1);

/// When what is left is reset after a stop was requested.
struct Stop {
    /// `None` once the links were.
    links_end: Option<Instant>,
    flows_end: Instant,
}

impl Stop {
    fn deadline(&self) -> Instant {
        self.links_end.map_or(self.flows_end, |at| at.min(self.flows_end))
    }
}

/// The data thread's whole state.
pub struct DataPlane {
    poll: Poll,
    edges: Edges,
    listeners: Vec<tcp::Listener>,
    flows: Flows,
    inlet: Coalescer,
    batch: ReceiveBatch,
    commands: Receiver<Command>,
    state: MarkWriter,
    stats: Arc<Stats>,
    stop: Option<Stop>,
    /// `None` where the system does not report changes.
    network: Option<Watch>,
    waiting: Waiting,
    heartbeat: Arc<Heartbeat>,
    /// The other process of this forwarder, while an upgrade is under way.
    other: Option<Other>,
}

/// What a data plane begins with.
pub struct Parts {
    /// The configuration.
    pub policy: Arc<Policy>,
    /// One edge per `[[peer]]`, in the order of their numbers.
    pub edges: Vec<Edge>,
    /// The listeners of `[[reach]]`.
    pub listeners: Listeners,
    /// The upstreams of `[[service]]`.
    pub pools: Arc<Pools>,
    /// Where it counts.
    pub stats: Arc<Stats>,
    /// What is looked for in the first bytes of flows.
    pub arrivals: Arc<Arrivals>,
    /// Where the clock mark is kept.
    pub state: MarkWriter,
}

impl DataPlane {
    /// A data plane whose sources are watched and whose resolver runs.
    ///
    /// # Errors
    /// From the system.
    pub fn new(inbox: Inbox, parts: Parts) -> io::Result<Self> {
        let Inbox { poll, received, commands } = inbox;
        let Parts { policy, edges: opened, mut listeners, pools, stats, arrivals, state } = parts;
        let mut edges = Edges::default();
        for edge in opened {
            edge.watch(poll.registry())?;
            edges.push(edge);
        }
        for (index, listener) in listeners.tcp.iter_mut().enumerate() {
            listener.watch(poll.registry(), index, &edges)?;
        }
        let waiting = Waiting::new(&policy, Arc::clone(&stats));
        let seed = getrandom::u32().map_err(io::Error::other)? as u16;
        let network = Watch::open(poll.registry(), token::NETWORK)
            .inspect_err(|error| tracing::info!(%error, "the system does not report network changes"))
            .ok();
        let registry = poll.registry().try_clone()?;
        let resolver = Resolver::start(move |resolved| commands.send(Command::Resolved(resolved)))?;
        let context = Context::new(policy, pools, (Arc::clone(&stats), arrivals), registry, resolver);
        let mut flows = Flows::new(context, seed);
        for listener in listeners.udp {
            flows.add_udp_listener(listener, &edges)?;
        }
        Ok(Self {
            flows,
            poll,
            edges,
            listeners: listeners.tcp,
            inlet: Coalescer::new(CoalesceOptions { tcp: true, udp: false }),
            batch: ReceiveBatch::new(MESSAGES),
            commands: received,
            state,
            stats,
            stop: None,
            network,
            waiting,
            heartbeat: Arc::new(Heartbeat::new(DATA_THREAD)),
            other: None,
        })
    }

    /// What a watchdog needs to watch the thread that will [`run`](Self::run) this.
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
        Ok(Watched { heartbeat: Arc::clone(&self.heartbeat), has_work: Box::new(has_work) })
    }

    /// Runs until a stop command has been carried out.
    ///
    /// # Errors
    /// Only when the poll itself fails.
    pub fn run(mut self) -> io::Result<()> {
        let heartbeat = Arc::clone(&self.heartbeat);
        let _life = watchdog::begin(&heartbeat);
        let mut events = Events::with_capacity(EVENTS);
        let mut again = false;
        let mut now = clock::now();
        while !self.is_done(now) {
            let timeout = if again { Duration::ZERO } else { self.sleep(now) };
            let bulk = self.edges.iter_mut().fold(false, |bulk, edge| edge.take_bulk() | bulk);
            heartbeat.begin_wait(0, now.instant.after(timeout));
            self.waiting.wait(&mut self.poll, &mut events, timeout, bulk)?;
            heartbeat.step();
            let before = now;
            now = clock::now();
            if now.instant.since(before.instant) > timeout + SUSPENDED && !again {
                self.wake_up(now);
            }
            again = self.round(now, &events);
        }
        Ok(())
    }

    /// One round: what the poll reported, packets in, what is due, turns of flows, packets out.
    /// `true` when there is more.
    fn round(&mut self, now: Now, events: &Events) -> bool {
        add(&self.stats.rounds, 1);
        for event in events {
            self.handle_event(now, event);
        }
        self.handle_network_change(now);
        let mut again = self.receive(now);
        again |= self.exchange(now);
        for listener in &mut self.listeners {
            again |= listener.accept(self.flows.tcp(now), &mut self.edges);
        }
        self.flows.handle_timeout(now, &mut self.edges);
        self.resume_blocked(now);
        again |= self.flows.take_turns(now, &mut self.edges);
        self.run_edges(now);
        self.flows.publish();
        again
    }

    fn handle_event(&mut self, now: Now, event: &Event) {
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
            Some(Source::Exchange) => self.other.iter().for_each(|other| other.ready(ready)),
            Some(Source::Edge(id)) => self.edge_ready(id, ready),
            Some(Source::Listener(index)) => {
                if let Some(listener) = self.listeners.get_mut(index) {
                    listener.ready();
                }
            }
            Some(Source::Flow(id)) => self.flows.tcp(now).handle_ready(id, ready, &mut self.edges),
            Some(Source::Datagrams(id)) => self.flows.udp(now).handle_ready(id),
            Some(Source::UdpListener(number)) => self.flows.udp(now).handle_listener_ready(number),
            None => {}
        }
    }

    fn edge_ready(&mut self, id: EdgeId, ready: (bool, bool)) {
        let Some(edge) = self.edges.get_mut(id) else { return };
        if edge.ready(ready.0, ready.1) {
            edge.flush();
        }
    }

    /// Gives flows that waited for room in a send queue their turn once there is some, whatever
    /// made it.
    fn resume_blocked(&mut self, now: Now) {
        for edge in self.edges.iter_mut().filter(|edge| edge.has_room()) {
            for id in std::mem::take(&mut edge.blocked) {
                self.flows.tcp(now).mark(id);
            }
        }
    }

    /// Receives from every edge that has something and gives the packets to the flows.
    fn receive(&mut self, now: Now) -> bool {
        let (mut more, other) = (false, self.other.as_ref());
        for edge in self.edges.iter_mut() {
            for _ in 0..RECEIVES {
                if !edge.is_readable() || !edge.receive(&mut self.batch) {
                    break;
                }
                for received in self.batch.iter_mut() {
                    // A message of many flows holds little that can be joined: the next may not
                    // fit.
                    if !self.inlet.has_room() {
                        carry(now, &mut self.inlet, &mut self.flows, edge, other);
                    }
                    if !other.is_some_and(|other| other.pass_datagrams(now, edge, &received)) {
                        edge.handle_received(now, received, &mut self.inlet);
                    }
                }
                carry(now, &mut self.inlet, &mut self.flows, edge, other);
            }
            more |= edge.is_readable();
        }
        more
    }

    fn run_edges(&mut self, now: Now) {
        if self.has_handed_over() {
            return self.edges.iter_mut().for_each(Edge::flush);
        }
        let (registry, flows, state) = (self.poll.registry(), &mut self.flows, &self.state);
        let old = self.other.as_ref().and_then(Other::old);
        let mut round = EdgeRound { now, registry, flows, state, old };
        for edge in self.edges.iter_mut() {
            round.run(edge);
            edge.flush();
        }
    }

    fn handle_commands(&mut self, now: Now) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Resolved(resolved) => self.handle_resolved(now, resolved),
                Command::Reload(change) => self.reload(now, *change),
                Command::Link(dial) => self.dial_link(now, dial),
                Command::Descriptors(reply) => drop(reply.send(self.descriptors())),
                Command::HandOver { exchange, drain } => self.hand_over(now, exchange, drain),
                Command::Stop { drain } => self.stop(now, drain),
            }
        }
    }

    fn handle_resolved(&mut self, now: Now, resolved: Resolved) {
        match resolved {
            Resolved::Upstream { requester: Requester::Tcp(id), addresses } => {
                self.flows.tcp(now).handle_resolved(id, &addresses, &mut self.edges);
            }
            Resolved::Upstream { requester: Requester::Udp(id), addresses } => {
                self.flows.udp(now).handle_resolved(id, &addresses);
            }
            Resolved::Endpoint { edge, addresses } => self.handle_endpoint(now, edge, &addresses),
        }
    }

    fn handle_endpoint(&mut self, now: Now, id: EdgeId, addresses: &[SocketAddr]) {
        if self.has_handed_over() {
            return;
        }
        let Some(edge) = self.edges.get_mut(id) else { return };
        let current = edge.endpoint(now);
        match edge.endpoint_name.handle_resolved(now, addresses, current) {
            Some(address) => {
                edge.set_endpoint(now, address);
                // The back-off of the address before does not count for this one.
                edge.node.handle_network_change(now);
            }
            None if addresses.is_empty() => {
                tracing::info!(peer = %edge.name, "the endpoint's name has no address yet, resolving it again");
            }
            None => {}
        }
    }

    /// Connects one half of a socket pair to an edge; where that cannot be done, the other half sees the end.
    fn dial_link(&mut self, now: Now, dial: LinkDial) {
        let Some(edge) = self.edges.get_mut(dial.edge) else { return };
        let stream = Stream::Unix(mio::net::UnixStream::from_std(dial.stream));
        let link = tcp::Local {
            target: dial.target,
            source_port: SourcePort::Any,
            owner: Owner::Link,
            stats: Arc::default(),
        };
        if edge.state == PeerState::Up {
            // A stream that comes back is closed by its drop.
            drop(self.flows.tcp(now).open_local(edge, link, stream));
        }
    }

    fn stop(&mut self, now: Now, drain: Duration) {
        if self.has_handed_over() {
            // Its flows have their time already.
            if let Some(stop) = self.stop.as_mut().filter(|_| drain.is_zero()) {
                stop.flows_end = now.instant;
            }
            return;
        }
        let flows = self.flows.active();
        tracing::info!(flows, seconds = drain.as_secs(), "stopping: flows may finish");
        self.flows.stop();
        for listener in std::mem::take(&mut self.listeners).iter_mut() {
            listener.release_held(&self.stats);
        }
        self.stop = Some(Stop {
            flows_end: now.instant.after(drain),
            links_end: Some(now.instant.after(LINK_DRAIN)),
        });
    }

    /// After a stop: all flows are over, or their time is and they are reset.
    fn is_done(&mut self, now: Now) -> bool {
        let Some(stop) = &mut self.stop else { return false };
        if stop.links_end.take_if(|at| *at <= now.instant).is_some() {
            self.reset(now, |owner| *owner == Owner::Link);
        }
        let active = self.awaited();
        if active == 0 {
            self.finish_exchange();
            return true;
        }
        if self.stop.as_ref().is_some_and(|stop| now.instant < stop.flows_end) {
            return false;
        }
        tracing::info!(flows = active, "resetting the flows that did not finish");
        self.reset(now, |_| true);
        self.finish_exchange();
        true
    }

    fn reset(&mut self, now: Now, should_end: impl Fn(&Owner) -> bool) {
        self.flows.abort(now, |_, owner, _| should_end(owner));
        self.flows.tcp(now).take_turns(&mut self.edges);
        for edge in self.edges.iter_mut() {
            edge.flush();
        }
    }

    /// The machine slept: every session is tried at once.
    fn wake_up(&mut self, now: Now) {
        if self.has_handed_over() {
            return;
        }
        tracing::info!("the machine slept, trying every peer at once");
        for edge in self.edges.iter_mut() {
            edge.update_source();
            edge.handle_timeout(now);
            edge.node.handle_network_change(now);
            edge.endpoint_name.handle_silence(now);
        }
    }

    /// Tries each edge at once whose path may be another than before, if the system reported a
    /// change.
    fn handle_network_change(&mut self, now: Now) {
        let Some(change) = self.network.as_mut().and_then(|network| network.poll(now.instant)) else {
            return;
        };
        for edge in self.edges.iter_mut() {
            if edge.update_source() || change == NetworkChange::DefaultRoute {
                tracing::info!(peer = %edge.name, "the network changed, trying the peer at once");
                edge.node.handle_network_change(now);
                edge.endpoint_name.handle_silence(now);
            }
        }
    }

    /// How long to wait when nothing happens.
    fn sleep(&self, now: Now) -> Duration {
        let edges = || self.edges.iter().filter(|_| !self.has_handed_over());
        let nodes = edges().filter_map(|edge| edge.node.poll_timeout());
        let names = edges().filter_map(|edge| edge.endpoint_name.deadline());
        let listeners = self.listeners.iter().filter_map(tcp::Listener::deadline);
        let network = self.network.as_ref().and_then(Watch::deadline);
        let keys = edges().filter_map(|edge| edge.keys.poll_timeout(&edge.node));
        let next = nodes
            .chain(names)
            .chain(keys)
            .chain(network)
            .chain(listeners)
            .chain(self.flows.deadline())
            .chain(self.stop.as_ref().map(Stop::deadline))
            .min();
        next.map_or(LONGEST_SLEEP, |at| at.since(now.instant)).min(LONGEST_SLEEP)
    }
}

/// Gives everything that was joined to the flows, those of the old process included.
fn carry(now: Now, inlet: &mut Coalescer, flows: &mut Flows, edge: &mut Edge, other: Option<&Other>) {
    while let Some((_, packet)) = inlet.poll_packet() {
        let is_passed = other.is_some_and(|other| other.pass_packet(flows.old().as_ref(), edge, &packet));
        if !is_passed {
            flows.handle_packet(now, edge, packet);
        }
    }
}
