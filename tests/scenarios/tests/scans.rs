//! Every port is tried by bare packets, and the counters account for each of them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Counter, Lab, Node, TcpServer, Topology, UdpEcho, echo, full_counts, scenario, until};
use scenarios::{Probe, Router, Site, growth, packet_counters};

/// What listens on the edge, on every address, open or not.
const LISTENING: [u16; 10] = [22, 25, 53, 80, 111, 2049, 5432, 8080, 9091, 9999];

/// UDP ports that something commonly listens on, and the tunnel's own.
const COMMON_UDP: [u16; 24] = [
    53, 67, 68, 69, 111, 123, 137, 138, 161, 162, 500, 514, 520, 1194, 1701, 1900, 2049, 4500, 5060, 5353,
    5355, 6000, 10_001, 51_820,
];

/// The port of the link.
const LINK: u16 = 51_899;

#[test]
fn from_the_origin_every_tcp_port_of_the_edge_and_of_a_lan_host_is_closed_but_those_listed() -> Result<()> {
    scenario(Topology::standard().routed().with_docker(), |lab| {
        let (site, _far, _servers) = edge_full_of_servers(lab)?;
        let (origin, lan) = (lab.node("origin")?, lab.node("lan")?);
        let _on_lan = listen(&lan, "192.168.1.50", &LISTENING)?;
        let tried = Counter::arriving(&site.edge, "tried", "iifname gw0 tcp sport 40000")?;
        let probe = Probe::new(&origin, "kyiv", None, "10.77.88.2")?;
        let all: Vec<u16> = (1..=u16::MAX).collect();

        // Port 9091 of the edge is a container's, and so it is refused where packets pass through.
        let more = LISTENING.into_iter().filter(|&port| port > 1_024).chain([LINK]);
        let short: Vec<u16> = (1..=1_024).chain(more).collect();
        let tunnel_end = if full_counts() { &all } else { &short };
        // That of the link answers at the edge's end of the tunnel alone.
        for (target, ports, open, at_edge, behind_it) in [
            ("192.168.1.2", &all, &[2049][..], all.len() as u64 - 2, 1),
            ("10.77.88.1", tunnel_end, &[2049, LINK], tunnel_end.len() as u64 - 3, 1),
            ("192.168.1.50", &all, &[2049], 0, all.len() as u64 - 1),
        ] {
            let counted = [("drop_input_not_listed", at_edge), ("drop_forward_not_listed", behind_it)];
            let before = packet_counters(&site.edge)?;
            probe.syns(target, ports, || tried.packets())?;
            let grown = growth(&site.edge, &before)?;
            for (name, packets) in counted {
                let seen = grown.get(name).copied().unwrap_or(0);
                ensure!(seen == packets, "{target}: {name} is {seen}, not {packets}: {grown:?}");
            }
            answers(&probe, target, open)?;
        }
        ensure!(!probe.got_unreachable()?, "an ICMP error explained what is closed");
        Ok(())
    })
}

#[test]
fn from_the_internet_every_tcp_port_and_the_common_udp_ports_are_closed_but_those_published_and_accepted()
-> Result<()> {
    scenario(Topology::standard().routed().with_docker(), |lab| {
        let (site, _far, _servers) = edge_full_of_servers(lab)?;
        let (client, inet) = (lab.node("client")?, lab.node("inet")?);
        let _far_tcp = listen(&site.origin, "192.168.88.2", &[443, 5001])?;
        let _far_udp = UdpEcho::start(site.origin.udp_socket("192.168.88.2:6000")?)?;
        let tried = Counter::arriving(&site.edge, "tried", "iifname eth0 th sport 40000")?;
        let probe = Probe::new(&client, "eth0", Some((&inet, "client0")), "203.0.113.10")?;
        let all: Vec<u16> = (1..=u16::MAX).collect();

        let before = packet_counters(&site.edge)?;
        probe.syns("192.0.2.2", &all, || tried.packets())?;
        let grown = growth(&site.edge, &before)?;
        // All but 22, 443 and 5001 are dropped: the container's port where packets pass, the others at the edge itself.
        for (name, packets) in [("drop_input_wan_guard", 65_531), ("drop_forward_wan_guard", 1)] {
            let seen = grown.get(name).copied().unwrap_or(0);
            ensure!(seen == packets, "{name} is {seen}, not {packets}: {grown:?}");
        }
        answers(&probe, "192.0.2.2", &[22, 443, 5001])?;

        let before = packet_counters(&site.edge)?;
        probe.datagrams("192.0.2.2", &COMMON_UDP, || tried.packets())?;
        until(Duration::from_secs(10), "the published datagram's answer", || {
            Ok((probe.udp_answers("192.0.2.2")? == BTreeSet::from([6_000])).then_some(()))
        })?;
        // The published port and WireGuard's, which is let in and says nothing.
        let dropped = growth(&site.edge, &before)?.get("drop_input_wan_guard").copied().unwrap_or(0);
        ensure!(dropped == COMMON_UDP.len() as u64 - 2, "{dropped} datagrams were dropped");
        ensure!(!probe.got_unreachable()?, "an ICMP error explained what is closed");
        Ok(())
    })
}

#[test]
fn a_neighbour_on_the_wan_reaches_neither_the_lan_nor_a_container_nor_the_tunnel_behind_the_edge()
-> Result<()> {
    scenario(Topology::standard().routed().with_docker(), |lab| {
        let (site, _far, _servers) = edge_full_of_servers(lab)?;
        let (inet, lan, container) = (lab.node("inet")?, lab.node("lan")?, lab.node("container")?);
        let _servers =
            [listen(&lan, "192.168.1.50", &LISTENING)?, listen(&container, "172.17.0.2", &[8_081])?];
        let _far = listen(&site.origin, "192.168.88.2", &LISTENING)?;
        let tried = Counter::arriving(&site.edge, "tried", "iifname eth0 th sport 40000")?;
        // Straight to the edge's interface, whatever the destination.
        let probe = Probe::new(&inet, "edge0", Some((&site.edge, "eth0")), "203.0.113.10")?;
        let ports: Vec<u16> = (1..=1_024).chain(LISTENING).chain([8_081]).collect();
        for (target, counter) in [
            ("192.168.1.50", "drop_forward_wan_guard"),
            ("172.17.0.2", "drop_forward_wan_guard"),
            ("192.168.88.2", "drop_prerouting_wan_guard"),
            ("10.77.88.1", "drop_prerouting_wan_guard"),
            ("10.77.88.2", "drop_prerouting_wan_guard"),
        ] {
            let before = packet_counters(&site.edge)?;
            probe.syns(target, &ports, || tried.packets())?;
            let grown = growth(&site.edge, &before)?;
            let dropped = grown.get(counter).copied().unwrap_or(0);
            ensure!(dropped == ports.len() as u64, "{target}: {} tried, {grown:?}", ports.len());
            answers(&probe, target, &[])?;
        }
        // At the edge's LAN address the same ports are open as at its WAN address.
        probe.syns("192.168.1.2", &ports, || tried.packets())?;
        answers(&probe, "192.168.1.2", &[22, 443])
    })
}

/// What listens on the edge and in its container, for as long as it is held.
struct Servers {
    _tcp: [Vec<TcpServer>; 2],
    _udp: Vec<UdpEcho>,
}

/// An edge on which everything listens, and a container that publishes a port; the far end is a plain router.
fn edge_full_of_servers(lab: &Lab) -> Result<(Site<'_>, Router, Servers)> {
    let mut site = Site::new(lab)?;
    site.gateway_config.append(
        "[[publish]]\nname = \"datagrams\"\nprotocol = [\"udp\"]\nlisten = \"6000\"\ntarget = \"192.168.88.2:6000\"",
    );
    site.start_gateway()?;
    let far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
    site.wait_until_up(Duration::from_secs(20))?;
    let servers = [
        listen(&site.edge, "0.0.0.0", &LISTENING)?,
        listen(&lab.node("container")?, "172.17.0.2", &[9_091])?,
    ];
    let datagrams = [53, 111, 123, 161, 5353]
        .map(|port| UdpEcho::start(site.edge.udp_socket(&format!("0.0.0.0:{port}"))?));
    let datagrams = datagrams.into_iter().collect::<Result<_>>()?;
    Ok((site, far, Servers { _tcp: servers, _udp: datagrams }))
}

fn listen(node: &Node, address: &str, ports: &[u16]) -> Result<Vec<TcpServer>> {
    let server = |port| TcpServer::start(node.tcp_listener(&format!("{address}:{port}"))?, echo);
    ports.iter().map(server).collect()
}

/// Waits for the answers of these ports and fails when there are others.
fn answers(probe: &Probe, target: &str, ports: &[u16]) -> Result<()> {
    let wanted: BTreeSet<u16> = ports.iter().copied().collect();
    let came = until(Duration::from_secs(10), "the open ports to answer", || {
        let came = probe.tcp_answers(target)?;
        Ok(came.is_superset(&wanted).then_some(came))
    })?;
    ensure!(came == wanted, "{target} answered from {came:?}, open are {wanted:?}");
    Ok(())
}
