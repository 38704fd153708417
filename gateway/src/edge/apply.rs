//! A change of the configuration while traffic flows: completely, or not at all.

use std::path::Path;
use std::sync::Arc;

use daemon::changes::{Applies, Confirmable, OperatorState, Startup, Text, Trusted};
use daemon::exit::ExitError;
use policy::gateway::Policy;
use policy::plan::Change;
use tokio::sync::MutexGuard;

use super::in_force::{Blueprint, Installed, Left};
use super::machine::Machine;
use super::status::warn_of_problems;
use super::{Edge, grants, pairing, peers};
use crate::config::{self, Config};
use crate::listening::listeners;
use crate::memory;
use crate::state::State;

impl Text for Config {
    fn text(&self) -> &str {
        &self.text
    }
}

impl Applies for Edge {
    type Config = Config;

    fn config_path(&self) -> &Path {
        &self.config_path
    }

    fn load(&self) -> Result<Config, ExitError> {
        Ok(config::load(&self.config_path)?)
    }

    fn read(&self, shown: &Path, text: String) -> Result<Config, ExitError> {
        Ok(config::load_draft(&self.config_path, shown, text)?)
    }

    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().await
    }

    fn plan(&self, config: &Config) -> Vec<Change> {
        let machine = {
            let watch = self.watch.borrow();
            watch.machine().at_next_apply(&config.policy, watch.machine().system().clone())
        };
        self.in_force.borrow().plan(config, (&machine, self.plane.found_mtu()), &listeners())
    }

    async fn apply(&self, config: Config) -> Result<Vec<Change>, ExitError> {
        // Each apply tries what the kernel refused before.
        let was_left_out = self.in_force.borrow_mut().grants.leave_out(false);
        let applied = self.try_to_apply(config).await;
        if applied.is_err() {
            self.in_force.borrow_mut().grants.leave_out(was_left_out);
        }
        self.in_force.borrow_mut().handle_apply(applied.is_ok());
        if let Ok(changes) = &applied {
            log_changes(changes);
            if self.watch.borrow().is_failing() {
                self.watch.borrow().wake();
            }
        }
        applied
    }

    fn note_refused(&self) {
        self.in_force.borrow_mut().handle_apply(false);
    }

    fn note_reload(&self, refused: Option<&ExitError>) {
        self.in_force.borrow_mut().handle_reload(refused);
    }

    fn text_in_force(&self) -> String {
        self.config().text.clone()
    }

    fn confirmable(&self) -> &Confirmable {
        &self.confirmable
    }
}

/// What the edge starts with: the file, or what an unconfirmed change makes of it.
#[must_use]
pub fn resume(file: Config, state: &State) -> (Config, Confirmable) {
    let operator = OperatorState::next_to(&file.policy.state_directory, Trusted::OthersOnly);
    let (path, trials) = (file.path.clone(), state.trials());
    let load = |text| Ok(config::load_text(&path, text)?);
    let (config, startup): (Config, Startup) =
        daemon::changes::resume(file, &path, (&operator, &trials), load);
    (config, Confirmable::new("gatewayctl", startup, operator, trials))
}

impl Edge {
    /// Everything that may be refused is tried before anything is changed that could not be undone
    /// completely. The caller holds the turn.
    async fn try_to_apply(&self, config: Config) -> Result<Vec<Change>, ExitError> {
        let (config, old) = (Arc::new(config), self.config());
        let policy = &config.policy;
        self.in_force.borrow().refuse_what_needs_a_restart(policy)?;
        self.installer.cover(&config).await?;
        let before = self.watch.borrow().machine().clone();
        let machine = self.installer.machine_at_apply(&config, before).await?;
        let (new, changes) = {
            let in_force = self.in_force.borrow();
            let new = in_force.next(policy, &machine, self.plane.found_mtu());
            let changes = in_force.changes(&config, &new, &machine, &listeners());
            (Arc::new(new), changes)
        };
        let socket = self.plane.prepare_socket(policy.interface.listen_port).await?;
        let (new, installed) = self.change_kernel_for(policy, &machine, new).await?;
        let moved = self.plane.move_socket(socket, policy.kernel.fwmark, old.policy.kernel.fwmark).await;
        let changed =
            moved.map_err(|failure| failure.to_string()).and_then(|()| self.plane.change_node(&config, &old));
        if let Err(message) = changed {
            return Err(self.go_back(&old).await.stop(&message));
        }
        let ended = self.in_force.borrow().ended(&new);
        self.installer.end_flows(ended).await;
        if changes.iter().any(|change| change.part == "peer") {
            // A removed peer must leave no series.
            self.meter.borrow_mut().forget_round_trips();
        }
        self.put_in_force(config, machine, (new, installed));
        grants::handle_change(self);
        self.check_paths(true).await;
        memory::trim_heap();
        Ok(changes)
    }

    fn put_in_force(
        &self,
        config: Arc<Config>,
        machine: Machine,
        (blueprint, installed): (Arc<Blueprint>, Installed),
    ) {
        daemon::log::change(config.policy.log);
        machine.keep_pins(&self.state);
        self.watch.borrow_mut().handle_machine(machine);
        let is_news = self.in_force.borrow_mut().replace(config, blueprint, installed);
        let in_force = self.in_force.borrow();
        if is_news {
            warn_of_problems(&in_force, &self.watch.borrow(), &self.plane);
        }
        self.links.configure(in_force.config());
        pairing::follow(self);
        self.peers.borrow_mut().follow(in_force.policy());
        self.standby.handle_news();
        peers::resolve_due(&self.peers, self.plane.device());
        self.plane.search_path_mtu(in_force.policy(), in_force.mtu());
        self.plane.device().wake();
    }

    /// Puts the new rules and routes of an apply in place; without what peers publish by themselves
    /// when they are refused with it, since that must not keep root's configuration from being
    /// applied.
    async fn change_kernel_for(
        &self,
        policy: &Policy,
        machine: &Machine,
        new: Arc<Blueprint>,
    ) -> Result<(Arc<Blueprint>, Installed), ExitError> {
        match self.change_kernel(&new).await {
            Ok(installed) => Ok((new, installed)),
            Err(refused) if new.has_grants() => {
                self.in_force.borrow_mut().grants.leave_out(true);
                let bare = Arc::new(self.in_force.borrow().next(policy, machine, self.plane.found_mtu()));
                let installed = self.change_kernel(&bare).await?;
                tracing::warn!("the ports that peers publish by themselves are closed: {}", refused.message);
                Ok((bare, installed))
            }
            Err(refused) => Err(refused),
        }
    }

    /// Puts the new rules and routes in place; when a step is refused, what was before comes back, and the error says
    /// whether it did.
    pub(super) async fn change_kernel(&self, new: &Arc<Blueprint>) -> Result<Installed, ExitError> {
        let old = self.in_force.borrow().in_kernel();
        self.installer.change(new, old).await.map_err(|undone| {
            if !undone.left.is_nothing() {
                self.watch.borrow().wake();
            }
            undone.stop()
        })
    }

    /// Restores everything after a change that failed at its very end; returns what is left of the
    /// change.
    async fn go_back(&self, old: &Config) -> Left {
        let before = self.in_force.borrow().in_kernel();
        let left = self.installer.put_back(before).await;
        let left = left.and(self.plane.put_socket_back(&old.policy).await);
        if !left.is_nothing() {
            self.watch.borrow().wake();
        }
        left
    }
}

/// Logs what a person has to know about a change: with another private key every peer is cut off
/// until it has the new public key.
fn log_changes(changes: &[Change]) {
    for change in changes {
        match change.part {
            "key" if change.line.starts_with("~ private key:") => {
                tracing::warn!("{}", change.line.trim_start_matches("~ "));
            }
            "device" | "grant" | "guard" | "key" | "link" | "list" | "log" | "metrics" | "offload"
            | "reload" => {
                tracing::info!("{change}")
            }
            _ => {}
        }
    }
}
