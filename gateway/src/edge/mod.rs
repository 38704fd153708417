//! The running edge, seen from the control thread: a front over what it is made of.
//!
//! | part | what it has |
//! |---|---|
//! | `in_force` | the configuration in force: what plan, apply, reload and rollback read and replace |
//! | `watch` | what looks at the kernel found, and what was repaired |
//! | `meter` | what is measured for reports |
//! | `peers` | where peers are: endpoints kept on disk, and names to resolve |
//! | `links` | the control channels of the origins |
//! | `pairing` | the pairing that is open, with its temporary peer |
//! | `grants` | the ports that origins publish by themselves |
//! | `probing` | the probes of services behind peers without a link |
//! | `past` | the history, and what was looked at for it |
//! | `health` | since when which hop of a service is failing |
//! | `standby` | whether the other edge of the pair is active, and what the two send each other |
//! | `data_plane` | device, outer socket and `wg` socket |
//!
//! The parts do not know the edge. They are plain values that decide; what waits is here, and borrows a part only between
//! two waits.

mod answers;
mod apply;
mod bans;
mod blocking;
mod data_plane;
mod diagnosis;
mod events;
#[cfg(test)]
pub(crate) mod example;
mod flows;
mod grants;
mod health;
mod in_force;
mod links;
pub mod machine;
mod meter;
mod pages;
mod pairing;
mod past;
mod path_mtu;
mod peers;
mod probes;
mod reconcile;
mod standby;
mod start;
mod status;
mod status_page;
mod watch;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use daemon::changes::Confirmable;
use daemon::http::Requests;
use tokio::task::spawn_local;
use tunnel::io::clock;

use crate::config::Config;
use crate::kernel::Helper;
use crate::state::State;
use data_plane::DataPlane;
use health::Health;
use in_force::{InForce, Installer};
use links::EdgeLinks;
use meter::{Meter, Reader};
use pairing::Pairing;
use past::Past;
use peers::Peers;
use probes::Probing;
use standby::Standby;
use watch::Watch;

pub use apply::resume;
pub use in_force::guards;
pub use standby::health_file;
pub use start::{Resources, acquire};
pub use status_page::EdgePage;

/// The running edge. It lives on the control thread alone.
pub struct Edge {
    helper: Helper,
    state: State,
    config_path: PathBuf,
    plane: DataPlane,
    installer: Installer,
    reader: Reader,
    in_force: RefCell<InForce>,
    watch: RefCell<Watch>,
    meter: RefCell<Meter>,
    peers: Rc<RefCell<Peers>>,
    links: Rc<EdgeLinks>,
    pairing: Rc<Pairing>,
    probing: Probing,
    health: Health,
    past: Past,
    standby: Standby,
    /// Requests for the status page.
    page_requests: Requests,
    /// Changes that wait for their confirmation.
    confirmable: Confirmable,
    /// Serializes applies: two at once would see each other's unfinished work.
    applying: tokio::sync::Mutex<()>,
}

impl Edge {
    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(self.in_force.borrow().config())
    }

    /// Why the daemon cannot go on: the helper or a data thread ended, or is stuck.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let helper = self.helper.fault().map(|fault| format!("the kernel helper is lost: {fault}"));
        helper.or_else(|| (!self.plane.device().is_healthy()).then(|| "a data thread ended".to_owned()))
    }

    /// Does the periodic work; to be called every few seconds. Returns whether there was traffic
    /// since the last time.
    pub fn tick(self: &Rc<Self>) -> bool {
        let has_traffic = self.meter.borrow_mut().sample(&self.in_force.borrow(), &self.plane);
        self.watch.borrow_mut().check_calls(self.plane.device());
        self.peers.borrow_mut().handle_tick();
        self.keep_endpoints();
        peers::resolve_due(&self.peers, self.plane.device());
        path_mtu::follow(self);
        self.follow_link();
        probes::follow(self);
        health::note(self);
        standby::note_health(self);
        let (node, used) = (self.plane.device().node(), self.plane.last_temporary());
        self.watch.borrow_mut().warn_of_refused_handshakes(node, used, clock::now());
        has_traffic
    }

    /// Has the link listen where the policy has it, and the rules open exactly the sockets that are there.
    fn follow_link(self: &Rc<Self>) {
        self.links.listen(&self.config().policy, &self.pairing);
        let sockets = self.links.sockets();
        if self.in_force.borrow().link == sockets {
            return;
        }
        let edge = Rc::clone(self);
        drop(spawn_local(async move {
            let _turn = edge.applying.lock().await;
            edge.in_force.borrow_mut().link = sockets;
            if let Err(failure) = edge.follow_machine().await {
                tracing::debug!(%failure, "the rules do not follow the link yet; the next look tries it again");
            }
        }));
    }

    /// Announces to the origins that the daemon stops.
    pub async fn announce_stop(&self) {
        standby::note_end(self);
        self.past.handle_stop(links::announced());
        self.links.stop().await;
    }

    /// Keeps what the next start goes on with: where peers are, and what was carried with them.
    pub fn keep_for_next_start(&self) {
        self.keep_endpoints();
        if let Err(error) = self.state.totals().keep(&self.plane.peers()) {
            tracing::warn!(
                "the peers' totals cannot be written ({error}) and begin at zero; free disk space or fix the state \
                 folder's permissions"
            );
        }
    }

    /// Waits until the history is on the disk, two seconds at most.
    pub fn keep_history(&self) {
        self.past.history.flush();
    }

    /// Writes the endpoints of the peers heard since the start, if they changed.
    pub fn keep_endpoints(&self) {
        let heard = self.plane.peers().into_iter().filter(|peer| peer.latest_handshake.is_some());
        let heard = heard.filter_map(|peer| Some((peer.public_key.to_string(), peer.endpoint?.remote)));
        self.keep_endpoints_of(heard);
    }

    /// Writes these endpoints, by the peers' keys, if they changed.
    fn keep_endpoints_of(&self, heard: impl IntoIterator<Item = (String, SocketAddr)>) {
        let (in_force, mut peers) = (self.in_force.borrow(), self.peers.borrow_mut());
        let Some(endpoints) = peers.moved(in_force.policy(), heard) else { return };
        self.standby.handle_news();
        if let Err(error) = self.state.keep_endpoints(endpoints) {
            // Logged once: the next second would only repeat it.
            tracing::warn!(
                "the peers' endpoints cannot be written ({error}); free disk space or fix the state folder's permissions"
            );
        }
    }
}
