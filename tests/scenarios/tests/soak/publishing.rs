//! Public ports that come and go by the thousand, while root applies one file after the other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Node, TcpServer, Topology, echo, scenario, until};
use scenarios::{Config, Site, download, memory, serve_bulk};
use serde_json::Value;

use crate::metrics;
use crate::requester::{Pace, Requester, Tally};

const LIMIT: Duration = Duration::from_secs(30);
/// How many origins there are, and how many requests all of them send.
const FULL: (u16, u32) = (16, 10_000);
const REDUCED: (u16, u32) = (4, 200);
/// An entry that root adds and takes away again.
const EXTRA: &str = "[[publish]]\nname = \"extra\"\nlisten = \"6100\"\ntarget = \"192.168.88.2:6100\"\n";
/// How much more memory the edge may have afterwards, in KiB.
const GROWTH: u64 = 16 << 10;

#[test]
fn ports_that_come_and_go_while_root_applies_touch_no_other_flow_and_leave_nothing_behind() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (origins, requests) = if lab::full_counts() { FULL } else { REDUCED };
        let mut site = site(lab, origins)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let _echo = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8443")?, echo)?;
        site.start()?;
        let started = (0..origins).map(|number| Requester::start(&site.origin, &site.kyiv, number));
        let started = started.collect::<Result<Vec<_>>>()?;
        let client = lab.node("client")?;
        let mut quiet = client.tcp_connect("192.0.2.2:443", LIMIT)?;
        is_alive(&mut quiet)?;
        let (mark, before) = (mark_of(&site, "bulk")?, memory(site.gateway()?)?);

        let begun = Instant::now();
        let is_over = AtomicBool::new(false);
        let ended = AtomicUsize::new(0);
        let done = thread::scope(|scope| {
            let downloads = scope.spawn(|| downloads(&client, &is_over));
            let applies = scope.spawn(|| applies(&site, mark, &is_over));
            // Every second one floods, the others wait for replies.
            let (left, kyiv) = (requests * 2 / u32::from(origins), &site.kyiv);
            let requested = started.iter().enumerate().map(|(place, origin)| {
                let (ended, of) = (&ended, usize::from(origins) / 2);
                let is_flood = place.is_multiple_of(2);
                let pace = if is_flood { Pace::Flood { left, ended } } else { Pace::Replies { ended, of } };
                scope.spawn(move || {
                    // One that fails lets the others end as well.
                    origin.request(kyiv, pace).inspect_err(|_| ended.store(of, Ordering::Relaxed))
                })
            });
            let requested: Vec<_> = requested.collect();
            let requested: Result<Vec<Tally>> = requested.into_iter().map(joined).collect();
            is_over.store(true, Ordering::Relaxed);
            let (downloads, applies) = (joined(downloads), joined(applies));
            let requested = requested?;
            let sum = |count: fn(&Tally) -> u32| requested.iter().map(count).sum::<u32>();
            anyhow::Ok((sum(|tally| tally.sent), sum(|tally| tally.replied), applies?, downloads?))
        });
        let (sent, replied, applies, downloads) = done?;
        println!(
            "{sent} requests of {origins} origins, {replied} of them replied to, {applies} applies, {downloads} downloads of \
             16 MiB in {:?}",
            begun.elapsed()
        );
        ensure!(sent >= requests && replied > 0 && applies > 0 && downloads > 0);
        is_alive(&mut quiet).context("a flow of another service")?;
        ensure!(mark_of(&site, "bulk")? == mark, "the mark of another service moved");
        let after = memory(site.gateway()?)?;
        println!("{before} KiB became {after} KiB");
        ensure!(after < before + GROWTH, "{before} KiB became {after} KiB");
        is_what_was_requested_last(&mut site, origins)
    })
}

/// The edge with this many origins, each with ports of its own, besides the usual one.
fn site(lab: &lab::Lab, origins: u16) -> Result<Site<'_>> {
    let mut site = Site::new(lab)?;
    site.gateway_config.replace("10.77.88.1/30", "10.77.88.1/24")?;
    site.forwarder_config.replace("10.77.88.2/30", "10.77.88.2/24")?;
    site.forwarder_config.replace("proxy_protocol = \"v2\"\n", "")?;
    for number in 0..origins {
        site.gateway_config.append(&Requester::entry(number));
    }
    Ok(site)
}

fn downloads(client: &Node, is_over: &AtomicBool) -> Result<u32> {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        download(client, "192.0.2.2:5001", 16 << 20)?;
        count += 1;
    }
    Ok(count)
}

/// Applies the file with one entry more and without it, in turn; ends without it.
fn applies(site: &Site<'_>, mark: u64, is_over: &AtomicBool) -> Result<u32> {
    let folder = site.edge.directory();
    let without: Config = site.gateway_config.clone().at(folder.join("without.toml"));
    let mut with = without.clone().at(folder.join("with.toml"));
    with.append(EXTRA);
    let mut count = 0;
    for draft in [&with, &without].into_iter().cycle() {
        draft.write()?;
        site.gatewayctl(&["apply", &draft.path().to_string_lossy()])?.run()?;
        count += 1;
        ensure!(mark_of(site, "bulk")? == mark, "the mark of another service moved after {count} applies");
        kept(site)?;
        if is_over.load(Ordering::Relaxed) && count % 2 == 0 {
            break;
        }
    }
    Ok(count)
}

/// The ports that the edge shows, keeps and has in its table are those that were requested last,
/// and an edge that starts from its files alone makes the same table.
fn is_what_was_requested_last(site: &mut Site<'_>, origins: u16) -> Result<()> {
    let expected: BTreeSet<String> = (0..origins).flat_map(Requester::granted).collect();
    ensure!(shown(site)? == expected, "the edge shows {:?}, {expected:?} were requested", shown(site)?);
    ensure!(kept(site)? == expected, "the edge keeps {:?}, {expected:?} were requested", kept(site)?);
    let page = metrics(&site.edge, 9586)?;
    for line in ["gateway_reconcile_repairs_total 0", "gateway_reconcile_failing 0"] {
        ensure!(page.lines().any(|found| found == line), "no {line} in {page}");
    }
    let table = table(site)?;
    site.gateway()?.stop(LIMIT)?;
    site.edge.run("nft flush ruleset")?;
    site.edge.run("ip link delete gw0")?;
    site.start_gateway()?;
    let mut fresh = Vec::new();
    until(LIMIT, "the table of an edge that starts", || {
        fresh = self::table(site)?;
        Ok((fresh == table).then_some(()))
    })
    .with_context(|| {
        let gone = table.iter().filter(|word| !fresh.contains(word)).collect::<Vec<_>>();
        let new = fresh.iter().filter(|word| !table.contains(word)).collect::<Vec<_>>();
        format!("before and not after: {gone:?}; after and not before: {new:?}")
    })
}

/// The granted services as the edge shows them.
fn shown(site: &Site<'_>) -> Result<BTreeSet<String>> {
    let shown: Value = serde_json::from_str(&site.gatewayctl(&["services", "--json"])?.run()?)?;
    let names = shown["services"].as_array().context("no services")?.iter();
    let names = names.filter_map(|service| service["name"].as_str());
    Ok(names.filter(|name| name.contains('/')).map(str::to_owned).collect())
}

/// The granted services of the file that a restart reads, which is whole at any moment.
fn kept(site: &Site<'_>) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(site.edge.directory().join("state/grants.json")).unwrap_or_default();
    if text.is_empty() {
        return Ok(BTreeSet::new());
    }
    let kept: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let peers = kept["peers"].as_object().context("no peers")?.values();
    let ports = peers.filter_map(Value::as_array).flatten();
    Ok(ports.filter_map(|port| port["name"].as_str()).map(str::to_owned).collect())
}

/// The edge's table in words, in an order that does not depend on the kernel's.
fn table(site: &Site<'_>) -> Result<Vec<String>> {
    let text = scenarios::table(&site.edge)?;
    let mut words: Vec<String> = text
        .split(|char: char| char == ',' || char.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    words.sort();
    Ok(words)
}

/// The conntrack mark of a service's flows.
fn mark_of(site: &Site<'_>, service: &str) -> Result<u64> {
    let listing: Value = serde_json::from_str(&site.edge.run("nft -j list map inet causeway count_in")?)?;
    let elements = listing["nftables"][1]["map"]["elem"].as_array().context("no map")?;
    let counter = format!("publish_in_{service}");
    let found = elements.iter().find(|element| element[1] == counter.as_str());
    found.and_then(|element| element[0].as_u64()).with_context(|| format!("no mark of {service}"))
}

/// Sends a word and gets it back.
fn is_alive(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"word")?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply)?;
    ensure!(reply == *b"word");
    Ok(())
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}
