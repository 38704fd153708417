//! Health that is true: a service that does not work names the hop at both ends, and what is not
//! known is never failing.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)] // Figures are printed; a JSON value has an answer to any index.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Signal, TcpServer, Topology, echo, scenario, time_until, until};
use scenarios::{Caddy, Site};
use serde_json::Value;

/// How soon both ends must name the hop, and show that it works again.
const KNOWN: Duration = Duration::from_secs(15);
/// A tunnel is up until 15 s after the last authentic packet; then that is to be shown.
const SILENT: Duration = Duration::from_secs(17);

/// More published ports than those of the worked example: nothing listens for any of them, and no
/// entry takes `missing`.
const PUBLISHED: &str = r#"
[[publish]]
name = "missing"
listen = "5003"
target = "192.168.88.2:5003"
[[publish]]
name = "game"
protocol = ["udp"]
listen = "6000"
target = "192.168.88.2:6000"
[[publish]]
name = "range"
listen = "7000-7010"
target = "192.168.88.2:7000-7010"
[[publish]]
name = "unwatched"
listen = "8000"
target = "192.168.88.2:8000"
"#;
const ENTRIES: &str = r#"
[[service]]
name = "game"
protocol = ["udp"]
match = "192.168.88.2:6000"
upstream = "127.0.0.1:6000"
[[service]]
name = "range"
match = "192.168.88.2:7000-7010"
upstream = "127.0.0.1:*"
[[service]]
name = "unwatched"
match = "192.168.88.2:8000"
upstream = "127.0.0.1:8000"
health = "off"
"#;
const MISSING: &str = r#"
[[service]]
name = "found"
match = "192.168.88.2:5003"
upstream = "127.0.0.1:5001"
"#;
/// Services of which nothing can be known here.
const UNKNOWN: [&str; 3] = ["game", "range", "unwatched"];

#[test]
fn a_service_that_does_not_work_names_the_hop_at_both_ends_and_is_ok_soon_after_the_repair() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append(PUBLISHED);
        site.forwarder_config.append(ENTRIES).replace(
            "proxy_protocol = \"v2\"",
            "proxy_protocol = \"v2\"\nhealth = { check = \"tls\", name = \"emby.example.com\", every = \"2s\" }",
        )?;
        let caddy = Caddy::start(&site.origin)?;
        let bulk = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        for name in ["https", "bulk"] {
            both_show(&site, name, None, KNOWN)?;
        }
        until(KNOWN, "the missing entry to be named", || {
            Ok((at_edge(&site, "missing")? == named("service_entry", "no_entry")).then_some(()))
        })?;
        nothing_unknown_is_failing(&site)?;

        caddy.process.signal(Signal::Stop)?;
        drop(bulk);
        both_show(&site, "https", named("upstream", "timed_out"), KNOWN)?;
        both_show(&site, "bulk", named("upstream", "refused"), KNOWN)?;
        texts_and_metrics_name_it(&site)?;
        caddy.process.signal(Signal::Continue)?;
        let _bulk = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.forwarder_config.append(MISSING).write()?;
        site.forwarder()?.signal(Signal::Hangup)?;
        for name in ["https", "bulk"] {
            both_show(&site, name, None, KNOWN)?;
        }
        until(KNOWN, "the entry to be found", || Ok(at_edge(&site, "missing")?.is_none().then_some(())))?;

        let mut caddy = caddy;
        caddy.process.kill()?;
        both_show(&site, "https", named("upstream", "refused"), KNOWN)?;
        nothing_unknown_is_failing(&site)
    })
}

#[test]
fn a_tunnel_that_is_down_is_the_hop_at_both_ends() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        both_show(&site, "bulk", None, KNOWN)?;
        site.origin.shell(
            "nft add table inet cut
             nft 'add chain inet cut out { type filter hook output priority 0; }'
             nft 'add chain inet cut in { type filter hook input priority 0; }'
             nft add rule inet cut out udp dport 51820 drop
             nft add rule inet cut in udp sport 51820 drop",
        )?;
        both_show(&site, "bulk", named("tunnel", "silent"), SILENT)?;
        site.origin.shell("nft delete table inet cut")?;
        both_show(&site, "bulk", None, KNOWN)
    })
}

type Named = Option<(String, String)>;

fn named(hop: &str, reason: &str) -> Named {
    Some((hop.to_owned(), reason.to_owned()))
}

/// Waits until both ends name this hop and reason, or none.
fn both_show(site: &Site<'_>, name: &str, expected: Named, limit: Duration) -> Result<()> {
    let (mut edge, mut origin) = (None, None);
    let took = time_until(limit, &format!("both ends to show {name} as {expected:?}"), || {
        (edge, origin) = (at_edge(site, name)?, at_origin(site, name)?);
        let is_known = expected.is_some() || state_at_edge(site, name)? == "ok";
        Ok(is_known && edge == expected && origin == expected)
    })
    .with_context(|| format!("the edge shows {edge:?}, the origin {origin:?}"))?;
    println!("{name}: {expected:?} at both ends after {took:?}");
    Ok(())
}

fn at_edge(site: &Site<'_>, name: &str) -> Result<Named> {
    Ok(failing(&edge_service(site, name)?))
}

fn state_at_edge(site: &Site<'_>, name: &str) -> Result<String> {
    Ok(edge_service(site, name)?["health"]["state"].as_str().unwrap_or_default().to_owned())
}

fn edge_service(site: &Site<'_>, name: &str) -> Result<Value> {
    let text = site.gatewayctl(&["services", "--json"])?.run()?;
    one(&serde_json::from_str(&text)?, name)
}

fn at_origin(site: &Site<'_>, name: &str) -> Result<Named> {
    let text = status(site, &["--json"])?;
    Ok(failing(&one(&serde_json::from_str(&text)?, name)?))
}

fn status(site: &Site<'_>, arguments: &[&str]) -> Result<String> {
    site.ask_forwarder(&["status"])?.args(arguments).run()
}

fn one(document: &Value, name: &str) -> Result<Value> {
    let services = document["services"].as_array().context("no services")?;
    let service = services.iter().find(|service| service["name"] == name);
    service.cloned().with_context(|| format!("no {name} in {document}"))
}

/// The failing hop with its reason; each has a time and a fix.
fn failing(service: &Value) -> Named {
    let hop = &service["health"]["failing"];
    let text = |key: &str| hop[key].as_str().map(str::to_owned);
    (hop["seconds"].is_u64() && hop["fix"].is_string()).then(|| text("hop").zip(text("reason"))).flatten()
}

fn nothing_unknown_is_failing(site: &Site<'_>) -> Result<()> {
    for name in UNKNOWN {
        let (state, origin) = (state_at_edge(site, name)?, at_origin(site, name)?);
        ensure!(
            state == "unknown" && origin.is_none(),
            "{name} is {state} at the edge, {origin:?} at the origin"
        );
    }
    Ok(())
}

fn texts_and_metrics_name_it(site: &Site<'_>) -> Result<()> {
    let shown = site.gatewayctl(&["services"])?.run()?;
    let Some(line) = shown.lines().find(|line| line.starts_with("bulk:")) else { bail!("{shown}") };
    ensure!(line.contains(" upstream is failing for ") && line.contains(" (refused): \""), "{line}");
    ensure!(line.contains("fix: at wroclaw: start the program"), "{line}");
    let shown = status(site, &[])?;
    ensure!(
        shown.contains("  upstream is failing for ") && shown.contains("127.0.0.1:5001: down"),
        "{shown}"
    );
    let metrics = site.edge.run("curl -sS --max-time 10 http://127.0.0.1:9586/metrics")?;
    for line in [
        "gateway_service_up{service=\"bulk\"} 0",
        "gateway_service_peer_up{service=\"bulk\"} 1",
        "gateway_service_up{service=\"game\"} 1",
        "gateway_service_failing_hop{service=\"bulk\",hop=\"upstream\",reason=\"refused\"} 1",
    ] {
        ensure!(metrics.contains(line), "no {line} in {metrics}");
    }
    Ok(())
}
