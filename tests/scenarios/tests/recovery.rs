//! The tunnel comes back: rebinding, restarts, new addresses.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, full_counts, scenario, time_until, until};
use scenarios::Site;

const BULK: &str = "192.0.2.2:5001";

#[test]
fn a_busy_flow_goes_on_at_once_when_the_carriers_nat_rebinds() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start()?;
        let mut stream = connect(&lab.node("client")?)?;
        let rounds = if full_counts() { 50 } else { 5 };
        for round in 0..rounds {
            exchange(&mut stream)?;
            lab.rebind_cgnat(42_000 + round)?;
            let start = Instant::now();
            // The far end speaks first after the change: its packets open the new mapping.
            exchange_from(&site.origin, &mut stream)?;
            ensure!(start.elapsed() < Duration::from_secs(3), "round {round}: {:?}", start.elapsed());
            let endpoint = site.peer_field("/endpoint")?;
            ensure!(endpoint == format!("198.51.100.7:{}", 42_000 + round), "round {round}: {endpoint}");
        }
        Ok(())
    })
}

#[test]
fn an_idle_tunnel_is_reached_again_within_the_keepalive_when_the_carriers_nat_rebinds() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start()?;
        let client = lab.node("client")?;
        let rounds = if full_counts() { 50 } else { 2 };
        for round in 0..rounds {
            lab.rebind_cgnat(43_000 + round)?;
            let took = time_until(Duration::from_secs(26), "a new connection", || {
                Ok(client.tcp_connect(BULK, Duration::from_secs(1)).is_ok())
            })?;
            println!("round {round}: reached after {took:?}");
        }
        Ok(())
    })
}

#[test]
fn the_tunnel_is_back_within_five_seconds_of_a_restart_of_the_edge() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start()?;
        let client = lab.node("client")?;
        for kill in [false, true] {
            // The edge has run for a moment before it restarts: it has written down where its peer
            // is.
            let kept = site.edge.directory().join("state/endpoints.json");
            until(Duration::from_secs(5), "the endpoint to be kept", || {
                Ok(fs::read_to_string(&kept)?.contains("198.51.100.7").then_some(()))
            })?;
            if kill {
                site.gateway()?.kill()?;
            } else {
                site.gateway()?.stop(Duration::from_secs(10))?;
            }
            site.start_gateway()?;
            let took = time_until(Duration::from_secs(5), "a new connection", || {
                Ok(client.tcp_connect(BULK, Duration::from_secs(1)).is_ok())
            })?;
            println!("back after {took:?}");
        }
        Ok(())
    })
}

#[test]
fn a_killed_forwarder_is_back_as_soon_as_it_is_started_again() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start()?;
        let client = lab.node("client")?;
        site.forwarder()?.kill()?;
        site.start_forwarder()?;
        let took = time_until(Duration::from_secs(5), "a new connection", || {
            Ok(client.tcp_connect(BULK, Duration::from_secs(1)).is_ok())
        })?;
        println!("back after {took:?}");
        Ok(())
    })
}

#[test]
fn an_edge_whose_name_changes_address_is_found_within_twenty_seconds_of_the_answer() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.forwarder_config.replace("192.0.2.2:51820", "kyiv.example.com:51820")?;
        let hosts = |address: &str| format!("127.0.0.1 localhost\n{address} kyiv.example.com\n");
        let file = site.origin.shadow_file("/etc/hosts", &hosts("192.0.2.2"))?;
        site.start()?;
        let (edge, client) = (lab.node("edge")?, lab.node("client")?);
        edge.ip("address del 192.0.2.2/24 dev eth0\naddress add 192.0.2.3/24 dev eth0\n\
             route replace default via 192.0.2.1")?;
        // Long enough for the forwarder to notice that the old address is silent.
        std::thread::sleep(Duration::from_secs(if full_counts() { 60 } else { 10 }));
        fs::write(&file, hosts("192.0.2.3"))?;
        let took = time_until(Duration::from_secs(20), "a connection to the new address", || {
            Ok(client.tcp_connect("192.0.2.3:5001", Duration::from_secs(1)).is_ok())
        })?;
        println!("found after {took:?}");
        Ok(())
    })
}

#[test]
fn an_edge_whose_public_address_is_not_on_the_outgoing_interface_answers_from_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.edge.ip("address add 192.0.2.130/32 dev lo")?;
        lab.node("inet")?.ip("route add 192.0.2.130/32 via 192.0.2.2")?;
        site.forwarder_config.replace("192.0.2.2:51820", "192.0.2.130:51820")?;
        site.start()?;
        lab.node("client")?.tcp_connect("192.0.2.130:5001", Duration::from_secs(5)).map(drop)
    })
}

fn site_with_echo(lab: &Lab) -> Result<(Site<'_>, TcpServer)> {
    let site = Site::new(lab)?;
    // An echo that also sends by itself, once for each file `speak` that the test writes.
    let request = site.origin.directory().join("speak");
    let listener = site.origin.tcp_listener("127.0.0.1:5001")?;
    let server = TcpServer::start(listener, move |mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut buffer = [0; 4096];
        loop {
            if fs::remove_file(&request).is_ok() {
                stream.write_all(b"origin")?;
            }
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => stream.write_all(buffer.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    })?;
    Ok((site, server))
}

fn connect(client: &Node) -> Result<TcpStream> {
    let stream = client.tcp_connect(BULK, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"client")?;
    stream.read_exact(&mut [0; 6]).context("the echo did not come")
}

fn exchange_from(origin: &Node, stream: &mut TcpStream) -> Result<()> {
    fs::write(origin.directory().join("speak"), "")?;
    stream.read_exact(&mut [0; 6]).context("the origin's word did not come")?;
    exchange(stream)
}

#[test]
fn an_edge_tries_each_address_of_a_silent_peers_name() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge
            .shadow_file("/etc/hosts", "203.0.113.201 far.example.com\n203.0.113.202 far.example.com\n")?;
        site.gateway_config
            .replace("name = \"wroclaw\"", "name = \"wroclaw\"\nendpoint = \"far.example.com:51821\"")?;
        let inet = lab.node("inet")?;
        inet.nft(
            "table ip seen { chain forward { type filter hook forward priority 0;
               ip daddr 203.0.113.201 udp dport 51821 counter
               ip daddr 203.0.113.202 udp dport 51821 counter
             }
             }",
        )?;
        site.start_gateway()?;
        until(Duration::from_secs(40), "a handshake at each address", || {
            let counters = inet.run("nft list table ip seen")?;
            Ok((!counters.contains("packets 0 ")).then_some(()))
        })
    })
}
