//! The networks of scenarios: which nodes are joined, with which addresses.

use anyhow::Result;

use crate::scenario::Lab;

/// What a lab looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    shape: Shape,
    far: Far,
    second_edge: bool,
    third_edge: bool,
    second_origin: bool,
    container: Option<Bridge>,
}

/// Whose rules surround the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bridge {
    /// Only the masquerade that lets the container out.
    Plain,
    /// Everything that Docker writes for a published port.
    Docker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Empty,
    Standard,
    OneArmed,
}

/// What has 192.168.88.2, the address that services at the origin are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Far {
    /// No machine: a forwarder answers for it.
    Forwarder,
    /// `origin` itself.
    Host,
    /// `mac`, a machine behind `origin`.
    Lan,
}

impl Topology {
    /// No nodes at all: the scenario adds its own.
    pub fn empty() -> Self {
        Self {
            shape: Shape::Empty,
            far: Far::Forwarder,
            second_edge: false,
            third_edge: false,
            second_origin: false,
            container: None,
        }
    }

    /// `client` 203.0.113.10, `edge` (WAN `eth0` 192.0.2.2, LAN `eth1` 192.168.1.2) and `cgnat`
    /// 198.51.100.7 hang off the router `inet`; `lan` 192.168.1.50 off `edge`; `origin` 100.64.0.2
    /// off `cgnat`, which masquerades, forgets UDP mappings after 30 s and lets nothing in.
    pub fn standard() -> Self {
        Self { shape: Shape::Standard, ..Self::empty() }
    }

    /// As the standard one, but `edge` has only `eth0` 192.168.1.2, next to `lan`, behind `router`
    /// 192.168.1.1, which holds 192.0.2.2 and forwards tcp 443 and udp 51820, for its LAN as well
    /// (hairpin, with its own address as the source).
    pub fn one_armed() -> Self {
        Self { shape: Shape::OneArmed, ..Self::empty() }
    }

    /// As the standard one, with a second edge `oracle` 198.18.66.2 that has no LAN, and `proxy`
    /// 173.245.48.10, a client in a network of Cloudflare's.
    pub fn two_edges() -> Self {
        Self { second_edge: true, ..Self::standard() }
    }

    /// As that, with a third edge `vienna` 198.18.55.2.
    #[must_use]
    pub fn three_edges() -> Self {
        Self { third_edge: true, ..Self::two_edges() }
    }

    /// Gives `origin` 192.168.88.2 as well, as a far end that routes has it.
    #[must_use]
    pub fn routed(self) -> Self {
        Self { far: Far::Host, ..self }
    }

    /// Makes `origin` the router 192.168.88.1 of a LAN with `mac` 192.168.88.2 in it.
    #[must_use]
    pub fn routed_lan(self) -> Self {
        Self { far: Far::Lan, ..self }
    }

    /// Adds a second origin, `gdansk` 198.18.77.2, which has 192.168.99.2 as well.
    #[must_use]
    pub fn with_second_origin(self) -> Self {
        Self { second_origin: true, ..self }
    }

    /// Adds `container` 172.17.0.2 to a bridge `docker0` on `edge`, with the masquerade Docker
    /// makes for it.
    #[must_use]
    pub fn with_container(self) -> Self {
        Self { container: Some(Bridge::Plain), ..self }
    }

    /// Adds the container with every rule that Docker 26 writes by iptables-nft for `-p 9091:9091`,
    /// FORWARD policy DROP included, and in `DOCKER-USER` the two lines that let the tunnel pass.
    #[must_use]
    pub fn with_docker(self) -> Self {
        Self { container: Some(Bridge::Docker), ..self }
    }
}

pub(crate) fn lay_out(lab: &Lab, topology: Topology) -> Result<()> {
    match topology.shape {
        Shape::Empty => return Ok(()),
        Shape::Standard => {
            internet(lab)?;
            edge_with_two_interfaces(lab)?;
        }
        Shape::OneArmed => {
            internet(lab)?;
            edge_behind_a_router(lab)?;
        }
    }
    far_side(lab)?;
    match topology.far {
        Far::Forwarder => {}
        Far::Host => {
            lab.node("origin")?.ip("address add 192.168.88.2/32 dev lo")?;
            lab.node("origin")?.sysctl("net/ipv4/ip_forward", "1")?;
        }
        Far::Lan => far_lan(lab)?,
    }
    if topology.second_edge {
        on_the_internet(lab, "oracle", "198.18.66", 2)?;
        on_the_internet(lab, "proxy", "173.245.48", 10)?;
    }
    if topology.third_edge {
        on_the_internet(lab, "vienna", "198.18.55", 2)?;
    }
    if topology.second_origin {
        on_the_internet(lab, "gdansk", "198.18.77", 2)?.ip("address add 192.168.99.2/32 dev lo")?;
    }
    if let Some(bridge) = topology.container {
        container(lab, bridge)?;
    }
    Ok(())
}

/// A machine in a network of its own behind `inet`, which is PREFIX.1 there.
fn on_the_internet(lab: &Lab, name: &str, prefix: &str, host: u8) -> Result<crate::node::Node> {
    let (inet, node) = (lab.node("inet")?, lab.add_node(name)?);
    lab.connect((&inet, &format!("{name}0")), (&node, "eth0"))?;
    inet.ip(&format!("address add {prefix}.1/24 dev {name}0"))?;
    node.ip(&format!("address add {prefix}.{host}/24 dev eth0\nroute add default via {prefix}.1"))?;
    Ok(node)
}

fn far_lan(lab: &Lab) -> Result<()> {
    let (origin, mac) = (lab.node("origin")?, lab.add_node("mac")?);
    lab.connect((&origin, "eth1"), (&mac, "eth0"))?;
    origin.ip("address add 192.168.88.1/24 dev eth1")?;
    mac.ip("address add 192.168.88.2/24 dev eth0\nroute add default via 192.168.88.1")
}

fn internet(lab: &Lab) -> Result<()> {
    let inet = lab.add_node("inet")?;
    let client = lab.add_node("client")?;
    lab.connect((&inet, "client0"), (&client, "eth0"))?;
    forwards(&inet)?;
    inet.ip("address add 203.0.113.1/24 dev client0\naddress add 2001:db8:203::1/64 dev client0 nodad")?;
    client.ip("address add 203.0.113.10/24 dev eth0\naddress add 2001:db8:203::10/64 dev eth0 nodad\n\
         route add default via 203.0.113.1\nroute add default via 2001:db8:203::1")
}

fn edge_with_two_interfaces(lab: &Lab) -> Result<()> {
    let (inet, edge, lan) = (lab.node("inet")?, lab.add_node("edge")?, lab.add_node("lan")?);
    lab.connect((&inet, "edge0"), (&edge, "eth0"))?;
    lab.connect((&edge, "eth1"), (&lan, "eth0"))?;
    inet.ip("address add 192.0.2.1/24 dev edge0\naddress add 2001:db8:192::1/64 dev edge0 nodad")?;
    edge.ip("address add 192.0.2.2/24 dev eth0\naddress add 2001:db8:192::2/64 dev eth0 nodad\n\
         address add 192.168.1.2/24 dev eth1\n\
         route add default via 192.0.2.1\nroute add default via 2001:db8:192::1")?;
    lan.ip("address add 192.168.1.50/24 dev eth0\nroute add default via 192.168.1.2")
}

fn edge_behind_a_router(lab: &Lab) -> Result<()> {
    let inet = lab.node("inet")?;
    let (router, edge, lan) = (lab.add_node("router")?, lab.add_node("edge")?, lab.add_node("lan")?);
    lab.connect((&inet, "edge0"), (&router, "wan0"))?;
    lab.connect((&router, "lan0"), (&edge, "eth0"))?;
    lab.connect((&router, "lan1"), (&lan, "eth0"))?;
    forwards(&router)?;
    inet.ip("address add 192.0.2.1/24 dev edge0")?;
    router.ip(
        "link add bridge0 type bridge\nlink set lan0 master bridge0\nlink set lan1 master bridge0\n\
         link set bridge0 up\naddress add 192.168.1.1/24 dev bridge0\naddress add 192.0.2.2/24 dev wan0\n\
         route add default via 192.0.2.1",
    )?;
    router.nft(
        "table ip router {
           chain in { type nat hook prerouting priority -100;
             ip daddr 192.0.2.2 tcp dport 443 dnat to 192.168.1.2; iifname wan0 udp dport 51820 dnat to 192.168.1.2; }
           chain out { type nat hook postrouting priority 100; oifname wan0 masquerade;
             ip saddr 192.168.1.0/24 ip daddr 192.168.1.2 ct status dnat masquerade; }
         }",
    )?;
    edge.ip("address add 192.168.1.2/24 dev eth0\nroute add default via 192.168.1.1")?;
    lan.ip("address add 192.168.1.50/24 dev eth0\nroute add default via 192.168.1.1")
}

fn far_side(lab: &Lab) -> Result<()> {
    let (inet, cgnat, origin) = (lab.node("inet")?, lab.add_node("cgnat")?, lab.add_node("origin")?);
    lab.connect((&inet, "cgnat0"), (&cgnat, "wan0"))?;
    lab.connect((&cgnat, "lan0"), (&origin, "eth0"))?;
    forwards(&cgnat)?;
    inet.ip("address add 198.51.100.1/24 dev cgnat0")?;
    cgnat.ip("address add 198.51.100.7/24 dev wan0\naddress add 100.64.0.1/24 dev lan0\n\
         route add default via 198.51.100.1")?;
    cgnat.nft(CGNAT_RULES)?;
    cgnat.sysctl("net/netfilter/nf_conntrack_udp_timeout", "30")?;
    cgnat.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", "30")?;
    origin.ip("address add 100.64.0.2/24 dev eth0\nroute add default via 100.64.0.1")
}

const CGNAT_RULES: &str = "table ip cgnat {
  chain forward { type filter hook forward priority 0; policy drop; iifname lan0 accept; ct state established accept; }
  chain input { type filter hook input priority 0; iifname wan0 ct state new drop; }
  chain postrouting { type nat hook postrouting priority 100; oifname wan0 masquerade; }
}";

fn container(lab: &Lab, bridge: Bridge) -> Result<()> {
    let (edge, container) = (lab.node("edge")?, lab.add_node("container")?);
    lab.connect((&edge, "vethc"), (&container, "eth0"))?;
    edge.ip("link add docker0 type bridge\nlink set vethc master docker0\nlink set docker0 up\n\
         address add 172.17.0.1/16 dev docker0")?;
    edge.nft(match bridge {
        Bridge::Plain => {
            "table ip dockerlike { chain postrouting { type nat hook postrouting priority 100;
               ip saddr 172.17.0.0/16 oifname != docker0 masquerade; }
             }"
        }
        Bridge::Docker => DOCKER_RULES,
    })?;
    container.ip("address add 172.17.0.2/16 dev eth0\nroute add default via 172.17.0.1")
}

/// `nft list ruleset` after `docker run -p 9091:9091`, counters left out.
const DOCKER_RULES: &str = r#"table ip nat {
  chain DOCKER {
    iifname "docker0" return
    iifname != "docker0" meta l4proto tcp tcp dport 9091 dnat to 172.17.0.2:9091
  }
  chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
  chain OUTPUT { type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER; }
  chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept;
    oifname != "docker0" ip saddr 172.17.0.0/16 masquerade
    meta l4proto tcp ip saddr 172.17.0.2 ip daddr 172.17.0.2 tcp dport 9091 masquerade
  }
}
table ip filter {
  chain DOCKER { iifname != "docker0" oifname "docker0" meta l4proto tcp ip daddr 172.17.0.2 tcp dport 9091 accept; }
  chain DOCKER-ISOLATION-STAGE-1 { iifname "docker0" oifname != "docker0" jump DOCKER-ISOLATION-STAGE-2; return; }
  chain DOCKER-ISOLATION-STAGE-2 { oifname "docker0" drop; return; }
  chain DOCKER-USER { iifname "gw0" accept; oifname "gw0" accept; return; }
  chain FORWARD { type filter hook forward priority filter; policy drop;
    jump DOCKER-USER
    jump DOCKER-ISOLATION-STAGE-1
    oifname "docker0" ct state related,established accept
    oifname "docker0" jump DOCKER
    iifname "docker0" oifname != "docker0" accept
    iifname "docker0" oifname "docker0" accept
  }
}"#;

fn forwards(node: &crate::node::Node) -> Result<()> {
    node.sysctl("net/ipv4/ip_forward", "1")?;
    node.sysctl("net/ipv6/conf/all/forwarding", "1")
}

impl Lab {
    /// Makes the carrier's NAT forget every UDP mapping and use `port` for the next one to each
    /// address and port; another socket that sends there gets another port.
    pub fn rebind_cgnat(&self, port: u16) -> Result<()> {
        let cgnat = self.node("cgnat")?;
        cgnat.nft(&format!(
            "add set ip cgnat mapped {{ type ipv4_addr . inet_service; flags dynamic; size 1024; }}
             flush set ip cgnat mapped
             flush chain ip cgnat postrouting
             add rule ip cgnat postrouting oifname wan0 ip daddr . udp dport != @mapped add @mapped {{ ip daddr . udp dport }} masquerade to :{port}
             add rule ip cgnat postrouting oifname wan0 masquerade"
        ))?;
        // The exit status also shows when there was nothing to delete, which is no failure.
        cgnat.output("conntrack -D -p udp").map(drop)
    }
}
