//! The pairing that is open: the temporary peer, its connections, and the frames that `causeway
//! pair` exchanges through them. [`Relay`] decides.
//!
//! All of it is in memory: no file knows the temporary peer, and a restart ends the pairing.

mod connection;
mod refused;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use daemon::exit::{Exit, ExitError};
use daemon::link::shell;
use daemon::pairing::control::{PairingReply, PairingRequest};
use daemon::pairing::relay::{ConnectionId, Relay, Seen, TemporaryPeer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use tunnel::io::clock;

use super::Edge;
use super::data_plane::{Came, DataPlane};
use connection::Connection;
use refused::{Known, check, of_policy};

/// How often the pairing's own clock is read at least: it counts on during suspend, and timers do
/// not.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The pairing of this edge.
#[derive(Default)]
pub(super) struct Pairing {
    relay: RefCell<Relay>,
    /// What wakes the task of each connection.
    tasks: RefCell<BTreeMap<ConnectionId, Rc<Notify>>>,
    /// Wakes the task that ends the pairing.
    touched: Notify,
    /// Wakes whoever waits until the temporary peer is removed.
    removed: Notify,
    keeper: RefCell<Option<JoinHandle<()>>>,
    /// Datagrams and handshakes of unknown peers that had come before the pairing began.
    came_before: Cell<Came>,
}

impl Pairing {
    /// Whether this is the address of the temporary peer.
    pub(super) fn claims(&self, source: IpAddr) -> bool {
        self.relay.borrow().peer().is_some_and(|peer| peer.address == source)
    }

    /// Serves a connection of the temporary peer, or closes it at once.
    pub(super) fn accept(self: &Rc<Self>, stream: TcpStream) {
        let Some(id) = self.change(|relay| relay.accept(clock::instant())) else { return };
        let touched = Rc::new(Notify::new());
        self.tasks.borrow_mut().insert(id, Rc::clone(&touched));
        let pairing = Rc::clone(self);
        drop(spawn_local(async move {
            shell::carry(stream, &Connection { pairing: &pairing, id }, &touched).await;
            pairing.tasks.borrow_mut().remove(&id);
            pairing.change(|relay| relay.handle_hangup(clock::instant(), id));
        }));
    }

    /// Changes the relay, and wakes what that may concern.
    fn change<R>(&self, change: impl FnOnce(&mut Relay) -> R) -> R {
        let result = change(&mut self.relay.borrow_mut());
        self.touched.notify_one();
        self.wake_tasks();
        result
    }

    fn wake_tasks(&self) {
        self.tasks.borrow().values().for_each(|task| task.notify_one());
    }

    fn peer(&self) -> Option<TemporaryPeer> {
        self.relay.borrow().peer()
    }

    /// Waits until the temporary peer is to be removed.
    async fn over(&self) {
        while self.peer().is_some() {
            let due = self.relay.borrow().poll_timeout();
            let pause = due.map_or(LONGEST_SLEEP, |due| due.since(clock::instant()));
            let _ = timeout(pause.min(LONGEST_SLEEP), self.touched.notified()).await;
            self.relay.borrow_mut().handle_timeout(clock::instant());
            self.wake_tasks();
        }
    }

    fn seen(&self, plane: &DataPlane) -> Seen {
        let (now, before) = (plane.came(), self.came_before.get());
        // Another socket counts from zero.
        let datagrams = now.datagrams.checked_sub(before.datagrams).unwrap_or(now.datagrams);
        let unknown = now.unknown.saturating_sub(before.unknown);
        let (is_heard, has_session) = plane.temporary_is_heard();
        Seen { datagrams, unknown, is_heard, has_session }
    }
}

/// Answers a request of `causeway pair`.
///
/// # Errors
/// [`Exit::Conflict`] for a temporary peer that is refused, what the kernel refused, and frames that
/// are too many or too long.
pub(super) async fn answer(edge: &Rc<Edge>, request: PairingRequest) -> Result<PairingReply, ExitError> {
    let (key, frames) = match request {
        PairingRequest::Open { key, address } => {
            open(edge, TemporaryPeer { key, address }).await?;
            (key, Vec::new())
        }
        PairingRequest::Exchange { key, frames } => (key, frames),
        PairingRequest::Close { key } => {
            if edge.pairing.relay.borrow().is_of(&key) {
                close(edge).await;
            }
            (key, Vec::new())
        }
    };
    let seen = edge.pairing.seen(&edge.plane);
    let exchanged = edge.pairing.change(|relay| relay.exchange(clock::instant(), &key, frames, seen));
    exchanged.map_err(|error| ExitError::new(Exit::Failed, error))
}

/// Ends the pairing when the configuration in force has its key or its address.
pub(super) fn follow(edge: &Edge) {
    let Some(peer) = edge.pairing.peer() else { return };
    let config = edge.config();
    let known: Vec<_> = of_policy(&config.policy).collect();
    if let Err(refused) = check(&peer, &config.policy, &config.keys.private.public(), &known) {
        tracing::info!(%refused, "the configuration ends the pairing");
        edge.pairing.change(|relay| relay.close(clock::instant()));
    }
}

/// Closes the rules around the temporary peer first, and adds it then.
async fn open(edge: &Rc<Edge>, peer: TemporaryPeer) -> Result<(), ExitError> {
    let conflict = |refused: &dyn std::fmt::Display| ExitError::new(Exit::Conflict, refused.to_string());
    let _turn = edge.applying.lock().await;
    check_against(edge, &peer).map_err(|refused| conflict(&refused))?;
    let pairing = &edge.pairing;
    pairing.change(|relay| relay.open(clock::instant(), peer)).map_err(|refused| conflict(&refused))?;
    if let Some(keeper) = pairing.keeper.take() {
        keeper.abort();
    }
    pairing.came_before.set(edge.plane.came());
    edge.in_force.borrow_mut().pairing = Some(peer.address);
    let followed = edge.follow_machine().await.map_err(ExitError::from);
    let added =
        followed.and_then(|()| edge.plane.set_temporary(Some(&peer)).map_err(|error| conflict(&error)));
    pairing.removed.notify_waiters();
    if added.is_err() {
        pairing.change(|relay| relay.close(clock::instant()));
    } else {
        tracing::info!(address = %peer.address, "a pairing is open");
    }
    pairing.keeper.replace(Some(spawn_local(keep(Rc::clone(edge)))));
    added
}

fn check_against(edge: &Edge, peer: &TemporaryPeer) -> Result<(), refused::Refused> {
    let (config, in_force) = (edge.config(), edge.in_force.borrow());
    let of_node = edge.plane.peers().into_iter().map(|status| Known {
        name: in_force.name_of(&status.public_key),
        key: *status.public_key.as_bytes(),
        allowed_ips: status.allowed_ips,
    });
    let known: Vec<_> = of_policy(&config.policy).chain(of_node).collect();
    check(peer, &config.policy, &config.keys.private.public(), &known)
}

/// Ends the pairing, and waits until the node has no temporary peer any more.
async fn close(edge: &Edge) {
    edge.pairing.change(|relay| relay.close(clock::instant()));
    let closed = edge.plane.temporary();
    while closed.is_some() && edge.plane.temporary() == closed {
        edge.pairing.removed.notified().await;
    }
}

/// Keeps the temporary peer until the pairing is over; then the node forgets it, and the rules
/// follow.
async fn keep(edge: Rc<Edge>) {
    let pairing = &edge.pairing;
    pairing.over().await;
    tracing::info!(reason = ?pairing.relay.borrow().end(), "the pairing is over");
    if let Err(error) = edge.plane.set_temporary(None) {
        tracing::warn!("the temporary peer of the pairing cannot be removed ({error}); restart the daemon");
    }
    pairing.removed.notify_waiters();
    let _turn = edge.applying.lock().await;
    edge.in_force.borrow_mut().pairing = pairing.peer().map(|peer| peer.address);
    if let Err(failure) = edge.follow_machine().await {
        tracing::debug!(%failure, "the rules do not follow the end of the pairing yet; the next look tries it again");
    }
}
