//! The configuration in force: what plan, apply, reload and rollback read and replace.

mod blueprint;
mod changes;
mod ended;
mod fingerprint;
mod installer;
mod undone;

use std::sync::Arc;
use std::time::Duration;

use daemon::exit::{Exit, ExitError};
use daemon::metrics::Number;
use policy::Mtu;
use policy::gateway::{Peer, Policy};
use policy::plan::Change;
use policy::ruleset::Ruleset;
use policy::sections::List;
use policy::trust::{Listener, closed_between, taken};
use tunnel::key::PublicKey;

use super::machine::Machine;
use crate::config::Config;
use changes::{Side, changes};

use blueprint::Unwritable;
pub use blueprint::guards;
pub(super) use blueprint::{Blueprint, Installed};
pub(super) use installer::Installer;
pub(super) use undone::Left;

/// The age from which a fetched list is a problem; the timer fetches every day.
const STALE_LIST: Duration = Duration::from_secs(7 * 86_400);

/// The configuration in force, what it made of the kernel, and how changes of it ended.
pub(super) struct InForce {
    config: Arc<Config>,
    blueprint: Arc<Blueprint>,
    installed: Installed,
    /// Configurations applied and refused since the start.
    generation: u64,
    failed_applies: u64,
    last_apply_ok: bool,
    /// Why the file was not taken when it was last read again.
    not_taken: Option<String>,
}

impl InForce {
    /// The first configuration since the start.
    pub(super) const fn new(config: Arc<Config>, blueprint: Arc<Blueprint>, installed: Installed) -> Self {
        Self {
            config,
            blueprint,
            installed,
            generation: 1,
            failed_applies: 0,
            last_apply_ok: true,
            not_taken: None,
        }
    }

    /// The configuration.
    pub(super) const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// What it says.
    pub(super) fn policy(&self) -> &Policy {
        &self.config.policy
    }

    /// The MTU of the tunnel's device.
    pub(super) fn mtu(&self) -> u16 {
        self.blueprint.plan.routing.device.mtu
    }

    /// The rules.
    pub(super) fn ruleset(&self) -> &Ruleset {
        &self.blueprint.plan.ruleset
    }

    /// What is in the kernel, and the fingerprint of its table.
    pub(super) fn in_kernel(&self) -> (Arc<Blueprint>, Option<u64>) {
        (Arc::clone(&self.blueprint), self.installed.fingerprint)
    }

    /// What a policy would make of the kernel on this machine, after what is in force.
    pub(super) fn next(&self, policy: &Policy, machine: &Machine, mtu: Option<u16>) -> Blueprint {
        Blueprint::new(policy, machine.conditions(policy, mtu, self.blueprint.in_force()))
    }

    /// What the policy in force makes of the kernel now that the machine is another; `None` where that is in place.
    pub(super) fn due(&self, machine: &Machine) -> Option<Blueprint> {
        let before = &self.blueprint.conditions;
        let conditions = machine.conditions(self.policy(), before.mtu, self.blueprint.in_force());
        let same = conditions.trust == before.trust
            && conditions.uplinks == before.uplinks
            && conditions.is_only_way == before.is_only_way
            && conditions.rule_priority == before.rule_priority;
        (!same).then(|| Blueprint::new(self.policy(), conditions))
    }

    /// The MTU that the device should get, when the paths were `found` to carry another size.
    pub(super) fn due_mtu(&self, found: Option<u16>) -> Option<u16> {
        found.filter(|found| self.policy().interface.mtu == Mtu::Auto && *found != self.mtu())
    }

    /// Refuses what cannot change while the daemon runs.
    ///
    /// # Errors
    /// [`Exit::Conflict`]
    pub(super) fn refuse_what_needs_a_restart(&self, next: &Policy) -> Result<(), ExitError> {
        match self.policy().needs_restart(next) {
            None => Ok(()),
            Some(key) => Err(ExitError::new(Exit::Conflict, cannot_change(key))),
        }
    }

    /// What a configuration would change, line by line; first of all what cannot change while the daemon runs.
    pub(super) fn plan(
        &self,
        config: &Config,
        (machine, mtu): (&Machine, Option<u16>),
        listeners: &[Listener],
    ) -> Vec<Change> {
        let needs_restart = self.policy().needs_restart(&config.policy);
        let restart = needs_restart.map(|key| Change { part: "restart", line: cannot_change(key) });
        let next = self.next(&config.policy, machine, mtu);
        restart.into_iter().chain(self.changes(config, &next, machine, listeners)).collect()
    }

    /// The changes of the plan, of settings and keys; and which of these listening ports the guard closes with them, or are
    /// published as well.
    pub(super) fn changes(
        &self,
        config: &Config,
        next: &Blueprint,
        machine: &Machine,
        listeners: &[Listener],
    ) -> Vec<Change> {
        let (now, policy) = (&self.config, &config.policy);
        let old = Side { policy: &now.policy, keys: &now.keys, plan: &self.blueprint.plan };
        let mut changes = changes(&old, &Side { policy, keys: &config.keys, plan: &next.plan });
        let trust = (&self.blueprint.conditions.trust, &next.conditions.trust);
        let closed = closed_between(policy, machine.system(), trust, listeners);
        let lines = closed.into_iter().chain(taken(policy, listeners));
        changes.extend(lines.map(|line| Change { part: "guard", line }));
        changes
    }

    /// Conntrack marks of services that another configuration does not have, or has otherwise.
    pub(super) fn ended(&self, policy: &Policy, next: &Blueprint) -> Vec<u32> {
        let (old, new) = (&self.ruleset().services, &next.plan.ruleset.services);
        ended::ended(self.policy(), old, policy, new)
    }

    /// Puts another configuration in the place of this one; whether other switches than before could not be written.
    pub(super) fn replace(
        &mut self,
        config: Arc<Config>,
        blueprint: Arc<Blueprint>,
        installed: Installed,
    ) -> bool {
        let is_news = installed.unwritable != self.installed.unwritable;
        self.config = config;
        self.follow(blueprint, installed);
        is_news
    }

    /// The same configuration makes something else of the kernel now.
    pub(super) fn follow(&mut self, blueprint: Arc<Blueprint>, installed: Installed) {
        self.blueprint = blueprint;
        self.installed = installed;
    }

    /// Takes what a look at the kernel put back; a switch that a person has set since is no problem any more.
    pub(super) fn handle_repair(&mut self, fingerprint: Option<u64>, unwritable: Vec<Unwritable>) {
        let fingerprint = fingerprint.or(self.installed.fingerprint);
        self.installed = Installed { unwritable, fingerprint };
    }

    /// Counts an apply.
    pub(super) fn handle_apply(&mut self, ok: bool) {
        self.last_apply_ok = ok;
        if ok {
            self.generation += 1;
            self.not_taken = None;
        } else {
            self.failed_applies += 1;
        }
    }

    /// The file was read again, and refused for this reason or taken.
    pub(super) fn handle_reload(&mut self, refused: Option<&ExitError>) {
        self.not_taken = refused.map(|refused| first_line(&refused.message));
    }

    /// Configurations applied since the start, and whether the last one was.
    pub(super) const fn applies(&self) -> (u64, bool) {
        (self.generation, self.last_apply_ok)
    }

    /// Why the file is not in force, when it was read again and not taken.
    pub(super) fn not_taken(&self) -> Option<String> {
        let (file, reason) = (self.config.path.display(), self.not_taken.as_ref()?);
        Some(format!("{file} was read again and not taken, the configuration before is in force: {reason}"))
    }

    /// Switches that could not be written, each with its fix.
    pub(super) fn unwritable(&self) -> impl Iterator<Item = String> {
        self.installed.unwritable.iter().map(|switch| {
            format!(
                "{} should be {} and cannot be written ({}); run: sysctl -w {}={}",
                switch.path,
                switch.value,
                switch.reason,
                switch.path.replace('/', "."),
                switch.value
            )
        })
    }

    /// The peer's name in the configuration, or the beginning of its key.
    pub(super) fn name_of(&self, key: &PublicKey) -> String {
        let is_it = |peer: &&Peer| peer.public_key.as_bytes() == key.as_bytes();
        let named = self.policy().peers.iter().find(is_it);
        named.map_or_else(|| key.to_string().chars().take(8).collect(), |peer| peer.name.to_string())
    }

    /// How applies ended, for Prometheus.
    pub(super) fn numbers(&self) -> [Number; 4] {
        #[expect(clippy::cast_precision_loss, reason = "a count of switches")]
        let unwritable = self.installed.unwritable.len() as f64;
        [
            Number::flag(
                "gateway_config_last_apply_success",
                "Whether the last configuration was applied.",
                self.last_apply_ok,
            ),
            Number::counter(
                "gateway_config_applies_total",
                "Configurations applied since the start.",
                self.generation,
            ),
            Number::counter(
                "gateway_config_failed_applies_total",
                "Configurations refused or taken back since the start.",
                self.failed_applies,
            ),
            Number::gauge(
                "gateway_kernel_unwritable_switches",
                "Switches under /proc/sys that could not be set.",
                unwritable,
            ),
        ]
    }
}

fn cannot_change(key: &str) -> String {
    format!(
        "{key} cannot change while the daemon runs; stop the daemon, run `gateway down` with the old file, and start \
         it with the new one"
    )
}

fn first_line(message: &str) -> String {
    let more = message.lines().count().saturating_sub(1);
    let first = message.lines().next().unwrap_or_default();
    if more == 0 { first.to_owned() } else { format!("{first} (and {more} more)") }
}

/// Lists that should have been fetched again.
pub(super) fn stale_lists(policy: &Policy) -> impl Iterator<Item = String> {
    policy.lists.iter().filter_map(list_age)
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
