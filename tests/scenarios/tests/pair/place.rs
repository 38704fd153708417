//! Where the pair is: what it is plugged into, which address it shares, and what is in front of the
//! origin.

use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lab::{Lab, Node, Topology};
use scenarios::Site;

/// What is in front of the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Nat {
    /// The lab's own: only who was sent to gets in.
    #[default]
    PortRestricted,
    /// Whoever sends to the mapped port gets in.
    FullCone,
    /// As the lab's own, with another port for each destination.
    Symmetric,
}

impl Nat {
    pub(crate) fn set(self, cgnat: &Node) -> Result<()> {
        match self {
            Self::PortRestricted => Ok(()),
            Self::FullCone => cgnat.nft(
                "table ip cone {
                   chain prerouting {
                     type nat hook prerouting priority -100;
                     iifname wan0 udp dport 1024-65535 dnat to 100.64.0.2
                   }
                 }
                 insert rule ip cgnat forward iifname wan0 udp dport 1024-65535 accept",
            ),
            Self::Symmetric => cgnat.nft(
                "flush chain ip cgnat postrouting;
                 add rule ip cgnat postrouting oifname wan0 masquerade random,fully-random",
            ),
        }
    }
}

/// The network of the pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Both are on the internet, and share an address of it.
    #[default]
    Public,
    /// The same by IPv6, which is also how the origin reaches them.
    Ipv6,
    /// Both have one cable, behind a router that forwards to an address of its LAN.
    OneArmed,
}

impl Place {
    pub(crate) fn topology(self) -> Topology {
        match self {
            Self::Public | Self::Ipv6 => Topology::standard(),
            Self::OneArmed => Topology::one_armed(),
        }
    }

    /// The address that both share.
    pub(crate) const fn shared(self) -> IpAddr {
        match self {
            Self::Public => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
            Self::Ipv6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x192, 0, 0, 0, 0, 2)),
            Self::OneArmed => IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2)),
        }
    }

    /// Where visitors find a port of the pair.
    pub(crate) fn target(self) -> Result<SocketAddr, AddrParseError> {
        match self {
            Self::Public | Self::OneArmed => "192.0.2.2:5001".parse(),
            Self::Ipv6 => "[2001:db8:192::2]:5001".parse(),
        }
    }

    /// The addresses of the edges on the link between them.
    pub(crate) const fn link(self) -> [&'static str; 2] {
        match self {
            Self::Public | Self::OneArmed => ["10.9.9.1", "10.9.9.2"],
            Self::Ipv6 => ["fd00:9::1", "fd00:9::2"],
        }
    }

    /// The ports of the switch that lead to the edges.
    pub(crate) const fn ports(self) -> [&'static str; 2] {
        match self {
            Self::Public | Self::Ipv6 => ["edge0", "twin0"],
            Self::OneArmed => ["lan0", "lan2"],
        }
    }

    pub(crate) const fn default_routes(self) -> &'static str {
        match self {
            Self::Public => "route replace default via 192.0.2.1",
            Self::Ipv6 => "route replace default via 192.0.2.1\nroute replace default via 2001:db8:192::1",
            Self::OneArmed => "route replace default via 192.168.1.1",
        }
    }

    /// Gives both edges an address of their own next to each other; what they are plugged into.
    pub(crate) fn lay_out(self, lab: &Lab, one: &Node, two: &Node) -> Result<Node> {
        let (switch, prefix) = match self {
            Self::Public | Self::Ipv6 => (lab.node("inet")?, "192.0.2"),
            Self::OneArmed => (lab.node("router")?, "192.168.1"),
        };
        let [_, port] = self.ports();
        lab.connect((&switch, port), (two, "eth0"))?;
        match self {
            Self::Public | Self::Ipv6 => switch.ip(
                "link add wan type bridge\nlink set edge0 master wan\nlink set twin0 master wan\nlink set wan up\n\
                 address flush dev edge0\naddress add 192.0.2.1/24 dev wan",
            )?,
            Self::OneArmed => {
                switch.ip("link set lan2 master bridge0")?;
                switch.run("nft add rule ip router in ip daddr 192.0.2.2 tcp dport 5001 dnat to 192.168.1.2")?;
            }
        }
        one.ip("address flush dev eth0")?;
        for (node, host) in [(one, 11), (two, 12)] {
            node.ip(&format!("address add {prefix}.{host}/24 dev eth0"))?;
            if self == Self::Ipv6 {
                node.ip(&format!("address add 2001:db8:192::{host}/64 dev eth0 nodad"))?;
            }
        }
        if self == Self::Ipv6 {
            switch.ip("address add 2001:db8:192::1/64 dev wan nodad")?;
            to_the_origin_by_ipv6(lab, &switch)?;
        }
        one.ip(self.default_routes())?;
        two.ip(self.default_routes())?;
        Ok(switch)
    }

    /// Has the origin find the pair, and carry what its visitors speak.
    pub(crate) fn configure(self, site: &mut Site<'_>) -> Result<()> {
        if self == Self::Ipv6 {
            let config = &mut site.forwarder_config;
            config.replace("192.0.2.2:51820", "[2001:db8:192::2]:51820")?;
            config.replace(r#"["10.77.88.2/30"]"#, r#"["10.77.88.2/30", "fd77:88::2/64"]"#)?;
            config.replace("192.168.88.2:5001", "[fd77:88::2]:5001")?;
        }
        Ok(())
    }

    pub(crate) fn toml(self, wroclaw: &str, node: &Node, other: &str) -> String {
        let (addresses, allowed, target) = match self {
            Self::Public | Self::OneArmed => {
                (r#""10.77.88.1/30""#, r#""10.77.88.2/32", "192.168.88.0/24""#, "192.168.88.2:5001")
            }
            Self::Ipv6 => (
                r#""10.77.88.1/30", "fd77:88::1/64""#,
                r#""10.77.88.2/32", "fd77:88::2/128""#,
                "[fd77:88::2]:5001",
            ),
        };
        let lan = if self == Self::OneArmed {
            "[lan]\ninterfaces = [\"eth0\"]\nprefixes = [\"192.168.1.0/24\"]\n"
        } else {
            ""
        };
        format!(
            r#"[interface]
address = [{addresses}]
private_key_file = "kyiv.key"

[wan]
interface = "eth0"
accept = ["tcp/22"]

{lan}
[[peer]]
name = "wroclaw"
public_key = "{wroclaw}"
preshared_key_file = "wroclaw.psk"
allowed_ips = [{allowed}]

[[publish]]
name = "bulk"
listen = "5001"
target = "{target}"

[standby]
address = "{}"
other = "{other}"

[metrics]
listen = ["127.0.0.1:9586"]

[state]
directory = "{}"
"#,
            self.shared(),
            node.directory().join("state").display()
        )
    }
}

fn to_the_origin_by_ipv6(lab: &Lab, inet: &Node) -> Result<()> {
    inet.ip("address add 2001:db8:51::1/64 dev cgnat0 nodad\nroute add 2001:db8:64::/64 via 2001:db8:51::7")?;
    lab.node("cgnat")?
        .ip("address add 2001:db8:51::7/64 dev wan0 nodad\naddress add 2001:db8:64::1/64 dev lan0 nodad\n\
         route add default via 2001:db8:51::1")?;
    lab.node("origin")?
        .ip("address add 2001:db8:64::2/64 dev eth0 nodad\nroute add default via 2001:db8:64::1")
}
