//! What a configuration requires of the kernel, and how it is put there.

use policy::Mtu;
use policy::gateway::{Judged, Policy};
use policy::plan::{Conditions, INITIAL_MTU, Plan, Sysctl};
use policy::ruleset::{Present, Ruleset, ServiceMark};
use policy::uplinks::Uplink;

use super::fingerprint::fingerprint;
use super::undone::{Left, Undone};
use crate::kernel::{Failure, FailureKind, Helper, Listing, Routing, UplinkTable};
use crate::state::{Applied, Guards, State, Switched};
use daemon::exit::Exit;
use daemon::files::unwritten;

/// How often the kernel is checked after a failed change before what still differs is reported.
const CHECKS: usize = 3;

/// A compiled configuration.
#[derive(Debug)]
pub(in crate::edge) struct Blueprint {
    /// Ruleset, routing and peers.
    pub plan: Plan,
    /// The conditions of the machine that it was compiled for.
    pub conditions: Conditions,
    /// The policy with what is granted to peers, of which the plan is compiled.
    pub judged: Judged,
    device: String,
    protocol: u8,
    guards: Guards,
}

/// A switch that should have another value and could not be given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::edge) struct Unwritable {
    /// Path below `/proc/sys`.
    pub path: String,
    /// What it should be.
    pub value: String,
    /// The system's error.
    pub reason: String,
}

/// What was put into the kernel, as a later look finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::edge) struct Installed {
    /// Switches that could not be written.
    pub unwritable: Vec<Unwritable>,
    /// Of the table; `None` when it is not known.
    pub fingerprint: Option<u64>,
}

/// What a check of the kernel found and put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::edge) struct Repair {
    /// What was put back, a line each.
    pub lines: Vec<String>,
    /// Of the table, when it was created again.
    pub fingerprint: Option<u64>,
    /// Switches that could not be written.
    pub unwritable: Vec<Unwritable>,
}

/// Whether a check of the kernel includes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge) enum Rules {
    /// No: reading them starts a program.
    Skipped,
    /// Yes; what their fingerprint must be, where that is known.
    Expected(Option<u64>),
}

/// What was done about switches.
#[derive(Debug, Default)]
struct Switches {
    changed: Vec<Sysctl>,
    unwritable: Vec<Unwritable>,
}

impl Blueprint {
    /// Compiles a policy with what peers are granted, for the machine as it is.
    #[must_use]
    pub(in crate::edge) fn new(judged: Judged, conditions: Conditions) -> Self {
        let policy = &judged.served;
        Self {
            plan: policy.plan_under(&conditions),
            conditions,
            device: policy.interface.name.as_str().to_owned(),
            protocol: policy.kernel.route_protocol,
            guards: guards(policy),
            judged,
        }
    }

    /// The policy with what is granted to peers.
    #[must_use]
    pub(in crate::edge) const fn served(&self) -> &Policy {
        &self.judged.served
    }

    /// Whether a peer publishes something by itself.
    #[must_use]
    pub(in crate::edge) fn has_grants(&self) -> bool {
        self.served().publish.iter().any(|publish| publish.name.is_granted())
    }

    /// The marks of services and the numbers of uplinks that this has put in force, which later
    /// plans keep.
    #[must_use]
    pub(in crate::edge) fn in_force(&self) -> (&[ServiceMark], &[Uplink]) {
        (&self.plan.ruleset.services, &self.conditions.uplinks)
    }

    /// Whether the kernel would take it; changes nothing.
    ///
    /// # Errors
    /// What `nft` said.
    pub(in crate::edge) fn check(&self, helper: &Helper) -> Result<(), Failure> {
        self.offer(&outline(helper)?, |transaction| helper.check_ruleset(transaction))
    }

    /// Puts rules, device, routes and switches in place, closed first and open last.
    ///
    /// Before each step the state folder holds what is needed to undo it.
    ///
    /// # Errors
    /// What the kernel refused. A refused ruleset changed nothing at all; after a refused route the
    /// rules stay, closed.
    pub(in crate::edge) fn apply(&self, helper: &Helper, state: &State) -> Result<Vec<Unwritable>, Failure> {
        let present = outline(helper)?;
        self.remember(state)?;
        self.install(&present, helper)?;
        let routing = Routing::new(&self.plan.routing);
        for line in helper.apply_routing(routing)?.into_iter().chain(self.follow_uplinks(helper)?) {
            tracing::info!("{line}");
        }
        Ok(self.write_switches(helper, state)?.unwritable)
    }

    /// Changes the kernel from `old`, which is in place, to this; checks whether it is there, and
    /// what could not be set.
    ///
    /// Routes are added first and the table is changed last, in one transaction that the kernel
    /// takes completely or not at all: whatever refuses until then, the routes are taken away
    /// again. What the table no longer needs is taken away only then. A table that is to stay as it
    /// is, and whose fingerprint is the `expected` one, is left alone.
    ///
    /// # Errors
    /// What the kernel refused, or how the kernel differs from the plan, and what is left of the
    /// change.
    pub(in crate::edge) fn change(
        &self,
        (old, expected): (&Self, Option<u64>),
        helper: &Helper,
        state: &State,
    ) -> Result<Installed, Undone> {
        let present = self.table_to_change((old, expected), helper).map_err(Undone::not_begun)?;
        let switches = self.read_switches(helper).map_err(Undone::not_begun)?;
        let change = || {
            self.remember(state)?;
            let routing = || Routing::new(&self.plan.routing);
            let mut lines = helper.add_routing(routing())?;
            present.as_ref().map_or(Ok(()), |present| self.install(present, helper))?;
            lines.extend(helper.apply_routing(routing())?);
            lines.extend(self.follow_uplinks(helper)?);
            let fingerprint = if present.is_none() { expected } else { self.verified(helper)? };
            Ok((lines, self.write_switches(helper, state)?.unwritable, fingerprint))
        };
        let changed = change().map_err(|failure| {
            let left = old.put_back(expected, helper, state);
            Undone { failure, left: left.and(self.changed_switches(&switches, helper)) }
        });
        let (lines, unwritable, fingerprint) = changed?;
        for line in lines {
            tracing::info!("{line}");
        }
        Ok(Installed { unwritable, fingerprint })
    }

    /// What the table holds that a change from `old` starts from; `None` where it stays as it is.
    fn table_to_change(
        &self,
        (old, expected): (&Self, Option<u64>),
        helper: &Helper,
    ) -> Result<Option<Present>, Failure> {
        let same = self.plan.ruleset == old.plan.ruleset && expected.is_some();
        if same && Self::fingerprint(helper)? == expected {
            return Ok(None);
        }
        outline(helper).map(Some)
    }

    fn follow_uplinks(&self, helper: &Helper) -> Result<Vec<String>, Failure> {
        helper.follow_uplinks(self.plan.routing.uplinks.iter().map(UplinkTable::from).collect())
    }

    /// Puts this in the place of a change that failed half way, and checks again until the kernel
    /// holds it.
    pub(in crate::edge) fn put_back(&self, expected: Option<u64>, helper: &Helper, state: &State) -> Left {
        let noted = self.remember(state).map_err(|failure| failure.message);
        match self.restored(expected, helper, state) {
            Ok(lines) => Left::Compared(noted.err().into_iter().chain(lines).collect()),
            Err(failure) => Left::Unknown(failure),
        }
    }

    /// What still differed at the last of a few checks, each of which puts back what it finds.
    fn restored(
        &self,
        mut expected: Option<u64>,
        helper: &Helper,
        state: &State,
    ) -> Result<Vec<String>, Failure> {
        let mut differs = Vec::new();
        for _ in 0..CHECKS {
            let repair = self.repair(helper, state, Rules::Expected(expected))?;
            expected = expected.or(repair.fingerprint);
            differs = repair.lines;
            if differs.is_empty() {
                break;
            }
        }
        Ok(differs)
    }

    /// The fingerprint of the table, if the kernel holds what the plan says.
    fn verified(&self, helper: &Helper) -> Result<Option<u64>, Failure> {
        let listing = helper.list(Listing::Table)?;
        let absent = self.plan.ruleset.absent_from(&listing);
        if absent.is_empty() {
            return Ok(fingerprint(&listing));
        }
        let message = format!("the kernel does not hold what it was given: {}", absent.join(", "));
        Err(Failure::new(FailureKind::Kernel, message))
    }

    /// What the table is now; see [`fingerprint`].
    ///
    /// # Errors
    /// What `nft` said.
    pub(in crate::edge) fn fingerprint(helper: &Helper) -> Result<Option<u64>, Failure> {
        Ok(fingerprint(&helper.list(Listing::Table)?))
    }

    /// Puts back what another program changed.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(in crate::edge) fn repair(
        &self,
        helper: &Helper,
        state: &State,
        rules: Rules,
    ) -> Result<Repair, Failure> {
        let mut repair = Repair::default();
        if let Rules::Expected(expected) = rules {
            let listing = helper.list(Listing::Table)?;
            let found = fingerprint(&listing);
            if found.is_none() || found != expected {
                self.install(&present(&listing)?, helper)?;
                repair.lines.push("~ table inet causeway".to_owned());
                repair.fingerprint = Self::fingerprint(helper)?;
            }
        }
        repair.lines.extend(helper.apply_routing(Routing::new(&self.plan.routing))?);
        // Routes of an uplink change in normal operation: following them is no repair.
        for line in self.follow_uplinks(helper)? {
            tracing::info!("{line}");
        }
        let Switches { changed, unwritable } = self.write_switches(helper, state)?;
        repair.lines.extend(changed.iter().map(|switch| format!("~ {switch}")));
        repair.unwritable = unwritable;
        Ok(repair)
    }

    fn read_switches(&self, helper: &Helper) -> Result<Vec<Option<String>>, Failure> {
        helper.read_sysctls(self.plan.routing.sysctls.iter().map(|switch| switch.path.clone()).collect())
    }

    /// The switches of the plan that have another value than `before`, a line each.
    fn changed_switches(&self, before: &[Option<String>], helper: &Helper) -> Vec<String> {
        let now = match self.read_switches(helper) {
            Ok(now) => now,
            Err(failure) => return vec![format!("the switches are not known: {failure}")],
        };
        let pairs = self.plan.routing.sysctls.iter().zip(before.iter().zip(&now));
        let changed = pairs.filter(|(_, (before, now))| before != now);
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
        changed
            .map(|(switch, (before, now))| {
                format!("{} is {}, was {}", switch.path, value(now), value(before))
            })
            .collect()
    }

    /// Sets the switches that are wrong, and notes which for the command that takes it back.
    ///
    /// The rules must be in place: they load the modules that some switches belong to, and nothing
    /// is forwarded before.
    fn write_switches(&self, helper: &Helper, state: &State) -> Result<Switches, Failure> {
        let wanted = &self.plan.routing.sysctls;
        let found = self.read_switches(helper)?;
        let wrong = |(switch, found): (&Sysctl, Option<String>)| {
            let found = found.filter(|found| switch.is_wrong(found))?;
            Some((switch.clone(), found))
        };
        let wrong: Vec<_> = wanted.iter().zip(found).filter_map(wrong).collect();
        if wrong.is_empty() {
            return Ok(Switches::default());
        }
        let values =
            wrong.iter().map(|(switch, _)| (switch.path.clone(), switch.value.to_string())).collect();
        let failed = helper.write_sysctls(values)?;
        let is_changed =
            |(switch, _): &(Sysctl, String)| !failed.iter().any(|(path, ..)| *path == switch.path);
        let changed: Vec<_> = wrong.into_iter().filter(is_changed).collect();
        let note = |(switch, before): &(Sysctl, String)| {
            let change = Switched { before: before.clone(), set: switch.value.to_string() };
            (switch.path.clone(), change)
        };
        state.note_switches(changed.iter().map(note)).map_err(lost)?;
        let unwritable =
            failed.into_iter().map(|(path, value, reason)| Unwritable { path, value, reason }).collect();
        Ok(Switches { changed: changed.into_iter().map(|(switch, _)| switch).collect(), unwritable })
    }

    /// Makes the table what it must be, from what it holds.
    fn install(&self, present: &Present, helper: &Helper) -> Result<(), Failure> {
        self.offer(present, |transaction| helper.apply_ruleset(transaction))
    }

    /// Calls `take` with the transaction from the present table to the wanted one; if that is
    /// refused, with one that creates the table again.
    fn offer(&self, present: &Present, take: impl Fn(String) -> Result<(), Failure>) -> Result<(), Failure> {
        match take(self.plan.ruleset.install(present).to_string()) {
            // Sets of another version may have other types: then the table must be created again,
            // in the same transaction.
            Err(failure) if failure.kind == FailureKind::Ruleset && *present != Present::nothing() => {
                tracing::info!("the table of another version is replaced: {failure}");
                take(self.plan.ruleset.replace().to_string())
            }
            taken => taken,
        }
    }

    fn remember(&self, state: &State) -> Result<(), Failure> {
        state
            .keep_applied(&Applied { device: self.device.clone(), protocol: self.protocol })
            .map_err(lost)?;
        state.keep_guards(&self.guards).map_err(lost)
    }
}

fn outline(helper: &Helper) -> Result<Present, Failure> {
    present(&helper.list(Listing::Outline)?)
}

/// What a listing says that the table holds; an empty one, that there is no table.
fn present(listing: &str) -> Result<Present, Failure> {
    if listing.is_empty() {
        return Ok(Present::nothing());
    }
    Present::from_listing(listing).map_err(|error| {
        Failure::new(FailureKind::Ruleset, format!("nft printed what is not understood: {error}"))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn lost(error: std::io::Error) -> Failure {
    let refused = unwritten(&error);
    let is_denied = refused.exit == Exit::Permission;
    Failure::new(if is_denied { FailureKind::Permission } else { FailureKind::Kernel }, refused.message)
}

/// The drop tables for a boot, as transactions that work from any state.
#[must_use]
pub fn guards(policy: &Policy) -> Guards {
    Guards {
        whole: Some(Ruleset::guard(policy, inner_mtu(policy)).replace().to_string()),
        minimal: Some(Ruleset::minimal_guard(policy).replace().to_string()),
    }
}

fn inner_mtu(policy: &Policy) -> u16 {
    match policy.interface.mtu {
        Mtu::Fixed(mtu) => mtu,
        Mtu::Auto => INITIAL_MTU,
    }
}
