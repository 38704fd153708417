//! Paths narrower than Ethernet, with and without the ICMP messages that say so.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Counter, Lab, Topology, full_counts, pattern, scenario, until};
use scenarios::{Caddy, ModernClient, Site, serve_bulk};

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
        for name in ["inet", "cgnat"] {
            lab.node(name)?.nft(
                "table inet blackhole {
                   chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }
                   chain through { type filter hook forward priority 0; icmp type destination-unreachable drop; }
                 }",
            )?;
        }
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
