//! Limits per source, bandwidth, allow-lists and bans, counted packet by packet.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Signal, TcpServer, Topology, echo, scenario, until};
use scenarios::{Probe, Site, download, growth, packet_counters, serve_bulk, upload};

const BULK: &str = "192.0.2.2:5001";

#[test]
fn a_source_may_open_so_many_connections_and_another_source_is_not_counted_with_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        // Twenty at once, and one more every three minutes: no test lives that long.
        let site = limited(lab, "limits = { new_per_source = \"20/hour\" }")?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let (client, inet) = (lab.node("client")?, lab.node("inet")?);
        let one = Probe::new(&client, "eth0", Some((&inet, "client0")), "203.0.113.10")?;
        let before = packet_counters(&site.edge)?;
        for port in 41_000..41_030 {
            one.syn(port, "192.0.2.2", 5001)?;
        }
        let grown = until(Duration::from_secs(10), "thirty tries to be judged", || {
            let grown = growth(&site.edge, &before)?;
            Ok((grown.get("drop_prerouting_too_many_new") == Some(&10)).then_some(grown))
        });
        grown.with_context(|| format!("{:?}", growth(&site.edge, &before)))?;

        client.run("ip address add 203.0.113.11/24 dev eth0")?;
        let other = client.within(|| bound_connect("203.0.113.11:0", BULK))??;
        drop(other);
        let same = client.within(|| bound_connect("203.0.113.10:0", BULK))?;
        ensure!(same.is_err(), "the thirty-first connection of the first source was let in");
        Ok(())
    })
}

#[test]
fn a_source_may_hold_so_many_flows_and_one_that_ends_makes_room() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = limited(lab, "limits = { flows_per_source = 5 }")?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let client = lab.node("client")?;
        let mut held: Vec<TcpStream> = Vec::new();
        for _ in 0..5 {
            held.push(client.tcp_connect(BULK, Duration::from_secs(5))?);
        }
        let before = packet_counters(&site.edge)?;
        ensure!(client.tcp_connect(BULK, Duration::from_secs(1)).is_err(), "a sixth flow was let in");
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_prerouting_too_many_flows"), "not counted: {grown:?}");
        // Those that are open go on.
        for stream in &mut held {
            exchange(stream)?;
        }
        drop(held.pop());
        until(Duration::from_secs(20), "room for another flow", || {
            Ok(client.tcp_connect(BULK, Duration::from_secs(1)).ok())
        })?;
        Ok(())
    })
}

#[test]
fn a_bandwidth_is_kept_both_ways_and_every_byte_still_arrives() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = limited(lab, "limits = { bandwidth = \"4mbyte\" }")?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let client = lab.node("client")?;
        let bytes = 16 << 20;
        let before = packet_counters(&site.edge)?;
        for transfer in [download(&client, BULK, bytes)?, upload(&client, BULK, bytes)?] {
            // The kernel's bucket lets through the rate and the burst. A slow machine may carry
            // less.
            let most = 4e6 * (transfer.elapsed.as_secs_f64() + 1.1);
            ensure!(transfer.bytes as f64 <= most, "{transfer:?}: at most {most:.0} bytes were allowed");
        }
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_forward_over_bandwidth"), "nothing was held back: {grown:?}");
        Ok(())
    })
}

#[test]
fn a_ban_lives_through_an_apply_a_reload_and_restarts_and_ends_when_its_time_is_over() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = limited(lab, "")?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let client = lab.node("client")?;
        let mut open = client.tcp_connect(BULK, Duration::from_secs(5))?;
        exchange(&mut open)?;
        site.gatewayctl(&["ban", "203.0.113.10", "--for", "1h"])?.run()?;
        is_banned(&site, &client)?;
        ensure!(exchange(&mut open).is_err(), "an open flow of a banned source went on");

        site.gateway_config
            .append("[[publish]]\nname = \"another\"\nlisten = \"5002\"\ntarget = \"192.168.88.2:5001\"");
        site.gateway_config.write()?;
        let file = site.gateway_config.path().to_string_lossy().into_owned();
        site.gatewayctl(&["apply", &file])?.run()?;
        is_banned(&site, &client)?;
        site.gateway()?.signal(Signal::Hangup)?;
        is_banned(&site, &client)?;
        site.gateway()?.stop(Duration::from_secs(10))?;
        is_closed(&client)?;
        site.start_gateway()?;
        is_banned(&site, &client)?;
        site.gateway()?.kill()?;
        site.start_gateway()?;
        is_banned(&site, &client)?;
        site.gatewayctl(&["unban", "203.0.113.10"])?.run()?;
        site.wait_until_up(Duration::from_secs(20))?;
        client.tcp_connect(BULK, Duration::from_secs(5)).context("after the ban was lifted")?;

        let banned_at = Instant::now();
        site.gatewayctl(&["ban", "203.0.113.10", "--for", "4s"])?.run()?;
        site.gateway()?.signal(Signal::Hangup)?;
        until(Duration::from_secs(30), "the ban to end by itself", || {
            Ok(client.tcp_connect(BULK, Duration::from_secs(1)).ok())
        })?;
        ensure!(banned_at.elapsed() >= Duration::from_secs(3), "the ban ended early");
        let left = site.gatewayctl(&["bans"])?.run()?;
        ensure!(!left.contains("203.0.113.10"), "{left}");
        Ok(())
    })
}

#[test]
fn an_allow_list_lets_in_whom_it_names_and_changes_with_its_file() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let list = site.edge.directory().join("partners.list");
        std::fs::write(&list, "203.0.113.11/32\n")?;
        site.gateway_config.append("[[list]]\nname = \"partners\"\nfile = \"partners.list\"");
        let target = "listen = \"5001\"\ntarget = \"192.168.88.2:5001\"";
        site.gateway_config
            .replace(target, &format!("{target}\nallow = [\"@partners\", \"198.18.0.0/16\"]"))?;
        site.start()?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let client = lab.node("client")?;
        client.run("ip address add 203.0.113.11/24 dev eth0")?;
        let opens = |from: &str| -> Result<bool> { Ok(client.within(|| bound_connect(from, BULK))?.is_ok()) };
        ensure!(opens("203.0.113.11:0")?, "a partner was refused");
        let before = packet_counters(&site.edge)?;
        ensure!(!opens("203.0.113.10:0")?, "a source that is not listed was let in");
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_prerouting_source_not_allowed"), "not counted: {grown:?}");
        std::fs::write(&list, "203.0.113.10/32\n")?;
        site.gateway()?.signal(Signal::Hangup)?;
        until(Duration::from_secs(10), "the changed list", || Ok(opens("203.0.113.10:0")?.then_some(())))?;
        ensure!(!opens("203.0.113.11:0")?, "who is no partner any more was let in");
        Ok(())
    })
}

/// The worked example, running, with more keys for the service `bulk`.
fn limited<'lab>(lab: &'lab Lab, keys: &str) -> Result<Site<'lab>> {
    let mut site = Site::new(lab)?;
    let target = "target = \"192.168.88.2:5001\"";
    site.gateway_config.replace(target, &format!("{target}\n{keys}"))?;
    site.start()?;
    Ok(site)
}

fn bound_connect(from: &str, to: &str) -> Result<TcpStream> {
    let (from, to): (std::net::SocketAddr, std::net::SocketAddr) = (from.parse()?, to.parse()?);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(1))?;
    Ok(socket.into())
}

/// One word there and back.
fn exchange(stream: &mut TcpStream) -> Result<()> {
    use std::io::Write;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"word")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"word", "another word came back");
    Ok(())
}

fn is_closed(client: &Node) -> Result<()> {
    ensure!(client.tcp_connect(BULK, Duration::from_secs(1)).is_err(), "a banned source got through");
    Ok(())
}

/// Refused, counted as banned, and listed.
fn is_banned(site: &Site<'_>, client: &Node) -> Result<()> {
    let before = packet_counters(&site.edge)?;
    is_closed(client)?;
    let grown = growth(&site.edge, &before)?;
    ensure!(grown.contains_key("drop_prerouting_banned"), "not counted as banned: {grown:?}");
    let bans = site.gatewayctl(&["bans"])?.run()?;
    ensure!(bans.contains("203.0.113.10"), "not listed: {bans}");
    Ok(())
}
