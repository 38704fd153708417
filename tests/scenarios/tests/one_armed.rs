//! An edge with one cable: its WAN and its LAN are the same interface, behind a router that forwards two ports.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{LeakWatch, TcpServer, Topology, echo, scenario};
use scenarios::{Caddy, Site};

#[test]
fn a_page_comes_through_an_edge_with_one_interface_and_the_client_keeps_its_address() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = Site::new(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        let leaks = LeakWatch::start(&lab.node("router")?)?;
        site.start()?;
        ensure!(caddy.fetch(&lab.node("client")?, "192.0.2.2", "/whoami")? == "203.0.113.10");
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);
        Ok(())
    })
}

#[test]
fn neighbours_on_the_only_interface_are_the_lan_and_strangers_behind_the_router_are_not() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = Site::new(lab)?;
        let _metrics = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8428")?, echo)?;
        let _own = TcpServer::start(site.edge.tcp_listener("192.168.1.2:9091")?, echo)?;
        site.start()?;
        let (lan, client) = (lab.node("lan")?, lab.node("client")?);
        lan.run("ip route add 192.168.88.0/24 via 192.168.1.2")?;
        lan.tcp_connect("192.168.88.2:8428", Duration::from_secs(5))?;
        lan.tcp_connect("192.168.1.2:9091", Duration::from_secs(5))?;
        // A router that forwards one port too many shows what the edge itself lets in.
        lab.node("router")?
            .run("nft add rule ip router in iifname wan0 tcp dport 9091 dnat to 192.168.1.2")?;
        let stranger = client.tcp_connect("192.0.2.2:9091", Duration::from_secs(2));
        ensure!(stranger.is_err(), "a stranger reached a port that is not published");
        Ok(())
    })
}

#[test]
fn lan_hosts_reach_a_published_port_by_the_public_address_and_by_the_edges_own() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = Site::new(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        site.start()?;
        let lan = lab.node("lan")?;
        let leaks = LeakWatch::start(&lab.node("router")?)?;
        // The router sends it back into the LAN, and must put its own address on it: else the reply would take a
        // shorter way and nobody would know it.
        let seen = caddy.fetch(&lan, "192.0.2.2", "/whoami")?;
        ensure!(seen == "192.168.1.1", "by hairpin the server saw {seen}");
        // A name server of the LAN that knows the edge's own address keeps the client's.
        let seen = caddy.fetch(&lan, "192.168.1.2", "/whoami")?;
        ensure!(seen == "192.168.1.50", "the server saw {seen}");
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);
        Ok(())
    })
}
