//! The kernel's table of flows: who may fill it, how flows begin, and what is reported when it is
//! nearly full.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, TcpServer, Topology, echo, scenario, until};
use scenarios::{Probe, Router, Site, growth, packet_counters};

const BULK: &str = "192.0.2.2:5001";
/// How many flows a peer may have open out of the tunnel.
const MOST: u64 = 2_048;
const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";

#[test]
fn a_compromised_origin_reaches_its_limit_of_flows_and_a_wan_client_is_let_in_at_once() -> Result<()> {
    scenario(Topology::standard().routed_lan(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let _far = Router::up(&site, &site.origin, "wroclaw", &site.wroclaw)?;
        site.wait_until_up(Duration::from_secs(20))?;
        let _nfs = TcpServer::start(site.edge.tcp_listener("0.0.0.0:2049")?, echo)?;
        let _ssh = TcpServer::start(site.edge.tcp_listener("0.0.0.0:22")?, echo)?;
        let taken = Probe::new(&site.origin, "kyiv", None, "192.168.88.77")?;
        let before = packet_counters(&site.edge)?;
        // At first as fast as it can, then at the allowed rate, until it has requested twice the
        // limit.
        for (number, port) in (10_000..16_000_u16).enumerate() {
            taken.syn(port, "192.168.1.2", 2049)?;
            if number > 2_000 && number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(120));
            }
        }
        let held: u64 = site.edge.read_sysctl("net/netfilter/nf_conntrack_count")?.trim().parse()?;
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_prerouting_too_many_new"), "no rate was kept: {grown:?}");
        ensure!(grown.contains_key("drop_prerouting_too_many_flows"), "no limit was reached: {grown:?}");
        let opened = grown.get("allow_in_nfs").copied().unwrap_or(0);
        ensure!((MOST - 50..=MOST + 50).contains(&opened), "{opened} flows were let in: {grown:?}");
        ensure!(held < MOST + 300, "conntrack holds {held} flows");
        let (client, started) = (lab.node("client")?, Instant::now());
        client.tcp_connect("192.0.2.2:22", Duration::from_secs(1)).context("a WAN client")?;
        ensure!(started.elapsed() < Duration::from_millis(500), "only after {:?}", started.elapsed());
        Ok(())
    })
}

#[test]
fn stray_segments_to_a_published_port_leave_no_flow_and_do_not_cross_the_tunnel() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (site, _server) = running(lab)?;
        let (client, inet) = (lab.node("client")?, lab.node("inet")?);
        let probe = Probe::new(&client, "eth0", Some((&inet, "client0")), "203.0.113.10")?;
        let before = packet_counters(&site.edge)?;
        for port in 41_000..41_200 {
            probe.ack(port, "192.0.2.2", 5001)?;
        }
        let counted = until(Duration::from_secs(10), "every segment to be counted", || {
            let grown = growth(&site.edge, &before)?;
            Ok((grown.get("drop_prerouting_not_syn") == Some(&200)).then_some(grown))
        });
        let grown = counted.with_context(|| format!("{:?}", growth(&site.edge, &before)))?;
        ensure!(!grown.contains_key("publish_in_bulk"), "some crossed the tunnel: {grown:?}");
        let flows = site.edge.run("conntrack -L -p tcp --orig-port-dst 5001")?;
        ensure!(flows.trim().is_empty(), "flows are left:\n{flows}");
        ensure!(probe.tcp_answers("192.0.2.2")?.is_empty(), "a stray segment was answered");
        exchange(&mut client.tcp_connect(BULK, Duration::from_secs(5))?)
    })
}

#[test]
fn flows_go_on_after_the_edge_was_taken_down_and_started_again() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _server) = running(lab)?;
        let mut stream = lab.node("client")?.tcp_connect(BULK, Duration::from_secs(5))?;
        exchange(&mut stream)?;
        for down in [false, true] {
            site.gateway()?.stop(Duration::from_secs(10))?;
            if down {
                let command = site.edge.command(lab::binary("gateway")?).args(["down", "--config"]);
                command.arg(site.gateway_config.path()).run()?;
            }
            site.start_gateway()?;
            site.wait_until_up(Duration::from_secs(20))?;
            exchange(&mut stream).with_context(|| format!("down: {down}"))?;
        }
        Ok(())
    })
}

#[test]
fn when_conntrack_was_emptied_old_flows_end_and_new_ones_are_let_in_at_once() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (site, _server) = running(lab)?;
        let client = lab.node("client")?;
        let mut stream = client.tcp_connect(BULK, Duration::from_secs(5))?;
        exchange(&mut stream)?;
        let before = packet_counters(&site.edge)?;
        site.edge.output("conntrack -F")?;
        ensure!(exchange(&mut stream).is_err(), "a flow went on in the middle");
        let grown = growth(&site.edge, &before)?;
        ensure!(grown.contains_key("drop_prerouting_not_syn"), "not counted: {grown:?}");
        let mut new = client.tcp_connect(BULK, Duration::from_secs(1))?;
        exchange(&mut new)
    })
}

#[test]
fn a_table_of_flows_that_is_nearly_full_is_a_problem_until_there_is_room() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("conntrack is nearly full");
        let (site, _server) = running(lab)?;
        let most: u64 = site.edge.read_sysctl("net/netfilter/nf_conntrack_max")?.trim().parse()?;
        let mark = mark_of_bulk(lab, &site)?;
        let mut flows = String::new();
        for number in 0..most * 81 / 100 {
            let (high, low) = (number / 60_000, 1_000 + number % 60_000);
            writeln!(
                flows,
                "-I -p tcp -s 198.18.0.{high} -d 192.0.2.2 --sport {low} --dport 9 --state SYN_SENT -t 600 -m {mark}"
            )?;
        }
        ensure!(!problem(&site)?, "it is a problem before it is full");
        let file = site.edge.directory().join("flows");
        std::fs::write(&file, flows)?;
        let load = site.edge.command("conntrack").arg("-R").arg(&file).limit(Duration::from_secs(120));
        load.run().context("filling conntrack")?;
        until(Duration::from_secs(10), "the problem to be said", || Ok(problem(&site)?.then_some(())))?;
        site.edge.output(&format!("conntrack -D --mark {mark}"))?;
        until(Duration::from_secs(10), "the problem to be over", || Ok((!problem(&site)?).then_some(())))
    })
}

#[test]
fn silent_connections_are_forgotten_after_two_hours_unless_a_shorter_time_was_set() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        for (before, meanwhile) in [("432000", "7440"), ("3600", "3600")] {
            site.edge.sysctl(ESTABLISHED, before)?;
            site.start_gateway()?;
            let found = site.edge.read_sysctl(ESTABLISHED)?;
            ensure!(found.trim() == meanwhile, "{before} became {found}");
            site.gateway()?.stop(Duration::from_secs(10))?;
            let command = site.edge.command(lab::binary("gateway")?).args(["down", "--config"]);
            command.arg(site.gateway_config.path()).run()?;
            let found = site.edge.read_sysctl(ESTABLISHED)?;
            ensure!(found.trim() == before, "{before} was set back to {found}");
        }
        Ok(())
    })
}

/// The worked example, running, with an echo behind the service `bulk`.
fn running(lab: &Lab) -> Result<(Site<'_>, TcpServer)> {
    let mut site = Site::new(lab)?;
    let server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
    site.start()?;
    Ok((site, server))
}

/// Whether `gatewayctl status` names the service that holds most of conntrack.
fn problem(site: &Site<'_>) -> Result<bool> {
    let status = site.gatewayctl(&["status"])?.output()?;
    let text = String::from_utf8_lossy(&status.stdout);
    let line = text.lines().find(|line| line.contains("conntrack holds"));
    ensure!(line.is_none_or(|line| line.contains("are of bulk:")), "another is named: {text}");
    Ok(line.is_some())
}

/// The conntrack mark of the service `bulk`, from a flow of it.
fn mark_of_bulk(lab: &Lab, site: &Site<'_>) -> Result<u64> {
    let mut stream = lab.node("client")?.tcp_connect(BULK, Duration::from_secs(5))?;
    exchange(&mut stream)?;
    let flows = site.edge.run("conntrack -L -p tcp --orig-port-dst 5001")?;
    let mark = flows.split_whitespace().find_map(|word| word.strip_prefix("mark="));
    Ok(mark.context("a flow without a mark")?.parse()?)
}

/// One word there and back.
fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"word")?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply)?;
    ensure!(&reply == b"word", "another word came back");
    Ok(())
}
