//! An edge with one cable: its WAN and its LAN are the same interface, behind a router that
//! forwards two ports.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, LeakWatch, TcpServer, Topology, echo, scenario};
use scenarios::{Caddy, Site};

#[test]
fn a_page_comes_through_an_edge_with_one_interface_and_the_client_keeps_its_address() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = stated(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        let leaks = LeakWatch::start(&lab.node("router")?)?;
        site.start()?;
        ensure!(caddy.fetch(&lab.node("client")?, "192.0.2.2", "/whoami")? == "203.0.113.10");
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);
        Ok(())
    })
}

#[test]
fn neighbours_on_the_only_interface_are_the_lan_and_wan_clients_behind_the_router_are_not() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = stated(lab)?;
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
        let from_wan = client.tcp_connect("192.0.2.2:9091", Duration::from_secs(2));
        ensure!(from_wan.is_err(), "a WAN client reached a port that is not published");
        Ok(())
    })
}

#[test]
fn lan_hosts_reach_a_published_port_by_the_public_address_and_by_the_edges_own() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = stated(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        site.start()?;
        let lan = lab.node("lan")?;
        let leaks = LeakWatch::start(&lab.node("router")?)?;
        // The router sends the packet back into the LAN with its own address as the source.
        // Otherwise the reply would go straight to the client, which would not recognise it.
        let seen = caddy.fetch(&lan, "192.0.2.2", "/whoami")?;
        ensure!(seen == "192.168.1.1", "by hairpin the server saw {seen}");
        // When the LAN's name server gives the edge's own address, the client's address is kept.
        let seen = caddy.fetch(&lan, "192.168.1.2", "/whoami")?;
        ensure!(seen == "192.168.1.50", "the server saw {seen}");
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);
        Ok(())
    })
}

#[test]
fn one_cable_that_is_not_said_to_be_the_lans_too_is_the_wan_and_check_and_status_say_so() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        lab.expect_warning("interfaces = [\"eth0\"]");
        let mut site = Site::new(lab)?;
        let _own = TcpServer::start(site.edge.tcp_listener("192.168.1.2:9091")?, echo)?;
        site.gateway_config.write()?;
        let lan = lab.node("lan")?;
        let mut used = lan.tcp_connect("192.168.1.2:9091", Duration::from_secs(5))?;
        // The kernel must track this connection before the gateway starts, as on an edge that is
        // upgraded.
        site.edge.nft(
            "table inet before { chain input { type filter hook input priority 0; ct state new counter\n }\n }",
        )?;
        used.write_all(b"in use")?;
        let check = site.edge.command(lab::binary("gateway")?).arg("check").arg("--config");
        let said = check.arg(site.gateway_config.path()).output()?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.contains("interfaces = [\"eth0\"]"), "{said}");
        ensure!(said.contains("tcp/9091"), "the port that becomes closed is not named: {said}");

        site.start()?;
        ensure!(
            lan.tcp_connect("192.168.1.2:9091", Duration::from_secs(1)).is_err(),
            "the WAN is taken for the LAN"
        );
        let mut answer = [0; 12];
        used.set_read_timeout(Some(Duration::from_secs(5)))?;
        used.write_all(b" still")?;
        used.read_exact(&mut answer)?;
        ensure!(answer == *b"in use still", "a connection in use was cut");
        let status = site.gatewayctl(&["status"])?.output()?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(said.contains("interfaces = [\"eth0\"]"), "{said}");
        Ok(())
    })
}

#[test]
fn what_the_router_sends_is_from_the_wan_even_with_an_address_of_the_lan() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = stated(lab)?;
        let _own = TcpServer::start(site.edge.tcp_listener("192.168.1.2:9091")?, echo)?;
        site.start()?;
        let (lan, client, router) = (lab.node("lan")?, lab.node("client")?, lab.node("router")?);
        lan.tcp_connect("192.168.1.2:9091", Duration::from_secs(5))?;
        // A router that forwards everything, and replaces the client's address by its own.
        router.run("nft add rule ip router in iifname wan0 tcp dport 9091 dnat to 192.168.1.2")?;
        router.run("nft add rule ip router out ip daddr 192.168.1.2 tcp dport 9091 masquerade")?;
        ensure!(
            client.tcp_connect("192.0.2.2:9091", Duration::from_secs(2)).is_err(),
            "a WAN client was taken for the LAN"
        );
        ensure!(
            router.tcp_connect("192.168.1.2:9091", Duration::from_secs(2)).is_err(),
            "the router was taken for the LAN"
        );
        Ok(())
    })
}

/// The worked example with one cable, which says so.
fn stated(lab: &Lab) -> Result<Site<'_>> {
    let mut site = Site::new(lab)?;
    site.gateway_config.replace("[lan]\n", "[lan]\ninterfaces = [\"eth0\"]\n")?;
    Ok(site)
}
