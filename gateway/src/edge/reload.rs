//! A change of the configuration while traffic flows: completely, or not at all.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use policy::gateway::Policy;
use policy::plan::Change;
use serde_json::json;
use tunnel::io::udp::UdpSocket;

use super::blocking::blocking;
use super::blueprint::{Blueprint, Unwritable};
use super::changes::{Side, changes};
use super::machine::Machine;
use super::observe::ROLE;
use super::services::ended;
use super::start::offloads;
use super::undone::Left;
use super::{Current, Edge, peers};
use crate::config::{self, Config};
use crate::kernel::{Failure, Request, Scope, nft};
use crate::memory;
use daemon::exit::{Exit, ExitError};
use daemon::metrics::RoundTrips;

/// The longest ban with an end: a year, in seconds.
const LONGEST_BAN: u64 = 31_536_000;

impl Edge {
    /// What a configuration would change, line by line; first of all what cannot change while the daemon runs.
    #[must_use]
    pub(super) fn changes_to(&self, config: &Config) -> Vec<Change> {
        let policy = &config.policy;
        let needs_restart = self.current.borrow().policy.needs_restart(policy);
        let restart = needs_restart.map(|key| Change { part: "restart", line: cannot_change(key) });
        let machine = self.machine_for(policy, self.machine.borrow().system().clone());
        let current = Arc::clone(&self.current.borrow().blueprint);
        let next = Blueprint::new(policy, machine.conditions(policy, self.found_mtu(), current.in_force()));
        restart.into_iter().chain(self.changes(config, &machine, &next)).collect()
    }

    /// The changes of the plan, of settings and keys, and what the guard closes with them.
    fn changes(&self, config: &Config, machine: &Machine, new: &Blueprint) -> Vec<Change> {
        let current = self.current.borrow();
        let old = Side { policy: &current.policy, keys: &current.keys, plan: &current.blueprint.plan };
        let mut changes =
            changes(&old, &Side { policy: &config.policy, keys: &config.keys, plan: &new.plan });
        changes.extend(self.guard_changes(&config.policy, machine, &new.conditions.trust));
        changes
    }

    /// Reads the daemon's own file again and applies it.
    ///
    /// # Errors
    /// What is wrong; then everything is as it was. [`Exit::Conflict`] while a change waits for its confirmation.
    pub async fn reload(&self) -> Result<Vec<Change>, ExitError> {
        let applied = self.reload_in_turn().await;
        let refused = applied.as_ref().err().map(|stop| first_line(&stop.message));
        *self.not_taken.borrow_mut() = refused;
        applied
    }

    async fn reload_in_turn(&self) -> Result<Vec<Change>, ExitError> {
        let config = config::load(&self.config_path).inspect_err(|_| self.note_apply(false))?;
        let _turn = self.applying.lock().await;
        self.confirmable.refuse_while_waiting()?;
        self.confirmable.apply_permanently(self, config).await
    }

    pub(super) fn note_apply(&self, ok: bool) {
        self.last_apply_ok.set(ok);
        let counter = if ok { &self.generation } else { &self.failed_applies };
        counter.set(counter.get() + 1);
    }

    /// Applies a configuration; the caller holds the turn.
    pub(super) async fn apply_in_turn(&self, config: Config) -> Result<Vec<Change>, ExitError> {
        let applied = self.try_to_apply(config).await;
        self.note_apply(applied.is_ok());
        if let Ok(changes) = &applied {
            self.not_taken.take();
            log_changes(changes);
            if self.failing.borrow().is_on() {
                self.wakeup.notify_one();
            }
        }
        applied
    }

    /// Whatever may refuse is asked before anything is changed that cannot be taken back without a trace.
    async fn try_to_apply(&self, config: Config) -> Result<Vec<Change>, ExitError> {
        self.refuse_what_needs_a_restart(&config.policy)?;
        let (old, old_mark) = {
            let current = self.current.borrow();
            (Arc::clone(&current.blueprint), current.policy.kernel.fwmark)
        };
        self.cover(&config.policy).await?;
        let machine = self.machine_now(&config.policy).await?;
        let conditions = machine.conditions(&config.policy, self.found_mtu(), old.in_force());
        let new = Arc::new(Blueprint::new(&config.policy, conditions));
        let changes = self.changes(&config, &machine, &new);
        let socket = self.prepare_socket(config.policy.interface.listen_port).await?;
        let (unwritable, fingerprint) = self.change_kernel(&new, &old).await?;
        let moved = self.move_socket(socket, config.policy.kernel.fwmark, old_mark).await;
        let changed = moved.map_err(|failure| failure.to_string()).and_then(|()| self.change_node(&config));
        if let Err(message) = changed {
            return Err(self.go_back(&old, old_mark).await.stop(&message));
        }
        let news = unwritable != self.current.borrow().unwritable;
        self.end_flows(&config.policy, &old, &new).await;
        if changes.iter().any(|change| change.part == "peer") {
            // A peer that went must leave no series behind.
            self.round_trips.replace(RoundTrips::new(ROLE));
        }
        let Config { text, policy, keys, .. } = config;
        daemon::log::change(policy.log);
        self.adopt_machine(machine);
        *self.current.borrow_mut() = Current { text, policy, keys, blueprint: new, unwritable, fingerprint };
        if news {
            self.warn_of_unwritable();
        }
        self.check_paths(true).await;
        self.search_path_mtu();
        self.device.wake();
        memory::trim_heap();
        Ok(changes)
    }

    async fn machine_now(&self, policy: &Policy) -> Result<Machine, ExitError> {
        let asked = policy.clone();
        let system = blocking(move || Machine::read(&asked)).await?;
        let (mut machine, asked, helper) =
            (self.machine_for(policy, system), policy.clone(), self.helper.clone());
        let resolved = blocking(move || {
            machine.resolve(&asked, &helper);
            Ok(machine)
        });
        Ok(resolved.await?)
    }

    /// Ends the flows of services that are gone or have changed, and of no others.
    async fn end_flows(&self, policy: &Policy, old: &Blueprint, new: &Blueprint) {
        let marks = {
            let current = self.current.borrow();
            ended(&current.policy, &old.plan.ruleset.services, policy, &new.plan.ruleset.services)
        };
        if marks.is_empty() {
            return;
        }
        let helper = self.helper.clone();
        let forget = blocking(move || helper.call(&Request::ForgetFlows { marks }).map(drop));
        if let Err(failure) = forget.await {
            tracing::warn!("flows of changed services go on until they end by themselves: {failure}");
        }
    }

    /// Asks whether the helper may do what the policy needs.
    async fn cover(&self, policy: &Policy) -> Result<(), ExitError> {
        let (helper, wanted) = (self.helper.clone(), Scope::of(policy, &self.config_path));
        Ok(blocking(move || helper.cover(&wanted)).await?)
    }

    fn refuse_what_needs_a_restart(&self, new: &Policy) -> Result<(), ExitError> {
        match self.current.borrow().policy.needs_restart(new) {
            None => Ok(()),
            Some(key) => Err(ExitError::new(Exit::Conflict, cannot_change(key))),
        }
    }

    /// Puts the new rules and routes in place; when a step is refused, what was before comes back, and the error says
    /// whether it did.
    pub(super) async fn change_kernel(
        &self,
        new: &Arc<Blueprint>,
        old: &Arc<Blueprint>,
    ) -> Result<(Vec<Unwritable>, Option<u64>), ExitError> {
        let (helper, state) = (self.helper.clone(), self.state.clone());
        let (new, old, expected) = (Arc::clone(new), Arc::clone(old), self.current.borrow().fingerprint);
        let applied = blocking(move || Ok(new.change((&old, expected), &helper, &state)));
        applied.await?.map_err(|undone| {
            if !undone.left.is_nothing() {
                self.wakeup.notify_one();
            }
            undone.stop()
        })
    }

    /// Opens a socket on the wanted port, if that is another than now; changes nothing.
    async fn prepare_socket(&self, port: u16) -> Result<Option<UdpSocket>, ExitError> {
        let (outer, device) = (Arc::clone(&self.outer), Arc::clone(&self.device));
        Ok(blocking(move || outer.prepare(&device, port)).await?)
    }

    async fn move_socket(&self, socket: Option<UdpSocket>, mark: u32, old_mark: u32) -> Result<(), Failure> {
        let (outer, device) = (Arc::clone(&self.outer), Arc::clone(&self.device));
        blocking(move || {
            let before = device.socket();
            if let Some(socket) = socket {
                outer.put_in_place(&device, socket)?;
            }
            outer.change_mark(&device, mark).or_else(|failure| {
                let port = before.local_port().unwrap_or(0);
                drop(before);
                outer.change_port(&device, port)?;
                outer.change_mark(&device, old_mark)?;
                Err(failure)
            })
        })
        .await
    }

    fn change_node(&self, config: &Config) -> Result<(), String> {
        let (node, now) = (self.device.node(), Self::now());
        let current = self.current.borrow();
        let own = config.keys.private.public();
        if node.private_key().is_none_or(|key| key.public() != own) {
            node.set_private_key(Some(config.keys.private.clone()), now);
        }
        let upsert = peers::at_reload(&config.policy, &current.policy, &config.keys);
        let remove = peers::superfluous(node, &config.policy, now);
        if let Err(error) = node.update_peers(&upsert, &remove, now) {
            node.set_private_key(Some(current.keys.private.clone()), now);
            return Err(format!("the peers of the configuration: {error}"));
        }
        node.set_addresses(config.policy.interface.address.iter().map(IpNetwork::ip).collect());
        if let Err(error) = self.device.set_offloads(offloads(&config.policy)) {
            tracing::info!(%error, "the kernel does not take the offloads; going on without");
        }
        Ok(())
    }

    /// Makes everything what it was before a change that failed at its very end; what is left of it.
    async fn go_back(&self, old: &Arc<Blueprint>, mark: u32) -> Left {
        let (helper, state, blueprint) = (self.helper.clone(), self.state.clone(), Arc::clone(old));
        let (outer, device) = (Arc::clone(&self.outer), Arc::clone(&self.device));
        let (port, expected) = {
            let current = self.current.borrow();
            (current.policy.interface.listen_port, current.fingerprint)
        };
        let back = blocking(move || {
            let left = blueprint.put_back(expected, &helper, &state);
            let socket = outer.change_mark(&device, mark).and_then(|()| outer.change_port(&device, port));
            Ok(left.and(socket.err().map(|failure| format!("the outer socket: {failure}"))))
        });
        let left = back.await.unwrap_or_else(Left::Unknown);
        if !left.is_nothing() {
            self.wakeup.notify_one();
        }
        left
    }

    /// Bans a source, for some seconds or permanently.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a time that is none, else what `nft` said.
    pub async fn ban(&self, address: IpAddr, seconds: Option<u64>) -> Result<(), ExitError> {
        let address = address.to_canonical();
        let element = match seconds {
            Some(seconds) if (1..=LONGEST_BAN).contains(&seconds) => {
                json!({"elem": {"val": address, "timeout": seconds}})
            }
            Some(_) => {
                let message =
                    format!("a ban lasts from 1 to {LONGEST_BAN} seconds, or permanently without a time");
                return Err(ExitError::new(Exit::Usage, message));
            }
            None => json!(address),
        };
        Ok(self.change_bans("add", address, &element).await?)
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// What `nft` said, as when there is no such ban.
    pub async fn unban(&self, address: IpAddr) -> Result<(), Failure> {
        let address = address.to_canonical();
        self.change_bans("delete", address, &json!(address)).await
    }

    async fn change_bans(
        &self,
        verb: &str,
        address: IpAddr,
        element: &serde_json::Value,
    ) -> Result<(), Failure> {
        let set = if address.is_ipv4() { "bans4" } else { "bans6" };
        let object = json!({"family": nft::FAMILY, "table": nft::TABLE, "name": set, "elem": [element]});
        let ruleset = json!({"nftables": [{verb: {"element": object}}]}).to_string();
        let helper = self.helper.clone();
        blocking(move || helper.apply_ruleset(ruleset)).await
    }
}

fn cannot_change(key: &str) -> String {
    format!(
        "{key} cannot change while the daemon runs; stop the daemon, run `gateway down` with the old file, and start \
         it with the new one"
    )
}

/// Logs what a person has to know of a change: another own key cuts every peer off until it has the new one.
fn log_changes(changes: &[Change]) {
    for change in changes {
        match change.part {
            "key" if change.line.starts_with("~ private key:") => {
                tracing::warn!("{}", change.line.trim_start_matches("~ "));
            }
            "device" | "guard" | "key" | "list" | "log" | "metrics" | "offload" | "reload" => {
                tracing::info!("{change}")
            }
            _ => {}
        }
    }
}

fn first_line(message: &str) -> String {
    let more = message.lines().count().saturating_sub(1);
    let first = message.lines().next().unwrap_or_default();
    if more == 0 { first.to_owned() } else { format!("{first} (and {more} more)") }
}
