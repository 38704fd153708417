//! How the sender's services are, as it reports them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use policy::{Name, PortRange, Protocol};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::link::names::NameHealth;

/// Some of the sender's services, or a part of a digest of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether a digest begins with it.
    #[serde(default)]
    pub begins: bool,
    /// Whether a digest ends with it: a service or name that it did not have is gone.
    #[serde(default)]
    pub ends: bool,
    /// The services.
    pub services: Vec<Service>,
    /// Their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameHealth>,
}

/// One service entry of the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name in the sender's configuration.
    pub name: Name,
    /// How it is.
    pub state: State,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Why it is failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What it takes; `None` from a release that does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Matches>,
}

/// The flows that an entry takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matches {
    /// Their destinations, at most [`Matches::MAX_ADDRESSES`]; none is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "few_addresses")]
    pub addresses: Vec<IpNetwork>,
    /// Their destination ports.
    pub ports: Ports,
    /// Whether it takes TCP.
    #[serde(default)]
    pub tcp: bool,
    /// Whether it takes UDP.
    #[serde(default)]
    pub udp: bool,
}

impl Matches {
    /// The most addresses of one entry that are reported.
    pub const MAX_ADDRESSES: usize = 4;

    /// Whether it takes flows of this protocol to this address, on its ports.
    #[must_use]
    pub fn takes(&self, protocol: Protocol, address: IpAddr) -> bool {
        let protocol = match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
        };
        let takes = |prefix: &IpNetwork| prefix.contains(address);
        protocol && (self.addresses.is_empty() || self.addresses.iter().any(takes))
    }
}

fn few_addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNetwork>, D::Error> {
    let addresses = Vec::deserialize(from)?;
    if addresses.len() > Matches::MAX_ADDRESSES {
        return Err(D::Error::custom("an entry has more than 4 addresses"));
    }
    Ok(addresses)
}

/// Ports, the first and the last on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct Ports(pub PortRange);

impl TryFrom<(u16, u16)> for Ports {
    type Error = &'static str;

    fn try_from((first, last): (u16, u16)) -> Result<Self, Self::Error> {
        PortRange::new(first, last).map(Self).ok_or("ports are two numbers above 0, the higher one last")
    }
}

impl From<Ports> for (u16, u16) {
    fn from(Ports(ports): Ports) -> Self {
        (ports.first(), ports.last())
    }
}

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum State {
    /// Its upstream replies.
    Up,
    /// Its upstream does not.
    Failing,
    /// It is not checked, or this version does not know the word.
    Unknown,
}

impl State {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }
}

impl From<String> for State {
    fn from(word: String) -> Self {
        [Self::Up, Self::Failing].into_iter().find(|state| state.label() == word).unwrap_or(Self::Unknown)
    }
}

/// Why a service, or one name of it, is failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum Reason {
    /// The upstream refused the connection.
    Refused,
    /// The upstream did not answer in time.
    TimedOut,
    /// There is no way to the upstream.
    Unreachable,
    /// The upstream's name has no address.
    Unresolved,
    /// The upstream replied, but not as a working service does.
    BadReply,
    /// The sender had no descriptor, port or memory left.
    Exhausted,
    /// The upstream works without the PROXY header that its entry writes, and not with it.
    NoProxyListener,
    /// The upstream works with a PROXY header, and its entry writes none.
    ProxyHeaderRequired,
    /// The upstream replied without TLS.
    NotTls,
    /// The upstream refused TLS by an alert.
    TlsAlert,
    /// The upstream has no certificate for the name.
    NoCertificateForName,
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is not valid yet.
    CertificateNotYetValid,
    /// The certificate is for other names.
    WrongCertificate,
    /// The upstream has no site for the name.
    NoSite,
    /// Another one.
    Other,
}

impl Reason {
    pub(super) const KNOWN: [Self; 15] = [
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Unresolved,
        Self::BadReply,
        Self::Exhausted,
        Self::NoProxyListener,
        Self::ProxyHeaderRequired,
        Self::NotTls,
        Self::TlsAlert,
        Self::NoCertificateForName,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::WrongCertificate,
        Self::NoSite,
    ];

    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Unresolved => "unresolved",
            Self::BadReply => "bad_reply",
            Self::Exhausted => "exhausted",
            Self::NoProxyListener => "no_proxy_listener",
            Self::ProxyHeaderRequired => "proxy_header_required",
            Self::NotTls => "not_tls",
            Self::TlsAlert => "tls_alert",
            Self::NoCertificateForName => "no_certificate_for_name",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::WrongCertificate => "wrong_certificate",
            Self::NoSite => "no_site",
            Self::Other => "other",
        }
    }
}

impl From<String> for Reason {
    fn from(word: String) -> Self {
        Self::KNOWN.into_iter().find(|reason| reason.label() == word).unwrap_or(Self::Other)
    }
}

/// Text from the other end: at most 200 printable ASCII characters. It is data, to be shown in
/// quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Evidence(String);

impl Evidence {
    /// The most characters.
    pub const MAX: usize = 200;

    /// The first characters of a text, with `?` for what is not printable.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let plain = |char: char| if is_printable(char) { char } else { '?' };
        Self(text.chars().take(Self::MAX).map(plain).collect())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_printable(char: char) -> bool {
    matches!(char, ' '..='~')
}

impl TryFrom<String> for Evidence {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() <= Self::MAX && text.chars().all(is_printable) {
            Ok(Self(text))
        } else {
            Err("evidence is at most 200 printable ASCII characters")
        }
    }
}
