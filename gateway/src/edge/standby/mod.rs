//! An edge of a pair: active while it has the shared address; it sends the other edge, or gets from it,
//! what it takes to go on.

mod health_file;
mod replicate;
mod watch;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use daemon::metrics::Number;
use policy::gateway::Standby as Pair;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tunnel::io::{clock, own_address};

use super::Edge;
use crate::standby::{Role, Turn};
use crate::state::KeptGrants;

use health_file::HealthFile;
pub use health_file::path as health_file;
use replicate::{End, receive};
use watch::AddressWatch;

/// How often the other edge is sent a report, and the address is looked for without a notification.
const EVERY: Duration = Duration::from_secs(1);
/// After so long the other edge counts as lost.
const LOST: Duration = Duration::from_secs(5);

/// What the edge knows of its pair.
#[derive(Default)]
pub(super) struct Standby {
    role: Cell<Role>,
    /// Woken by what the other edge is to get at once, and by another configuration.
    news: Notify,
    /// The replication with the other edge, while there is one.
    end: RefCell<Option<End>>,
    refused: Cell<u64>,
    received: Cell<u64>,
    /// What peers publish, as the other edge last sent.
    granted: RefCell<Option<KeptGrants>>,
    health: RefCell<HealthFile>,
}

impl Standby {
    /// An edge that was started now.
    pub(super) fn at_start(pair: Option<Pair>) -> Self {
        let role = Role::at_start(pair.map(|pair| pair.address));
        Self { role: Cell::new(role), ..Self::default() }
    }

    /// What the edge is.
    pub(super) fn role(&self) -> Role {
        self.role.get()
    }

    /// Something changed that the other edge should know, or the configuration.
    pub(super) fn handle_news(&self) {
        self.news.notify_one();
    }

    /// What is wrong with the pair, with its fix.
    pub(super) fn problem(&self) -> Option<String> {
        self.end.borrow().as_ref()?.problem(clock::instant(), LOST)
    }

    /// For Prometheus; nothing for an edge alone.
    pub(super) fn numbers(&self) -> Vec<Number> {
        let Some(end) = &*self.end.borrow() else { return Vec::new() };
        let active = self.role.get() == Role::Active;
        let heard = end.silence(clock::instant()).is_some_and(|silence| silence < LOST);
        let help = "Messages of the other edge of the pair, by whether they counted.";
        let messages = |result, count| {
            Number::counter("gateway_standby_messages_total", help, count).with("result", result)
        };
        vec![
            Number::flag("gateway_standby_active", "Whether this edge has the address of the pair.", active),
            Number::flag("gateway_standby_other_heard", "Whether the other edge is heard.", heard),
            messages("taken", self.received.get()),
            messages("refused", self.refused.get()),
        ]
    }
}

/// Follows the shared address, and the other edge, until the daemon ends.
pub(super) async fn serve(edge: Rc<Edge>) {
    let mut watch = AddressWatch::default();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = vec![0; crate::standby::MAX_DATAGRAM + 1];
    let (mut is_datagram, mut socket) = (false, None);
    loop {
        let pair = edge.config().policy.standby;
        if pair.is_some() {
            watch.begin();
        }
        // Datagrams come as often as their sender likes; they are no reason to look.
        if !std::mem::take(&mut is_datagram) {
            let begins = follow(&edge, pair) == Some(Turn::Begin);
            socket = replicate::follow(&edge, pair);
            if begins {
                replicate::send(&edge);
            }
        }
        tokio::select! {
            () = edge.standby.news.notified() => replicate::send(&edge),
            () = watch.changed(), if pair.is_some() => {}
            datagram = receive(socket.as_deref(), &mut buffer), if socket.is_some() => {
                is_datagram = true;
                replicate::handle(&edge, &buffer, datagram);
            }
            _ = tick.tick(), if pair.is_some() => replicate::send(&edge),
        }
    }
}

/// Looks whether the shared address is here, and follows it.
fn follow(edge: &Edge, pair: Option<Pair>) -> Option<Turn> {
    let address = pair.map(|pair| pair.address);
    // What cannot be found out is not here: two edges that send are worse than none.
    let role = Role::of(address, |address| own_address::is_own(address).unwrap_or(false));
    edge.plane.send_from(address, role == Role::Active);
    let mut before = edge.standby.role.get();
    let turn = before.follow(role);
    edge.standby.role.set(role);
    if let Some(turn) = turn {
        edge.plane.turn(turn, &edge.config().keys.private);
        if turn == Turn::Begin {
            edge.links.begin_again();
        }
        log(turn, address);
    }
    turn
}

fn log(turn: Turn, address: Option<IpAddr>) {
    let Some(address) = address else {
        return tracing::info!("this edge is none of a pair any more, and carries the tunnel");
    };
    match turn {
        Turn::Begin => tracing::info!(%address, "active: the shared address is here"),
        Turn::End => tracing::info!(%address, "standby: the shared address is not here; this edge is silent"),
    }
}

/// Notes for keepalived how this edge is, where it is one of a pair.
pub(super) fn note_health(edge: &Edge) {
    let policy = &edge.config().policy;
    if policy.standby.is_some() {
        let is_well = edge.health.has_table.get() && edge.own_problem().is_none();
        edge.standby.health.borrow_mut().follow(health_file(policy), is_well);
    }
}

/// Has keepalived move the address now that this edge ends.
pub(super) fn note_end(edge: &Edge) {
    let policy = &edge.config().policy;
    if policy.standby.is_some() {
        edge.standby.health.borrow_mut().follow(health_file(policy), false);
    }
}
