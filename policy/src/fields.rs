//! Single values that both configurations have.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::reader::{Table, Value, excerpt};
use crate::{
    FileRef, InterfaceName, KeyError, Mtu, Name, Position, Problem, Protocol, Protocols, PublicKey, address,
    prefix, text,
};

/// What fits into 1500 bytes after the headers of IPv6 (40), UDP (8) and WireGuard (32).
const DEFAULT_MTU: u16 = 1420;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Position,
}

impl<T> At<T> {
    pub(crate) fn new(value: T, at: Position) -> Self {
        Self { value, at }
    }
}

pub(crate) fn name(value: Value<'_>) -> Option<At<Name>> {
    let written = value.string()?;
    let name = Name::new(written);
    if name.is_none() {
        value.report(Problem::BadName { written: excerpt(written) });
    }
    Some(At::new(name?, value.at()))
}

pub(crate) fn interface_name(value: Value<'_>) -> Option<InterfaceName> {
    value.parse("an interface name of 1 to 15 letters, digits, `-`, `_`, `.` and `@`", InterfaceName::new)
}

pub(crate) fn file(value: Value<'_>) -> Option<FileRef> {
    let at = value.at();
    value.parse("a path, or ${CREDENTIALS_DIRECTORY}/NAME", |written| FileRef::parse(written, at))
}

/// The path of a socket to bind: absolute, so it is not joined to the configuration's folder.
pub(crate) fn socket_path(value: Value<'_>) -> Option<PathBuf> {
    let expected = "an absolute path in a folder, such as \"/run/causeway/gateway.sock\"";
    value.parse(expected, |written| absolute(written).filter(|path| path.parent().is_some_and(is_no_root)))
}

/// A folder that the daemon creates and whose files it may write; never the root of the file
/// system.
pub(crate) fn own_folder(value: Value<'_>) -> Option<PathBuf> {
    value.parse("an absolute path other than /", |written| absolute(written).filter(|path| is_no_root(path)))
}

/// A path that does not depend on where the configuration is.
pub(crate) fn absolute_path(value: Value<'_>) -> Option<PathBuf> {
    value.parse("an absolute path", absolute)
}

fn absolute(written: &str) -> Option<PathBuf> {
    let path = PathBuf::from(written);
    (path.is_absolute() && !written.contains('\0')).then_some(path)
}

fn is_no_root(path: &Path) -> bool {
    path.file_name().is_some()
}

pub(crate) fn public_key(value: Value<'_>) -> Option<At<PublicKey>> {
    let problem = match value.string()?.parse() {
        Ok(key) => return Some(At::new(key, value.at())),
        Err(KeyError::Malformed) => Problem::MalformedKey,
        Err(KeyError::LowOrder) => Problem::LowOrderKey,
    };
    value.report(problem);
    None
}

/// Own addresses with the length of their network, each one that a host can have; `None` unless all
/// are good.
pub(crate) fn own_addresses(value: Value<'_>) -> Option<Vec<IpNetwork>> {
    let expected = "an address with its prefix length, such as \"10.77.88.1/30\"";
    let read = |item: Value<'_>| {
        let own = item.parse(expected, text::prefix)?;
        sound(item, own, address::unusable_own(own))
    };
    let read: Vec<_> = value.some_items("an array of addresses").into_iter().map(read).collect();
    read.into_iter().collect::<Option<Vec<_>>>().filter(|own| !own.is_empty())
}

/// The value; a problem with it is reported, and then there is none.
pub(crate) fn sound<T>(at: Value<'_>, value: T, problem: Option<Problem>) -> Option<T> {
    let Some(problem) = problem else { return Some(value) };
    at.report(problem);
    None
}

/// A peer's prefixes; a single host among them is one that can be in a tunnel of these networks.
pub(crate) fn peer_prefixes(value: Value<'_>, tunnel: &[IpNetwork]) -> Vec<At<IpNetwork>> {
    let read = |item: Value<'_>| {
        let prefix = prefix(item)?;
        let is_host = prefix.value.prefix() == if prefix.value.is_ipv4() { 32 } else { 128 };
        let problem = is_host.then(|| address::unusable(prefix.value.ip(), tunnel)).flatten();
        sound(item, prefix, problem)
    };
    value.some_items("an array of prefixes").into_iter().filter_map(read).collect()
}

/// A prefix without host bits.
pub(crate) fn prefix(value: Value<'_>) -> Option<At<IpNetwork>> {
    let prefix = value.parse("a prefix such as \"192.168.88.0/24\" or \"fd00::/64\"", text::prefix)?;
    let network = prefix::network(prefix);
    if network != prefix {
        value.report(Problem::HostBits { written: prefix.to_string(), network: network.to_string() });
        return None;
    }
    Some(At::new(prefix, value.at()))
}

pub(crate) fn mtu(table: &Table<'_>) -> Option<At<Mtu>> {
    let Some(value) = table.optional("mtu") else {
        return Some(At::new(Mtu::Fixed(DEFAULT_MTU), table.at()));
    };
    let expected = "a number from 576 to 65535, or \"auto\"";
    let mtu = value.parse_number(expected, |written| match written {
        "auto" => Some(Mtu::Auto),
        number => number.parse().ok().filter(|&bytes| bytes >= 576).map(Mtu::Fixed),
    });
    Some(At::new(mtu?, value.at()))
}

pub(crate) fn port(value: Value<'_>) -> Option<u16> {
    value.integer(1..=65_535).and_then(|port| u16::try_from(port).ok())
}

/// `"tcp"`, `["tcp", "udp"]`; TCP when the key is absent.
pub(crate) fn protocols(table: &Table<'_>) -> Option<Protocols> {
    let Some(value) = table.optional("protocol") else { return Some(Protocols::Tcp) };
    let (mut tcp, mut udp) = (false, false);
    for item in value.one_or_many() {
        match item.parse("\"tcp\" or \"udp\"", text::protocol)? {
            Protocol::Tcp => tcp = true,
            Protocol::Udp => udp = true,
        }
    }
    match (tcp, udp) {
        (true, true) => Some(Protocols::Both),
        (true, false) => Some(Protocols::Tcp),
        (false, true) => Some(Protocols::Udp),
        (false, false) => None,
    }
}

/// Seconds between keepalives; `"off"` is none.
pub(crate) fn keepalive(value: Value<'_>) -> Option<Option<Duration>> {
    value.parse("whole seconds from \"1s\" to \"65535s\", or \"off\"", |written| match written {
        "off" => Some(None),
        written => {
            let duration = text::duration(written)?;
            let valid = duration.subsec_nanos() == 0 && (1..=65_535).contains(&duration.as_secs());
            valid.then_some(Some(duration))
        }
    })
}

pub(crate) fn duration(table: &Table<'_>, key: &'static str, default: Duration) -> Duration {
    let parse = |value: Value<'_>| {
        value.parse("a duration such as \"250ms\", \"25s\", \"2m\" or \"1h\"", text::duration)
    };
    table.optional(key).and_then(parse).unwrap_or(default)
}

/// An address to listen on.
pub(crate) fn socket_address(value: Value<'_>) -> Option<SocketAddr> {
    value.parse("an address and a port, such as \"127.0.0.1:2049\" or \"[::1]:2049\"", text::socket_address)
}

/// An absent key is `Some(None)`; a bad value, which has been reported, is `None`.
#[allow(
    clippy::option_option,
    reason = "absent and bad are two answers; naming them would hide that neither is a value"
)]
pub(crate) fn or_absent<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
        None => Some(None),
    }
}

/// What `probe` says.
#[derive(Clone, Copy)]
pub(crate) enum Probe {
    Auto,
    Off,
    Address(IpAddr),
}

impl Probe {
    pub(crate) const fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Auto | Self::Off => None,
        }
    }
}

/// What `probe` says, in a tunnel of these networks.
pub(crate) fn probe(value: Value<'_>, tunnel: &[IpNetwork]) -> Option<Probe> {
    let probe =
        value.parse("an address inside the tunnel, \"auto\" or \"off\"", |written| match written {
            "auto" => Some(Probe::Auto),
            "off" => Some(Probe::Off),
            address => text::address(address).map(Probe::Address),
        })?;
    let problem = probe.address().and_then(|address| address::unusable(address, tunnel));
    sound(value, probe, problem)
}
