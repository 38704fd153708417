//! Both daemons under Debian's Prometheus, and whether their counters are right.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, Process, Topology, scenario, until};
use scenarios::{Site, download, serve_bulk, upload};
use serde_json::Value;

const GATEWAY: &str = "http://127.0.0.1:9586/metrics";
const FORWARDER: &str = "http://127.0.0.1:9587/metrics";

#[test]
fn prometheus_scrapes_both_daemons_and_promtool_finds_nothing_to_fix() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site_with_forwarder_metrics(lab)?;
        site.start()?;
        for (node, url) in [(&site.edge, GATEWAY), (&site.origin, FORWARDER)] {
            let page = fetch(node, url)?;
            let said = node.command("promtool").args(["check", "metrics"]).run_with_input(page.as_bytes())?;
            ensure!(said.trim().is_empty(), "{url}: {said}");
        }
        let _prometheus = prometheus(&site.edge)?;
        until(Duration::from_secs(30), "both targets to be up", || {
            let up = query(&site.edge, "sum(up)")?;
            Ok((up == Some(2.0)).then_some(()))
        })?;
        for name in [
            "wireguard_peer_receive_bytes_total",
            "wireguard_sent_bytes_total",
            "gateway_peer_up",
            "forwarder_peer_up",
        ] {
            ensure!(query(&site.edge, &format!("count({name})"))?.is_some(), "Prometheus has no {name}");
        }
        Ok(())
    })
}

#[test]
fn the_counters_equal_what_was_transferred_to_within_protocol_overhead() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let size: u64 = 32 << 20;
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        let wire = |direction: &str| {
            let name = format!("gateway_tunnel_bytes_total{{peer=\"wroclaw\",direction=\"{direction}\"}}");
            value(&fetch(&site.edge, GATEWAY)?, &name)
        };
        let before = (wire("rx")?, wire("tx")?);
        download(&client, "192.0.2.2:5001", size)?;
        let middle = (wire("rx")?, wire("tx")?);
        upload(&client, "192.0.2.2:5001", size)?;
        let after = (wire("rx")?, wire("tx")?);
        within_overhead("download", middle.0 - before.0, size)?;
        within_overhead("upload", after.1 - middle.1, size)?;
        let page = fetch(&site.origin, FORWARDER)?;
        for direction in ["rx", "tx"] {
            let name = format!("forwarder_bytes_total{{service=\"bulk\",direction=\"{direction}\"}}");
            // Content, and the few words with which the test asks for it.
            let counted = value(&page, &name)?;
            ensure!(
                counted >= size as f64 && counted < size as f64 + 200.0,
                "{name} is {counted} after {size}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_page_that_is_asked_for_under_a_foreign_name_is_refused_and_under_a_listed_one_served() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let listen = r#"listen = ["127.0.0.1:9586", "10.77.88.1:9586"]"#;
        site.gateway_config.replace(listen, &format!("{listen}\nhosts = [\"edge.lan\"]"))?;
        let listen = r#"listen = ["127.0.0.1:9587"]"#;
        site.forwarder_config.replace(listen, &format!("{listen}\nhosts = [\"edge.lan\"]"))?;
        site.start()?;
        for (node, port) in [(&site.edge, 9586), (&site.origin, 9587)] {
            for (host, expected) in
                [("evil.example.com", "421"), ("edge.lan", "200"), ("localhost", "200"), ("", "421")]
            {
                for path in ["metrics", "readyz"] {
                    let url = format!("http://127.0.0.1:{port}/{path}");
                    let status = node.command("curl").args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
                    let status = status.args(["-H", &format!("Host:{host}"), &url]).run()?;
                    // Without a name only the health pages are served.
                    let expected = if host.is_empty() && path == "readyz" { "200" } else { expected };
                    ensure!(status == expected, "{url} as {host:?}: {status} and not {expected}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn no_client_address_is_ever_a_label_and_no_wan_client_is_answered() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        download(&client, "192.0.2.2:5001", 1000)?;
        for (node, url) in [(&site.edge, GATEWAY), (&site.origin, FORWARDER)] {
            ensure!(!fetch(node, url)?.contains("203.0.113.10"), "{url} names a client");
        }
        ensure!(client.tcp_connect("192.0.2.2:9586", Duration::from_secs(2)).is_err(), "metrics on the WAN");
        Ok(())
    })
}

fn site_with_forwarder_metrics(lab: &lab::Lab) -> Result<Site<'_>> {
    let mut site = Site::new(lab)?;
    site.gateway_config.replace(r#""2283"]"#, r#""2283", "9587"]"#)?;
    site.forwarder_config.append(
        "[[service]]\nname = \"own-metrics\"\nprotocol = [\"tcp\"]\nmatch = \"192.168.88.2:9587\"\nupstream = \"127.0.0.1:9587\"",
    );
    Ok(site)
}

fn prometheus(edge: &Node) -> Result<Process> {
    let folder = edge.directory().join("prometheus");
    fs::create_dir_all(&folder)?;
    let file = folder.join("prometheus.yml");
    fs::write(
        &file,
        "global: { scrape_interval: 1s }\nscrape_configs:\n  - job_name: causeway\n    static_configs:\n      \
         - targets: [\"127.0.0.1:9586\", \"192.168.88.2:9587\"]\n",
    )?;
    edge.command("promtool").args(["check", "config"]).arg(&file).run()?;
    let command = edge.command("prometheus").arg(format!("--config.file={}", file.display()));
    let command = command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg("--web.listen-address=127.0.0.1:9090").spawn("prometheus")
}

fn query(edge: &Node, expression: &str) -> Result<Option<f64>> {
    let command = edge.command("curl").args(["-sS", "--fail", "--max-time", "5", "-G", "--data-urlencode"]);
    let command = command.arg(format!("query={expression}")).arg("http://127.0.0.1:9090/api/v1/query");
    let answer: Value = serde_json::from_str(&command.run()?)?;
    let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
    Ok(value.map(str::parse).transpose()?)
}

fn fetch(node: &Node, url: &str) -> Result<String> {
    node.run(&format!("curl -sS --fail --max-time 5 {url}"))
}

/// The value of one series, whatever the order of its labels.
fn value(page: &str, series: &str) -> Result<f64> {
    let (name, labels) = series.split_once('{').context("a series has labels")?;
    let labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    let mut lines =
        page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)));
    let line = line.with_context(|| format!("no {series}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// Headers of IP, TCP, WireGuard and UDP are at most 112 of 1452 bytes; acknowledgements and liveness are small.
fn within_overhead(what: &str, counted: f64, size: u64) -> Result<()> {
    let ratio = counted / size as f64;
    ensure!((1.0..1.12).contains(&ratio), "{what}: {counted} counted for {size} sent, ratio {ratio:.3}");
    Ok(())
}
