//! Flows of peers that leave by the edge's address: what `to = ["wan"]` opens, and what it leaves
//! closed.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, Node, Topology, scenario};
use scenarios::{Router, Site, ask_tcp, growth, packet_counters, serve_seen_tcp};

/// A mail server on the internet.
const RELAY: &str = "203.0.113.10:25";
const MAIL: &str = "[[allow]]\nname = \"mail\"\nfrom = [\"peer:wroclaw\"]\nto = [\"wan\"]\nprotocol = [\"tcp\"]\nports = [\"25\"]";

#[test]
fn mail_of_the_origin_leaves_by_the_edges_address_through_a_reach_entry() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append(MAIL);
        site.forwarder_config.append(
            "[[reach]]\nname = \"relay\"\nprotocol = [\"tcp\"]\nlisten = \"127.0.0.1:2525\"\n\
             target = \"203.0.113.10:25\"\n\
             [[reach]]\nname = \"unlisted\"\nprotocol = [\"tcp\"]\nlisten = \"127.0.0.1:2526\"\n\
             target = \"203.0.113.10:26\"",
        );
        let client = lab.node("client")?;
        let _relay = serve_seen_tcp(&client, RELAY)?;
        let _other = serve_seen_tcp(&client, "203.0.113.10:26")?;
        site.start()?;
        let seen = ask_tcp(&site.origin, "127.0.0.1:2525")?;
        ensure!(seen == "192.0.2.2 25", "the mail server saw {seen}");
        ensure!(ask_tcp(&site.origin, "127.0.0.1:2526").is_err(), "a port that is not listed is open");
        let services = site.gatewayctl(&["services", "--json"])?.run()?;
        ensure!(services.contains("\"wan port 25\""), "services shows {services}");
        Ok(())
    })
}

#[test]
fn a_peer_that_routes_reaches_the_internet_by_listed_ports_and_nothing_private() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let (site, _far) = routed(lab, MAIL)?;
        let (client, mac, lan) = (lab.node("client")?, lab.node("mac")?, lab.node("lan")?);
        let _relay = serve_seen_tcp(&client, RELAY)?;
        let _other = serve_seen_tcp(&client, "203.0.113.10:26")?;
        let _of_lan = serve_seen_tcp(&lan, "192.168.1.50:25")?;
        let _of_edge = serve_seen_tcp(&site.edge, "0.0.0.0:25")?;
        let seen = ask_tcp(&mac, RELAY)?;
        ensure!(seen == "192.0.2.2 25", "the mail server saw {seen}");
        let closed = ["203.0.113.10:26", "192.168.1.50:25", "192.168.1.2:25", "10.77.88.1:25"];
        for address in closed {
            ensure!(is_closed(&mac, address), "{address} is open to the peer");
        }
        // Neither the internet nor a neighbour that routes by the edge may use it.
        ensure!(is_closed(&client, "192.0.2.2:25"), "the edge relays for the internet");
        let neighbour = lab.node("inet")?;
        neighbour.run("ip route add 198.51.100.99/32 via 192.0.2.2")?;
        ensure!(is_closed(&neighbour, "198.51.100.99:25"), "the edge relays for its neighbour");
        Ok(())
    })
}

#[test]
fn a_flow_to_the_internet_that_another_program_leads_elsewhere_is_dropped() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let (site, _far) = routed(lab, MAIL)?;
        let (mac, lan) = (lab.node("mac")?, lab.node("lan")?);
        let _of_lan = serve_seen_tcp(&lan, "192.168.1.50:25")?;
        let _of_edge = serve_seen_tcp(&site.edge, "192.168.1.2:25")?;
        for (target, stage) in [("192.168.1.50", "forward"), ("192.168.1.2", "input")] {
            site.edge.nft(&format!(
                "table ip stray {{ chain prerouting {{ type nat hook prerouting priority -100;
                   tcp dport 25 dnat to {target}
                 }}
                 }}"
            ))?;
            let before = packet_counters(&site.edge)?;
            ensure!(is_closed(&mac, RELAY), "{target} is open to the peer by another program's rule");
            let grown = growth(&site.edge, &before)?;
            ensure!(grown.contains_key(&format!("drop_{stage}_not_listed")), "not counted: {grown:?}");
            site.edge.run("nft delete table ip stray")?;
        }
        Ok(())
    })
}

#[test]
fn flows_to_the_internet_are_limited() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let (site, _far) = routed(lab, MAIL)?;
        let mac = lab.node("mac")?;
        let before = packet_counters(&site.edge)?;
        // Addresses that do not answer; the limit is 50 a second, and 100 at once.
        mac.shell(
            "for n in $(seq 1 250); do (timeout 1 bash -c \"</dev/tcp/203.0.113.$n/25\" 2>/dev/null &) ; done; wait; sleep 1",
        )?;
        let grown = growth(&site.edge, &before)?;
        let dropped = grown.get("drop_prerouting_too_many_new").copied().unwrap_or(0);
        ensure!(dropped >= 20, "only {dropped} of 250 connections at once were dropped: {grown:?}");
        Ok(())
    })
}

/// An edge with `lines` and a far end that routes, which sends the mail server's network into the
/// tunnel.
fn routed<'lab>(lab: &'lab Lab, lines: &str) -> Result<(Site<'lab>, Router)> {
    let mut site = Site::new(lab)?;
    site.gateway_config.append(lines);
    site.start_gateway()?;
    let far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
    site.wait_until_up(Duration::from_secs(20))?;
    site.origin.run("ip route replace 203.0.113.0/24 dev kyiv")?;
    Ok((site, far))
}

/// Whether a connection comes to nothing within two seconds.
fn is_closed(node: &Node, address: &str) -> bool {
    node.tcp_connect(address, Duration::from_secs(2)).is_err()
}
