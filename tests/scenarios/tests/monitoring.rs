//! The monitoring pack on a pair that really runs: a collector at the edge pushes through the
//! tunnel into a VictoriaMetrics at the origin, and every query of the dashboard and every alert
//! rule is run against that store.
//!
//! Alloy and Grafana have no Debian package: vmagent replaces the one, the store's own query
//! interface the other.

#![allow(clippy::print_stdout, clippy::indexing_slicing)] // Figures are printed; a JSON value has an answer to any index.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, Signal, TcpServer, Topology, scenario, until};
use scenarios::{Nginx, Site, download, serve_bulk};
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(90);

#[test]
fn every_query_of_the_dashboard_and_every_alert_rule_runs_on_what_both_daemons_report() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let _https = Nginx::start(&site.origin)?;
        let names = "proxy_protocol = \"v2\"\nnames = [\"emby.example.com\"]";
        site.forwarder_config.replace("proxy_protocol = \"v2\"", names)?;
        let _disk = TcpServer::start(site.edge.tcp_listener("192.168.1.2:2049")?, lab::echo)?;
        site.start()?;
        let _store = store(&site.origin)?;
        let collectors = Collectors::start(&site.edge)?;
        let mut queries = 0;
        for (title, expression) in dashboard()? {
            until(WAIT, &format!("{title}: {expression} to return data"), || {
                something_happens(&site, lab)?;
                Ok((rows(&site.origin, &expression)? > 0).then_some(()))
            })?;
            queries += 1;
        }
        println!("{queries} queries of the dashboard returned what both daemons report");
        ensure!(queries >= 24, "the dashboard has lost queries");
        collectors.all_run()?;
        a_picture_where_one_is_wanted(&site, lab)?;
        every_rule_is_evaluated_and_only_the_watchdog_fires(&site.origin)
    })
}

#[test]
fn samples_pushed_while_the_tunnel_was_cut_all_arrive() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        // The two minutes that matter are for the full run; a short cut takes the same way.
        let cut = Duration::from_secs(if lab::full_counts() { 120 } else { 20 });
        let mut site = Site::new(lab)?;
        site.start()?;
        let _store = store(&site.origin)?;
        let collectors = Collectors::start(&site.edge)?;
        until(WAIT, "the first samples to arrive", || Ok((ticks(&site.origin)?.len() > 2).then_some(())))?;
        site.forwarder()?.signal(Signal::Kill)?;
        site.forwarder()?.wait(Duration::from_secs(10))?;
        let before = collectors.ticks.load(Ordering::Relaxed);
        std::thread::sleep(cut);
        let missed = collectors.ticks.load(Ordering::Relaxed) - before;
        ensure!(missed >= cut.as_secs() / 4, "only {missed} samples were taken during the cut");
        ensure!(!ticks(&site.origin)?.contains(&(before + missed)), "the tunnel was not cut");
        site.start_forwarder()?;
        site.wait_until_up(Duration::from_secs(60))?;
        let last = collectors.ticks.load(Ordering::Relaxed) + 3;
        let arrived = until(WAIT, "every sample to arrive", || {
            let arrived = ticks(&site.origin)?;
            let lost: Vec<_> = (1..=last).filter(|tick| !arrived.contains(tick)).collect();
            // On a busy machine the collector gives up on a scrape; it reports that, and that must
            // arrive as well.
            let failed = values(&site.origin, "up{job=\"tick\"}")?.into_iter().filter(|up| *up == 0).count();
            ensure!(
                lost.len() <= failed,
                "of {last} these are missing, with {failed} scrapes failed: {lost:?}"
            );
            Ok(Some(arrived))
        })?;
        println!(
            "cut for {} s: {missed} scrapes meanwhile, and of {last} none was lost: {} are in the store",
            cut.as_secs(),
            arrived.len()
        );
        Ok(())
    })
}

/// Draws the dashboard after two minutes of traffic where `CAUSEWAY_PICTURE` names a file.
fn a_picture_where_one_is_wanted(site: &Site<'_>, lab: &Lab) -> Result<()> {
    let Ok(picture) = std::env::var("CAUSEWAY_PICTURE") else { return Ok(()) };
    let (start, client) = (Instant::now(), lab.node("client")?);
    while start.elapsed() < Duration::from_secs(120) {
        something_happens(site, lab)?;
        // More in the middle than at the ends.
        let middle = 60u64.abs_diff(start.elapsed().as_secs());
        download(&client, "192.0.2.2:5001", (60 - middle.min(59)) * 20_000)?;
        std::thread::sleep(Duration::from_millis(300));
    }
    let script = lab::workspace().join("scripts/dashboard-picture");
    let drawn = site.origin.command(script).args(["--seconds", "120"]).run()?;
    fs::write(&picture, drawn).context(picture)
}

/// A download, a packet that no rule takes at the edge, and one that no entry takes at the origin.
fn something_happens(site: &Site<'_>, lab: &Lab) -> Result<()> {
    let client = lab.node("client")?;
    download(&client, "192.0.2.2:5001", 10_000)?;
    let nowhere = Duration::from_millis(100);
    ensure!(client.tcp_connect("192.0.2.2:9", nowhere).is_err());
    ensure!(site.edge.tcp_connect("192.168.88.2:9428", Duration::from_secs(2)).is_err());
    let mut disk = site.origin.tcp_connect("127.0.0.1:2049", Duration::from_secs(5))?;
    disk.write_all(b"a film").context("the reach listener")
}

/// vmalert, as the sample tree runs it, on the rules themselves.
fn every_rule_is_evaluated_and_only_the_watchdog_fires(origin: &Node) -> Result<()> {
    let rules = lab::workspace().join("configs/monitoring/rules/causeway.yml");
    let command = tool(origin, "vmalert").arg(format!("-rule={}", rules.display()));
    let command = command.args(["-datasource.url=http://127.0.0.1:8428", "-notifier.blackhole"]);
    let command = command.args(["-httpListenAddr=127.0.0.1:8880", "-evaluationInterval=1s"]);
    let _vmalert = command.arg("-rule.evalDelay=0s").spawn("vmalert")?;
    let evaluated = until(WAIT, "every rule to be evaluated", || {
        let answer = origin.run("curl -sS --fail --max-time 5 http://127.0.0.1:8880/api/v1/rules")?;
        let answer: Value = serde_json::from_str(&answer)?;
        let groups = answer.pointer("/data/groups").and_then(Value::as_array).context("no groups")?;
        let rules = groups.iter().filter_map(|group| group.get("rules")?.as_array()).flatten().cloned();
        let rules: Vec<Value> = rules.collect();
        let done = |rule: &Value| rule["lastEvaluation"].as_str().is_some_and(|at| !at.starts_with("0001"));
        Ok((rules.len() >= 10 && rules.iter().all(done)).then_some(rules))
    })?;
    for rule in &evaluated {
        ensure!(rule["health"] == "ok", "{rule}");
        let state = if rule["name"] == "Watchdog" { "firing" } else { "inactive" };
        ensure!(rule["state"] == state, "{} is {}: {rule}", rule["name"], rule["state"]);
    }
    println!("{} alert rules evaluated; of a healthy pair only the watchdog fires", evaluated.len());
    Ok(())
}

/// What measures at the edge: a collector, a prober, and something that counts how often it was
/// asked.
struct Collectors {
    agent: std::cell::RefCell<Process>,
    prober: std::cell::RefCell<Process>,
    ticks: Arc<AtomicU64>,
    _target: TcpServer,
}

impl Collectors {
    fn start(edge: &Node) -> Result<Self> {
        let ticks = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&ticks);
        let target = TcpServer::start(edge.tcp_listener("127.0.0.1:9999")?, move |mut stream| {
            let mut lines = BufReader::new(stream.try_clone()?).lines();
            while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
            let body = format!("tick_total {}\n", count.fetch_add(1, Ordering::Relaxed) + 1);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length:";
            stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes())
        })?;
        let folder = edge.directory();
        fs::write(folder.join("probes.yml"), "modules: { tcp: { prober: tcp, timeout: 5s } }\n")?;
        let prober = tool(edge, "prometheus-blackbox-exporter").arg("--web.listen-address=127.0.0.1:9115");
        let prober = prober.arg(format!("--config.file={}", folder.join("probes.yml").display()));
        let prober = prober.spawn("prober")?;
        fs::write(folder.join("agent.yml"), AGENT)?;
        let agent =
            tool(edge, "vmagent").args(["-httpListenAddr=127.0.0.1:8429", "-memory.allowedBytes=64MB"]);
        let agent = agent.args(["-remoteWrite.flushInterval=1s", "-remoteWrite.retryMaxTime=5s"]);
        let agent = agent.arg("-remoteWrite.url=http://192.168.88.2:8428/api/v1/write");
        let agent = agent.arg(format!("-remoteWrite.tmpDataPath={}", folder.join("agent").display()));
        let agent = agent.arg(format!("-promscrape.config={}", folder.join("agent.yml").display()));
        let agent = agent.spawn("vmagent")?;
        Ok(Self { agent: agent.into(), prober: prober.into(), ticks, _target: target })
    }

    fn all_run(&self) -> Result<()> {
        ensure!(self.agent.borrow_mut().is_running() && self.prober.borrow_mut().is_running());
        Ok(())
    }
}

/// As kyiv.alloy.tmpl has it, where vmagent replaces Alloy.
const AGENT: &str = "global: { scrape_interval: 1s, external_labels: { location: kyiv } }
scrape_configs:
- { job_name: alloy, static_configs: [{ targets: ['127.0.0.1:8429'], labels: { component: alloy } }] }
- { job_name: gateway, static_configs: [{ targets: ['127.0.0.1:9586'], labels: { component: gateway } }] }
- { job_name: tick, static_configs: [{ targets: ['127.0.0.1:9999'] }] }
- job_name: probes
  metrics_path: /probe
  params: { module: [tcp], target: ['192.168.88.2:8428'] }
  static_configs: [{ targets: ['127.0.0.1:9115'], labels: { component: store } }]
";

/// As wroclaw.alloy.tmpl has it: the store collects there itself.
const STORE: &str = "global: { scrape_interval: 1s }
scrape_configs:
- { job_name: alloy, static_configs: [{ targets: ['127.0.0.1:8428'], labels: { location: wroclaw, component: alloy } }] }
- { job_name: forwarder, static_configs: [{ targets: ['127.0.0.1:9587'], labels: { location: wroclaw, component: forwarder } }] }
";

fn store(origin: &Node) -> Result<Process> {
    let folder = origin.directory();
    fs::write(folder.join("store.yml"), STORE)?;
    let command = tool(origin, "victoria-metrics").arg("-httpListenAddr=127.0.0.1:8428");
    let command = command.arg(format!("-storageDataPath={}", folder.join("store").display()));
    let command = command.arg(format!("-promscrape.config={}", folder.join("store.yml").display()));
    let command =
        command.args(["-search.latencyOffset=0s", "-memory.allowedBytes=128MB", "-retentionPeriod=1"]);
    let store = command.spawn("victoria-metrics")?;
    until(WAIT, "the store", || origin.run("curl -sS --fail http://127.0.0.1:8428/health").map(Some))?;
    Ok(store)
}

fn tool(node: &Node, name: &str) -> lab::NodeCommand {
    node.command(engine::packages("monitoring").join("usr/bin").join(name))
}

/// Each panel's title and queries, for every location.
fn dashboard() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(lab::workspace().join("configs/monitoring/dashboards/causeway.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    // Panels of logs ask another store: a test of stackctl asks it.
    let panels = panels.iter().filter(|panel| panel["datasource"]["type"] == "prometheus");
    let queries = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| {
            let expression = target["expr"].as_str().unwrap_or_default().replace("$location", ".*");
            (title.clone(), expression)
        })
    });
    Ok(queries.collect())
}

fn rows(origin: &Node, expression: &str) -> Result<usize> {
    let command = origin.command("curl").args(["-sS", "--fail", "--max-time", "5", "-G", "--data-urlencode"]);
    let command = command.arg(format!("query={expression}")).arg("http://127.0.0.1:8428/api/v1/query");
    let answer: Value = serde_json::from_str(&command.run()?)?;
    answer.pointer("/data/result").and_then(Value::as_array).map(Vec::len).context("no result")
}

/// Every value of the edge's counter that the store has.
fn ticks(origin: &Node) -> Result<BTreeSet<u64>> {
    Ok(values(origin, "tick_total")?.into_iter().collect())
}

/// Every sample of a series that the store has.
fn values(origin: &Node, series: &str) -> Result<Vec<u64>> {
    let command = origin.command("curl").args(["-sS", "--fail", "--max-time", "5", "-G", "--data-urlencode"]);
    let command = command.arg(format!("match={series}")).arg("http://127.0.0.1:8428/api/v1/export");
    let mut all = Vec::new();
    for line in command.run()?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let values = row["values"].as_array().context("no values")?;
        all.extend(values.iter().filter_map(Value::as_f64).map(|value| value as u64));
    }
    Ok(all)
}
