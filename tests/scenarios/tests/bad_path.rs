//! A bad path between the ends: the relay in the middle loses, reorders, duplicates, corrupts,
//! replays and rebinds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Topology, scenario, until};
use relay::{Direction, Faults, Relay};
use scenarios::{Site, download, serve_bulk, upload};

#[test]
fn every_byte_arrives_over_a_path_that_loses_reorders_duplicates_and_corrupts() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, relay) = site_behind_relay(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let faults = Faults {
            drop: 0.005,
            duplicate: 0.02,
            reorder: 0.02,
            reorder_depth: 3,
            flip: 0.005,
            truncate: 0.002,
            delay_ms: 5,
            ..Faults::default()
        };
        both_ways(&relay, &faults)?;
        let client = lab.node("client")?;
        download(&client, "192.0.2.2:5001", 4 << 20)?;
        upload(&client, "192.0.2.2:5001", 4 << 20)?;
        for direction in [Direction::Forward, Direction::Back] {
            let seen = relay.counters(direction);
            ensure!(seen.dropped > 0 && seen.flipped > 0 && seen.duplicated > 0, "{direction:?}: {seen:?}");
        }
        both_ways(&relay, &Faults::default())?;
        ensure!(site.state()? == "up");
        Ok(())
    })
}

#[test]
fn downloads_come_whole_over_every_path_of_the_matrix() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, relay) = site_behind_relay(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        for (loss, round_trip, reorder) in paths() {
            let faults = Faults {
                drop: loss,
                reorder,
                reorder_depth: 3,
                delay_ms: round_trip / 2,
                rate: Some(12_500_000),
                ..Faults::default()
            };
            both_ways(&relay, &faults)?;
            let bytes = if loss > 0.02 { 256 << 10 } else { 1 << 20 };
            let came = download(&client, "192.0.2.2:5001", bytes);
            came.with_context(|| format!("{loss} lost, {round_trip} ms, {reorder} reordered"))?;
        }
        both_ways(&relay, &Faults::default())?;
        site.wait_until_up(Duration::from_secs(30)).map(drop)
    })
}

/// Loss, round trip in milliseconds and reordering: the corners of the matrix, and all of it in a
/// soak.
fn paths() -> Vec<(f64, u64, f64)> {
    let mut all = Vec::new();
    for reorder in [0.0, 0.25] {
        for loss in [0.0, 0.001, 0.01, 0.05] {
            for round_trip in [5, 50, 200] {
                all.push((loss, round_trip, reorder));
            }
        }
    }
    let corners = |path: &(f64, u64, f64)| [(0.01, 50), (0.05, 5), (0.0, 200)].contains(&(path.0, path.1));
    if lab::full_counts() { all } else { all.into_iter().filter(corners).collect() }
}

#[test]
fn replayed_datagrams_are_dropped_and_do_not_move_the_endpoint() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, relay) = site_behind_relay(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        relay.record(Direction::Forward, true);
        site.start()?;
        let client = lab.node("client")?;
        download(&client, "192.0.2.2:5001", 1 << 20)?;
        let before = site.peer_field("/endpoint")?;
        let address = relay.rebind()?;
        let replayed = relay.replay(Direction::Forward, 1000);
        ensure!(replayed > 100, "only {replayed} datagrams were recorded");
        // A replay does not prove where the peer is; only the peer's next datagram may move the
        // endpoint.
        until(Duration::from_secs(35), "the peer's own next word to move the endpoint", || {
            let now = site.peer_field("/endpoint")?;
            let port = now.as_str().and_then(|text| text.rsplit(':').next()).context("no endpoint")?;
            ensure!(now == before || port == address.port().to_string(), "the endpoint became {now}");
            Ok((now != before).then_some(()))
        })?;
        download(&client, "192.0.2.2:5001", 1 << 20).map(drop)
    })
}

#[test]
fn the_tunnel_comes_back_after_a_black_hole() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, relay) = site_behind_relay(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        // A peer that has never answered a probe counts as a plain one, which may be silent for
        // minutes.
        until(Duration::from_secs(10), "the first round trip", || {
            Ok(site.peer_field("/rtt_seconds")?.is_number().then_some(()))
        })?;
        both_ways(&relay, &Faults { blackhole: true, ..Faults::default() })?;
        until(Duration::from_secs(40), "the edge to notice", || Ok((site.state()? != "up").then_some(())))?;
        both_ways(&relay, &Faults::default())?;
        site.wait_until_up(Duration::from_secs(20))?;
        download(&lab.node("client")?, "192.0.2.2:5001", 1 << 20).map(drop)
    })
}

/// The worked example whose forwarder dials a relay on the internet's router instead of the edge.
fn site_behind_relay(lab: &Lab) -> Result<(Site<'_>, Relay)> {
    let mut site = Site::new(lab)?;
    site.forwarder_config.replace("192.0.2.2:51820", "198.51.100.1:51820")?;
    let inet = lab.node("inet")?;
    let near = inet.udp_socket("198.51.100.1:51820")?;
    let far = inet.clone();
    let relay = Relay::start(near, "192.0.2.2:51820".parse()?, 7, move || {
        far.udp_socket("192.0.2.1:0").map_err(std::io::Error::other)
    })?;
    Ok((site, relay))
}

fn both_ways(relay: &Relay, faults: &Faults) -> Result<()> {
    for direction in [Direction::Forward, Direction::Back] {
        let set = relay.set_faults(direction, faults.clone());
        ensure!(set.is_ok(), "{set:?}");
    }
    Ok(())
}
