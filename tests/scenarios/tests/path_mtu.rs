//! Paths narrower than Ethernet, with and without the ICMP messages that say so.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Counter, Lab, Node, Topology, full_counts, pattern, scenario, until};
use scenarios::{Caddy, KeyPair, ModernClient, Site, WireGuardGo, download, serve_bulk, upload};

/// A link: whose it is, and its two ends.
type Link = (&'static str, [(&'static str, &'static str); 2]);

/// Where the path is narrow.
const LINKS: [Link; 3] = [
    ("the carrier's", [("inet", "cgnat0"), ("cgnat", "wan0")]),
    ("the edge's", [("inet", "edge0"), ("edge", "eth0")]),
    ("the client's", [("inet", "client0"), ("client", "eth0")]),
];

#[test]
fn a_post_quantum_handshake_succeeds_on_every_path_mtu_with_icmp() -> Result<()> {
    scenario(Topology::standard(), |lab| handshakes(lab, &lab.node("client")?, "203.0.113.10", &LINKS))
}

#[test]
fn a_post_quantum_handshake_succeeds_on_every_path_mtu_where_icmp_is_lost() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lose_icmp(lab, &["inet", "cgnat"])?;
        handshakes(lab, &lab.node("client")?, "203.0.113.10", &LINKS)
    })
}

#[test]
fn a_post_quantum_handshake_succeeds_from_behind_a_narrow_link_that_the_client_does_not_know_of() -> Result<()>
{
    scenario(Topology::standard(), |lab| {
        let guest = behind_a_home_router(lab)?;
        handshakes(lab, &guest, GUEST, &[HOME])
    })
}

#[test]
fn a_post_quantum_handshake_succeeds_from_behind_a_narrow_link_that_swallows_long_packets() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let guest = behind_a_home_router(lab)?;
        lose_icmp(lab, &["inet", "home"])?;
        // Only the client can find out that its own long packets are lost; Windows and macOS do so
        // by default.
        guest.sysctl("net/ipv4/tcp_mtu_probing", "1")?;
        handshakes(lab, &guest, GUEST, &[HOME])
    })
}

#[test]
fn both_ends_of_a_connection_get_an_mss_that_fits_the_tunnel() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        // An origin with a larger tunnel MTU than the edge announces longer segments than the
        // edge's device takes.
        site.forwarder_config.replace("mtu = 1420", "mtu = 1440")?;
        site.start()?;
        let client = lab.node("client")?;
        let syn = |port: &str, size: u16| format!("tcp {port} 5001 tcp option maxseg size {size}");
        let asked = Counter::leaving(&client, "asked", &syn("dport", 1_460))?;
        let passed_on =
            Counter::leaving(&site.edge, "passed", &format!("oifname gw0 {}", syn("dport", 1_380)))?;
        let answered =
            Counter::arriving(&site.edge, "answered", &format!("iifname gw0 {}", syn("sport", 1_400)))?;
        let heard = Counter::arriving(&client, "heard", &syn("sport", 1_380))?;
        download(&client, "192.0.2.2:5001", 1 << 20)?;
        for (counter, whose) in [
            (&asked, "the client's offer"),
            (&passed_on, "the client's offer behind the edge"),
            (&answered, "the origin's offer"),
            (&heard, "the origin's offer behind the edge"),
        ] {
            ensure!(counter.packets()? > 0, "{whose} is another");
        }
        Ok(())
    })
}

#[test]
fn a_size_that_the_path_refuses_later_is_sent_to_the_origin_through_the_tunnel() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let (client, inet) = (lab.node("client")?, lab.node("inet")?);
        let too_long = "icmp type destination-unreachable icmp code frag-needed";
        let to_origin = Counter::leaving(&site.edge, "errors", &format!("oifname gw0 {too_long}"))?;
        let block = pattern(1, 1 << 20);
        let mut stream = client.tcp_connect("192.0.2.2:5001", Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(format!("down {}\n", 16 * block.len()).as_bytes())?;
        let mut piece = vec![0; block.len()];
        for number in 0..16 {
            if number == 4 {
                // Only on the router's side: the client keeps the segment size that it announced at
                // the beginning.
                inet.run("ip link set client0 mtu 1280")?;
            }
            stream.read_exact(&mut piece)?;
            ensure!(piece == block, "wrong bytes in block {number}");
        }
        ensure!(to_origin.packets()? > 0, "no ICMP error was sent to the origin");
        Ok(())
    })
}

#[test]
fn a_client_is_sent_the_tunnels_size() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append(
            "[[publish]]\nname = \"datagrams\"\nprotocol = [\"udp\"]\nlisten = \"6000\"\ntarget = \"192.168.88.2:6000\"",
        );
        site.start_gateway()?;
        let client = lab.node("client")?;
        let errors = Counter::arriving(
            &client,
            "errors",
            "ip saddr 192.0.2.2 icmp type destination-unreachable icmp code frag-needed",
        )?;
        // Linux's own datagrams have DF set, so the edge may not cut what the tunnel cannot take.
        let socket = client.udp_socket("0.0.0.0:0")?;
        until(Duration::from_secs(10), "the edge to say what fits", || {
            let _ = socket.send_to(&[7; 1_472], "192.0.2.2:6000");
            Ok((errors.packets()? > 0).then_some(()))
        })
    })
}

#[test]
fn auto_finds_what_the_path_carries_where_icmp_is_lost_and_bulk_crosses_uncut() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lose_icmp(lab, &["inet", "cgnat"])?;
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
        // What the search finds when a link of the path gets narrower later.
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

#[test]
fn auto_takes_the_longer_header_of_an_outer_ipv6_path_into_account() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (inet, cgnat, origin) = (lab.node("inet")?, lab.node("cgnat")?, lab.node("origin")?);
        inet.ip(
            "address add 2001:db8:198::1/64 dev cgnat0 nodad\nroute add 2001:db8:64::/64 via 2001:db8:198::7",
        )?;
        cgnat.ip(
            "address add 2001:db8:198::7/64 dev wan0 nodad\naddress add 2001:db8:64::1/64 dev lan0 nodad\n\
             route add default via 2001:db8:198::1",
        )?;
        origin.ip("address add 2001:db8:64::2/64 dev eth0 nodad\nroute add default via 2001:db8:64::1")?;
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        for config in [&mut site.gateway_config, &mut site.forwarder_config] {
            config.replace("mtu = 1420", "mtu = \"auto\"")?;
        }
        site.forwarder_config.replace("192.0.2.2:51820", "[2001:db8:192::2]:51820")?;
        site.start()?;
        let endpoint = site.peer_field("/endpoint")?;
        ensure!(endpoint.as_str().is_some_and(|at| at.starts_with("[2001:db8:64::2]")), "{endpoint}");
        settles_at(&site, 1_420)?;
        crosses_uncut(lab)?;
        set_mtu(lab, LINKS[0].1, 1_380)?;
        settles_at(&site, 1_300)?;
        crosses_uncut(lab)
    })
}

#[test]
fn two_peers_have_sizes_of_their_own_and_the_device_takes_the_least() -> Result<()> {
    scenario(Topology::standard().with_second_origin(), |lab| {
        let mut site = Site::new(lab)?;
        let far = KeyPair::of("gdansk");
        for config in [&mut site.gateway_config, &mut site.forwarder_config] {
            config.replace("mtu = 1420", "mtu = \"auto\"")?;
        }
        site.gateway_config.replace("10.77.88.1/30", "10.77.88.1/29")?.append(&format!(
            "[[peer]]\nname = \"gdansk\"\npublic_key = \"{}\"\nallowed_ips = [\"10.77.88.3/32\"]",
            far.public
        ));
        set_mtu(lab, [("inet", "gdansk0"), ("gdansk", "eth0")], 1_400)?;
        site.start()?;
        let gdansk = lab.node("gdansk")?;
        let _tunnel = WireGuardGo::dialling(&site, &gdansk, &far, &["10.77.88.3/29"], &[])?;
        until(Duration::from_secs(150), "each peer to have its own size", || {
            let peers = site.peers()?;
            let size = |place: usize| peers.pointer(&format!("/peers/{place}/path_mtu_bytes")).cloned();
            let device = site.edge.run("ip -o link show dev gw0")?.contains(" mtu 1340 ");
            let own = (size(0), size(1)) == (Some(1_440.into()), Some(1_340.into()));
            Ok((own && device).then_some(()))
        })
    })
}

/// Waits until both ends found this inner MTU, and the edge's device and rules have it.
fn settles_at(site: &Site<'_>, mtu: u16) -> Result<()> {
    until(Duration::from_secs(150), &format!("both ends to settle at {mtu}"), || {
        let origin = site.ask_forwarder(&["peers", "--json"])?.run()?;
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

/// The client behind a router of its own, and the link between that and the internet.
const GUEST: &str = "198.18.6.10";
const HOME: Link = ("the home's", [("inet", "home0"), ("home", "wan0")]);

/// A client whose own link is Ethernet, behind a router.
fn behind_a_home_router(lab: &Lab) -> Result<Node> {
    let (inet, home, guest) = (lab.node("inet")?, lab.add_node("home")?, lab.add_node("guest")?);
    lab.connect((&inet, "home0"), (&home, "wan0"))?;
    lab.connect((&home, "lan0"), (&guest, "eth0"))?;
    home.sysctl("net/ipv4/ip_forward", "1")?;
    home.ip("address add 198.18.5.2/24 dev wan0\naddress add 198.18.6.1/24 dev lan0\n\
         route add default via 198.18.5.1")?;
    inet.ip("address add 198.18.5.1/24 dev home0\nroute add 198.18.6.0/24 via 198.18.5.2")?;
    guest.ip("address add 198.18.6.10/24 dev eth0\nroute add default via 198.18.6.1")?;
    Ok(guest)
}

/// Makes a black hole of every link of these nodes that is too narrow.
fn lose_icmp(lab: &Lab, nodes: &[&str]) -> Result<()> {
    for name in nodes {
        lab.node(name)?.nft(
            "table inet blackhole {
               chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }
               chain through { type filter hook forward priority 0; icmp type destination-unreachable drop; }
             }",
        )?;
    }
    Ok(())
}

fn handshakes(lab: &Lab, client: &Node, address: &str, links: &[Link]) -> Result<()> {
    let mut site = Site::new(lab)?;
    let caddy = Caddy::start_post_quantum(&site.origin)?;
    site.start()?;
    let browser = ModernClient::start(client, "192.0.2.2", &caddy)?;
    // A TLS handshake record longer than any segment through the tunnel.
    let hellos = Counter::leaving(client, "hellos", "tcp dport 443 @ih,0,8 0x16 @ih,24,16 > 1380")?;
    let mtus: Vec<u16> =
        if full_counts() { (1_280..=1_500).step_by(20).collect() } else { vec![1_280, 1_400, 1_500] };
    let mut made = 0;
    for &(whose, ends) in links {
        for &mtu in &mtus {
            set_mtu(lab, ends, mtu)?;
            let seen = browser.fetch("/whoami");
            let seen = seen.map_err(|error| error.context(format!("with {whose} link at {mtu}")))?;
            ensure!(seen == address, "with {whose} link at {mtu} the server saw {seen}");
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
