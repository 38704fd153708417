//! The small vocabulary of both configurations: names, ports, protocols, rates and addresses to
//! dial.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The name of a peer, service, flow or list: 1 to 32 ASCII letters, digits, `-`, `_` or `.`. What a
/// peer publishes by itself is named by both: [`Name::granted`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The most characters a name may have.
    pub const MAX: usize = 32;

    /// Takes a name made of the safe characters only.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = !text.is_empty() && text.len() <= Self::MAX && text.chars().all(is_safe);
        valid.then(|| Self(text.into()))
    }

    /// Takes the name of a service that a peer publishes by itself: the peer's name, `/`, and the
    /// service with what distinguishes its ports. No file can have such a name.
    #[must_use]
    pub fn granted(text: &str) -> Option<Self> {
        let (peer, rest) = text.split_once('/')?;
        Self::new(peer)?;
        let safe = |c: char| is_safe(c) || c == '/';
        let valid = !rest.is_empty() && rest.len() <= 2 * Self::MAX && rest.chars().all(safe);
        valid.then(|| Self(text.into()))
    }

    /// Whether it is that of a service that a peer publishes by itself.
    #[must_use]
    pub fn is_granted(&self) -> bool {
        self.0.contains('/')
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_safe(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("a name is 1 to 32 ASCII letters, digits, '-', '_' or '.'")
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The name of a network interface: 1 to 15 ASCII letters, digits, `-`, `_`, `.` or `@`, and not
/// `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(Arc<str>);

impl InterfaceName {
    /// The most characters the kernel allows (`IFNAMSIZ` less the final zero).
    pub const MAX: usize = 15;

    /// Takes an interface name made of safe characters only.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        let valid = !text.is_empty() && text.len() <= Self::MAX && text.chars().all(safe);
        (valid && text != "." && text != "..").then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The inner MTU in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtu {
    /// This many bytes, 576 to 65,535.
    Fixed(u16),
    /// Found from the path.
    Auto,
}

/// A transport protocol that a service may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

impl Protocol {
    /// Each of them.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The name the configuration and nftables use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which transport protocols an entry is about; never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// Both, on the same ports.
    Both,
}

impl From<Protocol> for Protocols {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl Protocols {
    /// The protocols, TCP first.
    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        [Protocol::Tcp, Protocol::Udp].into_iter().filter(move |&protocol| self.contains(protocol))
    }

    /// Whether `protocol` is one of them.
    #[must_use]
    pub const fn contains(self, protocol: Protocol) -> bool {
        match self {
            Self::Both => true,
            Self::Tcp => matches!(protocol, Protocol::Tcp),
            Self::Udp => matches!(protocol, Protocol::Udp),
        }
    }
}

/// Ports `first` to `last`, both included; port 0 is in none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port, 1 to 65,535.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// Takes a range that begins above 0 and does not end before it begins.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first { None } else { Some(Self { first, last }) }
    }

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports, at least 1.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Whether `port` is inside.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether the two share a port.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The ranges sorted, and joined where they touch or overlap.
    #[must_use]
    pub fn merged(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.sort_unstable();
        let mut joined: Vec<Self> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        joined
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(f, "{}", self.first),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A machine to dial: an address, or a name to resolve.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A DNS name, resolved by the daemon.
    Name(Arc<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A machine and a port to dial; prints as `host:port`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The machine.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host @ (Host::Address(IpAddr::V4(_)) | Host::Name(_)) => write!(f, "{host}:{}", self.port),
        }
    }
}

/// So many events per unit of time, written `50/second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// In which time.
    pub per: RateUnit,
}

/// The unit of time of a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateUnit {
    /// Per second.
    Second,
    /// Per minute.
    Minute,
    /// Per hour.
    Hour,
}

impl RateUnit {
    /// The word the configuration and nftables use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.as_str())
    }
}

/// A bandwidth; written `100mbit` or `10mbyte`, decimal multiples, per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes per second, at least 1,000.
    pub bytes_per_second: u64,
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}kbit", self.bytes_per_second / 125)
    }
}

/// Which sources may use an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowList {
    /// Every source.
    Any,
    /// Only sources in one of these prefixes or named lists; both may be empty, then none may.
    Only {
        /// Prefixes with no host bits set.
        prefixes: Vec<IpNetwork>,
        /// Names of `[[list]]` entries that exist.
        lists: Vec<Name>,
    },
}

/// Whether an offload is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// Used when the kernel supports it; the daemon falls back when it fails.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl Switch {
    /// The word the configuration uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl AllowList {
    /// Prefixes and `@NAME`s, as they are written.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        match self {
            Self::Any => ["0.0.0.0/0", "::/0"].map(str::to_owned).to_vec(),
            Self::Only { prefixes, lists } => {
                let prefixes = prefixes.iter().map(ToString::to_string);
                prefixes.chain(lists.iter().map(|list| format!("@{list}"))).collect()
            }
        }
    }

    /// Whether `source` may use the entry; `named` gives the prefixes of a named list.
    pub fn admits<'a>(&self, source: IpAddr, named: impl Fn(&Name) -> &'a [IpNetwork]) -> bool {
        match self {
            Self::Any => true,
            Self::Only { prefixes, lists } => {
                let holds = |prefixes: &[IpNetwork]| prefixes.iter().any(|prefix| prefix.contains(source));
                holds(prefixes) || lists.iter().any(|list| holds(named(list)))
            }
        }
    }
}
