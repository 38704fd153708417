//! Wall clocks that ran ten years ahead, and stored marks of them that are kept, lost or damaged:
//! the tunnel comes up in every case.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Topology, scenario, time_until, until};
use scenarios::{Site, ahead_by, shifted_clock};

const TEN_YEARS: u64 = 3_653 * 86_400;
/// How long the tunnel may take to come up, whatever the clock was.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Kept,
    Missing,
    Damaged,
}

#[test]
fn an_origin_whose_clock_ran_ten_years_ahead_is_up_again_at_once_when_it_is_right() -> Result<()> {
    for mark in [Mark::Kept, Mark::Missing, Mark::Damaged] {
        // Each has its own lab: the NAT never gives one socket's port to another.
        scenario(Topology::standard(), |lab| {
            println!("{mark:?}: up {:?} after the start", origin_is_right_again(lab, mark)?);
            Ok(())
        })?;
    }
    Ok(())
}

/// How long the tunnel takes once the origin's clock is right again.
fn origin_is_right_again(lab: &Lab, mark: Mark) -> Result<Duration> {
    let mut site = Site::new(lab)?;
    site.environment = [Vec::new(), ahead(&shifted_clock(lab)?)];
    site.start()?;
    settle(&site)?;
    site.forwarder()?.kill()?;
    leave(site.origin.directory().join("state/clock.json"), mark)?;
    // The carrier's NAT has forgotten the mapping: the edge reaches the origin only at the address
    // that it now sends from.
    lab.rebind_cgnat(44_000)?;
    site.environment = [Vec::new(), Vec::new()];
    let started = Instant::now();
    site.start_forwarder()?;
    time_until(LIMIT, "a new session", || {
        Ok(handshake_age(&site)? < started.elapsed().as_secs_f64() && site.state()? == "up")
    })
}

#[test]
fn an_edge_whose_clock_ran_ten_years_ahead_is_up_again_at_once_when_it_is_right() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let library = shifted_clock(lab)?;
        site.environment = [ahead(&library), Vec::new()];
        site.start()?;
        settle(&site)?;
        // Started again, it initiates, and the origin remembers a timestamp of the future.
        site.gateway()?.kill()?;
        site.start_gateway()?;
        site.wait_until_up(LIMIT)?;
        for mark in [Mark::Kept, Mark::Damaged, Mark::Missing] {
            site.gateway()?.kill()?;
            leave(site.edge.directory().join("state/clock.json"), mark)?;
            site.environment = [Vec::new(), Vec::new()];
            site.start_gateway()?;
            let took = site.wait_until_up(LIMIT)?;
            println!("{mark:?}: up {took:?} after the start");
        }
        Ok(())
    })
}

#[test]
fn a_clock_that_is_behind_the_latest_one_used_is_shown_until_a_session_is_agreed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let ahead = now + TEN_YEARS;
        fs::write(site.origin.directory().join("state/clock"), format!("{ahead}.000000000\n"))?;
        let kept = format!("{{\"highest_seconds\":{ahead},\"highest_nanoseconds\":0}}");
        fs::write(site.edge.directory().join("state/clock.json"), kept)?;
        site.start_gateway()?;
        let behind = "seconds behind the latest one used here";
        ensure!(gateway_status(&site)?.contains(behind), "{}", gateway_status(&site)?);
        site.gateway()?.kill()?;
        site.start_forwarder()?;
        until(LIMIT, "the origin's status", || Ok(forwarder_status(&site)?.contains(behind).then_some(())))?;
        site.start_gateway()?;
        site.wait_until_up(LIMIT)?;
        until(LIMIT, "the origin's status to be clean", || {
            Ok((!forwarder_status(&site)?.contains(behind)).then_some(()))
        })?;
        ensure!(!gateway_status(&site)?.contains(behind), "{}", gateway_status(&site)?);
        Ok(())
    })
}

fn ahead(library: &std::path::Path) -> Vec<(String, String)> {
    ahead_by(library, TEN_YEARS)
}

/// Waits until the edge has written down where its peer is.
fn settle(site: &Site<'_>) -> Result<()> {
    let kept = site.edge.directory().join("state/endpoints.json");
    until(LIMIT, "the endpoint to be kept", || {
        Ok(fs::read_to_string(&kept).is_ok_and(|text| text.contains("198.51.100.7")).then_some(()))
    })
}

fn leave(file: PathBuf, mark: Mark) -> Result<()> {
    match mark {
        Mark::Kept => ensure!(file.exists(), "no mark in {}", file.display()),
        Mark::Missing => fs::remove_file(file)?,
        Mark::Damaged => fs::write(file, "18446744073709551615.999999999")?,
    }
    Ok(())
}

/// Seconds since the edge agreed the session that it has.
fn handshake_age(site: &Site<'_>) -> Result<f64> {
    site.peer_field("/latest_handshake_age_seconds")?.as_f64().context("there was no handshake")
}

fn gateway_status(site: &Site<'_>) -> Result<String> {
    let output = site.gatewayctl(&["status"])?.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn forwarder_status(site: &Site<'_>) -> Result<String> {
    let output = site.ask_forwarder(&["status"])?.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
