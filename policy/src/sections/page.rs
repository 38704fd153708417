//! `[page]`: where the status page is served.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Daemon;
use super::metrics::host_name;
use crate::change::Settings;
use crate::fields::{self, At};
use crate::reader::{Table, Value};
use crate::{Host, Problem, text};

/// The edge's port, unless the file has another.
const EDGE_PORT: u16 = 9590;
/// The origin's, so that both can be on one machine.
const ORIGIN_PORT: u16 = 9591;

/// `[page]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where it is served: nowhere without the section, on loopback where the section has no
    /// `listen`.
    pub listen: Vec<PageListen>,
    /// Host names under which it may be requested, besides addresses and `localhost`.
    pub hosts: Vec<Host>,
}

/// One place to serve the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageListen {
    /// An address.
    Address(SocketAddr),
    /// This port of loopback and of the edge's addresses in the LAN.
    Lan(u16),
}

impl PageListen {
    /// Its port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Lan(port) => port,
        }
    }

    /// Whether only programs of this machine can connect.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        matches!(self, Self::Address(address) if address.ip().is_loopback())
    }

    /// Its addresses on a machine that has these in the LAN.
    fn addresses(self, lan: &[IpAddr]) -> Vec<SocketAddr> {
        match self {
            Self::Address(address) => vec![address],
            Self::Lan(port) => {
                let all = [IpAddr::V4(Ipv4Addr::LOCALHOST)].into_iter().chain(lan.iter().copied());
                all.map(|address| SocketAddr::new(address, port)).collect()
            }
        }
    }
}

impl fmt::Display for PageListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Lan(port) => write!(f, "lan:{port}"),
        }
    }
}

impl Page {
    /// Whether it is served in the LAN, whatever the addresses there are.
    #[must_use]
    pub fn follows_lan(&self) -> bool {
        self.listen.iter().any(|listen| matches!(listen, PageListen::Lan(_)))
    }

    /// The addresses to listen on, on a machine that has these in the LAN now.
    #[must_use]
    pub fn addresses(&self, lan: &[IpAddr]) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.listen.iter().flat_map(|listen| listen.addresses(lan)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Notes what `next` has otherwise.
    pub(crate) fn note_changes(&self, next: &Self, changes: &mut Settings) {
        changes.values("page", "listen", &self.listen, &next.listen);
        changes.values("page", "hosts", &self.hosts, &next.hosts);
    }
}

/// `[page]`, and where its addresses are; the metrics have theirs already.
pub(super) fn page(root: &Table<'_>, daemon: Daemon, metrics: &[SocketAddr]) -> (Page, Vec<At<PageListen>>) {
    let Some(table) = root.table("page", "[page]") else { return Default::default() };
    let many = |key| table.optional(key).map(Value::one_or_many);
    let read = |item: Value<'_>| Some(At::new(listen(item, daemon)?, item.at()));
    let own = || vec![At::new(on_loopback(daemon), table.at())];
    let listen: Vec<_> =
        many("listen").map_or_else(own, |items| items.into_iter().filter_map(read).collect());
    for (at, address) in
        listen.iter().flat_map(|at| at.value.addresses(&[]).into_iter().map(move |a| (at, a)))
    {
        if metrics.iter().any(|metrics| same_socket(*metrics, address)) {
            let problem = Problem::ListenClash { listen: address.to_string(), other: "metrics".to_owned() };
            root.report_at(&at.at, problem);
        }
    }
    let hosts = many("hosts").unwrap_or_default().into_iter().filter_map(host_name).collect();
    table.close();
    (Page { listen: listen.iter().map(|listen| listen.value).collect(), hosts }, listen)
}

/// Whether binding one of the two makes binding the other fail.
pub(crate) fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || (wildcard && a.is_ipv6() == b.is_ipv6()))
}

fn on_loopback(daemon: Daemon) -> PageListen {
    PageListen::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port(daemon)))
}

const fn port(daemon: Daemon) -> u16 {
    match daemon {
        Daemon::Gateway => EDGE_PORT,
        Daemon::Forwarder => ORIGIN_PORT,
    }
}

/// An address with its port, `lan`, or `lan:PORT`; only the edge knows its LAN.
fn listen(value: Value<'_>, daemon: Daemon) -> Option<PageListen> {
    match (lan_port(value, daemon), daemon) {
        (Some(port), Daemon::Gateway) => Some(PageListen::Lan(port)),
        (Some(_), Daemon::Forwarder) => {
            value.report(Problem::NoLanAtOrigin);
            None
        }
        (None, Daemon::Gateway) => {
            let expected = "\"lan\", \"lan:PORT\", or an address and a port, such as \"127.0.0.1:9590\"";
            value.parse(expected, text::socket_address).map(PageListen::Address)
        }
        (None, Daemon::Forwarder) => fields::socket_address(value).map(PageListen::Address),
    }
}

fn lan_port(value: Value<'_>, daemon: Daemon) -> Option<u16> {
    if value.is_string("lan") {
        return Some(port(daemon));
    }
    value.peek_string()?.strip_prefix("lan:")?.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lan_is_loopback_and_every_address_there_and_none_twice() {
        let page = Page {
            listen: vec![PageListen::Lan(80), PageListen::Address("127.0.0.1:80".parse().unwrap())],
            hosts: Vec::new(),
        };
        let shown =
            |lan: &[IpAddr]| -> Vec<String> { page.addresses(lan).iter().map(ToString::to_string).collect() };
        assert_eq!(shown(&[]), ["127.0.0.1:80"]);
        assert_eq!(shown(&["192.168.1.2".parse().unwrap()]), ["127.0.0.1:80", "192.168.1.2:80"]);
    }

    #[test]
    fn without_the_section_it_is_served_nowhere() {
        assert!(Page::default().addresses(&["192.168.1.2".parse().unwrap()]).is_empty());
    }
}
