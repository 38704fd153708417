//! Either end is restarted as an upgrade restarts it, while flows are carried.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Topology, full_counts, scenario, time_until, until};
use scenarios::{Crowd, EchoService, Site, raise_descriptors};
use serde_json::Value;

const BULK: &str = "192.0.2.2:5001";
/// As `configs/lib/earlier-version` writes it.
const NOTED: &str =
    r#"{"schema":1,"failed":"0.3.0","runs":"0.2.0","why":"ended by signal ABRT","at":1800000000}"#;
const FAILED: &str =
    "version 0.3.0 failed twice after its upgrade (ended by signal ABRT), and version 0.2.0 runs again";
/// How long a restart and everything after it may take.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn flows_and_totals_continue_over_restarts_of_the_edge() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (flows, rounds) = if full_counts() { (1_000, 20) } else { (100, 2) };
        raise_descriptors(2 * flows + 500)?;
        let mut site = Site::new(lab)?;
        site.forwarder_config.append("[limits]\nflows_per_client = 2048\npending_per_client = 1024");
        let _service = EchoService::apart(site.origin.tcp_listener("127.0.0.1:5001")?)?;
        site.start()?;
        let crowd = Crowd::connect(&lab.node("client")?, BULK, flows)?;
        let quiet = crowd.handle_round(LIMIT)?;
        println!("{flows} flows; the longest exchange without a restart: {quiet:?}");
        for round in 0..rounds {
            let before = totals(&site)?;
            let start = Instant::now();
            site.gateway()?.stop(LIMIT)?;
            site.start_gateway()?;
            let restarted = start.elapsed();
            let longest = crowd.handle_round(LIMIT).with_context(|| format!("restart {round}"))?;
            println!("restart {round}: {restarted:?}; the longest exchange: {longest:?}");
            let after = totals(&site)?;
            ensure!(
                after.iter().zip(&before).all(|(after, before)| after > before),
                "{before:?} -> {after:?}"
            );
        }
        Ok(())
    })
}

/// Meant for the origin: it would end the daemon, and twice it would bring the earlier version back.
#[test]
fn the_signal_that_upgrades_an_origin_leaves_the_edge_running_and_says_what_to_do() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("SIGUSR2 upgrades an origin in place");
        let mut site = Site::new(lab)?;
        site.start()?;
        let processes = site.gateway()?.status_field("NSpid")?;
        let main = processes.split_whitespace().last().context("no process number")?;
        site.edge.run(&format!("kill -s USR2 {main}"))?;
        site.gateway()?.wait_for_log("systemctl restart gateway", Duration::from_secs(5))?;
        ensure!(site.gateway()?.is_running() && site.state()? == "up");
        Ok(())
    })
}

#[test]
fn totals_begin_at_zero_after_a_crash() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _service = EchoService::start(site.origin.tcp_listener("127.0.0.1:5001")?)?;
        site.start()?;
        let crowd = Crowd::connect(&lab.node("client")?, BULK, 10)?;
        // Kept by an orderly end, given to the daemon that then crashes.
        crowd.handle_round(LIMIT)?;
        site.gateway()?.stop(LIMIT)?;
        site.start_gateway()?;
        crowd.handle_round(LIMIT)?;
        let [before, ..] = totals(&site)?;
        site.gateway()?.kill()?;
        site.start_gateway()?;
        let [after, ..] = totals(&site)?;
        ensure!(after < before, "{before} bytes before, {after} after: a reader would count them twice");
        crowd.handle_round(LIMIT).map(drop)
    })
}

#[test]
fn a_restart_of_the_origin_ends_flows_after_the_drain_and_its_totals_continue() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.forwarder_config.append("[limits]\ndrain = \"1s\"");
        let _service = EchoService::start(site.origin.tcp_listener("127.0.0.1:5001")?)?;
        site.start()?;
        let client = lab.node("client")?;
        let crowd = Crowd::connect(&client, BULK, 20)?;
        crowd.handle_round(LIMIT)?;
        let before = received(&site)?;
        let start = Instant::now();
        site.forwarder()?.stop(LIMIT)?;
        site.start_forwarder()?;
        let restarted = start.elapsed();
        let took =
            time_until(LIMIT, "a new flow", || Ok(client.tcp_connect(BULK, Duration::from_secs(1)).is_ok()))?;
        println!("the forwarder restarted in {restarted:?}, a new flow after {took:?} more");
        until(LIMIT, "the open flows to end", || Ok((crowd.open() == 0).then_some(())))?;
        let after = received(&site)?;
        ensure!(after > before, "{before} bytes before, {after} after");
        Ok(())
    })
}

#[test]
fn an_upgrade_that_failed_is_named_by_status_log_and_history_until_what_was_noted_is_gone() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("version 0.3.0 failed twice after its upgrade");
        let mut site = Site::new(lab)?;
        let notes = [&site.edge, &site.origin].map(|node| node.directory().join("state-root/went-back.json"));
        for note in &notes {
            fs::create_dir_all(note.parent().context("no folder")?)?;
            fs::write(note, NOTED)?;
        }
        site.start()?;
        let status = |site: &Site<'_>| -> Result<[String; 2]> {
            let [edge, origin] = [site.gatewayctl(&["status"])?, site.ask_forwarder(&["status"])?];
            let text = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
            Ok([text(edge.output()?), text(origin.output()?)])
        };
        for (text, unit) in status(&site)?.iter().zip(["gateway", "forwarder"]) {
            let line =
                format!("{FAILED}; read why (`journalctl -u {unit}`), and install a version that works");
            ensure!(text.contains(&line), "{text}");
        }
        site.gateway()?.wait_for_log(FAILED, LIMIT)?;
        site.forwarder()?.wait_for_log(FAILED, LIMIT)?;

        // As the next upgrade does, or a person.
        for note in &notes {
            fs::remove_file(note)?;
        }
        let left: Vec<_> = status(&site)?.into_iter().filter(|text| text.contains("0.3.0")).collect();
        ensure!(left.is_empty(), "{left:?}");
        // A note that others than its owner may write is not believed.
        for note in &notes {
            fs::write(note, NOTED)?;
            fs::set_permissions(note, fs::Permissions::from_mode(0o666))?;
        }
        let left: Vec<_> = status(&site)?.into_iter().filter(|text| text.contains("0.3.0")).collect();
        ensure!(left.is_empty(), "{left:?}");

        let history = site.edge.command(lab::binary("causeway")?).args(["history", "--since", "10m"]);
        let history = history.output()?;
        let history = String::from_utf8_lossy(&history.stdout);
        ensure!(history.contains("again, since version 0.3.0 failed"), "{history}");
        Ok(())
    })
}

/// Bytes that the origin received from the edge.
fn received(site: &Site<'_>) -> Result<u64> {
    let text = site.ask_forwarder(&["peers", "--json"])?.run()?;
    let peers: Value = serde_json::from_str(&text)?;
    peers["peers"][0]["rx_bytes"].as_u64().context("no bytes")
}

/// Bytes and packets received from the peer, and bytes of the service both ways.
fn totals(site: &Site<'_>) -> Result<[u64; 4]> {
    let number = |value: &Value| value.as_u64().with_context(|| format!("{value} is no number"));
    let peers = site.peers()?;
    let peer = &peers["peers"][0];
    let services: Value = serde_json::from_str(&site.gatewayctl(&["services", "--json"])?.run()?)?;
    let services = services["services"].as_array().cloned().unwrap_or_default();
    let service =
        services.into_iter().find(|service| service["name"] == "bulk").context("no such service")?;
    Ok([
        number(&peer["rx_bytes"])?,
        number(&peer["rx_packets"])?,
        number(&service["bytes_in"])?,
        number(&service["bytes_out"])?,
    ])
}
