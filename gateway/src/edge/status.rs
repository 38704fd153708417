//! The edge's health, in one word and a line for each problem: `gatewayctl status`, `/readyz` and
//! `systemctl status`.

use std::time::Duration;

use policy::sections::List;
use tunnel::io::clock;
use tunnel::node::{PeerState, PeerStatus};

use super::Edge;
use super::events::shared_key;
use daemon::changes::is_file_in_force;
use daemon::peers::Health;

use crate::control::report::{SCHEMA, Status};
use crate::foreign::{Needs, obstacles};
use crate::kernel::Listing;

/// The age from which a fetched list is a problem; the timer fetches every day.
const STALE_LIST: Duration = Duration::from_secs(7 * 86_400);

/// Said when our table is not there.
const TABLE_MISSING: &str = "the table inet causeway is missing: published ports are not led on, and the edge's own ports are \
                             open to the WAN; it is put back at once, unless another line says why not";

impl Edge {
    /// The edge's health, in a few numbers.
    pub async fn status(&self) -> Status {
        let (leaked, mut failing) = self.look_at_table().await;
        failing.extend(self.device.problems(clock::instant()));
        let peers = self.device.node().peers(Self::now());
        let up = peers.iter().filter(|peer| peer.state == PeerState::Up).count();
        let mut problems = failing.clone();
        problems.extend(self.problems());
        problems.extend(self.machine.borrow().remarks(&self.current.borrow().policy));
        problems.extend(self.not_taken());
        problems.extend(self.refused_handshakes());
        // Without an answer from nft there is none about the chains of others, either.
        if leaked.is_some() {
            problems.extend(self.obstacles().await);
        }
        problems.extend(self.device.node().clock_fault(Self::now()).map(|fault| fault.to_string()));
        problems.extend(self.peer_problems(&peers));
        problems.extend(self.taken_ports().await);
        problems.extend(self.conntrack_problem().await);
        let current = self.current.borrow();
        Status {
            schema: SCHEMA,
            health: health(&failing, &problems, (up, peers.len())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.config_path.display().to_string(),
            generation: self.generation.get(),
            config_in_force: is_file_in_force(self),
            confirm_within_seconds: self.confirmable.waits().map(|left| left.as_secs()),
            last_apply_ok: self.last_apply_ok.get(),
            uptime_seconds: self.started.elapsed().as_secs(),
            interface: current.policy.interface.name.to_string(),
            peers_up: up,
            peers: peers.len(),
            leaked_packets: leaked.unwrap_or(0),
            trusted: self.trusted(),
            problems,
        }
    }

    /// How many packets would have left the wrong way, if that can be read, and what of rules and routes does not work.
    async fn look_at_table(&self) -> (Option<u64>, Vec<String>) {
        let counters = self.read_counters().await;
        let mut failing: Vec<_> = self.failing.borrow().problem().into_iter().collect();
        match counters {
            Ok(Some(counters)) => (Some(self.leaked(&counters)), failing),
            Ok(None) => {
                failing.push(TABLE_MISSING.to_owned());
                self.wakeup.notify_one();
                (Some(0), failing)
            }
            Err(failure) => {
                failing.push(format!("the kernel's counters cannot be read: {failure}"));
                (None, failing)
            }
        }
    }

    /// Peers that are not up, and keys that two machines use.
    fn peer_problems(&self, peers: &[PeerStatus]) -> Vec<String> {
        let shared = peers.iter().filter_map(|peer| {
            let shared = peer.shared_key?;
            let ends = shared.ends.map(|[one, other]| format!(" (at {one} and {other})")).unwrap_or_default();
            Some(shared_key(&self.name_of(&peer.public_key), shared.ends.is_some()) + &ends)
        });
        let missing = peers.iter().filter(|peer| peer.state != PeerState::Up);
        let missing =
            missing.map(|peer| format!("peer {} is {}", self.name_of(&peer.public_key), peer.state.label()));
        shared.chain(missing).collect()
    }

    /// Foreign rules that block the tunnel, each with its fix.
    pub async fn obstacles(&self) -> Vec<String> {
        let needs = {
            let interface = &self.current.borrow().policy.interface;
            Needs { device: interface.name.to_string(), port: interface.listen_port }
        };
        let helper = self.helper.clone();
        match self.read_kernel(move || helper.list(Listing::Everybody)).await {
            Ok(listing) => obstacles(&listing, &needs),
            Err(failure) => {
                vec![format!("whether other firewalls let the tunnel pass is not known: {failure}")]
            }
        }
    }

    /// One line about the peers, or about what does not work, for `systemctl status` and `/readyz`; whether a peer is up and
    /// everything else works.
    #[must_use]
    pub fn headline(&self) -> (bool, String) {
        let failing = self.failing.borrow().problem();
        if let Some(problem) = failing.into_iter().chain(self.device.problems(clock::instant())).next() {
            return (false, problem);
        }
        let peers = self.device.node().peers(Self::now());
        let up = peers.iter().filter(|peer| peer.state == PeerState::Up).count();
        (up > 0 || peers.is_empty(), format!("{up} of {} peers up", peers.len()))
    }

    /// What is not as configured, each with its fix.
    fn problems(&self) -> Vec<String> {
        let current = self.current.borrow();
        let switch = |switch: &super::Unwritable| {
            format!(
                "{} should be {} and cannot be written ({}); run: sysctl -w {}={}",
                switch.path,
                switch.value,
                switch.reason,
                switch.path.replace('/', "."),
                switch.value
            )
        };
        let mut problems: Vec<_> = current.unwritable.iter().map(switch).collect();
        if self.contention.borrow().is_on {
            let problem = "another program keeps changing rules, routes or switches; see the log for which";
            problems.push(problem.to_owned());
        }
        problems.extend(self.path_faults.borrow().lines().iter().cloned());
        problems.extend(current.policy.lists.iter().filter_map(list_age));
        if !self.wg_socket.is_reachable() {
            let path = self.wg_socket.path().display();
            problems
                .push(format!("another program removed {path}; restart the daemon to have `wg` work again"));
        }
        problems
    }

    /// Why the file is not in force, when it was read again and not taken.
    fn not_taken(&self) -> Option<String> {
        let (file, reason) = (self.config_path.display(), self.not_taken.borrow());
        let reason = reason.as_ref()?;
        Some(format!("{file} was read again and not taken, the configuration before is in force: {reason}"))
    }

    /// Warns of switches that could not be written: a person should act.
    pub(super) fn warn_of_unwritable(&self) {
        for problem in self.problems() {
            tracing::warn!("{problem}");
        }
    }
}

/// The health: broken when something fails or no peer is up, degraded over any other problem.
fn health(failing: &[String], problems: &[String], (up, peers): (usize, usize)) -> Health {
    match problems {
        [] => Health::Ok,
        _ if !failing.is_empty() || up == 0 && peers > 0 => Health::Broken,
        _ => Health::Degraded,
    }
}

/// Says so when a list that is fetched has not been for long.
fn list_age(list: &List) -> Option<String> {
    let path = list.file.path(None).ok().filter(|_| !list.urls.is_empty())?;
    let age = std::fs::metadata(path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    (age > STALE_LIST).then(|| {
        let days = age.as_secs() / 86_400;
        format!("@{} was last fetched {days} days ago; see: systemctl status causeway-lists", list.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_known_to_be_wrong_is_never_ok_and_what_fails_is_broken() {
        let lines = |count: usize| vec!["a problem".to_owned(); count];
        for up in [(0, 0), (1, 1), (1, 2)] {
            assert_eq!(health(&[], &[], up), Health::Ok);
            assert_eq!(health(&[], &lines(1), up), Health::Degraded);
            assert_eq!(health(&lines(1), &lines(1), up), Health::Broken);
        }
        assert_eq!(health(&[], &lines(2), (0, 2)), Health::Broken);
    }
}
