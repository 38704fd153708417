//! The task that steers, as long as one configuration is in force.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use daemon::exit::ExitError;
use daemon::peers::Peer;
use policy::forwarder::{Policy, Steer};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep_until, timeout};

use super::decision::{Counted, Decision, Steering};
use super::gone::Gone;
use crate::dns::authority::Authority;
use crate::dns::failure::Severity;
use crate::dns::keeper::EventKind;
use crate::dns::record::{Wanted, shown};
use crate::dns::records::Records;
use crate::network::Network;
use crate::notify::daemon::Socket;
use crate::notify::notices::Notices;
use crate::notify::text::Message;
use crate::notify::wall_clock;

/// How often the daemon is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often while an edge leaves probes unanswered.
const SOON: Duration = Duration::from_millis(250);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Steers the name of `[steer]`.
pub struct Task {
    steer: Steer,
    edges: Vec<(String, Ipv4Addr)>,
    socket: Socket,
    machine: String,
    notices: Rc<Notices>,
    records: Records,
    steering: Steering,
    asking: Option<JoinHandle<Result<Vec<Peer>, ExitError>>>,
    /// Decisions that the record does not show yet.
    open: Vec<Decision>,
}

impl Task {
    /// With the secret from its file.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn new(
        policy: &Policy,
        steer: &Steer,
        (machine, gone): (String, &Gone),
        notices: Rc<Notices>,
    ) -> Result<Self, ExitError> {
        let authority = Authority::open(&steer.authority, &steer.zone, &steer.key_file)?;
        let edge = |peer: &policy::forwarder::Peer| Some((peer.name.to_string(), peer.public_address?));
        let edges: Vec<_> = policy.peers.iter().filter_map(edge).collect();
        Ok(Self {
            steering: Steering::new(&edges, steer.return_after).without(gone.addresses()),
            records: Records::new(authority, std::slice::from_ref(&steer.name)),
            edges,
            socket: Socket::of_origin(policy),
            steer: steer.clone(),
            machine,
            notices,
            asking: None,
            open: Vec::new(),
        })
    }

    /// Runs until `stop` is notified; a step that is out is waited for.
    pub async fn run(mut self, network: Rc<Network>, stop: Rc<Notify>) {
        let mut next = Instant::now();
        self.want();
        loop {
            if self.advance().await {
                continue;
            }
            let due = self.records.poll_timeout().into_iter().chain([next]).min().unwrap_or(next);
            tokio::select! {
                () = stop.notified() => return,
                () = sleep_until(due.into()) => {}
                () = network.changed() => self.records.handle_network_change(Instant::now()),
            }
            if next <= Instant::now() {
                let pause = self.ask().await;
                next = Instant::now() + pause;
            }
        }
    }

    /// Does what is due at the authority; whether there was anything.
    async fn advance(&mut self) -> bool {
        let Some(found) = self.records.advance().await else { return self.report() };
        if let Some(found) = found {
            self.steering.handle_found(Instant::now(), &found.addresses());
            self.decide();
        }
        self.report();
        true
    }

    /// Asks the daemon for what it counts; how long to wait until it is asked again.
    async fn ask(&mut self) -> Duration {
        let asking = self.asking.get_or_insert_with(|| {
            let socket = self.socket.clone();
            spawn_blocking(move || socket.edges())
        });
        let answered = timeout(PATIENCE, &mut *asking).await;
        let now = Instant::now();
        let Ok(answered) = answered else {
            self.steering.handle_silence();
            return INTERVAL;
        };
        self.asking = None;
        match answered {
            Ok(Ok(peers)) => {
                let counted: Vec<Counted> = peers.iter().map(counted).collect();
                self.steering.handle_counted(now, &counted);
            }
            Ok(Err(error)) => {
                tracing::debug!("the daemon does not answer: {error}");
                self.steering.handle_silence();
            }
            Err(error) => tracing::error!(%error, "the daemon could not be asked"),
        }
        self.decide();
        if self.steering.is_any_doubtful() { SOON } else { INTERVAL }
    }

    /// Takes what was decided, and has the record follow.
    fn decide(&mut self) {
        while let Some(decision) = self.steering.poll_decision() {
            let name = &self.steer.name;
            let dry = if self.steer.dry_run { "dry run: " } else { "" };
            match &decision {
                Decision::TakenOut { edge, address } => {
                    tracing::info!(name, edge, %address, "{dry}the edge is silent and is taken out");
                }
                Decision::TakenBack { edge, address, after } => {
                    let seconds = after.as_secs();
                    tracing::info!(name, edge, %address, seconds, "{dry}the edge is there and is taken back");
                }
                Decision::AllSilent => {
                    tracing::info!(name, "no edge is heard; the record stays as it is");
                    continue;
                }
            }
            if self.steer.dry_run {
                let line = format!("dry run: {}", line(name, &decision));
                self.notify(&line, "[steer] dry_run is true: the record was not changed.");
            } else {
                self.open.push(decision);
            }
        }
        self.want();
    }

    fn want(&mut self) {
        let nothing = || Wanted::Among { present: Vec::new(), absent: Vec::new() };
        let wanted = if self.steer.dry_run { nothing() } else { self.steering.wanted() };
        self.records.handle_wanted(Instant::now(), wanted);
    }

    /// Reports what became of decisions; whether there was anything.
    fn report(&mut self) -> bool {
        let mut is_any = false;
        while let Some(event) = self.records.poll_event() {
            is_any = true;
            match event.kind {
                EventKind::Right(_) | EventKind::Changed { .. } if self.open.is_empty() => {}
                EventKind::Right(addresses) | EventKind::Changed { to: addresses, .. } => {
                    self.report_decisions(&addresses);
                }
                EventKind::Failed { severity: Severity::Warning, reason } => {
                    let line = format!("{} cannot be steered", self.steer.name);
                    self.notify(&line, &reason);
                }
                EventKind::Failed { severity: Severity::Info, .. } | EventKind::Held(_) => {}
            }
        }
        is_any
    }

    fn report_decisions(&mut self, addresses: &[Ipv4Addr]) {
        let named = |address: &Ipv4Addr| {
            let edge = self.edges.iter().find(|(_, known)| known == address);
            edge.map_or_else(|| address.to_string(), |(edge, _)| edge.clone())
        };
        let leads_to: Vec<String> = addresses.iter().map(named).collect();
        let more = format!("It leads to {} now ({}).", leads_to.join(", "), shown(addresses));
        for decision in std::mem::take(&mut self.open) {
            self.notify(&line(&self.steer.name, &decision), &more);
            let (edge, present) = match decision {
                Decision::TakenOut { edge, .. } => (edge, false),
                Decision::TakenBack { edge, .. } => (edge, true),
                Decision::AllSilent => continue,
            };
            let (socket, name) = (self.socket.clone(), self.steer.name.clone());
            drop(spawn_blocking(move || {
                if let Err(error) = socket.note_steered(name, edge, present) {
                    tracing::debug!("the history does not have it: {error}");
                }
            }));
        }
    }

    fn notify(&self, line: &str, more: &str) {
        self.notices.push(Message::steered(&self.machine, wall_clock(), line, more));
    }
}

fn counted(peer: &Peer) -> Counted {
    let is_up = matches!(peer.state.as_str(), "up" | "stale");
    Counted { name: peer.name.clone(), received: peer.rx_bytes, lost: peer.probes_lost, is_up }
}

fn line(name: &str, decision: &Decision) -> String {
    match decision {
        Decision::TakenOut { edge, .. } => format!("{name} no longer leads to {edge}, which is silent"),
        Decision::TakenBack { edge, .. } => format!("{name} leads to {edge} again"),
        Decision::AllSilent => format!("no edge of {name} is heard"),
    }
}
