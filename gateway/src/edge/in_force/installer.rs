//! Puts configurations into the kernel, outside the control thread.

use std::sync::Arc;

use super::blueprint::{Blueprint, Installed, Repair, Rules};
use super::undone::{Left, Undone};
use crate::config::Config;
use crate::edge::blocking::blocking;
use crate::edge::machine::Machine;
use crate::kernel::{Failure, Helper, Request, Scope};
use crate::state::State;

/// The helper that changes the kernel, and the state folder that holds what is needed to undo
/// changes.
#[derive(Clone)]
pub(in crate::edge) struct Installer {
    helper: Helper,
    state: State,
}

impl Installer {
    /// Changes the kernel through `helper`.
    pub(in crate::edge) const fn new(helper: Helper, state: State) -> Self {
        Self { helper, state }
    }

    /// Asks whether the helper may do what a configuration needs.
    pub(in crate::edge) async fn cover(&self, config: &Config) -> Result<(), Failure> {
        let (helper, wanted) = (self.helper.clone(), Scope::of(&config.policy, &config.path));
        blocking(move || helper.cover(&wanted)).await
    }

    /// The machine as an apply of a configuration finds it after the one before.
    pub(in crate::edge) async fn machine_at_apply(
        &self,
        config: &Arc<Config>,
        before: Machine,
    ) -> Result<Machine, Failure> {
        let (helper, config) = (self.helper.clone(), Arc::clone(config));
        let look = move || {
            let policy = &config.policy;
            let mut machine = before.at_next_apply(policy, Machine::read(policy)?);
            machine.resolve(policy, &helper);
            Ok(machine)
        };
        blocking(look).await
    }

    /// The machine as it is now.
    pub(in crate::edge) async fn machine_now(
        &self,
        config: Arc<Config>,
        mut machine: Machine,
    ) -> Result<Machine, Failure> {
        let helper = self.helper.clone();
        blocking(move || machine.follow(&config.policy, &helper).map(|()| machine)).await
    }

    /// Changes the kernel as [`Blueprint::change`].
    pub(in crate::edge) async fn change(
        &self,
        new: &Arc<Blueprint>,
        (old, expected): (Arc<Blueprint>, Option<u64>),
    ) -> Result<Installed, Undone> {
        let (this, new) = (self.clone(), Arc::clone(new));
        let change = move || Ok(new.change((&old, expected), &this.helper, &this.state));
        blocking(change).await.unwrap_or_else(|failure| Err(Undone::unknown(failure)))
    }

    /// Puts back what was in the kernel before a change that failed at its very end; returns what
    /// is left of the change.
    pub(in crate::edge) async fn put_back(&self, (old, expected): (Arc<Blueprint>, Option<u64>)) -> Left {
        let this = self.clone();
        let back = move || Ok(old.put_back(expected, &this.helper, &this.state));
        blocking(back).await.unwrap_or_else(Left::Unknown)
    }

    /// Puts back what another program changed.
    pub(in crate::edge) async fn repair(
        &self,
        (blueprint, expected): (Arc<Blueprint>, Option<u64>),
        rules_too: bool,
    ) -> Result<Repair, Failure> {
        let this = self.clone();
        let rules = if rules_too { Rules::Expected(expected) } else { Rules::Skipped };
        blocking(move || blueprint.repair(&this.helper, &this.state, rules)).await
    }

    /// Ends the flows with these conntrack marks, and no others.
    pub(in crate::edge) async fn end_flows(&self, marks: Vec<u32>) {
        if marks.is_empty() {
            return;
        }
        let helper = self.helper.clone();
        let forget = blocking(move || helper.call(&Request::ForgetFlows { marks }).map(drop));
        if let Err(failure) = forget.await {
            tracing::warn!("flows of changed services go on until they end by themselves: {failure}");
        }
    }
}
