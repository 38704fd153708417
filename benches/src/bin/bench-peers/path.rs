//! The path every contender is measured on: client – edge – cgnat – origin.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Lab, Node, Process, Topology, until};

/// iperf3's port.
pub(crate) const BULK: u16 = 443;
/// The echo server's port.
pub(crate) const ECHO: u16 = 444;
/// The UDP server's port.
pub(crate) const DATAGRAMS: u16 = 445;
/// The edge's public address.
pub(crate) const EDGE: &str = "192.0.2.2";
/// The public address of the carrier's NAT.
pub(crate) const CGNAT: &str = "192.0.2.7";
/// The service's address at the origin.
pub(crate) const SERVICE: &str = "192.168.88.2";

/// Four machines in a row, with the service's servers at the end.
pub(crate) struct Path {
    // First: the lab cannot end before its processes are reaped.
    _servers: Vec<Process>,
    pub(crate) lab: Lab,
    pub(crate) client: Node,
    pub(crate) edge: Node,
    pub(crate) cgnat: Node,
    pub(crate) origin: Node,
}

impl Path {
    /// Builds the path; nothing leads from the client to the service yet.
    pub(crate) fn lay() -> Result<Self> {
        let lab = Lab::build("bench-peers", Topology::empty())?;
        let [client, edge, cgnat, origin] =
            ["client", "edge", "cgnat", "origin"].map(|name| lab.add_node(name));
        let (client, edge, cgnat, origin) = (client?, edge?, cgnat?, origin?);
        for node in [&client, &edge, &cgnat, &origin] {
            settle(node)?;
        }
        lab.connect((&client, "eth0"), (&edge, "eth0"))?;
        lab.connect((&edge, "eth1"), (&cgnat, "wan0"))?;
        lab.connect((&cgnat, "lan0"), (&origin, "eth0"))?;
        client.ip("address add 203.0.113.10/24 dev eth0\nroute add default via 203.0.113.1")?;
        edge.ip("address add 203.0.113.1/24 dev eth0\naddress add 192.0.2.2/24 dev eth1")?;
        cgnat.ip("address add 192.0.2.7/24 dev wan0\naddress add 100.64.0.1/24 dev lan0\n\
             route add default via 192.0.2.2")?;
        origin.ip("address add 100.64.0.2/24 dev eth0\naddress add 192.168.88.2/32 dev lo\n\
             route add default via 100.64.0.1")?;
        cgnat.nft(
            "table ip cgnat {
               chain postrouting { type nat hook postrouting priority 100;
                 ip saddr 100.64.0.0/10 oifname wan0 masquerade; }
             }",
        )?;
        let servers = serve(&origin)?;
        Ok(Self { _servers: servers, lab, client, edge, cgnat, origin })
    }

    /// Sends the public ports of the edge to the service by the kernel's NAT, with the client's
    /// address kept.
    pub(crate) fn publish(&self) -> Result<()> {
        let ports = format!("{BULK}-{DATAGRAMS}");
        self.edge.nft(&format!(
            "table ip bench {{
               chain prerouting {{ type nat hook prerouting priority -100;
                 iifname eth0 tcp dport {ports} dnat to {SERVICE}; iifname eth0 udp dport {ports} dnat to {SERVICE}; }}
               chain forward {{ type filter hook forward priority -150;
                 tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu; }}
             }}"
        ))
    }

    /// Makes the service's packets leave the origin by `device`.
    pub(crate) fn return_by(&self, device: &str) -> Result<()> {
        self.origin.ip(&format!("route add default dev {device} table 88\nrule add from {SERVICE} lookup 88"))
    }

    /// The path with plain routes: the NAT at the edge and nothing else.
    pub(crate) fn route_without_tunnel(&self) -> Result<()> {
        self.edge.ip(&format!("route add {SERVICE}/32 via {CGNAT}"))?;
        self.cgnat.ip(&format!("route add {SERVICE}/32 via 100.64.0.2"))?;
        self.publish()
    }

    /// Runs the load tool on the client and returns its last line of JSON.
    pub(crate) fn load(&self, arguments: &[&str], limit: Duration) -> Result<serde_json::Value> {
        let said = self.client.command(load_tool()?).args(arguments).limit(limit).run()?;
        let line = said.lines().last().context("the load tool said nothing")?;
        Ok(serde_json::from_str(line)?)
    }
}

/// Where the load tool is.
pub(crate) fn load_tool() -> Result<PathBuf> {
    lab::binary("bench-load")
}

/// The settings of every machine of the path: cubic, since the default may be another, and
/// forwarding on routers.
fn settle(node: &Node) -> Result<()> {
    node.sysctl("net/ipv4/tcp_congestion_control", "cubic").context(
        "namespaces may not use cubic: as root, add it to net.ipv4.tcp_allowed_congestion_control",
    )?;
    node.sysctl("net/ipv4/ip_forward", "1")?;
    node.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
    node.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
    node.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    node.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    node.sysctl("net/ipv4/ip_unprivileged_port_start", "0")
}

fn serve(origin: &Node) -> Result<Vec<Process>> {
    let iperf = origin.command("iperf3").args(["-s", "-B", SERVICE, "-p"]).arg(BULK.to_string());
    let tcp = format!("{SERVICE}:{ECHO}");
    let udp = format!("{SERVICE}:{DATAGRAMS}");
    let echo = origin.command(load_tool()?).args(["serve", "--tcp", &tcp, "--udp", &udp]);
    let servers = vec![iperf.spawn("iperf3")?, echo.spawn("bench-load")?];
    until(Duration::from_secs(5), "the echo server", || {
        Ok(origin.tcp_connect(&tcp, Duration::from_millis(200)).ok())
    })?;
    Ok(servers)
}
