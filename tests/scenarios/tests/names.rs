//! The names of a service: each is watched at the upstream, and is a row of its own at both ends.

#![allow(clippy::print_stdout, clippy::indexing_slicing)] // Figures are printed; a JSON value has an answer to any index.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Node, TcpServer, Topology, scenario, time_until};
use scenarios::{Caddy, Site, expired_certificate};
use serde_json::Value;

/// A name is looked at once a minute, and again after 5 s before it is failing.
const INTERVAL: Duration = Duration::from_secs(75);
/// What is failing is looked at every 10 s, and an upstream that comes back at once.
const SOON: Duration = Duration::from_secs(25);

#[test]
fn a_name_that_fails_is_named_at_both_ends_and_the_others_and_the_service_stay_green() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        expired_certificate(&site.origin)?;
        let app = TcpServer::start(site.origin.tcp_listener("127.0.0.1:9001")?, answer)?;
        let _caddy = Caddy::start_sites(&site.origin, true, &sites(&site.origin))?;
        let names = "names = [\"Emby.example.com\", \"photos.example.com\", \"old.example.com\", \"wiki.example.com\"]";
        site.forwarder_config
            .replace("proxy_protocol = \"v2\"", &format!("proxy_protocol = \"v2\"\n{names}"))?;
        site.start()?;
        let mut expected = [
            ("emby.example.com", None),
            ("photos.example.com", None),
            ("old.example.com", Some("certificate_expired")),
            ("wiki.example.com", Some("no_certificate_for_name")),
        ];
        both_show(&site, &expected, SOON)?;
        service_is_up(&site)?;
        texts_and_metrics_show_it(&site)?;

        drop(app);
        expected[1].1 = Some("bad_reply");
        both_show(&site, &expected, INTERVAL)?;
        service_is_up(&site)?;
        let _app = TcpServer::start(site.origin.tcp_listener("127.0.0.1:9001")?, answer)?;
        expected[1].1 = None;
        both_show(&site, &expected, SOON)
    })
}

#[test]
fn a_healthy_caddy_that_needs_a_name_is_never_failing_and_one_without_its_proxy_listener_is_named()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let sites = "https://emby.example.com:8443 {\n    bind 127.0.0.1\n    tls internal\n    respond \"emby\"\n}\n";
        let mut caddy = Caddy::start_sites(&site.origin, true, sites)?;
        site.start()?;
        time_until(SOON, "the service to be known", || Ok(health(&site)?.0 == "ok"))?;
        // Longer than a failure takes to be decided.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(12) {
            let (state, _) = health(&site)?;
            ensure!(state == "ok", "the service is {state}");
            sleep(Duration::from_millis(500));
        }
        caddy.process.kill()?;
        time_until(SOON, "the upstream to refuse", || Ok(health(&site)?.1.as_deref() == Some("refused")))?;
        let _caddy = Caddy::start_sites(&site.origin, false, sites)?;
        let took = time_until(SOON, "the missing listener to be named", || {
            let at_origin = failing(&one(&at_origin(&site)?, "https")?);
            let reasons = [health(&site)?.1, at_origin];
            Ok(reasons.iter().all(|reason| reason.as_deref() == Some("no_proxy_listener")))
        })?;
        println!("the missing PROXY listener was named at both ends after {took:?}");
        Ok(())
    })
}

/// Sites of a Caddy: one that replies itself, one in front of an application, one with a certificate
/// that has expired.
fn sites(origin: &Node) -> String {
    let folder = origin.directory();
    let site = |name: &str, rest: &str| {
        format!("https://{name}.example.com:8443 {{\n    bind 127.0.0.1\n    {rest}\n}}\n")
    };
    let old = format!("tls {0}/old.crt {0}/old.key\n    respond \"old\"", folder.display());
    [
        site("emby", "tls internal\n    respond \"emby\""),
        site("photos", "tls internal\n    reverse_proxy 127.0.0.1:9001"),
        site("old", &old),
    ]
    .concat()
}

/// An application that answers every request alike, each on a connection of its own.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4_096];
    let _ = stream.read(&mut request)?;
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
}

/// Waits until both ends show these names with these reasons, and no others.
fn both_show(site: &Site<'_>, expected: &[(&str, Option<&str>)], limit: Duration) -> Result<()> {
    let expected: Vec<_> =
        expected.iter().map(|(name, reason)| ((*name).to_owned(), reason.map(str::to_owned))).collect();
    let mut sorted = expected.clone();
    sorted.sort();
    let (mut edge, mut origin) = (Vec::new(), Vec::new());
    let took = time_until(limit, &format!("both ends to show {expected:?}"), || {
        (edge, origin) = (names(&one(&at_edge(site)?, "https")?)?, names(&one(&at_origin(site)?, "https")?)?);
        Ok(edge == sorted && origin == expected)
    })
    .with_context(|| format!("the edge shows {edge:?}, the origin {origin:?}"))?;
    println!("{expected:?} at both ends after {took:?}");
    Ok(())
}

/// The names of a service that are known, each with the reason for which it is failing.
fn names(service: &Value) -> Result<Vec<(String, Option<String>)>> {
    let rows = service["names"].as_array().context("no names")?;
    let known = rows.iter().filter(|row| row["state"] != "unknown");
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        let is_failing = row["state"] == "failing";
        ensure!(is_failing == row["fix"].is_string() && is_failing == row["reason"].is_string(), "{row}");
        Ok((text("name").context("no name")?, text("reason")))
    };
    known.map(row).collect()
}

fn service_is_up(site: &Site<'_>) -> Result<()> {
    let (state, reason) = health(site)?;
    ensure!(state == "ok", "the service is {state}: {reason:?}");
    Ok(())
}

/// The state of the service at the edge, and the reason of the hop that fails.
fn health(site: &Site<'_>) -> Result<(String, Option<String>)> {
    let service = one(&at_edge(site)?, "https")?;
    Ok((service["health"]["state"].as_str().unwrap_or_default().to_owned(), failing(&service)))
}

fn failing(service: &Value) -> Option<String> {
    service["health"]["failing"]["reason"].as_str().map(str::to_owned)
}

fn at_edge(site: &Site<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&site.gatewayctl(&["services", "--json"])?.run()?)?)
}

fn at_origin(site: &Site<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&status(site, &["--json"])?)?)
}

fn status(site: &Site<'_>, arguments: &[&str]) -> Result<String> {
    site.ask_forwarder(&["status"])?.args(arguments).run()
}

fn one(document: &Value, name: &str) -> Result<Value> {
    let services = document["services"].as_array().context("no services")?;
    let service = services.iter().find(|service| service["name"] == name);
    service.cloned().with_context(|| format!("no {name} in {document}"))
}

fn texts_and_metrics_show_it(site: &Site<'_>) -> Result<()> {
    let shown = site.gatewayctl(&["services"])?.run()?;
    for line in [
        "https: old.example.com is failing for ",
        "(certificate_expired); fix: at wroclaw: renew the certificate for old.example.com",
        "https: wiki.example.com is failing for ",
    ] {
        ensure!(shown.contains(line), "no {line:?} in {shown}");
    }
    let rows = shown.lines().filter(|line| line.split_whitespace().nth(1) == Some("name"));
    ensure!(rows.count() == 4, "{shown}");
    let shown = status(site, &[])?;
    ensure!(shown.contains("  emby.example.com: up, certificate for "), "{shown}");
    ensure!(shown.contains("  wiki.example.com is failing for "), "{shown}");
    for (node, port, role) in [(&site.edge, 9586, "gateway_service"), (&site.origin, 9587, "forwarder")] {
        let metrics = node.run(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}/metrics"))?;
        for (name, up) in [("emby", 1), ("photos", 1), ("old", 0), ("wiki", 0)] {
            let line = format!("{role}_name_up{{service=\"https\",name=\"{name}.example.com\"}} {up}");
            ensure!(metrics.contains(&line), "no {line} in {metrics}");
        }
        let expired = format!("{role}_certificate_days{{service=\"https\",name=\"old.example.com\"}} -");
        ensure!(metrics.contains(&expired), "no {expired} in {metrics}");
    }
    Ok(())
}
