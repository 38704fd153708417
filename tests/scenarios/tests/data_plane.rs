//! The data plane when the kernel is older, when its calls fail, and when one of its threads is
//! stuck.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Halted, Lab, Process, Signal, TcpServer, Topology, echo, scenario, time_until, until};
use scenarios::{Site, download, serve_bulk, upload};
use serde_json::Value;

const BULK: &str = "192.0.2.2:5001";
/// How long a data thread may be stuck until the process has ended.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_kernel_without_what_is_optional_carries_traffic_both_ways_and_is_reported() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _reads = site.with_old_kernel()?;
        // A user other than root may not read what the process was given at its start.
        site.as_unit = lab::has_real_root();
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        download(&client, BULK, 8 << 20)?;
        upload(&client, BULK, 8 << 20)?;
        ensure!(metric(&site, "process_resident_memory_bytes")? > 1e6);
        let shown = site.gatewayctl(&["offload", "show"])?.run()?;
        for (name, needs) in [("tun_udp", "Linux 6.2"), ("udp_gso", "Linux 4.18"), ("udp_gro", "Linux 5.0")] {
            let lacks = format!("kernel: no, needs {needs}");
            ensure!(shown.lines().any(|line| line.starts_with(name) && line.ends_with(&lacks)), "{shown}");
            let logged = format!("{name} (needs {needs})");
            site.gateway()?.wait_for_log(&logged, LIMIT)?;
        }
        ensure!(
            shown.lines().any(|line| line.starts_with("tun_tcp") && line.ends_with("kernel: yes")),
            "{shown}"
        );
        Ok(())
    })
}

#[test]
fn reads_that_keep_failing_break_status_and_readiness_until_they_work_again() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("packets cannot be read from gw0");
        let mut site = Site::new(lab)?;
        let reads = site.with_old_kernel()?;
        let _echo = echo_behind(&site)?;
        site.start()?;
        ensure!(readiness(&site)?.starts_with("200"), "{}", readiness(&site)?);

        reads.begin()?;
        // A client's packets wait in the device from now on.
        let client = lab.node("client")?;
        let _ = client.tcp_connect(BULK, Duration::from_secs(2));
        let problem = "packets cannot be read from gw0 (Operation not supported";
        until(Duration::from_secs(15), "the problem in the status", || {
            Ok(status(&site)?.to_string().contains(problem).then_some(()))
        })?;
        ensure!(status(&site)?.get("health").and_then(Value::as_str) == Some("broken"));
        let readiness_then = readiness(&site)?;
        ensure!(readiness_then.starts_with("503") && readiness_then.contains(problem), "{readiness_then}");
        ensure!(metric(&site, "gateway_io_failing{call=\"tun_read\"}")? == 1.0);
        ensure!(metric(&site, "gateway_io_errors_total{call=\"tun_read\"}")? >= 16.0);
        site.gateway()?.wait_for_log(problem, LIMIT)?;

        reads.end()?;
        site.gateway()?.wait_for_log("the call works again", Duration::from_secs(15))?;
        until(Duration::from_secs(15), "the edge to be ready", || {
            Ok(readiness(&site)?.starts_with("200").then_some(()))
        })?;
        let log = site.gateway()?.log()?;
        ensure!(log.matches("WARN").count() == 1, "one warning, not one per packet:\n{log}");
        client.tcp_connect(BULK, Duration::from_secs(5)).map(drop)
    })
}

#[test]
fn an_edge_whose_device_lets_nothing_out_does_not_start_and_says_why() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = Site::new(lab)?;
        site.gateway_config.write()?;
        site.edge.shell(
            "nft 'add table inet foreign; add chain inet foreign out { type filter hook output priority 0; }
             add rule inet foreign out oifname gw0 drop'",
        )?;
        let command = site.edge.command(lab::binary("gateway")?).arg("--config");
        let output = command.arg(site.gateway_config.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(said.contains("self-test of the tunnel's device failed"), "{said}");
        ensure!(said.contains("none of the answers came out of it"), "{said}");
        ensure!(!said.contains("gateway started"), "{said}");
        let closed = site.edge.run("nft list table inet causeway")?;
        ensure!(closed.contains("drop"), "the rules do not stay:\n{closed}");
        Ok(())
    })
}

#[test]
fn an_edge_whose_reads_fail_from_the_start_does_not_start_and_names_the_error() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.with_old_kernel()?.begin()?;
        site.gateway_config.write()?;
        let [environment, _] = &site.environment;
        let command = site.edge.command(lab::binary("gateway")?).arg("--config");
        let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let output = command.arg(site.gateway_config.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(said.contains("nothing can be read from gw0: Operation not supported"), "{said}");
        Ok(())
    })
}

#[test]
fn an_edge_that_may_not_answer_pings_starts_all_the_same() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge.sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
        site.edge.shell(
            "nft 'add table inet foreign; add chain inet foreign in { type filter hook input priority -300; }
             add rule inet foreign in iifname gw0 drop'",
        )?;
        site.start_gateway()?;
        site.gateway()?.wait_for_log("gateway started", LIMIT)
    })
}

#[test]
fn a_stuck_data_thread_ends_the_gateway_within_ten_seconds_every_time() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("has made no progress");
        let mut site = Site::new(lab)?;
        let _echo = echo_behind(&site)?;
        site.start_forwarder()?;
        for thread in ["cw-tx", "cw-timers", "cw-tx"] {
            site.start_gateway()?;
            site.wait_until_up(Duration::from_secs(15))?;
            let gateway = site.gateway.as_mut().context("no gateway")?;
            println!("{thread}: ended after {:?}", ends_when_stuck(lab, gateway, thread)?);
            let kept = std::fs::read_to_string(site.edge.directory().join("state/endpoints.json"))?;
            ensure!(kept.contains("198.51.100.7"), "the endpoint was not kept: {kept}");
        }
        // Nothing is left behind that keeps the next one from carrying traffic.
        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(15))?;
        lab.node("client")?.tcp_connect(BULK, Duration::from_secs(5)).map(drop)
    })
}

#[test]
fn a_stuck_data_thread_ends_the_forwarder_within_ten_seconds_every_time() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("has made no progress");
        let mut site = Site::new(lab)?;
        let _echo = echo_behind(&site)?;
        site.start_gateway()?;
        for _ in 0..3 {
            site.start_forwarder()?;
            site.wait_until_up(Duration::from_secs(20))?;
            let forwarder = site.forwarder.as_mut().context("no forwarder")?;
            println!("ended after {:?}", ends_when_stuck(lab, forwarder, "fw-data")?);
        }
        Ok(())
    })
}

#[test]
fn daemons_that_stood_still_as_a_whole_go_on() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _echo = echo_behind(&site)?;
        site.start()?;
        for _ in 0..2 {
            site.gateway()?.signal(Signal::Stop)?;
            site.forwarder()?.signal(Signal::Stop)?;
            std::thread::sleep(Duration::from_secs(15));
            site.forwarder()?.signal(Signal::Continue)?;
            site.gateway()?.signal(Signal::Continue)?;
            std::thread::sleep(Duration::from_secs(5));
            ensure!(site.gateway()?.is_running() && site.forwarder()?.is_running());
        }
        let client = lab.node("client")?;
        time_until(Duration::from_secs(20), "a new connection", || {
            Ok(client.tcp_connect(BULK, Duration::from_secs(1)).is_ok())
        })
        .map(drop)
    })
}

/// Holds one thread still, with packets for it, until the process has ended by itself; how long
/// that took.
fn ends_when_stuck(lab: &Lab, process: &mut Process, thread: &str) -> Result<Duration> {
    let client = lab.node("client")?;
    let _halted = Halted::thread(process.pid(), thread)?;
    let begun = Instant::now();
    // Packets from both sides, so that whichever thread it is has something to do.
    let _ = client.tcp_connect(BULK, Duration::from_secs(1));
    let status = process.wait(LIMIT)?;
    let took = begun.elapsed();
    let log = process.log()?;
    ensure!(status.code() == Some(1), "{status}:\n{log}");
    let says_why = |line: &&str| line.contains("ERROR") && line.contains("has made no progress for");
    let line = log.lines().rfind(says_why).with_context(|| format!("no line says why:\n{log}"))?;
    ensure!(line.contains(thread), "{line}");
    Ok(took)
}

fn echo_behind(site: &Site<'_>) -> Result<TcpServer> {
    TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)
}

fn status(site: &Site<'_>) -> Result<Value> {
    let output = site.gatewayctl(&["status", "--json"])?.output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The status code and the text of `/readyz`.
fn readiness(site: &Site<'_>) -> Result<String> {
    let script = "curl -sS --max-time 10 -D - http://127.0.0.1:9586/readyz | sed '1s/^HTTP[^ ]* //'";
    site.edge.shell(script)
}

fn metric(site: &Site<'_>, name: &str) -> Result<f64> {
    let page = site.edge.run("curl -sS --max-time 10 http://127.0.0.1:9586/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
}
