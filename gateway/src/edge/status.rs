//! The edge's health, in one word and a line for each problem: `gatewayctl status`, `/readyz` and
//! `systemctl status`.

use std::sync::Arc;

use daemon::changes::{OperatorState, Trusted, WentBack, is_file_in_force};
use daemon::diagnosis::{Cause, Problem};
use daemon::peers::Health;
use policy::Name;
use policy::gateway::Policy;
use policy::trust::taken;
use tunnel::io::clock;
use tunnel::node::{PeerState, PeerStatus};

use super::Edge;
use super::blocking::blocking;
use super::data_plane::DataPlane;
use super::events::shared_key;
use super::in_force::{InForce, closed_by_lists, stale_lists};
use super::meter::{Counters, Reader, conntrack_problem, leaked};
use super::watch::{Watch, mistakes};
use crate::config::Config;
use crate::control::report::{SCHEMA, Status};
use crate::foreign::{self, Needs, Obstacle};
use crate::kernel::{Failure, Listing};
use crate::listening::listeners;

/// The problem when our table is missing.
const TABLE_MISSING: &str = "the table inet causeway is missing: published ports are not led on, and the edge's own ports are \
                             open to the WAN; it is put back at once, unless another line says why not";

/// What is wrong with the edge.
pub(super) struct Wrong {
    /// What of rules, routes and the device does not work; the first of all problems.
    pub(super) failing: usize,
    /// Everything.
    pub(super) problems: Vec<Problem>,
    leaked: Option<u64>,
}

impl Edge {
    /// What is wrong now, each with its fix.
    pub(super) async fn wrong(&self) -> Wrong {
        let counters = self.read_counters().await;
        let (leaked, mut problems) = table_problems(counters, &self.in_force.borrow(), &self.watch.borrow());
        problems.extend(Problem::all(Cause::Socket, self.plane.device().problems(clock::instant())));
        let failing = problems.len();
        problems.extend(known_problems(&self.in_force.borrow(), &self.watch.borrow(), &self.plane));
        // If nft does not reply, the chains of others cannot be read either.
        if leaked.is_some() {
            problems.extend(obstacles(&self.reader, &self.config().policy).await);
        }
        let clock_fault = self.plane.device().node().clock_fault(clock::now());
        problems.extend(Problem::all(Cause::Clock, clock_fault.map(|fault| fault.to_string())));
        problems.extend(Problem::all(Cause::LinkPort, self.links.problems()));
        problems.extend(Problem::all(Cause::History, self.past.history.problem()));
        let shared = self.links.shared_keys(clock::instant());
        if !self.standby.role().is_silent() {
            problems.extend(peer_problems(&self.in_force.borrow(), &self.plane.peers(), &shared));
        }
        problems.extend(Problem::all(Cause::OtherEdge, self.standby.problem()));
        problems.extend(Problem::all(Cause::PortTaken, taken_ports(self.config()).await));
        let nearly_full = self.meter.borrow().flows_if_nearly_full();
        if let Some(flows) = nearly_full {
            let services = self.in_force.borrow().in_kernel().0.plan.ruleset.services.clone();
            let text = conntrack_problem(self.helper.clone(), flows, &services).await;
            problems.push(Problem::new(Cause::FlowTable, text));
        }
        Wrong { failing, problems, leaked }
    }

    /// The edge's health, in a few numbers.
    pub(super) async fn status(&self) -> Status {
        let Wrong { failing, problems, leaked } = self.wrong().await;
        let problems: Vec<String> = problems.into_iter().map(|problem| problem.text).collect();
        let peers = self.plane.peers();
        let up = peers.iter().filter(|peer| peer.state == PeerState::Up).count();
        let is_silent = self.standby.role().is_silent();
        let in_force = self.in_force.borrow();
        let (generation, last_apply_ok) = in_force.applies();
        Status {
            schema: SCHEMA,
            health: health(failing, &problems, (up, if is_silent { 0 } else { peers.len() })),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.config_path.display().to_string(),
            generation,
            config_in_force: is_file_in_force(self),
            confirm_within_seconds: self.confirmable.waits().map(|left| left.as_secs()),
            last_apply_ok,
            uptime_seconds: self.meter.borrow().uptime_seconds(),
            interface: in_force.policy().interface.name.to_string(),
            standby: self.standby.role().label().map(str::to_owned),
            peers_up: up,
            peers: peers.len(),
            links_up: self.links.linked().len(),
            leaked_packets: leaked.unwrap_or(0),
            trusted: self.watch.borrow().machine().trusted(in_force.policy()),
            problems,
            notes: in_force.served().closed_to_authorities(),
        }
    }

    /// Whether two machines use the key of this peer, as sessions or links show.
    pub(super) fn has_shared_key(&self, peer: &Name) -> bool {
        let in_force = self.in_force.borrow();
        let is_its = |status: &PeerStatus| in_force.name_of(&status.public_key) == peer.as_str();
        let by_sessions = |status: &PeerStatus| status.shared_key.is_some_and(|shared| shared.ends.is_some());
        self.links.shared_keys(clock::instant()).contains(peer)
            || self.plane.peers().iter().any(|status| is_its(status) && by_sessions(status))
    }

    /// What of this edge itself does not work, whatever peers and origins do.
    pub(super) fn own_problem(&self) -> Option<String> {
        let failing = self.watch.borrow().failing_problem();
        failing.into_iter().chain(self.plane.device().problems(clock::instant())).next()
    }

    /// One line about the peers, or about what does not work, for `systemctl status` and `/readyz`;
    /// whether a peer is up and everything else works.
    #[must_use]
    pub fn headline(&self) -> (bool, String) {
        if let Some(problem) = self.own_problem() {
            return (false, problem);
        }
        if self.standby.role().is_silent() {
            return (true, "standby: the other edge of the pair has the shared address".to_owned());
        }
        let peers = self.plane.peers();
        let up = peers.iter().filter(|peer| peer.state == PeerState::Up).count();
        (up > 0 || peers.is_empty(), format!("{up} of {} peers up", peers.len()))
    }
}

/// How many packets would have left the wrong way, if that can be read, and what of rules and
/// routes does not work.
fn table_problems(
    counters: Result<Option<Counters>, Failure>,
    in_force: &InForce,
    watch: &Watch,
) -> (Option<u64>, Vec<Problem>) {
    let mut failing: Vec<_> = Problem::all(Cause::NotRepaired, watch.failing_problem()).collect();
    match counters {
        Ok(Some(counters)) => (Some(leaked(in_force.ruleset(), &counters)), failing),
        Ok(None) => {
            failing.push(Problem::new(Cause::TableMissing, TABLE_MISSING));
            watch.wake();
            (Some(0), failing)
        }
        Err(failure) => {
            let text = format!("the kernel's counters cannot be read: {failure}");
            failing.push(Problem::new(Cause::NotRepaired, text));
            (None, failing)
        }
    }
}

/// What is known to be wrong without another check.
fn known_problems(in_force: &InForce, watch: &Watch, plane: &DataPlane) -> Vec<Problem> {
    let mut problems = configured_problems(in_force, watch, plane);
    problems.extend(Problem::all(Cause::Interfaces, watch.machine().remarks(in_force.policy())));
    problems.extend(Problem::all(Cause::Configuration, in_force.not_taken()));
    problems.extend(Problem::all(Cause::List, closed_by_lists(in_force.policy())));
    problems.extend(Problem::all(Cause::Grants, in_force.grants.problem()));
    let handshakes = mistakes(plane.device().node(), plane.last_temporary(), clock::now());
    problems.extend(Problem::all(Cause::Handshakes, handshakes.into_iter().map(|(_, line)| line)));
    problems
}

/// What is not as configured, each with its fix.
fn configured_problems(in_force: &InForce, watch: &Watch, plane: &DataPlane) -> Vec<Problem> {
    let mut problems: Vec<_> = Problem::all(Cause::Switch, in_force.unwritable()).collect();
    problems.extend(watch.problems());
    problems.extend(Problem::all(Cause::List, stale_lists(in_force.policy())));
    problems.extend(Problem::all(Cause::WgSocket, plane.wg_problem()));
    let went_back = went_back(in_force.policy()).map(|noted| noted.problem("gateway"));
    problems.extend(Problem::all(Cause::Upgrade, went_back));
    problems
}

/// That an upgrade failed, as root's script noted it.
pub(super) fn went_back(policy: &Policy) -> Option<WentBack> {
    OperatorState::next_to(&policy.state_directory, Trusted::OthersOnly).went_back()
}

/// Warns of what is not as configured: a person should act.
pub(super) fn warn_of_problems(in_force: &InForce, watch: &Watch, plane: &DataPlane) {
    for problem in configured_problems(in_force, watch, plane) {
        tracing::warn!("{}", problem.text);
    }
}

/// Peers that are not up, and keys that two machines use, as sessions or `links` show.
fn peer_problems(in_force: &InForce, peers: &[PeerStatus], links: &[Name]) -> Vec<Problem> {
    let shared = peers.iter().filter_map(|peer| {
        let shared = peer.shared_key?;
        let ends = shared.ends.map(|[one, other]| format!(" (at {one} and {other})")).unwrap_or_default();
        Some(shared_key(&in_force.name_of(&peer.public_key), shared.ends.is_some()) + &ends)
    });
    let is_new = |name: &&Name| {
        !peers
            .iter()
            .any(|peer| peer.shared_key.is_some() && in_force.name_of(&peer.public_key) == name.as_str())
    };
    let linked = links.iter().filter(is_new).map(|name| shared_key(name.as_str(), true));
    let missing = peers.iter().filter(|peer| peer.state != PeerState::Up);
    let missing =
        missing.map(|peer| format!("peer {} is {}", in_force.name_of(&peer.public_key), peer.state.label()));
    let shared = Problem::all(Cause::SharedKey, shared.chain(linked));
    shared.chain(Problem::all(Cause::PeerDown, missing)).collect()
}

/// Published ports that a program of the edge listens on as well.
async fn taken_ports(config: Arc<Config>) -> Vec<String> {
    blocking(move || Ok(taken(&config.policy, &listeners()))).await.unwrap_or_default()
}

/// Foreign rules that block the tunnel, each with its fix.
async fn obstacles(reader: &Reader, policy: &Policy) -> Vec<Problem> {
    let interface = &policy.interface;
    let needs = Needs { device: interface.name.to_string(), port: interface.listen_port };
    match reader.list(Listing::Ruleset).await {
        Ok(listing) => foreign::blocking_chains(&listing, &needs).into_iter().map(blocked).collect(),
        Err(failure) => {
            let text = format!("whether other firewalls let the tunnel pass is not known: {failure}");
            vec![Problem::new(Cause::NotRepaired, text)]
        }
    }
}

fn blocked(obstacle: Obstacle) -> Problem {
    let cause = if obstacle.blocks_port { Cause::ForeignInput } else { Cause::ForeignForward };
    Problem::new(cause, obstacle.text)
}

/// The health: broken when something fails or no peer is up, degraded over any other problem.
fn health(failing: usize, problems: &[String], (up, peers): (usize, usize)) -> Health {
    match problems {
        [] => Health::Ok,
        _ if failing > 0 || up == 0 && peers > 0 => Health::Broken,
        _ => Health::Degraded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_known_to_be_wrong_is_never_ok_and_what_fails_is_broken() {
        let lines = |count: usize| vec!["a problem".to_owned(); count];
        for up in [(0, 0), (1, 1), (1, 2)] {
            assert_eq!(health(0, &[], up), Health::Ok);
            assert_eq!(health(0, &lines(1), up), Health::Degraded);
            assert_eq!(health(1, &lines(1), up), Health::Broken);
        }
        assert_eq!(health(0, &lines(2), (0, 2)), Health::Broken);
    }
}
