//! The machine around the edge: its interfaces, and what of them is trusted; followed while the daemon runs.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use policy::gateway::Policy;
use policy::plan::Conditions;
use policy::ruleset::ServiceMark;
use policy::system::System;
use policy::trust::{KeptPin, Pins, remarks};
use policy::uplinks::{Uplink, is_only_way, reply_path_remarks, uplinks};

use crate::kernel::{Failure, Helper, Request, read_system};
use crate::state::State;

/// How often a next hop is looked for, and how long after one another; a neighbour replies within
/// milliseconds.
const TRIES: usize = 5;
/// See [`TRIES`].
const BETWEEN_TRIES: Duration = Duration::from_millis(60);

/// What was pinned at the last apply, and the interfaces at the last check.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pins: Pins,
    system: System,
}

impl Machine {
    /// The machine at an apply: pins what carries the LAN now, in addition to what was `kept`.
    #[must_use]
    pub fn at_apply(policy: &Policy, system: System, kept: &[KeptPin]) -> Self {
        Self { pins: Pins::new(policy, &system, kept), system }
    }

    /// The machine as an apply of this policy finds it after the one before: its pins are kept.
    #[must_use]
    pub fn at_next_apply(&self, policy: &Policy, system: System) -> Self {
        let mut machine = Self::at_apply(policy, system, &self.kept());
        machine.pins.inherit(&self.pins);
        machine
    }

    /// Reads the interfaces, and makes the pins follow what changed. It blocks.
    ///
    /// # Errors
    /// From the kernel.
    pub fn follow(&mut self, policy: &Policy, helper: &Helper) -> Result<(), Failure> {
        self.system = Self::read(policy)?;
        self.pins.follow(policy, &self.system);
        self.resolve(policy, helper);
        Ok(())
    }

    /// The machine as the kernel reports it now, without what is ours.
    ///
    /// # Errors
    /// From the kernel.
    pub fn read(policy: &Policy) -> Result<System, Failure> {
        let protocol = policy.kernel.route_protocol;
        read_system(&[protocol, protocol.saturating_add(1)])
    }

    /// Makes the kernel resolve the link-layer addresses of next hops, without which nothing is
    /// trusted on their links, and waits a moment for them. It blocks.
    pub fn resolve(&mut self, policy: &Policy, helper: &Helper) {
        for _ in 0..TRIES {
            let neighbours = self.pins.unresolved(&self.system);
            if neighbours.is_empty() {
                return;
            }
            if let Err(failure) = helper.call(&Request::Resolve { neighbours }) {
                return tracing::debug!(%failure, "a next hop could not be resolved");
            }
            std::thread::sleep(BETWEEN_TRIES);
            match Self::read(policy) {
                Ok(system) => self.system = system,
                Err(failure) => return tracing::debug!(%failure, "the interfaces could not be read"),
            }
            self.pins.follow(policy, &self.system);
        }
    }

    /// What a plan depends on, where services with these marks and uplinks with these numbers are in force, the daemon
    /// owns no socket of the link, and no pairing is open.
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
            link: Vec::new(),
            pairing: None,
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

    /// The edge's own addresses where the LAN is trusted.
    #[must_use]
    pub fn lan_addresses(&self, policy: &Policy) -> Vec<IpAddr> {
        let trust = self.pins.trust(policy, &self.system);
        let of_lan =
            trust.lan.iter().filter(|(_, prefix)| policy.lan.iter().any(|lan| lan.contains(prefix.ip())));
        let own = of_lan.flat_map(|(index, prefix)| {
            let link = self.system.link(*index);
            let addresses = link.into_iter().flat_map(|link| &link.addresses).map(IpNetwork::ip);
            addresses.filter(|address| prefix.contains(*address))
        });
        own.collect()
    }

    /// The interfaces at the last check.
    #[must_use]
    pub const fn system(&self) -> &System {
        &self.system
    }

    /// What to keep for the next start.
    fn kept(&self) -> Vec<KeptPin> {
        self.pins.kept(&self.system)
    }

    /// Keeps for the next start what carries the LAN.
    pub fn keep_pins(&self, state: &State) {
        if let Err(error) = state.keep_pins(&self.kept()) {
            tracing::warn!(
                "the state folder cannot be written ({error}); free disk space or fix its permissions"
            );
        }
    }
}
