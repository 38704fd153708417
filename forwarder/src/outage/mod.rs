//! Why a peer is not up, as far as this end can know, and what to do about it.
//!
//! WireGuard does not reply to an unknown peer: from here a dead endpoint, a wrong port and a wrong
//! key look alike unless something comes back.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use daemon::local_network::Program;
use ipnetwork::IpNetwork;
use policy::{Host, HostPort, Source};
use tunnel::key::PublicKey;
use tunnel::time::Instant;

/// How long a peer is not up before a reason is given: a start and a change of the network take
/// less.
const REPORT_AFTER: Duration = Duration::from_secs(15);
/// The addresses of the proxy that publishes names as its own addresses, and carries HTTP alone.
static PROXY: LazyLock<Vec<IpNetwork>> = LazyLock::new(|| {
    let text = include_str!("../../../configs/lists/cloudflare.list");
    policy::sections::parse_list(&Source { name: Path::new("cloudflare"), text }).unwrap_or_default()
});

/// Errors about datagrams to a peer that the system reported, counted by the data thread.
#[derive(Debug, Default)]
pub struct PathErrors {
    /// ICMP errors that nothing listens on the port.
    pub refused: AtomicU64,
    /// ICMP errors that the address cannot be reached.
    pub unreachable: AtomicU64,
    /// Whether the endpoint's name has no address.
    pub is_unresolved: AtomicBool,
}

/// What was counted about a peer since the start; all of it grows only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// See [`PathErrors`].
    pub refused: u64,
    /// See [`PathErrors`].
    pub unreachable: u64,
    /// Datagrams that were received and dropped, whatever they were.
    pub dropped: u64,
    /// Handshake messages among them that did not authenticate.
    pub unauthentic: u64,
    /// Bytes of authentic messages.
    pub authentic: u64,
    /// Handshakes that were agreed.
    pub handshakes: u64,
}

/// The state of a peer at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Whether it is up.
    pub is_up: bool,
    /// What was counted.
    pub counts: Counts,
    /// Whether the endpoint's name has no address.
    pub is_unresolved: bool,
    /// Whether the socket could not send what there was for the peer.
    pub is_unsent: bool,
    /// Whether the peer begins handshakes for another key than ours.
    pub is_for_another_key: bool,
    /// A key that is not the peer's and that begins handshakes.
    pub unknown_key: Option<PublicKey>,
    /// Where it was tried last.
    pub remote: Option<SocketAddr>,
}

/// Why a peer is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its name has no address.
    Unresolved,
    /// Its name leads to a proxy.
    Proxied,
    /// It begins handshakes for another key than ours.
    ForAnotherKey,
    /// It begins handshakes with another key than the configured one.
    UnknownKey(PublicKey),
    /// It answers, and what it answers does not authenticate.
    Unauthentic,
    /// Something comes back, but no handshake.
    Answered,
    /// Nothing listens on the port.
    Refused,
    /// A router reports that there is no route.
    Unreachable,
    /// This machine cannot send there.
    Unsent,
    /// Nothing comes back any more.
    Lost,
    /// Nothing ever came back.
    Silent,
}

/// The time in which a peer is not up.
#[derive(Debug, Default)]
pub struct Outage {
    began: Option<(Instant, Counts)>,
    reason: Option<Reason>,
}

impl Outage {
    /// Takes the state of the peer; the reason when it is another than before.
    pub fn handle_observation(&mut self, seen: &Observation, now: Instant) -> Option<Reason> {
        if seen.is_up {
            *self = Self::default();
            return None;
        }
        let (began, before) = *self.began.get_or_insert((now, seen.counts));
        if now.since(began) < REPORT_AFTER {
            return None;
        }
        let reason = reason(seen, &before);
        (self.reason.replace(reason) != Some(reason)).then_some(reason)
    }

    /// The reason, once there is one.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        self.reason
    }
}

/// The first that fits: what is certain comes before what is concluded.
fn reason(seen: &Observation, before: &Counts) -> Reason {
    let counts = &seen.counts;
    let proxied = seen.remote.is_some_and(|remote| is_proxy(remote.ip()));
    let came_back = counts.dropped > before.dropped || counts.authentic > before.authentic;
    match seen.unknown_key {
        _ if seen.is_unresolved => Reason::Unresolved,
        _ if proxied => Reason::Proxied,
        Some(key) => Reason::UnknownKey(key),
        None if seen.is_for_another_key => Reason::ForAnotherKey,
        None if counts.unauthentic > before.unauthentic => Reason::Unauthentic,
        None if counts.refused > before.refused => Reason::Refused,
        None if counts.unreachable > before.unreachable => Reason::Unreachable,
        None if came_back => Reason::Answered,
        None if seen.is_unsent => Reason::Unsent,
        None if counts.handshakes > 0 => Reason::Lost,
        None => Reason::Silent,
    }
}

/// Whether an address is that of a proxy that carries no WireGuard.
#[must_use]
pub fn is_proxy(address: IpAddr) -> bool {
    PROXY.iter().any(|prefix| prefix.contains(address))
}

impl Reason {
    /// Whether a person has to act: a peer that was up before may come back by itself.
    #[must_use]
    pub const fn is_mistake(self, handshakes: u64) -> bool {
        handshakes == 0 || matches!(self, Self::ForAnotherKey | Self::UnknownKey(_) | Self::Unauthentic)
    }

    /// What is wrong and what to do, for the peer `name` at `endpoint`, tried last at `remote`, by
    /// our key `own`.
    #[must_use]
    pub fn text(self, name: &str, endpoint: &HostPort, remote: Option<SocketAddr>, own: &str) -> String {
        self.text_for(Program::this(), name, endpoint, (remote, own))
    }

    fn text_for(
        self,
        program: Program,
        name: &str,
        endpoint: &HostPort,
        (remote, own): (Option<SocketAddr>, &str),
    ) -> String {
        let at = remote.map_or_else(|| endpoint.to_string(), |remote| remote.to_string());
        let host = match &endpoint.host {
            Host::Name(name) => name.to_string(),
            Host::Address(address) => address.to_string(),
        };
        let ip = remote.map_or_else(|| host.clone(), |remote| remote.ip().to_string());
        let mut text = format!("peer {name}: ");
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Unresolved => write!(
                text,
                "the name {host} has no address; correct the endpoint, or this machine's DNS (try: getent hosts {host})"
            ),
            Self::Proxied => write!(
                text,
                "{host} leads to {ip}, which is @cloudflare: its proxy carries no WireGuard; use a name that is not \
                 proxied (\"DNS only\"), or the edge's address"
            ),
            Self::ForAnotherKey => write!(
                text,
                "it begins handshakes for another key than ours; the [[peer]] at the edge must have public_key = \"{own}\""
            ),
            Self::UnknownKey(key) => write!(
                text,
                "handshakes come with the key {key}, and public_key here is another; if `gatewayctl peers` at the edge \
                 shows this key, write it here"
            ),
            Self::Unauthentic => write!(
                text,
                "{at} answers, but its answer does not authenticate; preshared_key_file must hold the same key at both \
                 ends, or be absent at both"
            ),
            Self::Answered => write!(
                text,
                "something comes back from {at}, but no handshake; see whether another program has that port, and \
                 `gatewayctl status` at the edge"
            ),
            Self::Refused => write!(
                text,
                "{at} answers that nothing listens on this UDP port; start the edge, or correct the port of endpoint \
                 (the edge's listen_port, or the one that its router forwards)"
            ),
            Self::Unreachable => write!(
                text,
                "a router answers that {ip} cannot be reached; correct the endpoint, or see the edge's connection"
            ),
            Self::Unsent => {
                let advice = remote.and_then(|remote| program.advice_without_route(Some(remote.ip())));
                let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
                let show = if program.is_mac { "route -n get" } else { "ip route get" };
                write!(text, "this machine cannot send to {at}; see its network (try: {show} {ip}){advice}")
            }
            Self::Lost => write!(
                text,
                "nothing comes back any more from {at}; see whether the edge runs, is connected and still has this \
                 address (else {}), and whether a key was changed: `gatewayctl status` there names a wrong one",
                match &endpoint.host {
                    Host::Name(name) => format!("correct the DNS record of {name}"),
                    Host::Address(_) => "write its new one in `endpoint`".to_owned(),
                }
            ),
            Self::Silent => write!(
                text,
                "nothing came back from {at}, and WireGuard gives no reason: the edge is not reachable at this address, \
                 it has another port, or a key is wrong; at the edge `gatewayctl status` names a wrong key, `gatewayctl \
                 peers` shows the public_key and the port to write here, and its [[peer]] must have public_key = \"{own}\""
            ),
        };
        text
    }
}

#[cfg(test)]
mod tests;
