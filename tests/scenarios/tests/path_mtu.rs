//! Paths narrower than Ethernet, with and without the ICMP messages that say so.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Counter, Lab, Topology, full_counts, pattern, scenario, until};
use scenarios::{Caddy, ModernClient, Site, download, serve_bulk, upload};

/// Where the path is narrow: both ends of one link.
const LINKS: [(&str, [(&str, &str); 2]); 3] = [
    ("the carrier's", [("inet", "cgnat0"), ("cgnat", "wan0")]),
    ("the edge's", [("inet", "edge0"), ("edge", "eth0")]),
    ("the client's", [("inet", "client0"), ("client", "eth0")]),
];

#[test]
fn a_post_quantum_handshake_succeeds_on_every_path_mtu_with_icmp() -> Result<()> {
    scenario(Topology::standard(), handshakes)
}

#[test]
fn a_post_quantum_handshake_succeeds_on_every_path_mtu_where_icmp_is_lost() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lose_icmp(lab)?;
        handshakes(lab)
    })
}

#[test]
fn a_size_that_the_path_refuses_later_is_told_to_the_origin_through_the_tunnel() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let (client, inet) = (lab.node("client")?, lab.node("inet")?);
        let told = "icmp type destination-unreachable icmp code frag-needed";
        let to_origin = Counter::leaving(&site.edge, "told", &format!("oifname gw0 {told}"))?;
        let block = pattern(1, 1 << 20);
        let mut stream = client.tcp_connect("192.0.2.2:5001", Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(format!("down {}\n", 16 * block.len()).as_bytes())?;
        let mut piece = vec![0; block.len()];
        for number in 0..16 {
            if number == 4 {
                // Only the router's side: the client goes on believing in what it said at the beginning.
                inet.run("ip link set client0 mtu 1280")?;
            }
            stream.read_exact(&mut piece)?;
            ensure!(piece == block, "wrong bytes in block {number}");
        }
        ensure!(to_origin.packets()? > 0, "nobody told the origin");
        Ok(())
    })
}

#[test]
fn a_client_is_told_of_the_tunnels_size() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append(
            "[[publish]]\nname = \"datagrams\"\nprotocol = [\"udp\"]\nlisten = \"6000\"\ntarget = \"192.168.88.2:6000\"",
        );
        site.start_gateway()?;
        let client = lab.node("client")?;
        let told = Counter::arriving(
            &client,
            "told",
            "ip saddr 192.0.2.2 icmp type destination-unreachable icmp code frag-needed",
        )?;
        // Linux's own datagrams have DF set, so the edge may not cut what the tunnel cannot take.
        let socket = client.udp_socket("0.0.0.0:0")?;
        until(Duration::from_secs(10), "the edge to say what fits", || {
            let _ = socket.send_to(&[7; 1_472], "192.0.2.2:6000");
            Ok((told.packets()? > 0).then_some(()))
        })
    })
}

#[test]
fn auto_finds_what_the_path_carries_where_icmp_is_lost_and_bulk_crosses_uncut() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lose_icmp(lab)?;
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        for config in [&mut site.gateway_config, &mut site.forwarder_config] {
            config.replace("mtu = 1420", "mtu = \"auto\"")?;
        }
        let (carriers, edges) = (LINKS[0].1, LINKS[1].1);
        set_mtu(lab, carriers, 1_400)?;
        site.start()?;
        settles_at(&site, 1_340)?;
        crosses_uncut(lab)?;
        // What the search ends at when the path gets narrower later, by whichever link.
        let narrower: Vec<u16> =
            if full_counts() { (1_280..1_400).step_by(20).rev().collect() } else { vec![1_292] };
        for outer in narrower {
            set_mtu(lab, edges, outer)?;
            settles_at(&site, outer - 60)?;
            crosses_uncut(lab)?;
        }
        Ok(())
    })
}

#[test]
fn auto_finds_all_that_ethernet_carries() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        for config in [&mut site.gateway_config, &mut site.forwarder_config] {
            config.replace("mtu = 1420", "mtu = \"auto\"")?;
        }
        site.start()?;
        settles_at(&site, 1_440)?;
        crosses_uncut(lab)?;
        // A reload of an unchanged file keeps what was found.
        site.gatewayctl(&["reload"])?.run()?;
        settles_at(&site, 1_440)
    })
}

/// Waits until both ends found this inner MTU, and the edge's device and rules have it.
fn settles_at(site: &Site<'_>, mtu: u16) -> Result<()> {
    let socket = site.origin.directory().join("state/forwarder.sock").display().to_string();
    until(Duration::from_secs(150), &format!("both ends to settle at {mtu}"), || {
        let origin = site.forwarder_command(&["peers", "--json", "--socket", &socket])?.run()?;
        let origin: serde_json::Value = serde_json::from_str(&origin)?;
        let of_origin = origin.pointer("/peers/0/path_mtu_bytes").and_then(serde_json::Value::as_u64);
        let of_edge = site.peer_field("/path_mtu_bytes")?.as_u64();
        let device = site.edge.run("ip -o link show dev gw0")?;
        let clamp = site.edge.run("nft list table inet causeway")?;
        let is_clamped = clamp.contains(&format!("maxseg size set {}", mtu - 40));
        let is_device = device.contains(&format!(" mtu {mtu} "));
        let wanted = Some(u64::from(mtu));
        Ok((of_origin == wanted && of_edge == wanted && is_device && is_clamped).then_some(()))
    })
}

/// A bulk transfer each way, of which no outer datagram is cut.
fn crosses_uncut(lab: &Lab) -> Result<()> {
    let (client, inet) = (lab.node("client")?, lab.node("inet")?);
    let cut = Counter::arriving(&inet, "cut", "ip protocol udp ip frag-off & 0x3fff != 0")?;
    let before = cut.packets()?;
    let bytes = if full_counts() { 64 << 20 } else { 8 << 20 };
    download(&client, "192.0.2.2:5001", bytes)?;
    upload(&client, "192.0.2.2:5001", bytes)?;
    let fragments = cut.packets()? - before;
    ensure!(fragments == 0, "{fragments} fragments");
    Ok(())
}

/// Makes a black hole of every link that is too narrow.
fn lose_icmp(lab: &Lab) -> Result<()> {
    for name in ["inet", "cgnat"] {
        lab.node(name)?.nft(
            "table inet blackhole {
               chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }
               chain through { type filter hook forward priority 0; icmp type destination-unreachable drop; }
             }",
        )?;
    }
    Ok(())
}

fn handshakes(lab: &Lab) -> Result<()> {
    let mut site = Site::new(lab)?;
    let caddy = Caddy::start_post_quantum(&site.origin)?;
    site.start()?;
    let client = lab.node("client")?;
    let browser = ModernClient::start(&client, "192.0.2.2", &caddy)?;
    // A TLS handshake record longer than any segment through the tunnel.
    let hellos = Counter::leaving(&client, "hellos", "tcp dport 443 @ih,0,8 0x16 @ih,24,16 > 1380")?;
    let mtus: Vec<u16> =
        if full_counts() { (1_280..=1_500).step_by(20).collect() } else { vec![1_280, 1_400, 1_500] };
    let mut made = 0;
    for (whose, ends) in LINKS {
        for &mtu in &mtus {
            set_mtu(lab, ends, mtu)?;
            let seen = browser.fetch("/whoami");
            let seen = seen.map_err(|error| error.context(format!("with {whose} link at {mtu}")))?;
            ensure!(seen == "203.0.113.10", "with {whose} link at {mtu} the server saw {seen}");
            made += 1;
        }
        set_mtu(lab, ends, 1_500)?;
    }
    let seen = hellos.packets()?;
    ensure!(seen >= made, "{seen} long ClientHellos in {made} handshakes");
    Ok(())
}

fn set_mtu(lab: &Lab, ends: [(&str, &str); 2], mtu: u16) -> Result<()> {
    for (node, interface) in ends {
        lab.node(node)?.run(&format!("ip link set {interface} mtu {mtu}"))?;
    }
    Ok(())
}
