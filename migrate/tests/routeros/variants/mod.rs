//! Two routers that publish one port, with one thing changed: each is one way in which a router
//! refuses, and the result must.

mod list;

pub(crate) use list::VARIANTS;

/// A change of the pair below.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// How the edge has its public address.
    pub(crate) wan: Wan,
    /// Commands in front of the edge's filter.
    pub(crate) before: &'static str,
    /// Its filter; `None` for the usual one.
    pub(crate) filter: Option<&'static str>,
    /// Commands behind the edge's last.
    pub(crate) after: &'static str,
    /// Commands behind the origin's last.
    pub(crate) origin: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wan {
    Static,
    Leased,
    /// With an address, and without the list LAN.
    NoLan,
}

const START: &str = "\
/interface bridge
add name=bridge
/interface wireguard
add listen-port=51820 mtu=1420 name=wg-wroclaw
/interface list
add name=WAN
add name=LAN
/interface list member
add interface=ether1 list=WAN
";
const IN_LAN: &str = "add interface=bridge list=LAN\n";
const PEERS: &str = "\
/interface wireguard peers
add allowed-address=10.77.88.2/32,192.168.88.0/24 interface=wg-wroclaw name=wroclaw \
public-key=\"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"
/ip address
add address=192.168.1.1/24 interface=bridge network=192.168.1.0
add address=10.77.88.1/30 interface=wg-wroclaw network=10.77.88.0
";
const STATIC: &str = "add address=203.0.113.2/29 interface=ether1 network=203.0.113.0
/ip route
add dst-address=0.0.0.0/0 gateway=203.0.113.1
";
const LEASED: &str = "/ip dhcp-client\nadd interface=ether1\n/ip route\n";
const ROUTE: &str = "add disabled=no dst-address=192.168.88.0/24 gateway=wg-wroclaw\n";
const USUAL: &str = "\
/ip firewall filter
add action=accept chain=forward connection-state=established,related,untracked
add action=drop chain=forward connection-state=invalid
add action=drop chain=forward connection-nat-state=!dstnat in-interface-list=WAN
";
const NAT: &str = "\
/ip firewall nat
add action=masquerade chain=srcnat out-interface-list=WAN
add action=dst-nat chain=dstnat dst-port=443 in-interface-list=WAN protocol=tcp to-addresses=192.168.88.2
";
const PRIVATE: &str = "\
/ip firewall filter
add action=accept chain=forward connection-state=established,related,untracked
add action=accept chain=forward comment=NFS dst-address=192.168.1.2 dst-port=2049 in-interface=wg-wroclaw protocol=tcp
add action=accept chain=forward comment=Monitoring dst-address=192.168.88.2 dst-port=8428 in-interface=bridge \
out-interface=wg-wroclaw protocol=tcp
add action=accept chain=forward connection-nat-state=dstnat in-interface-list=WAN
add action=drop chain=forward
";
const ORIGIN: &str = "\
/interface bridge
add name=bridge
/interface wireguard
add listen-port=13231 mtu=1420 name=wg-kyiv
/interface list
add name=WAN
add name=LAN
/interface list member
add interface=ether1 list=WAN
add interface=bridge list=LAN
/interface wireguard peers
add allowed-address=0.0.0.0/0 endpoint-address=203.0.113.2 endpoint-port=51820 interface=wg-kyiv name=kyiv \
persistent-keepalive=25s public-key=\"HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=\"
/ip address
add address=192.168.88.1/24 interface=bridge network=192.168.88.0
add address=10.77.88.2/30 interface=wg-kyiv network=10.77.88.0
/ip dhcp-client
add interface=ether1
/ip route
add dst-address=192.168.1.0/24 gateway=wg-kyiv
";

impl Variant {
    pub(crate) fn edge(&self) -> String {
        let wan = if self.wan == Wan::Leased { LEASED } else { STATIC };
        let lan = if self.wan == Wan::NoLan { "" } else { IN_LAN };
        let route = if self.before.contains("/ip route\n") { "" } else { ROUTE };
        let (before, filter) = (self.before, self.filter.unwrap_or(USUAL));
        let nat = if self.after.starts_with("/ip firewall nat\n") { "" } else { NAT };
        format!("{START}{lan}{PEERS}{wan}{route}{before}{filter}{nat}{}", self.after)
    }

    pub(crate) fn origin(&self) -> String {
        format!("{ORIGIN}{}", self.origin)
    }
}

const fn base(name: &'static str) -> Variant {
    Variant { name, wan: Wan::Static, before: "", filter: None, after: "", origin: "" }
}

/// With commands in front of the edge's filter; those that begin with routes are all it has.
const fn before(name: &'static str, before: &'static str) -> Variant {
    Variant { before, ..base(name) }
}

/// With another filter.
const fn filter(name: &'static str, filter: &'static str) -> Variant {
    Variant { filter: Some(filter), ..base(name) }
}

/// With commands behind the edge's last; those that begin with NAT are all it has.
const fn after(name: &'static str, after: &'static str) -> Variant {
    Variant { after, ..base(name) }
}

/// With commands behind the origin's last.
const fn origin(name: &'static str, origin: &'static str) -> Variant {
    Variant { origin, ..base(name) }
}

const fn leased(variant: Variant) -> Variant {
    Variant { wan: Wan::Leased, ..variant }
}
