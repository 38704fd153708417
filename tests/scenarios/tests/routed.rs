//! A far end that routes, set up by nothing but what `gatewayctl export wg-quick` wrote: two LANs
//! that talk without NAT.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Counter, Lab, Node, Topology, scenario, until};
use scenarios::{Router, Site, ask_tcp, ask_udp, growth, packet_counters, serve_seen_tcp, serve_seen_udp};

const CLIENT: &str = "203.0.113.10";

#[test]
fn replies_go_back_into_the_tunnel_and_nothing_takes_the_origins_own_default_route() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let (site, _far) = routed(lab)?;
        let (client, mac) = (lab.node("client")?, lab.node("mac")?);
        let _tcp = serve_seen_tcp(&mac, "192.168.88.2:5001")?;
        let _udp = serve_seen_udp(&mac, "192.168.88.2:6000")?;
        let way_out = WayOut::watch(lab)?;
        for _ in 0..20 {
            let (tcp, udp) = (ask_tcp(&client, "192.0.2.2:5001")?, ask_udp(&client, "192.0.2.2:6000")?);
            ensure!(tcp == format!("{CLIENT} 5001"), "the service saw {tcp}");
            ensure!(udp == format!("{CLIENT} 6000"), "the service saw {udp}");
        }
        ensure!(way_out.tunnel.packets()? >= 40, "the tunnel's own packets are not seen there");
        ensure!(way_out.bare.packets()? == 0, "{} bare packets left", way_out.bare.packets()?);
        drop(site);
        Ok(())
    })
}

#[test]
fn both_lans_reach_what_is_listed_with_their_own_addresses_and_nothing_else() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let (site, _far) = routed(lab)?;
        let (lan, mac) = (lab.node("lan")?, lab.node("mac")?);
        let _there = serve_seen_tcp(&mac, "192.168.88.2:8428")?;
        let _unlisted_there = serve_seen_tcp(&mac, "192.168.88.2:9999")?;
        let _here = serve_seen_tcp(&lan, "192.168.1.50:8080")?;
        let _unlisted_here = serve_seen_tcp(&lan, "192.168.1.50:8081")?;
        let _on_edge = serve_seen_tcp(&site.edge, "192.168.1.2:8080")?;
        let seen = ask_tcp(&lan, "192.168.88.2:8428")?;
        ensure!(seen == "192.168.1.50 8428", "the far LAN saw {seen}");
        let seen = ask_tcp(&mac, "192.168.1.50:8080")?;
        ensure!(seen == "192.168.88.2 8080", "the near LAN saw {seen}");
        let seen = ask_tcp(&mac, "192.168.1.2:8080")?;
        ensure!(seen == "192.168.88.2 8080", "the edge saw {seen}");
        // The edge itself speaks with its end of the tunnel.
        let seen = ask_tcp(&site.edge, "192.168.88.2:8428")?;
        ensure!(seen == "10.77.88.1 8428", "the far LAN saw the edge as {seen}");
        for (node, address) in [(&lan, "192.168.88.2:9999"), (&mac, "192.168.1.50:8081")] {
            let before = packet_counters(&site.edge)?;
            ensure!(node.tcp_connect(address, Duration::from_secs(1)).is_err(), "{address} is not listed");
            let grown = growth(&site.edge, &before)?;
            ensure!(grown.contains_key("drop_forward_not_listed"), "not counted: {grown:?}");
        }
        Ok(())
    })
}

#[test]
fn when_the_far_tunnel_dies_replies_leave_by_no_other_way() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let (_site, far) = routed(lab)?;
        let (client, mac, origin) = (lab.node("client")?, lab.node("mac")?, lab.node("origin")?);
        let way_out = WayOut::watch(lab)?;
        let service = mac.udp_socket("192.168.88.2:6000")?;
        let from = first_datagram(&client, &service)?;
        far.kill()?;
        let reply_often = || -> Result<()> {
            for _ in 0..200 {
                // "Unreachable" comes back as this call's error.
                let _ = service.send_to(b"a reply", from);
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        };
        reply_often()?;
        ensure!(way_out.bare.packets()? == 0, "{} bare packets left", way_out.bare.packets()?);
        // The proof that the counter would have seen them.
        origin.shell("nft delete table inet causeway_kyiv; ip rule delete priority 4357")?;
        reply_often()?;
        ensure!(way_out.bare.packets()? > 0, "the counter that proves tightness counts nothing");
        Ok(())
    })
}

#[test]
fn going_down_takes_away_what_going_up_made() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let origin = lab.node("origin")?;
        // A link-local address has its routes only once no other machine has claimed it.
        until(Duration::from_secs(10), "settled addresses", || {
            Ok(origin.run("ip -6 address show tentative")?.trim().is_empty().then_some(()))
        })?;
        let before = state(&origin)?;
        let (_site, far) = routed(lab)?;
        ensure!(state(&origin)? != before);
        far.down()?;
        let after = state(&origin)?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })
}

/// What leaves the origin by its own way to the internet, as the carrier's NAT receives it.
struct WayOut {
    tunnel: Counter,
    bare: Counter,
}

impl WayOut {
    fn watch(lab: &Lab) -> Result<Self> {
        let cgnat = lab.node("cgnat")?;
        let outer = "ip saddr 100.64.0.2 ip daddr 192.0.2.2 udp dport 51820";
        Ok(Self {
            tunnel: Counter::arriving(&cgnat, "tunnel", &format!("iifname lan0 {outer}"))?,
            bare: Counter::arriving(&cgnat, "bare", "iifname lan0 meta protocol ip udp dport != 51820")?,
        })
    }
}

fn routed(lab: &Lab) -> Result<(Site<'_>, Router)> {
    let mut site = Site::new(lab)?;
    site.gateway_config.append(
        "[[publish]]\nname = \"datagrams\"\nprotocol = [\"udp\"]\nlisten = \"6000\"\ntarget = \"192.168.88.2:6000\"\n\
         [[allow]]\nname = \"web\"\nfrom = [\"peer:wroclaw\"]\nto = [\"self\", \"192.168.1.50\"]\n\
         protocol = [\"tcp\"]\nports = [\"8080\"]",
    );
    site.start_gateway()?;
    let far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
    site.wait_until_up(Duration::from_secs(20))?;
    Ok((site, far))
}

/// Waits for a datagram of the client; answers where the service must reply to.
fn first_datagram(client: &Node, service: &UdpSocket) -> Result<std::net::SocketAddr> {
    let socket = client.udp_socket("0.0.0.0:0")?;
    service.set_read_timeout(Some(Duration::from_millis(500)))?;
    until(Duration::from_secs(10), "the client's datagram", || {
        socket.send_to(b"a question", "192.0.2.2:6000")?;
        Ok(Some(service.recv_from(&mut [0; 64])?.1))
    })
}

fn state(node: &Node) -> Result<String> {
    let questions = ["nft list tables", "ip -brief link", "ip rule", "ip -6 rule", "ip route show table all"];
    questions.iter().map(|question| node.run(question)).collect()
}
