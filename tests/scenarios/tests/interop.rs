//! wireguard-go, Debian's newest, in place of either end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, scenario, until};
use scenarios::{Site, WireGuardGo, download, serve_bulk, upload};

const MEGABYTES: u64 = 4 << 20;

/// WireGuard's REKEY_AFTER_TIME (paper, section 6.1) and a little more.
const PAST_A_REKEY: Duration = Duration::from_secs(126);

#[test]
fn the_gateways_peer_can_be_wireguard_go_for_both_families_with_a_preshared_key() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let (_site, _far, _servers) = gateway_and_plain_peer(lab)?;
        let (client, edge) = (lab.node("client")?, lab.node("edge")?);
        for (node, address) in
            [(&client, "192.0.2.2:5001"), (&client, "[2001:db8:192::2]:5001"), (&edge, V6_TARGET)]
        {
            download(node, address, MEGABYTES)?;
            upload(node, address, MEGABYTES)?;
        }
        Ok(())
    })
}

#[test]
fn a_flow_between_the_gateway_and_wireguard_go_outlives_a_rekey() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let (site, _far, _servers) = gateway_and_plain_peer(lab)?;
        trickle(&lab.node("client")?, "192.0.2.2:7000")?;
        let age = site.peer_field("/latest_handshake_age_seconds")?.as_f64().unwrap_or(f64::MAX);
        ensure!(age < PAST_A_REKEY.as_secs_f64() - 5.0, "no new handshake: the last is {age} s old");
        Ok(())
    })
}

#[test]
fn the_gateway_and_wireguard_go_find_each_other_again_after_either_restarts() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let (mut site, far, _servers) = gateway_and_plain_peer(lab)?;
        let client = lab.node("client")?;
        drop(far);
        lab.node("origin")?.output("ip rule del from 192.168.88.2")?;
        let far = plain_origin(lab, &site)?;
        reaches(&client, "192.0.2.2:5001", Duration::from_secs(15))?;
        site.gateway()?.stop(Duration::from_secs(10))?;
        site.start_gateway()?;
        reaches(&client, "192.0.2.2:5001", Duration::from_secs(15))?;
        drop(far);
        Ok(())
    })
}

#[test]
fn the_forwarders_edge_can_be_wireguard_go_for_both_families_with_a_preshared_key() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (_site, _edge, _servers) = plain_edge_and_forwarder(lab)?;
        let (client, edge) = (lab.node("client")?, lab.node("edge")?);
        for (node, address) in [(&client, "192.0.2.2:5001"), (&edge, V6_TARGET)] {
            download(node, address, MEGABYTES)?;
            upload(node, address, MEGABYTES)?;
        }
        Ok(())
    })
}

#[test]
fn a_flow_between_the_forwarder_and_wireguard_go_outlives_a_rekey() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (_site, _near, _servers) = plain_edge_and_forwarder(lab)?;
        let edge = lab.node("edge")?;
        let first = edge.run("wg show wg0 latest-handshakes")?;
        trickle(&lab.node("client")?, "192.0.2.2:7000")?;
        ensure!(edge.run("wg show wg0 latest-handshakes")? != first, "no new handshake");
        Ok(())
    })
}

#[test]
fn the_forwarder_and_wireguard_go_find_each_other_again_after_either_restarts() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, near, _servers) = plain_edge_and_forwarder(lab)?;
        let client = lab.node("client")?;
        site.forwarder()?.stop(Duration::from_secs(15))?;
        site.start_forwarder()?;
        reaches(&client, "192.0.2.2:5001", Duration::from_secs(15))?;
        drop(near);
        let _near = plain_edge(&site)?;
        // Three lost probes, and then the recovery ladder's first step.
        reaches(&client, "192.0.2.2:5001", Duration::from_secs(20))
    })
}

const V6_TARGET: &str = "[fd77:88::2]:5001";

fn gateway_and_plain_peer(lab: &Lab) -> Result<(Site<'_>, WireGuardGo, Vec<TcpServer>)> {
    let mut site = Site::new(lab)?;
    let config = &mut site.gateway_config;
    config.replace(r#"["10.77.88.1/30"]"#, r#"["10.77.88.1/30", "fd77:88::1/64"]"#)?;
    config.replace(r#""192.168.88.0/24"]"#, r#""192.168.88.0/24", "fd77:88::2/128"]"#)?;
    config.replace(
        r#"target = "192.168.88.2:5001""#,
        r#"target = ["192.168.88.2:5001", "[fd77:88::2]:5001"]"#,
    )?;
    config.append(
        "[[publish]]\nname = \"echo\"\nprotocol = [\"tcp\"]\nlisten = \"7000\"\ntarget = \"192.168.88.2:7000\"\n\
         [[allow]]\nname = \"six\"\nfrom = [\"self\"]\nto = [\"fd77:88::2\"]\nprotocol = [\"tcp\"]\nports = [\"5001\"]",
    );
    let far = plain_origin(lab, &site)?;
    site.start_gateway()?;
    let origin = &site.origin;
    let servers = vec![
        serve_bulk(origin, "192.168.88.2:5001")?,
        serve_bulk(origin, V6_TARGET)?,
        TcpServer::start(origin.tcp_listener("192.168.88.2:7000")?, lab::echo)?,
    ];
    reaches(&lab.node("client")?, "192.0.2.2:5001", Duration::from_secs(15))?;
    Ok((site, far, servers))
}

/// The far end as a plain WireGuard router: replies of its own address go back into the tunnel.
fn plain_origin(lab: &Lab, site: &Site<'_>) -> Result<WireGuardGo> {
    let routes = ["default table 100", "2001:db8:203::/64"];
    let far = WireGuardGo::origin(site, &["10.77.88.2/30", "fd77:88::2/64"], &routes)?;
    lab.node("origin")?.run("ip rule add from 192.168.88.2 lookup 100")?;
    Ok(far)
}

fn plain_edge_and_forwarder(lab: &Lab) -> Result<(Site<'_>, WireGuardGo, Vec<TcpServer>)> {
    let mut site = Site::new(lab)?;
    let config = &mut site.forwarder_config;
    config.replace(r#"["10.77.88.2/30"]"#, r#"["10.77.88.2/30", "fd77:88::2/64"]"#)?;
    config.append(
        "[[service]]\nname = \"six\"\nprotocol = [\"tcp\"]\nmatch = \"[fd77:88::2]:5001\"\nupstream = \"127.0.0.1:5001\"\n\
         [[service]]\nname = \"echo\"\nprotocol = [\"tcp\"]\nmatch = \"192.168.88.2:7000\"\nupstream = \"127.0.0.1:7000\"",
    );
    let edge = lab.node("edge")?;
    edge.nft(
        "table ip published { chain prerouting { type nat hook prerouting priority -100;
           iifname eth0 tcp dport { 5001, 7000 } dnat to 192.168.88.2;
         }
         }",
    )?;
    let near = plain_edge(&site)?;
    let servers = vec![
        serve_bulk(&site.origin, "127.0.0.1:5001")?,
        TcpServer::start(site.origin.tcp_listener("127.0.0.1:7000")?, lab::echo)?,
    ];
    site.start_forwarder()?;
    reaches(&lab.node("client")?, "192.0.2.2:5001", Duration::from_secs(15))?;
    Ok((site, near, servers))
}

fn plain_edge(site: &Site<'_>) -> Result<WireGuardGo> {
    WireGuardGo::edge(site, &["10.77.88.1/30", "fd77:88::1/64"], &["192.168.88.0/24"])
}

/// Waits until a byte crosses.
fn reaches(client: &Node, address: &str, limit: Duration) -> Result<()> {
    until(limit, &format!("{address} to be reached"), || {
        client.tcp_connect(address, Duration::from_secs(1))?;
        download(client, address, 1).map(|_| Some(()))
    })
}

/// Keeps one connection talking until a rekey is past; every word must come back in time.
fn trickle(client: &Node, address: &str) -> Result<()> {
    use std::io::{Read, Write};
    let mut stream = client.tcp_connect(address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let start = Instant::now();
    while start.elapsed() < PAST_A_REKEY {
        stream.write_all(b"word")?;
        stream.read_exact(&mut [0; 4])?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
