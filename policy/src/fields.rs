//! Sections that both configurations have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::gateway::{Log, LogFormat, LogLevel};
use crate::key::KeyFault;
use crate::nearest::nearest;
use crate::reader::{Table, Value, excerpt};
use crate::{
    FileRef, Host, InterfaceName, Mtu, Name, Position, Problem, Protocol, Protocols, PublicKey, Switch,
    address, text,
};

/// What fits 1500 bytes of IPv6 and WireGuard (20 for IPv6, 8 for UDP, 32 for WireGuard more than IPv4).
const DEFAULT_MTU: u16 = 1420;

/// A value and where it stands.
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

/// A socket that is bound: the path is not joined to the configuration's folder.
pub(crate) fn socket_path(value: Value<'_>) -> Option<PathBuf> {
    let expected = "an absolute path in a folder, such as \"/run/causeway/gateway.sock\"";
    value.parse(expected, |written| absolute(written).filter(|path| path.parent().is_some_and(is_no_root)))
}

/// A folder that is made, and whose files the daemon may write: not the whole file system.
fn own_folder(value: Value<'_>) -> Option<PathBuf> {
    value.parse("an absolute path other than /", |written| absolute(written).filter(|path| is_no_root(path)))
}

fn absolute(written: &str) -> Option<PathBuf> {
    let path = PathBuf::from(written);
    (path.is_absolute() && !written.contains('\0')).then_some(path)
}

fn is_no_root(path: &Path) -> bool {
    path.file_name().is_some()
}

pub(crate) fn public_key(value: Value<'_>) -> Option<At<PublicKey>> {
    let problem = match PublicKey::parse(value.string()?) {
        Ok(key) => return Some(At::new(key, value.at())),
        Err(KeyFault::Malformed) => Problem::MalformedKey,
        Err(KeyFault::LowOrder) => Problem::LowOrderKey,
    };
    value.report(problem);
    None
}

/// Own addresses with the length of their network, each one that a host can have; `None` unless all are good.
pub(crate) fn own_addresses(value: Value<'_>) -> Option<Vec<IpNetwork>> {
    let expected = "an address with its prefix length, such as \"10.77.88.1/30\"";
    let read = |item: Value<'_>| {
        let own = item.parse(expected, text::prefix)?;
        sound(item, own, address::unusable_own(own))
    };
    let read: Vec<_> = value.some_items("an array of addresses").into_iter().map(read).collect();
    read.into_iter().collect::<Option<Vec<_>>>().filter(|own| !own.is_empty())
}

/// The value, unless there is a problem with it, which is reported.
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
    let network = text::network(prefix);
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

/// `[metrics]`: addresses to serve on, and names of this machine for the `Host` of requests.
pub(crate) fn metrics(root: &Table<'_>) -> (Vec<At<SocketAddr>>, Vec<Host>) {
    let Some(table) = root.table("metrics", "[metrics]") else { return Default::default() };
    let many = |key| table.optional(key).map(Value::one_or_many).unwrap_or_default().into_iter();
    let listen = many("listen").filter_map(|item| Some(At::new(socket_address(item)?, item.at()))).collect();
    let hosts = many("hosts").filter_map(host_name).collect();
    table.close();
    (listen, hosts)
}

fn host_name(value: Value<'_>) -> Option<Host> {
    value.parse("a name, such as \"host.docker.internal\"; addresses need no entry", |written| {
        text::host(written).filter(|host| matches!(host, Host::Name(_)))
    })
}

/// An address to listen on.
pub(crate) fn socket_address(value: Value<'_>) -> Option<SocketAddr> {
    value.parse("an address and a port, such as \"127.0.0.1:2049\" or \"[::1]:2049\"", |written| {
        let (address, ports) = text::address_ports(written)?;
        (ports.count() == 1).then_some(SocketAddr::new(address, ports.first()))
    })
}

/// `[state] directory`; `Some(None)` where the file does not have it.
pub(crate) fn state_directory(root: &Table<'_>) -> Option<Option<PathBuf>> {
    let Some(table) = root.table("state", "[state]") else { return Some(None) };
    let directory = table.required("directory").and_then(own_folder);
    table.close();
    directory.map(Some)
}

pub(crate) fn log(root: &Table<'_>) -> Option<Log> {
    let Some(table) = root.table("log", "[log]") else {
        return Some(Log { level: LogLevel::Info, format: LogFormat::Text });
    };
    let level = table.optional("level").map_or(Some(LogLevel::Info), |value| {
        value.parse("\"error\", \"warn\", \"info\", \"debug\" or \"trace\"", |written| match written {
            "error" => Some(LogLevel::Error),
            "warn" => Some(LogLevel::Warn),
            "info" => Some(LogLevel::Info),
            "debug" => Some(LogLevel::Debug),
            "trace" => Some(LogLevel::Trace),
            _ => None,
        })
    });
    let format = table.optional("format").map_or(Some(LogFormat::Text), |value| {
        value.parse("\"text\" or \"json\"", |written| match written {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        })
    });
    table.close();
    Some(Log { level: level?, format: format? })
}

pub(crate) fn switch(table: Option<&Table<'_>>, key: &'static str) -> Switch {
    let parse = |value: Value<'_>| {
        value.parse("\"auto\" or \"off\"", |written| match written {
            "auto" => Some(Switch::Auto),
            "off" => Some(Switch::Off),
            _ => None,
        })
    };
    table.and_then(|table| table.optional(key)).and_then(parse).unwrap_or_default()
}

/// Names of one kind that have been given, to find duplicates and near misses.
pub(crate) struct Names {
    kind: &'static str,
    taken: BTreeMap<Name, ()>,
    /// Whether an entry has no name that could be read: then a name that is not here may be its.
    is_incomplete: bool,
}

impl Names {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, taken: BTreeMap::new(), is_incomplete: false }
    }

    /// The names of the entries `[[kind]]`.
    pub(crate) fn of(root: &Table<'_>, kind: &'static str) -> Self {
        Self { is_incomplete: root.is_misspelt(kind, &[]), ..Self::new(kind) }
    }

    /// Notes that there are entries whose names are not here: an unknown name is no error of its own then.
    pub(crate) fn set_incomplete(&mut self) {
        self.is_incomplete = true;
    }

    /// Whether a name that is not here can be called unknown.
    pub(crate) const fn is_complete(&self) -> bool {
        !self.is_incomplete
    }

    /// Reads `name` of an entry; one that is taken is reported.
    pub(crate) fn claim(&mut self, table: &Table<'_>) -> Option<Name> {
        let read = table.required("name").and_then(|value| Some((value, name(value)?.value)));
        let Some((value, name)) = read else {
            self.set_incomplete();
            return None;
        };
        if self.taken.insert(name.clone(), ()).is_some() {
            value.report(Problem::DuplicateName { name: name.to_string(), kind: self.kind });
        }
        Some(name)
    }

    pub(crate) fn contains(&self, name: &str) -> Option<Name> {
        Name::new(name).filter(|name| self.taken.contains_key(name))
    }

    /// The nearest name, and all of them in one line.
    pub(crate) fn suggestions(&self, written: &str) -> (Option<String>, String) {
        let names = || self.taken.keys().map(Name::as_str);
        (nearest(written, names()).map(str::to_owned), names().take(20).collect::<Vec<_>>().join(", "))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// The only name there is.
    pub(crate) fn only(&self) -> Option<Name> {
        let mut names = self.taken.keys();
        names.next().filter(|_| names.next().is_none()).cloned()
    }

    /// A peer by its name; an unknown one is reported.
    pub(crate) fn peer(&self, value: Value<'_>, written: &str) -> Option<Name> {
        let known = self.contains(written);
        if known.is_none() && self.is_complete() {
            let (nearest, known) = self.suggestions(written);
            value.report(Problem::UnknownPeer { name: excerpt(written), nearest, known });
        }
        known
    }
}
