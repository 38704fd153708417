//! What watches at each site, from the pack's own files: a prober, a store that collects, vmalert
//! and Alertmanager; and Kyiv's collector, which pushes through the tunnel.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, NodeCommand, Process, TcpServer, until};

use crate::receiver::{ADDRESS, ask};

/// How fast the pack runs: as it is, or so that a failure takes seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// The files as they are; collectors ask as often as Alloy's files say.
    Full,
    /// Collectors ask every second, rules are evaluated every second, and what they wait for is
    /// shortened. The 15 seconds until an end reports that its peer is down are the protocol's and
    /// stay; `services` is how long a service may fail. The windows are no shorter than 10 seconds:
    /// a sample can be found some seconds after it was taken.
    Short { services: &'static str },
}

impl Pace {
    /// The rules at this pace.
    fn rules(self, text: &str) -> Result<String> {
        let Self::Short { services } = self else { return Ok(text.to_owned()) };
        let mut paced = String::new();
        for (index, part) in text.split("- alert: ").enumerate() {
            let name = part.split_whitespace().next().unwrap_or_default();
            let wait = match name {
                "LocationDown" => "for: 2s",
                "TunnelDown" => "for: 4s",
                "ServiceDown" => services,
                _ => "for: 25s",
            };
            let part = part.replace("for: 1m", wait).replace("for: 2m", wait).replace("[90s]", "[10s]");
            paced += if index == 0 { "" } else { "- alert: " };
            paced += &part.replace("interval: 15s", "interval: 1s");
        }
        ensure!(paced.contains("[10s]") && !paced.contains("for: 2m"), "the rules cannot be shortened");
        Ok(paced)
    }

    /// Alertmanager's file at this pace.
    fn alertmanager(self, site: &str) -> Result<String> {
        let text = read("alertmanager.yml.tmpl")?;
        let text = text.replace("{{ALERT_WEBHOOK_URL}}", &format!("http://{ADDRESS}/page/{site}"));
        let text = text.replace("{{WATCHDOG_URL}}", &format!("http://{ADDRESS}/watchdog/{site}"));
        Ok(match self {
            Self::Full => text,
            Self::Short { .. } => text
                .replace("group_wait: 30s", "group_wait: 1s")
                .replace("group_interval: 1m", "group_interval: 1s")
                .replace("group_interval: 5m", "group_interval: 2s")
                .replace("repeat_interval: 5m", "repeat_interval: 2s"),
        })
    }

    /// How often pages of metrics are read, and how often probes are made.
    fn intervals(self) -> (&'static str, &'static str) {
        match self {
            Self::Full => ("15s", "30s"),
            Self::Short { .. } => ("1s", "1s"),
        }
    }

    fn is_short(self) -> bool {
        matches!(self, Self::Short { .. })
    }
}

/// A page of metrics or a probe, with the labels that the site's Alloy gives it.
pub(crate) struct Job {
    name: &'static str,
    target: &'static str,
    module: Option<&'static str>,
    labels: &'static str,
}

pub(crate) const fn page(name: &'static str, target: &'static str, labels: &'static str) -> Job {
    Job { name, target, module: None, labels }
}

pub(crate) const fn probe(
    name: &'static str,
    module: &'static str,
    target: &'static str,
    labels: &'static str,
) -> Job {
    Job { name, target, module: Some(module), labels }
}

/// The programs of one site. Dropped, they are gone at once.
pub(crate) struct Watch {
    node: Node,
    processes: Vec<RefCell<Process>>,
    disk: Option<TcpServer>,
}

impl Watch {
    /// Starts a site's prober, store, vmalert and Alertmanager.
    pub(crate) fn start(node: &Node, site: &str, rules: &str, jobs: &[Job], pace: Pace) -> Result<Self> {
        let folder = node.directory();
        let at = |name: &str| folder.join(name).display().to_string();
        fs::write(at("probes.yml"), MODULES)?;
        fs::write(at("store.yml"), collecting(site, jobs, pace))?;
        fs::write(at("rules.yml"), pace.rules(&read(rules)?)?)?;
        fs::write(at("alertmanager.yml"), pace.alertmanager(site)?)?;
        let mut watch = Self { node: node.clone(), processes: Vec::new(), disk: None };
        let prober = tool(node, "prometheus-blackbox-exporter").arg("--web.listen-address=127.0.0.1:9115");
        watch.run(prober.arg(format!("--config.file={}", at("probes.yml"))), "prober")?;
        let store = tool(node, "victoria-metrics").arg("-httpListenAddr=127.0.0.1:8428");
        let store = store.arg(format!("-storageDataPath={}", at("store")));
        let store = store.arg(format!("-promscrape.config={}", at("store.yml")));
        let store = store.args(["-memory.allowedBytes=64MB", "-retentionPeriod=1"]);
        watch.run(store.args(pace.is_short().then_some("-search.latencyOffset=0s")), "store")?;
        // Debian's build reads its templates from a fixed place, which the unpacked package has
        // below its own root.
        let root = engine::packages("monitoring").display().to_string();
        let script = format!(
            "mount --bind {root}/usr/share /usr/share && exec {root}/usr/bin/prometheus-alertmanager \
             --config.file={} --storage.path={} --web.listen-address=127.0.0.1:9093 --cluster.listen-address=",
            at("alertmanager.yml"),
            at("alertmanager"),
        );
        let command = node.command("unshare").args(["--mount", "sh", "-c", &script]);
        watch.run(command, "alertmanager")?;
        for url in ["http://127.0.0.1:8428/health", "http://127.0.0.1:9093/-/ready"] {
            until(Duration::from_secs(60), url, || {
                node.command("curl").args(["-sS", "--fail", "--max-time", "5", url]).run().map(Some)
            })?;
        }
        watch.run(vmalert(node, &at("rules.yml"), pace), "vmalert")?;
        Ok(watch)
    }

    /// Starts a collector that pushes to the other site's store.
    pub(crate) fn push(&mut self, jobs: &[Job], pace: Pace) -> Result<()> {
        let folder = self.node.directory().to_path_buf();
        fs::write(folder.join("agent.yml"), collecting("kyiv", jobs, pace))?;
        let agent = tool(&self.node, "vmagent");
        let agent = agent.args(["-httpListenAddr=127.0.0.1:8429", "-memory.allowedBytes=64MB"]);
        let agent = agent.args(["-remoteWrite.flushInterval=1s", "-remoteWrite.retryMaxTime=5s"]);
        let agent = agent.arg("-remoteWrite.url=http://192.168.88.2:8428/api/v1/write");
        let agent = agent.arg(format!("-remoteWrite.tmpDataPath={}", folder.join("agent").display()));
        let agent = agent.arg(format!("-promscrape.config={}", folder.join("agent.yml").display()));
        self.run(agent, "agent")
    }

    /// Keeps a server of this site for as long as the site lives.
    pub(crate) fn hold(&mut self, disk: TcpServer) {
        self.disk = Some(disk);
    }

    fn run(&mut self, command: NodeCommand, name: &str) -> Result<()> {
        self.processes.push(RefCell::new(command.spawn(name)?));
        Ok(())
    }

    /// Whether all of them still run.
    pub(crate) fn all_run(&self) -> bool {
        self.processes.iter().all(|process| process.borrow_mut().is_running())
    }

    /// How many series an expression has in the site's store.
    pub(crate) fn rows(&self, expression: &str) -> Result<usize> {
        let command = self.node.command("curl").args(["-sS", "--fail", "--max-time", "5", "-G"]);
        let command = command.args(["--data-urlencode", &format!("query={expression}")]);
        let text = command.arg("http://127.0.0.1:8428/api/v1/query").run()?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        answer.pointer("/data/result").and_then(|rows| Some(rows.as_array()?.len())).context(text)
    }

    /// The alerts that the site's vmalert has, pending or firing: what could still become a page.
    pub(crate) fn alerts(&self) -> Result<BTreeSet<String>> {
        let answer = ask(&self.node, "http://127.0.0.1:8880/api/v1/alerts")?;
        let alerts =
            answer.pointer("/data/alerts").and_then(|alerts| alerts.as_array()).context("no alerts")?;
        Ok(alerts.iter().filter_map(|alert| alert["name"].as_str().map(str::to_owned)).collect())
    }
}

/// The modules of both Alloy files.
const MODULES: &str = "modules:
  http: { prober: http, timeout: 5s }
  tcp: { prober: tcp, timeout: 5s }
  echo: { prober: icmp, timeout: 5s, icmp: { preferred_ip_protocol: ip4 } }
  says_up: { prober: http, timeout: 10s, http: { fail_if_body_not_matches_regexp: ['\"up\"'] } }
";

/// What a site collects, as its Alloy would: the site's name where nothing else is said, a probe's
/// name in its job.
fn collecting(site: &str, jobs: &[Job], pace: Pace) -> String {
    let (pages, probes) = pace.intervals();
    let mut text = format!("global: {{ scrape_interval: {pages} }}\nscrape_configs:\n");
    for Job { name, target, module, labels } in jobs {
        let location =
            if labels.contains("location:") { String::new() } else { format!("location: {site}, ") };
        let labels = format!("{{ {location}{labels} }}");
        text += &match module {
            None => format!(
                "- {{ job_name: {name}, static_configs: [{{ targets: ['{target}'], labels: {labels} }}] }}\n"
            ),
            Some(module) => format!(
                "- job_name: integrations/blackbox/{name}\n  scrape_interval: {probes}\n  metrics_path: /probe\n  \
                 params: {{ module: [{module}], target: ['{target}'] }}\n  \
                 static_configs: [{{ targets: ['127.0.0.1:9115'], labels: {labels} }}]\n"
            ),
        };
    }
    text
}

/// As the sample tree runs it; its waits for late samples are left out at the short pace.
fn vmalert(node: &Node, rules: &str, pace: Pace) -> NodeCommand {
    let command = tool(node, "vmalert").arg(format!("-rule={rules}"));
    let command = command.args(
        ["datasource", "remoteWrite", "remoteRead"].map(|to| format!("-{to}.url=http://127.0.0.1:8428")),
    );
    let command = command.args(["-notifier.url=http://127.0.0.1:9093", "-httpListenAddr=127.0.0.1:8880"]);
    command.args(pace.is_short().then_some("-rule.evalDelay=0s"))
}

fn tool(node: &Node, name: &str) -> NodeCommand {
    node.command(engine::packages("monitoring").join("usr/bin").join(name))
}

fn read(name: &str) -> Result<String> {
    let path = lab::workspace().join("configs/monitoring").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
