//! The machine around the edge: its interfaces, and what of them is trusted; followed while the daemon runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::gateway::Policy;
use policy::plan::{Change, Conditions};
use policy::ruleset::ServiceMark;
use policy::system::System;
use policy::trust::{KeptPin, Pins, Trust, closed_between, remarks, taken};
use policy::uplinks::{Uplink, is_only_way, reply_path_remarks, uplinks};

use super::Edge;
use super::blocking::blocking;
use super::blueprint::Blueprint;
use crate::kernel::{Failure, FailureKind, Helper, Request, read_system};
use crate::listening::listeners;

/// How often, and how long after one another, a next hop is looked for; a neighbour answers within milliseconds.
const LOOKS: usize = 5;
/// See [`LOOKS`].
const BETWEEN_LOOKS: Duration = Duration::from_millis(60);

/// What was pinned at the last apply, and the interfaces at the last look.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pins: Pins,
    system: System,
}

impl Machine {
    /// The machine at an apply: what carries the LAN is pinned now, besides what was `kept`.
    #[must_use]
    pub fn at_apply(policy: &Policy, system: System, kept: &[KeptPin]) -> Self {
        Self { pins: Pins::new(policy, &system, kept), system }
    }

    /// What the kernel says of the machine now, without what is ours.
    ///
    /// # Errors
    /// From the kernel.
    pub fn read(policy: &Policy) -> Result<System, Failure> {
        let protocol = policy.kernel.route_protocol;
        read_system(&[protocol, protocol.saturating_add(1)])
    }

    /// Has the kernel find out the link-layer addresses of next hops, without which nothing is trusted on their links, and
    /// waits a moment for them. It blocks.
    pub fn resolve(&mut self, policy: &Policy, helper: &Helper) {
        for _ in 0..LOOKS {
            let neighbours = self.pins.unresolved(&self.system);
            if neighbours.is_empty() {
                return;
            }
            if let Err(failure) = helper.call(&Request::Resolve { neighbours }) {
                return tracing::debug!(%failure, "a next hop could not be resolved");
            }
            std::thread::sleep(BETWEEN_LOOKS);
            match Self::read(policy) {
                Ok(system) => self.system = system,
                Err(failure) => return tracing::debug!(%failure, "the interfaces could not be read"),
            }
            self.pins.follow(policy, &self.system);
        }
    }

    /// What a plan depends on, where services with these marks and uplinks with these numbers are in force.
    #[must_use]
    pub fn conditions(
        &self,
        policy: &Policy,
        mtu: Option<u16>,
        (marks, before): (&[ServiceMark], &[Uplink]),
    ) -> Conditions {
        let trust = self.pins.trust(policy, &self.system);
        let uplinks = uplinks(policy, &self.system, before);
        Conditions {
            mtu,
            is_only_way: is_only_way(policy, &self.system, &uplinks, &trust.container_networks),
            trust,
            marks: marks.to_vec(),
            uplinks,
            rule_priority: Some(self.system.rule_priority(policy.kernel.rule_priority)),
        }
    }

    /// What is not as the configuration says, each with its fix.
    #[must_use]
    pub fn remarks(&self, policy: &Policy) -> Vec<String> {
        let mut remarks = remarks(policy, &self.pins, &self.system);
        remarks.extend(reply_path_remarks(policy, &self.system));
        remarks
    }

    /// Who is trusted, a line for each interface.
    #[must_use]
    pub fn trusted(&self, policy: &Policy) -> Vec<String> {
        self.pins.trust(policy, &self.system).lines(&self.system)
    }

    /// The interfaces at the last look.
    #[must_use]
    pub const fn system(&self) -> &System {
        &self.system
    }

    /// What to keep for the next start.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptPin> {
        self.pins.kept(&self.system)
    }
}

/// How long what is not as configured must last before it is logged: while a machine starts, interfaces come up one by one.
pub(super) const SETTLED: Duration = Duration::from_secs(30);

impl Edge {
    /// Logs what is not as the configuration says, once it has lasted.
    pub(super) fn warn_of_remarks(&self) {
        let remarks = self.machine.borrow().remarks(&self.current.borrow().policy);
        for remark in self.remarks.borrow_mut().handle_look(Instant::now(), remarks) {
            tracing::warn!("{remark}");
        }
    }

    /// The machine for another policy, as an apply of it would find it at the last look.
    pub(super) fn machine_for(&self, policy: &Policy, system: System) -> Machine {
        let old = self.machine.borrow();
        let mut machine = Machine::at_apply(policy, system, &old.kept());
        machine.pins.inherit(&old.pins);
        machine
    }

    /// Takes note of the machine that a configuration was applied on.
    pub(super) fn adopt_machine(&self, machine: Machine) {
        self.keep_pins(&machine);
        self.machine.replace(machine);
    }

    fn keep_pins(&self, machine: &Machine) {
        if let Err(error) = self.state.keep_pins(&machine.kept()) {
            tracing::warn!("the state folder cannot be written ({error}); fix its permissions");
        }
    }

    /// Looks at the interfaces, and has the table follow what changed; the caller holds the turn.
    pub(super) async fn follow_machine(&self) -> Result<(), Failure> {
        let (policy, mut machine) = (self.current.borrow().policy.clone(), self.machine.borrow().clone());
        let helper = self.helper.clone();
        let looked = blocking(move || {
            machine.system = Machine::read(&policy)?;
            machine.pins.follow(&policy, &machine.system);
            machine.resolve(&policy, &helper);
            Ok(machine)
        });
        drop(self.machine.replace(looked.await?));
        let Some((old, new)) = self.due_blueprint() else { return Ok(()) };
        let (unwritable, fingerprint) = self.change_kernel(&new, &old).await.map_err(|stop| {
            let message = format!("the table does not follow a change of the interfaces: {}", stop.message);
            Failure::new(FailureKind::Kernel, message)
        })?;
        let lines = self.trusted().join("; ");
        let mut current = self.current.borrow_mut();
        current.blueprint = new;
        (current.unwritable, current.fingerprint) = (unwritable, fingerprint);
        tracing::info!("the table follows the interfaces; trusted: {lines}");
        Ok(())
    }

    fn due_blueprint(&self) -> Option<(Arc<Blueprint>, Arc<Blueprint>)> {
        let current = self.current.borrow();
        let old = Arc::clone(&current.blueprint);
        let conditions =
            self.machine.borrow().conditions(&current.policy, old.conditions.mtu, old.in_force());
        let before = &old.conditions;
        let same = conditions.trust == before.trust
            && conditions.uplinks == before.uplinks
            && conditions.is_only_way == before.is_only_way
            && conditions.rule_priority == before.rule_priority;
        (!same).then(|| (old, Arc::new(Blueprint::new(&current.policy, conditions))))
    }

    /// Published ports that a program of the edge listens on as well.
    pub(super) async fn taken_ports(&self) -> Vec<String> {
        let policy = self.current.borrow().policy.clone();
        blocking(move || Ok(taken(&policy, &listeners()))).await.unwrap_or_default()
    }

    /// What a change of the configuration closes, and which published ports a program of the edge has.
    pub(super) fn guard_changes(&self, policy: &Policy, machine: &Machine, after: &Trust) -> Vec<Change> {
        let listeners = listeners();
        let before = &self.current.borrow().blueprint.conditions.trust;
        let closed = closed_between(policy, machine.system(), (before, after), &listeners);
        let lines = closed.into_iter().chain(taken(policy, &listeners));
        lines.map(|line| Change { part: "guard", line }).collect()
    }

    /// Who is trusted at the moment, a line for each interface.
    pub(super) fn trusted(&self) -> Vec<String> {
        self.machine.borrow().trusted(&self.current.borrow().policy)
    }
}
