//! The conditions of a firewall rule, as far as they have a counterpart.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::router::{Link, Router, Side};
use crate::import::draft::{Names, plain_name};
use crate::import::routeros::Entry;
use policy::gateway::Service;
use policy::{PortRange, Protocol, Protocols, prefix, text};

/// What a rule asks of a packet; what it does not ask is empty.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) transport: Transport,
    pub(super) ports: Vec<PortRange>,
    pub(super) from: Vec<IpNetwork>,
    /// The address list that `from` came from.
    pub(super) from_list: Option<String>,
    pub(super) to: Vec<IpNetwork>,
    pub(super) arrives: Option<Side>,
    /// The interface on which it arrives, when one is named.
    pub(super) arrives_on: Option<String>,
    pub(super) leaves: Option<Side>,
    pub(super) states: Vec<String>,
    pub(super) nat_state: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Transport {
    #[default]
    Any,
    One(Protocol),
    Echo,
}

/// Keys that say what a rule does or how it is shown, not when it applies.
const NO_CONDITION: [&str; 13] = [
    "action",
    "chain",
    "comment",
    "disabled",
    "log",
    "log-prefix",
    "passthrough",
    "to-addresses",
    "to-ports",
    "new-connection-mark",
    "new-routing-mark",
    "new-mss",
    "place-before",
];

impl Conditions {
    /// The conditions of a rule, or the first one that has no counterpart.
    pub(super) fn of(entry: &Entry, router: &Router, tunnel: &Link) -> Result<Self, String> {
        let mut conditions = Self::default();
        for key in entry.keys().filter(|key| !NO_CONDITION.contains(key)) {
            let value = entry.value(key).unwrap_or_default();
            let unknown = || format!("the condition {key}={value}");
            if value.starts_with('!') && key != "connection-nat-state" {
                return Err(unknown());
            }
            conditions.take(key, value, entry, router, tunnel).ok_or_else(unknown)?;
        }
        if conditions.transport == Transport::Any && !conditions.ports.is_empty() {
            return Err("ports without a protocol".to_owned());
        }
        Ok(conditions)
    }

    fn take(&mut self, key: &str, value: &str, entry: &Entry, router: &Router, tunnel: &Link) -> Option<()> {
        match key {
            "protocol" => {
                self.transport = match value {
                    "tcp" | "udp" => Transport::One(text::protocol(value)?),
                    "icmp" | "icmpv6" => Transport::Echo,
                    _ => return None,
                };
            }
            "dst-port" => {
                let ports: Option<Vec<PortRange>> = entry.list(key).into_iter().map(text::ports).collect();
                self.ports = PortRange::merged(ports.filter(|ports| !ports.is_empty())?);
            }
            // Two conditions on one address would have to be cut with each other.
            "src-address" | "src-address-list" if !self.from.is_empty() => return None,
            "dst-address" | "dst-address-list" if !self.to.is_empty() => return None,
            "src-address" => self.from = vec![prefix::network(text::prefix(value)?)],
            "dst-address" => self.to = vec![prefix::network(text::prefix(value)?)],
            "src-address-list" => {
                self.from = listed(router, value)?;
                self.from_list = Some(value.to_owned());
            }
            "dst-address-list" => self.to = listed(router, value)?,
            "dst-address-type" if value == "local" => {}
            "in-interface" | "in-interface-list" => {
                self.arrives = Some(router.side(tunnel, value, key.ends_with("list"))?);
                self.arrives_on = Some(value.to_owned());
            }
            "out-interface" | "out-interface-list" => {
                self.leaves = Some(router.side(tunnel, value, key.ends_with("list"))?);
            }
            "connection-state" => self.states = entry.list(key).into_iter().map(str::to_owned).collect(),
            "connection-nat-state" => self.nat_state = Some(value.to_owned()),
            _ => return None,
        }
        Some(())
    }

    /// Whether only packets of known connections are meant.
    pub(super) fn is_established(&self) -> bool {
        let known = ["established", "related", "untracked", "invalid"];
        !self.states.is_empty() && self.states.iter().all(|state| known.contains(&state.as_str()))
    }

    /// Whether every packet is meant, or every one that begins a connection.
    pub(super) fn is_everything(&self) -> bool {
        self.transport == Transport::Any
            && self.from.is_empty()
            && self.to.is_empty()
            && self.arrives.is_none()
            && self.leaves.is_none()
            && self.nat_state.is_none()
            && self.states.iter().all(|state| state == "new")
    }

    pub(super) fn protocols(&self) -> Option<Protocols> {
        match self.transport {
            Transport::One(Protocol::Tcp) => Some(Protocols::Tcp),
            Transport::One(Protocol::Udp) => Some(Protocols::Udp),
            Transport::Any => Some(Protocols::Both),
            Transport::Echo => None,
        }
    }

    /// What may be opened; a rule without a protocol opens every port of both, and echo requests.
    pub(super) fn services(&self) -> Vec<Service> {
        let ports = if self.ports.is_empty() { vec![PortRange::ALL] } else { self.ports.clone() };
        let echo = matches!(self.transport, Transport::Any | Transport::Echo).then_some(Service::Echo);
        let transports = self.protocols().map(|protocols| Service::Ports { protocols, ports });
        transports.into_iter().chain(echo).collect()
    }

    /// The only address that the rule leads to.
    pub(super) fn single_target(&self) -> Option<IpAddr> {
        match self.to.as_slice() {
            [only] => prefix::host(*only),
            _ => None,
        }
    }
}

/// A list that holds something, and prefixes only.
fn listed(router: &Router, name: &str) -> Option<Vec<IpNetwork>> {
    let (prefixes, unreadable) = router.address_list(name);
    (!unreadable && !prefixes.is_empty()).then_some(prefixes)
}

/// A name for a rule, from its comment.
pub(super) fn rule_name(comment: Option<&str>, otherwise: &str, names: &mut Names) -> String {
    names.claim(comment.and_then(plain_name).as_deref().unwrap_or(otherwise), "rule")
}
