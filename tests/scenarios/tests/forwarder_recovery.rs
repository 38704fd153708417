//! The forwarder when things change under it: its network, its configuration, the order in which the ends start.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Signal, TcpServer, Topology, echo, scenario, time_until, until};
use scenarios::Site;

const BULK: &str = "192.0.2.2:5001";

#[test]
fn a_change_of_the_default_route_makes_the_forwarder_try_its_edge_at_once() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start()?;
        let mut flow = connect(lab)?;
        exchange(&mut flow)?;
        // Another cable: the old address is gone with its route, and the carrier's NAT knows nothing of the new one.
        site.origin.ip("address del 100.64.0.2/24 dev eth0\naddress add 100.64.0.9/24 dev eth0\n\
             route add default via 100.64.0.1")?;
        site.forwarder()?.wait_for_log("the network changed", Duration::from_secs(10))?;
        let took =
            time_until(Duration::from_secs(15), "the flow to go on", || Ok(exchange(&mut flow).is_ok()))?;
        println!("went on {took:?} after the change was noticed");
        Ok(())
    })
}

#[test]
fn an_interface_that_has_nothing_to_do_with_the_way_to_the_edge_changes_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start()?;
        let mut flow = connect(lab)?;
        site.origin.ip(
            "link add docker0 type bridge\nlink set docker0 up\naddress add 172.17.0.1/16 dev docker0\n\
             route add 10.9.0.0/16 via 172.17.0.9\nroute del 10.9.0.0/16",
        )?;
        std::thread::sleep(Duration::from_secs(1));
        exchange(&mut flow)?;
        ensure!(!site.forwarder()?.log()?.contains("the network changed"));
        Ok(())
    })
}

#[test]
fn a_forwarder_that_starts_before_its_edge_is_up_soon_after_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start_forwarder()?;
        site.forwarder()?.wait_for_log("forwarder started", Duration::from_secs(10))?;
        site.start_gateway()?;
        let took = site.wait_until_up(Duration::from_secs(15))?;
        println!("up {took:?} after the edge answers");
        Ok(())
    })
}

#[test]
fn a_program_that_waits_starts_once_its_service_is_there() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.start()?;
        let wait = |name: &str, limit: &str| -> Result<i32> {
            let output = site.ask_forwarder(&["wait", name, "--timeout", limit])?.output()?;
            output.status.code().context("no exit code")
        };
        ensure!(wait("kyiv", "20s")? == 0, "the peer is up");
        ensure!(wait("nfs", "1s")? == 1, "nothing serves NFS yet");
        let _nfs = TcpServer::start(site.edge.tcp_listener("192.168.1.2:2049")?, echo)?;
        ensure!(wait("nfs", "20s")? == 0, "the server is there");
        ensure!(wait("nsf", "20s")? == 2, "there is no such entry");
        Ok(())
    })
}

#[test]
fn a_held_connection_goes_through_once_the_tunnel_is_up_and_a_refused_one_is_reset_at_once() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.forwarder_config
            .replace("target = \"192.168.1.2:2049\"", "target = \"192.168.1.2:2049\"\non_down = \"hold\"")?;
        let _nfs = TcpServer::start(site.edge.tcp_listener("192.168.1.2:2049")?, echo)?;
        site.start_forwarder()?;
        site.forwarder()?.wait_for_log("forwarder started", Duration::from_secs(10))?;
        let mut held = site.origin.tcp_connect("127.0.0.1:2049", Duration::from_secs(5))?;
        let refused = reset_while_connecting_or_reading(&site.origin, "127.0.0.1:2050");
        ensure!(refused == Some(std::io::ErrorKind::ConnectionReset), "not reset: {refused:?}");
        site.start_gateway()?;
        held.set_read_timeout(Some(Duration::from_secs(20)))?;
        exchange(&mut held)
    })
}

#[test]
fn a_reload_leaves_unchanged_flows_alone_and_drains_an_upstream_that_was_taken_out() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.gateway_config.append(
            "[[publish]]\nname = \"web\"\nprotocol = [\"tcp\"]\nlisten = \"8080\"\ntarget = \"192.168.88.2:8080\"",
        );
        site.forwarder_config.append(
            "[[service]]\nname = \"web\"\nmatch = \"192.168.88.2:8080\"\nupstream = [\"127.0.0.1:8001\", \"127.0.0.1:8002\"]\n\
             health = { check = \"tcp\", every = \"500ms\" }\n[limits]\ndrain = \"3s\"",
        );
        let one = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8001")?, echo)?;
        let other = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8002")?, echo)?;
        site.start()?;
        let mut unchanged = connect(lab)?;
        exchange(&mut unchanged)?;
        let client = lab.node("client")?;
        let mut spread = Vec::new();
        for _ in 0..4 {
            let mut stream = client.tcp_connect("192.0.2.2:8080", Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            exchange(&mut stream)?;
            spread.push(stream);
        }
        ensure!(one.accepted() > 0 && other.accepted() > 0, "both serve");
        site.forwarder_config.replace("\"127.0.0.1:8001\", ", "")?.write()?;
        site.forwarder()?.signal(Signal::Hangup)?;
        site.forwarder()?.wait_for_log("configuration applied", Duration::from_secs(10))?;
        // For a while everything goes on: flows of the upstream that was taken out may finish.
        exchange(&mut unchanged)?;
        for stream in &mut spread {
            exchange(stream)?;
        }
        site.forwarder()?.wait_for_log("has drained", Duration::from_secs(20))?;
        let ended = until(Duration::from_secs(10), "the drained flows to end", || {
            let ended = spread.iter_mut().filter_map(|stream| exchange(stream).err()).count();
            Ok((ended == 2).then_some(ended))
        })?;
        ensure!(ended == 2, "{ended} of 4 flows ended, two belonged to the upstream that was taken out");
        exchange(&mut unchanged)
    })
}

#[test]
fn an_upstream_that_fails_its_checks_gets_no_new_flow_until_it_is_back() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _echo) = site_with_echo(lab)?;
        site.forwarder_config.replace(
            "upstream = \"127.0.0.1:5001\"",
            "upstream = [\"127.0.0.1:5001\", \"127.0.0.1:5002\"]\nhealth = { check = \"tcp\", every = \"200ms\" }",
        )?;
        site.start()?;
        site.forwarder()?.wait_for_log("is_up=false", Duration::from_secs(15))?;
        for _ in 0..3 {
            exchange(&mut connect(lab)?)?;
        }
        let second = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5002")?, echo)?;
        site.forwarder()?.wait_for_log("is_up=true", Duration::from_secs(15))?;
        let checked = second.accepted();
        let mut flows = Vec::new();
        for _ in 0..4 {
            let mut flow = connect(lab)?;
            exchange(&mut flow)?;
            flows.push(flow);
        }
        ensure!(second.accepted() > checked, "it serves again");
        Ok(())
    })
}

fn site_with_echo(lab: &Lab) -> Result<(Site<'_>, TcpServer)> {
    let site = Site::new(lab)?;
    let server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
    Ok((site, server))
}

fn connect(lab: &Lab) -> Result<TcpStream> {
    let stream = lab.node("client")?.tcp_connect(BULK, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"client")?;
    stream.read_exact(&mut [0; 6]).context("the echo did not come")
}

/// How a refused connection ends: the reset may arrive while it connects, or at its first read.
fn reset_while_connecting_or_reading(node: &lab::Node, address: &str) -> Option<std::io::ErrorKind> {
    let limit = Duration::from_secs(5);
    match node.tcp_connect(address, limit) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(limit)).ok()?;
            stream.read(&mut [0]).err().map(|error| error.kind())
        }
        Err(error) => error.downcast_ref().map(std::io::Error::kind),
    }
}
