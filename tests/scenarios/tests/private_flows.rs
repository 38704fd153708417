//! What `[[allow]]` and `[[reach]]` open, and what they leave closed.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Node, TcpServer, Topology, pattern, read_all, scenario};
use scenarios::{NfsServer, Site, read_nfs};

#[test]
fn nfs_on_the_edge_is_read_from_the_origin_and_closed_to_the_wan() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let server = NfsServer::start(&site.edge)?;
        let content = pattern(21, 5_000_000);
        fs::write(server.export().join("film"), &content)?;
        site.start()?;
        ensure!(read_nfs(&site.origin, "127.0.0.1", 2049, "film")? == content, "another film came");
        ensure!(is_closed(&lab.node("client")?, "192.0.2.2:2049"), "NFS is open to the internet");
        Ok(())
    })
}

#[test]
fn nfs_on_the_lan_is_read_from_the_origin_and_closed_to_the_wan() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let server = NfsServer::start(&lab.node("lan")?)?;
        let content = pattern(22, 5_000_000);
        fs::write(server.export().join("film"), &content)?;
        site.start()?;
        ensure!(read_nfs(&site.origin, "127.0.0.1", 2050, "film")? == content, "another film came");
        // A neighbour on the provider's network can route to the LAN by itself.
        lab.node("inet")?.run("ip route add 192.168.1.0/24 via 192.0.2.2")?;
        ensure!(
            is_closed(&lab.node("client")?, "192.168.1.50:2049"),
            "NFS of the LAN is open to the internet"
        );
        Ok(())
    })
}

#[test]
fn the_edge_a_container_on_it_and_the_lan_reach_a_listed_port_at_the_origin() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = Site::new(lab)?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8428")?, lab::sink)?;
        site.start()?;
        for name in ["edge", "container", "lan"] {
            let mut stream = lab.node(name)?.tcp_connect("192.168.88.2:8428", Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"hello")?;
            stream.shutdown(Shutdown::Write)?;
            let answer = read_all(&mut stream, 16)?;
            ensure!(answer == b"5\n", "{name} was answered {answer:?}");
        }
        Ok(())
    })
}

#[test]
fn what_is_not_listed_is_dropped_and_counted() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        for name in ["edge", "container", "lan"] {
            let before = drops(&site.edge)?;
            ensure!(is_closed(&lab.node(name)?, "192.168.88.2:9999"), "{name} reached an unlisted port");
            let after = drops(&site.edge)?;
            ensure!(after > before, "{name}: {before} drops before, {after} after");
        }
        let before = drops(&site.edge)?;
        ensure!(
            is_closed(&lab.node("client")?, "192.0.2.2:9091"),
            "an unpublished port answered the internet"
        );
        ensure!(drops(&site.edge)? > before, "the internet's attempt was not counted");
        Ok(())
    })
}

#[test]
fn a_port_that_docker_publishes_is_closed_to_the_wan() -> Result<()> {
    scenario(Topology::standard().with_container(), |lab| {
        let mut site = Site::new(lab)?;
        let container = lab.node("container")?;
        let _server = TcpServer::start(container.tcp_listener("172.17.0.2:9091")?, lab::sink)?;
        site.edge.nft(
            "table ip dockerlike { chain prerouting { type nat hook prerouting priority -100;
               fib daddr type local tcp dport 9091 dnat to 172.17.0.2;
             }
             }",
        )?;
        let client = lab.node("client")?;
        client.tcp_connect("192.0.2.2:9091", Duration::from_secs(2))?;
        site.start()?;
        ensure!(is_closed(&client, "192.0.2.2:9091"), "Docker's port is open to the internet");
        lab.node("lan")?.tcp_connect("192.168.1.2:9091", Duration::from_secs(2))?;
        Ok(())
    })
}

/// Whether a connection fails within two seconds.
fn is_closed(node: &Node, address: &str) -> bool {
    node.tcp_connect(address, Duration::from_secs(2)).is_err()
}

/// All packets the gateway says it dropped, for whatever reason.
fn drops(edge: &Node) -> Result<u64> {
    let metrics = edge.run("curl -sS --max-time 5 http://127.0.0.1:9586/metrics")?;
    let lines = metrics.lines().filter(|line| line.starts_with("gateway_dropped_packets_total{"));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}
