//! Services behind a plain WireGuard peer, which has no link: the edge probes them itself.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Counter, TcpServer, Topology, echo, scenario, time_until, until};
use scenarios::{Site, WireGuardGo};
use serde_json::Value;

/// How soon the edge must know.
const KNOWN: Duration = Duration::from_secs(15);
/// How soon it must know of the first state: the tunnel is up for five seconds before.
const FIRST: Duration = Duration::from_secs(30);
/// How soon it must know that a target is silent: two probes of two seconds.
const SILENT: Duration = Duration::from_secs(20);

/// A target that listens from the start over IPv6, one behind a firewall, one that takes datagrams,
/// and a range of which nothing listens.
const PUBLISHED: &str = r#"
[[publish]]
name = "six"
listen = "5006"
target = "[fd77:88::2]:5006"
[[publish]]
name = "filtered"
listen = "5007"
target = "192.168.88.2:5007"
[[publish]]
name = "game"
protocol = ["udp"]
listen = "6000"
target = "192.168.88.2:6000"
[[publish]]
name = "range"
listen = "7000-7010"
target = "192.168.88.2:7000-7010"
"#;
/// What is never failing, since nothing can be known.
const UNKNOWN: [&str; 3] = ["filtered", "game", "range"];

#[test]
fn a_dead_server_behind_a_plain_peer_is_named_soon_and_green_soon_after_its_start() -> Result<()> {
    scenario(Topology::standard().routed(), |lab| {
        let mut site = Site::new(lab)?;
        let _far = plain_origin(&mut site)?;
        site.origin.nft(
            "table inet filter { chain input { type filter hook input priority 0;
               tcp dport 5007 ip saddr 10.77.88.1 drop;
             }
             }",
        )?;
        site.start_gateway()?;
        let web = TcpServer::start(site.origin.tcp_listener("192.168.88.2:443")?, echo)?;
        let _six = TcpServer::start(site.origin.tcp_listener("[fd77:88::2]:5006")?, echo)?;
        let _filtered = TcpServer::start(site.origin.tcp_listener("192.168.88.2:5007")?, echo)?;
        let seen = Counter::arriving(&site.edge, "replies", "iifname gw0 meta l4proto tcp")?;
        for (name, expected) in [("https", None), ("six", None), ("bulk", named("refused"))] {
            println!("{name}: {expected:?} after {:?}", shows(&site, name, &expected, FIRST)?);
        }

        drop(web);
        println!("named {:?} after its end", shows(&site, "https", &named("refused"), KNOWN)?);
        texts_and_metrics_name_it(&site)?;
        let _web = TcpServer::start(site.origin.tcp_listener("192.168.88.2:443")?, echo)?;
        println!("green {:?} after its start", shows(&site, "https", &None, KNOWN)?);

        site.origin.nft("table inet filter { chain input { tcp dport 443 ip saddr 10.77.88.1 drop; }\n }")?;
        println!("silence named after {:?}", shows(&site, "https", &named("timed_out"), SILENT)?);
        site.origin.run("nft delete table inet filter")?;
        shows(&site, "https", &None, KNOWN)?;

        for name in UNKNOWN {
            let state = state(&site, name)?;
            ensure!(name == "filtered" || state == "unknown", "{name} is {state}");
            ensure!(failing(&site, name)?.is_none(), "{name} is failing");
        }
        let open = site.origin.run("ss -Htan state syn-recv state established")?;
        ensure!(!open.contains("10.77.88.1"), "the origin has open connections: {open}");
        ensure!(seen.packets()? == 0, "the edge's kernel saw {} replies", seen.packets()?);
        Ok(())
    })
}

type Named = Option<(String, String)>;

fn named(reason: &str) -> Named {
    Some(("upstream".to_owned(), reason.to_owned()))
}

/// Waits until the edge names this hop and reason of a service, or that it works; how long that
/// took.
fn shows(site: &Site<'_>, name: &str, expected: &Named, limit: Duration) -> Result<Duration> {
    time_until(limit, &format!("{name} to be {expected:?}"), || {
        let works = expected.is_some() || state(site, name)? == "ok";
        Ok(works && failing(site, name)? == *expected)
    })
}

fn service(site: &Site<'_>, name: &str) -> Result<Value> {
    let text = site.gatewayctl(&["services", "--json"])?.run()?;
    let document: Value = serde_json::from_str(&text)?;
    let services = document["services"].as_array().context("no services")?;
    services.iter().find(|service| service["name"] == name).cloned().context(text)
}

fn state(site: &Site<'_>, name: &str) -> Result<String> {
    Ok(service(site, name)?["health"]["state"].as_str().unwrap_or_default().to_owned())
}

/// The failing hop with its reason; each has a fix.
fn failing(site: &Site<'_>, name: &str) -> Result<Named> {
    let service = service(site, name)?;
    let hop = &service["health"]["failing"];
    let text = |key: &str| hop[key].as_str().map(str::to_owned);
    Ok(text("fix").and_then(|_| text("hop").zip(text("reason"))))
}

fn texts_and_metrics_name_it(site: &Site<'_>) -> Result<()> {
    let shown = site.gatewayctl(&["services"])?.run()?;
    let Some(line) = shown.lines().find(|line| line.starts_with("https:")) else { bail!("{shown}") };
    ensure!(line.contains(" upstream is failing for ") && line.contains(" (refused): \""), "{line}");
    ensure!(line.contains("fix: nothing listens on 192.168.88.2:443 behind peer wroclaw: "), "{line}");
    let shown = site.gatewayctl(&["peers"])?.run()?;
    ensure!(shown.contains("  https is failing for ") && !shown.contains("link: "), "{shown}");
    let metrics = site.edge.run("curl -sS --max-time 10 http://127.0.0.1:9586/metrics")?;
    for line in [
        "gateway_service_up{service=\"https\"} 0",
        "gateway_service_up{service=\"filtered\"} 1",
        "gateway_service_failing_hop{service=\"https\",hop=\"upstream\",reason=\"refused\"} 1",
    ] {
        ensure!(metrics.contains(line), "no {line} in {metrics}");
    }
    for result in ["open", "refused", "silent"] {
        let nothing = format!("gateway_service_probes_total{{result=\"{result}\"}} 0\n");
        ensure!(metrics.contains("gateway_service_probes_total") && !metrics.contains(&nothing), "{metrics}");
    }
    Ok(())
}

/// The origin as a plain WireGuard peer, and an edge that publishes ports behind it.
fn plain_origin(site: &mut Site<'_>) -> Result<WireGuardGo> {
    let config = &mut site.gateway_config;
    config.replace(r#"["10.77.88.1/30"]"#, r#"["10.77.88.1/30", "fd77:88::1/64"]"#)?;
    config.replace(r#""192.168.88.0/24"]"#, r#""192.168.88.0/24", "fd77:88::2/128"]"#)?;
    config.append(PUBLISHED);
    let far = WireGuardGo::origin(site, &["10.77.88.2/30", "fd77:88::2/64"], &[])?;
    until(Duration::from_secs(10), "settled addresses", || {
        Ok(site.origin.run("ip -6 address show tentative")?.trim().is_empty().then_some(()))
    })?;
    Ok(far)
}
