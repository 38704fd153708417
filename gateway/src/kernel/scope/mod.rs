//! What the helper may do: set once by its parent, before anything from the network is parsed.
//!
//! Requests choose neither device, protocol number nor table. What they do contain is checked
//! against the scope, and a request outside it is refused before the kernel sees any of it. Pure:
//! it decides and changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use policy::gateway::Policy;
use policy::prefix::lies_within;
use policy::ruleset::admit;
use policy::uplinks::MAX_UPLINKS;
use policy::{InterfaceName, plan};
use serde::{Deserialize, Serialize};

use super::protocol::{Failure, FailureKind, Request, Routing, UplinkTable};
use daemon::changes::{OperatorState, Trusted};

/// The kernel's main table, which rules may name and routes may not.
const MAIN: u32 = 254;
/// The first and the last of the kernel's own tables.
const DEFAULT: u32 = 253;
/// See [`DEFAULT`].
const LOCAL: u32 = 255;
/// How many priorities behind the first one are claimed for rules.
const PRIORITIES: u32 = 16;
/// Which bits of a conntrack mark say whose it is.
const OURS: u32 = 0xffff_0000;
/// The lowest protocol number that is not the kernel's or an administrator's (`rtnetlink.h`).
const FIRST_PROTOCOL: u8 = 5;
/// Protocol number of the tunnel's routes by default; those of the way back have the next one.
const OWN_PROTOCOL: u8 = 157;
/// How far tables and marks of uplinks lie behind the first.
const NUMBERS: std::ops::RangeInclusive<u32> = 1..=MAX_UPLINKS as u32;
/// Most packets that may wait in the device.
const MAX_QUEUE: u32 = 100_000;
/// Most flows in one reply.
const MAX_FLOWS: usize = 10_000;
/// What is read besides the switches that plans set: how full the table of flows is.
const READ_ONLY: [&str; 2] = ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"];
/// The highest value that a switch is restored to, unless it took the place of a certain one.
const MAX_RESTORED: u32 = 2;

/// What the helper may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The TUN device, the only one that is ever made, changed or removed.
    pub device: String,
    /// Protocol number of routes and rules; those of the way back have the next one.
    pub protocol: u8,
    /// The routing table that routes are put into; those behind it are the uplinks'.
    pub table: u32,
    /// What root's own texts ask for, which may grow when root changes them.
    pub asked: Asked,
    /// Where root's texts are; `None` where they are never read again.
    pub texts: Option<Texts>,
    /// Whether everything is taken away: only `gateway down` may.
    #[serde(skip)]
    pub removal: Removal,
}

/// What configurations ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Prefixes of the tunnel: routes lead only to these, services only into these.
    pub prefixes: BTreeSet<IpNetwork>,
    /// Prefixes of the LAN, to which packets go by the main table.
    pub lan: BTreeSet<IpNetwork>,
    /// Firewall marks that rules ask for; those behind each are the uplinks'.
    pub fwmarks: BTreeSet<u32>,
    /// Upper halves of conntrack marks.
    pub ct_marks: BTreeSet<u32>,
    /// Priorities of the first rule, which may be lower where rules of others are asked before.
    pub priorities: BTreeSet<u32>,
}

/// Where root's texts are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// The configuration file.
    pub file: PathBuf,
    /// The folder of root's commands.
    pub folder: PathBuf,
}

/// Whether everything is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    /// No.
    #[default]
    Never,
    /// Routes, rules and device.
    All,
    /// As [`Removal::All`], but the device only where a route of ours leads into it: a file of the
    /// daemon's user named it.
    Shown,
}

impl Asked {
    fn of(policy: &Policy) -> Self {
        Self {
            prefixes: policy.tunnel_prefixes().collect(),
            lan: policy.lan_prefixes().collect(),
            fwmarks: BTreeSet::from([policy.kernel.fwmark]),
            ct_marks: BTreeSet::from([policy.kernel.ct_mark]),
            priorities: BTreeSet::from([policy.kernel.rule_priority]),
        }
    }

    /// Adds what another one asks for.
    pub fn widen(&mut self, other: Self) {
        self.prefixes.extend(other.prefixes);
        self.lan.extend(other.lan);
        self.fwmarks.extend(other.fwmarks);
        self.ct_marks.extend(other.ct_marks);
        self.priorities.extend(other.priorities);
    }

    fn covers(&self, other: &Self) -> bool {
        other.prefixes.iter().all(|&prefix| self.holds(prefix))
            && other.lan.iter().all(|&prefix| lies_within(&self.lan, prefix))
            && other.fwmarks.is_subset(&self.fwmarks)
            && other.ct_marks.is_subset(&self.ct_marks)
            && other.priorities.is_subset(&self.priorities)
    }

    fn holds(&self, prefix: IpNetwork) -> bool {
        lies_within(&self.prefixes, prefix)
    }
}

impl Scope {
    /// What `policy` needs; root's texts are `file` and those of its commands.
    #[must_use]
    pub fn of(policy: &Policy, file: &Path) -> Self {
        Self {
            device: policy.interface.name.as_str().to_owned(),
            protocol: policy.kernel.route_protocol,
            table: policy.kernel.route_table,
            asked: Asked::of(policy),
            texts: Some(Texts {
                file: std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
                folder: OperatorState::next_to(&policy.state_directory, Trusted::OthersOnly)
                    .folder()
                    .to_owned(),
            }),
            removal: Removal::Never,
        }
    }

    /// Nothing but tables and reads: for the boot-time drop table, and for commands that only read.
    #[must_use]
    pub fn closed() -> Self {
        Self::default()
    }

    /// For `gateway down` with this configuration.
    #[must_use]
    pub fn of_removal(policy: &Policy, file: &Path) -> Self {
        Self { removal: Removal::All, ..Self::of(policy, file) }
    }

    /// The same for a device and a protocol number that a file of the daemon's user names.
    ///
    /// # Errors
    /// When the number is not one of the gateway's.
    pub fn of_untrusted(&self, device: &str, protocol: u8) -> Result<Self, Failure> {
        if protocol != self.protocol && protocol != OWN_PROTOCOL {
            return Err(refuse(format!(
                "protocol {protocol} is not the gateway's; its routes and rules are left alone"
            )));
        }
        let removal = if device == self.device { Removal::All } else { Removal::Shown };
        Self { device: device.to_owned(), protocol, removal, ..self.clone() }.checked()
    }

    /// The scope, if it is one that any daemon may have.
    ///
    /// # Errors
    /// For a protocol number or a table of the system, or a device without a plain name.
    pub fn checked(self) -> Result<Self, Failure> {
        if !(FIRST_PROTOCOL..u8::MAX).contains(&self.protocol) {
            return Err(refuse(format!("protocol {} belongs to the system", self.protocol)));
        }
        // With those of the uplinks.
        let last = self.table.checked_add(u32::from(MAX_UPLINKS));
        if self.table == 0 || last.is_none_or(|last| self.table <= LOCAL && last >= DEFAULT) {
            return Err(refuse(format!("table {} belongs to the system", self.table)));
        }
        if InterfaceName::new(&self.device).is_none() {
            return Err(refuse(format!("{:?} is no name of a device", self.device)));
        }
        Ok(self)
    }

    /// The protocol numbers of the tunnel's routes and rules, and of those of the way back.
    #[must_use]
    pub const fn protocols(&self) -> [u8; 2] {
        [self.protocol, self.protocol.saturating_add(1)]
    }

    /// Whether this is wide enough for `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        (&self.device, self.protocol, self.table) == (&other.device, other.protocol, other.table)
            && self.asked.covers(&other.asked)
    }

    /// The request as it is carried out, its ruleset written again from what was admitted.
    ///
    /// # Errors
    /// [`FailureKind::Refused`] for what lies outside the scope.
    pub fn judge(&self, request: Request) -> Result<Request, Failure> {
        match &request {
            Request::Begin { .. } => Err(refuse("the scope is set already")),
            Request::CheckRuleset { ruleset } => {
                self.admitted(ruleset).map(|ruleset| Request::CheckRuleset { ruleset })
            }
            Request::ApplyRuleset { ruleset } => {
                self.admitted(ruleset).map(|ruleset| Request::ApplyRuleset { ruleset })
            }
            Request::AddRouting { routing } | Request::ApplyRouting { routing } => {
                self.judge_routing(routing).map(|()| request)
            }
            Request::FollowUplinks { uplinks } => self.judge_uplinks(uplinks).map(|()| request),
            Request::RemoveRouting if self.removal == Removal::Never => {
                Err(refuse("only gateway down takes everything away"))
            }
            Request::ForgetFlows { marks } => {
                marks.iter().try_for_each(|mark| self.judge_mark(*mark)).map(|()| request)
            }
            Request::Flows { query } if query.mask & OURS != OURS || query.limit > MAX_FLOWS => {
                Err(refuse("flows of others are not read"))
            }
            Request::Flows { query } => self.judge_mark(query.mark).map(|()| request),
            Request::ReadSysctls { paths } => {
                paths.iter().try_for_each(|path| readable(path)).map(|()| request)
            }
            Request::WriteSysctls { values } => {
                values.iter().try_for_each(|(path, value)| self.judge_switch(path, value)).map(|()| request)
            }
            Request::Probe
            | Request::List { .. }
            | Request::OpenTun
            | Request::OpenUdp { .. }
            | Request::MarkUdp { .. }
            | Request::Watch
            | Request::Widen
            | Request::Resolve { .. }
            | Request::RemoveRouting => Ok(request),
        }
    }

    fn admitted(&self, ruleset: &str) -> Result<String, Failure> {
        let marks = self.asked.fwmarks.iter();
        let marks =
            marks.flat_map(|&first| NUMBERS.map(move |number| first.saturating_add(number))).collect();
        let admitted = admit(ruleset, &self.asked.prefixes, &marks);
        admitted.map_err(|why| refuse(format!("the ruleset is refused: {why}")))
    }

    fn judge_routing(&self, routing: &Routing) -> Result<(), Failure> {
        let inside = |prefix: IpNetwork| {
            if self.asked.holds(prefix) {
                Ok(())
            } else {
                Err(refuse(format!("{prefix} lies in no prefix of the tunnel")))
            }
        };
        for address in &routing.addresses {
            inside(*address)?;
        }
        for route in &routing.routes {
            if route.table != self.table {
                return Err(refuse(format!("table {} is not the gateway's", route.table)));
            }
            inside(route.destination)?;
        }
        for rule in &routing.rules {
            let is_ours = self.is_priority(rule.priority);
            let is_marked = rule.fwmark.is_none_or(|mark| self.asked.fwmarks.contains(&mark));
            let is_to_lan = rule.to.is_some_and(|to| lies_within(&self.asked.lan, to));
            let is_known = match rule.table {
                MAIN => rule.fwmark.is_some() || is_to_lan,
                table => table == self.table,
            };
            if !is_ours || !is_marked || !is_known {
                return Err(refuse(format!(
                    "no rule of the gateway: priority {} lookup {}",
                    rule.priority, rule.table
                )));
            }
        }
        if routing.tx_queue_length > MAX_QUEUE || !(576..=65_535).contains(&routing.mtu) {
            return Err(refuse(format!("mtu {} or queue {}", routing.mtu, routing.tx_queue_length)));
        }
        Ok(())
    }

    /// Table and mark of an uplink are those of its number, and no two have the same.
    fn judge_uplinks(&self, uplinks: &[UplinkTable]) -> Result<(), Failure> {
        let mut tables = BTreeSet::new();
        for uplink in uplinks {
            let number = uplink.table.checked_sub(self.table).filter(|number| NUMBERS.contains(number));
            let marks =
                number.map(|number| self.asked.fwmarks.iter().map(move |mark| mark.saturating_add(number)));
            let is_marked = marks.is_some_and(|mut marks| marks.any(|mark| mark == uplink.mark));
            if !is_marked || !self.is_priority(uplink.priority) || !tables.insert(uplink.table) {
                return Err(refuse(format!(
                    "no uplink of the gateway: priority {} mark {:#x} lookup {}",
                    uplink.priority, uplink.mark, uplink.table
                )));
            }
        }
        Ok(())
    }

    /// Rules of the gateway may be asked before all others but the first, which is the kernel's for
    /// its own addresses.
    fn is_priority(&self, priority: u32) -> bool {
        let last = self.asked.priorities.last().map_or(0, |first| first.saturating_add(PRIORITIES));
        (1..last).contains(&priority)
    }

    fn judge_mark(&self, mark: u32) -> Result<(), Failure> {
        if self.asked.ct_marks.contains(&(mark & OURS)) {
            return Ok(());
        }
        Err(refuse(format!("the conntrack mark {mark:#x} is not the gateway's")))
    }

    /// Switches get the value that plans give them; only `gateway down` may give them another back.
    fn judge_switch(&self, path: &str, value: &str) -> Result<(), Failure> {
        let planned = known_switch(path)?;
        let wanted: Option<u32> = value.parse().ok();
        let is_allowed = match self.removal {
            Removal::Never => wanted == Some(planned),
            Removal::All | Removal::Shown => match plan::replaced_value(path) {
                Some(only) => wanted == Some(only),
                None => wanted.is_some_and(|wanted| wanted <= MAX_RESTORED),
            },
        };
        if is_allowed { Ok(()) } else { Err(refuse(format!("{path} is not set to {value:?}"))) }
    }
}

fn readable(path: &str) -> Result<(), Failure> {
    if READ_ONLY.contains(&path) { Ok(()) } else { known_switch(path).map(drop) }
}

fn known_switch(path: &str) -> Result<u32, Failure> {
    plan::switch_value(path).ok_or_else(|| refuse(format!("{path:?} is no switch of the gateway")))
}

fn refuse(why: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Refused, why)
}

#[cfg(test)]
mod tests;
