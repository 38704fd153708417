//! What a reload takes of the files that it reads again, and what it reports.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Signal, Topology, scenario, until};
use scenarios::{KeyPair, Site};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn another_private_key_of_the_edge_is_planned_named_and_taken() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("peers must be given the new public key");
        lab.expect_warning("made for another key than this edge's");
        let mut site = Site::new(lab)?;
        site.start()?;
        let (old, new) = (site.kyiv.public.clone(), KeyPair::of("new kyiv"));
        new.write(&site.edge.directory().join("kyiv.key"))?;
        let line = format!("private key: {old} → {}; peers must be given the new public key", new.public);

        let planned = site.gatewayctl(&["plan"])?.arg(site.gateway_config.path()).run()?;
        ensure!(planned.contains(&line), "{planned}");
        let reloaded = site.gatewayctl(&["reload"])?.run()?;
        ensure!(reloaded.contains(&line), "{reloaded}");
        site.gateway()?.wait_for_log(&line, SOON)?;

        site.forwarder_config.replace(&old, &new.public)?.write()?;
        site.forwarder()?.signal(Signal::Hangup)?;
        site.forwarder()?.wait_for_log("~ kyiv public_key", SOON)?;
        until(Duration::from_secs(30), "the tunnel with the new key", || {
            Ok((site.state()? == "up").then_some(()))
        })
    })
}

#[test]
fn another_private_key_of_the_origin_is_named_and_taken() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("must be given the new public key");
        let mut site = Site::new(lab)?;
        site.start()?;
        let (old, new) = (site.wroclaw.public.clone(), KeyPair::of("new wroclaw"));
        new.write(&site.origin.directory().join("wroclaw.key"))?;
        if site.is_unprivileged() {
            std::os::unix::fs::chown(
                site.origin.directory().join("wroclaw.key"),
                Some(65_534),
                Some(65_534),
            )?;
        }
        // The edge first, so that the new key is known when it comes.
        site.gateway_config.replace(&old, &new.public)?.write()?;
        site.gatewayctl(&["reload"])?.run()?;
        site.forwarder()?.signal(Signal::Hangup)?;
        let line = format!("private key: {old} → {}; peer kyiv must be given the new public key", new.public);
        site.forwarder()?.wait_for_log(&line, SOON)?;
        site.wait_until_up(Duration::from_secs(20)).map(drop)
    })
}

#[test]
fn the_log_section_is_taken_by_a_reload_at_both_ends() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        let debug = "\n[log]\nlevel = \"debug\"\nformat = \"json\"\n";
        site.gateway_config.append(debug).write()?;
        let reloaded = site.gatewayctl(&["reload"])?.run()?;
        ensure!(
            reloaded.contains("level info → debug") && reloaded.contains("format text → json"),
            "{reloaded}"
        );
        site.forwarder_config.append(debug).write()?;
        site.forwarder()?.signal(Signal::Hangup)?;
        site.forwarder()?.wait_for_log("level info → debug", SOON)?;
        // After a restart of the other end a new session is agreed, which is logged at debug.
        for _ in 0..2 {
            site.forwarder()?.wait_for_log("\"level\":\"INFO\"", SOON)?;
        }
        drop(site.forwarder.take());
        site.start_forwarder()?;
        site.gateway()?.wait_for_log("\"level\":\"DEBUG\"", SOON)?;
        site.forwarder()?.wait_for_log("\"level\":\"DEBUG\"", SOON)
    })
}

#[test]
fn a_reload_that_cannot_be_taken_stays_in_the_status_until_one_is() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("not applied, the configuration before stays in force");
        let mut site = Site::new(lab)?;
        site.start()?;
        let origin = |site: &Site<'_>| -> Result<String> {
            let output = site.ask_forwarder(&["status"])?.output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let edge = |site: &Site<'_>| -> Result<String> {
            Ok(String::from_utf8_lossy(&site.gatewayctl(&["status"])?.output()?.stdout).into_owned())
        };
        let (good_edge, good_origin) = (site.gateway_config.clone(), site.forwarder_config.clone());
        site.gateway_config.replace("name = \"gw0\"", "name = \"gw1\"")?.write()?;
        site.forwarder_config.replace("mtu = 1420", "mtu = 1400")?.write()?;
        site.gateway()?.signal(Signal::Hangup)?;
        site.forwarder()?.signal(Signal::Hangup)?;
        until(SOON, "both to say so", || {
            let (edge, origin) = (edge(&site)?, origin(&site)?);
            ensure!(edge.contains("problem: ") && edge.contains("[interface] name cannot change"), "{edge}");
            ensure!(
                origin.contains("problem: ") && origin.contains("[interface] mtu cannot change"),
                "{origin}"
            );
            Ok(Some(()))
        })?;

        good_edge.write()?;
        good_origin.write()?;
        site.gateway()?.signal(Signal::Hangup)?;
        site.forwarder()?.signal(Signal::Hangup)?;
        until(SOON, "both to be well", || {
            let (edge, origin) = (edge(&site)?, origin(&site)?);
            ensure!(!edge.contains("problem: ") && !origin.contains("problem: "), "{edge}\n{origin}");
            Ok(Some(()))
        })
    })
}

#[test]
fn another_address_of_the_edge_answers_probes_after_a_reload() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.forwarder_config
            .replace("keepalive = \"25s\"", "keepalive = \"25s\"\nprobe = \"10.77.88.5\"")?;
        site.forwarder_config.replace("10.77.88.2/30", "10.77.88.2/29")?;
        site.start_gateway()?;
        site.start_forwarder()?;
        site.gateway_config.replace("[\"10.77.88.1/30\"]", "[\"10.77.88.5/29\"]")?.write()?;
        site.gateway_config.replace("10.77.88.1:9586", "10.77.88.5:9586")?.write()?;
        site.gatewayctl(&["reload"])?.run()?;
        until(Duration::from_secs(30), "an answer to a probe", || {
            let peers = site.ask_forwarder(&["peers"])?.run()?;
            Ok(peers.contains("path: rtt").then_some(()))
        })
    })
}
