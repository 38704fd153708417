//! Two forwarders with one key: they take the session from each other, and both ends say so.

use std::fs;
use std::os::unix::fs::chown;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Topology, scenario, until};
use scenarios::{Config, Site};

const SECOND: &str = "second-state";

#[test]
fn two_forwarders_with_one_key_are_reported_at_both_ends() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let at_the_edge = "two machines use the key of peer wroclaw";
        let at_the_origin = "another machine uses this machine's key";
        lab.expect_warning(at_the_edge);
        lab.expect_warning(at_the_origin);
        let mut site = Site::new(lab)?;
        site.start()?;
        ensure!(!status(&site)?.contains(at_the_edge));

        let config = second(&site)?;
        let mut other = site
            .origin
            .command(lab::binary("forwarder")?)
            .arg("--config")
            .arg(config.path())
            .spawn("second-forwarder")?;
        lab.judge(&other);
        until(Duration::from_secs(60), "the edge to see it", || {
            Ok(status(&site)?.contains(at_the_edge).then_some(()))
        })?;
        until(Duration::from_secs(90), "the origin to see it", || {
            let output = site.ask_forwarder(&["status"])?.output()?;
            Ok(String::from_utf8_lossy(&output.stdout).contains(at_the_origin).then_some(()))
        })?;
        let log = site.gateway()?.log()?;
        ensure!(log.matches(at_the_edge).count() == 1, "it is logged once:\n{log}");
        ensure!(log.contains("198.51.100.7") == log.contains("DEBUG"), "an address in the log:\n{log}");
        other.kill()?;
        Ok(())
    })
}

/// The origin's own configuration for a second daemon next to the first.
fn second(site: &Site<'_>) -> Result<Config> {
    let folder = site.origin.directory();
    let state = folder.join(SECOND);
    fs::create_dir_all(&state)?;
    chown(&state, Some(0), Some(0))?;
    let mut config = site.forwarder_config.clone();
    let (first, reach) = config.text.split_once("[[reach]]").context("no [[reach]]")?;
    let metrics = reach.find("[metrics]").context("no [metrics]")?;
    config.text = format!("{first}{}", reach.get(metrics..).unwrap_or_default());
    config.replace("127.0.0.1:9587", "127.0.0.1:9588")?;
    let (own, other) = (folder.join("state"), state.display().to_string());
    config.replace(&own.display().to_string(), &other)?;
    // The keys belong to the forwarder's user; the second daemon runs as root and needs its own.
    for name in ["wroclaw.key", "wroclaw.psk"] {
        fs::copy(folder.join(name), state.join(name))?;
        chown(state.join(name), Some(0), Some(0))?;
        config.replace(&format!("\"{name}\""), &format!("\"{SECOND}/{name}\""))?;
    }
    let path = folder.join("second.toml");
    fs::write(&path, &config.text)?;
    Ok(config.at(path))
}

fn status(site: &Site<'_>) -> Result<String> {
    let output = site.gatewayctl(&["status"])?.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
