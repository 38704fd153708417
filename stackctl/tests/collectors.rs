//! The configuration of the sample tree's collectors: the files are of Alloy's language, and everything that they ask is there.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;
use support::alloy::{Block, Value, check, parse};
use support::{packages, project};

const LOCATIONS: [&str; 2] = ["wroclaw", "kyiv"];

/// Who listens where: the container of the tree, its port, and the file of the tree that says so by which words; without a
/// file it is what the image's documentation gives as its default.
const LISTENERS: &str = "\
alloy 12345 _base/monitoring.yaml http://127.0.0.1:12345/-/ready
authelia 9091 authelia/configuration.yml.tmpl server: address: tcp://:9091/
authelia 9959 authelia/configuration.yml.tmpl telemetry: metrics: enabled: true address: tcp://:9959/metrics
caddy 2020 caddy/Caddyfile.tmpl http://:2020 { metrics }
emby 8096 _base/emby.yaml http://127.0.0.1:8096/System/Ping
server 2283 _base/immich.yaml http://127.0.0.1:2283/api/server/ping
transmission 9091 _base/transmission.yaml http://127.0.0.1:9091/transmission/web/
exporter 19091
forwarder 9587 wroclaw/forwarder/forwarder.toml.tmpl [metrics] listen = [\"0.0.0.0:9587\"]
gateway 9586 kyiv/gateway/gateway.toml.tmpl [metrics] listen = [\"127.0.0.1:9586\"]
grafana 3000 wroclaw/monitoring.yaml http://127.0.0.1:3000/api/health
mktxp 49090 monitoring/mktxp/_mktxp.conf.tmpl listen = '0.0.0.0:49090'
victoria-metrics 8428 wroclaw/monitoring.yaml http://127.0.0.1:8428/health
victoria-logs 9428
vmalert 8880
alertmanager 9093
";

/// What is asked outside of the tree, by the variable that names it.
const OUTSIDE: [&str; 3] = ["{{KYIV_OUTSIDE}}", "{{LINE_PROBE}}", "{{WATCHDOG_STATUS_URL}}"];

#[test]
fn the_collectors_files_have_only_what_alloys_documentation_allows() {
    for location in LOCATIONS {
        let components = components(location);
        let (faults, experimental) = check(&components);
        assert_eq!(faults, [] as [&str; 0], "{location}");
        let base = read("_base/monitoring.yaml");
        assert!(
            experimental.is_empty() || base.contains("--stability.level=experimental"),
            "{location} uses {experimental:?}, which Alloy refuses at its default stability level"
        );
        println!("{location}: {} components, experimental: {experimental:?}", components.len());
        for must in ["remote_write", "write"] {
            let stores = components.iter().filter(|c| c.label == "store" && c.kind.ends_with(must));
            assert!(
                stores.flat_map(|store| &store.blocks).any(|block| block.kind == "wal"),
                "{location}: {must}"
            );
        }
    }
}

#[test]
fn a_fault_in_a_collectors_file_is_found() {
    let whole = fs::read_to_string(file("kyiv")).expect("readable");
    let changes = [
        ("scrape_interval = ", "scrape_intervall = "),
        ("prometheus.relabel.component_docker.receiver", "prometheus.relabel.component_doker.receiver"),
        ("prometheus.relabel.component_docker.receiver", "loki.write.store.receiver"),
        ("discovery.relabel.containers.output", "discovery.relabel.containers.targets"),
        ("    max_backoff          = ", "    backoff_max          = "),
        ("  labels     = {}\n", ""),
        ("    address = \"127.0.0.1:2049\"\n", ""),
        ("loki.source.docker", "loki.source.dockre"),
        ("discovery.docker \"all\"", "discovery.docker"),
        ("prometheus.scrape \"alloy\"", "prometheus.scrape \"system\""),
    ];
    for (from, to) in changes {
        assert!(whole.contains(from), "{from}");
        let (faults, _) = check(&parse(&whole.replacen(from, to, 1)));
        assert!(!faults.is_empty(), "{from:?} became {to:?} and nothing was found");
    }
}

#[test]
fn everything_a_collector_asks_is_in_the_tree_and_within_its_reach() {
    for location in LOCATIONS {
        let tree = Containers::of(location);
        let asked = asked(&components(location));
        for address in &asked {
            if !OUTSIDE.contains(&address.as_str()) {
                tree.answers(location, address);
            }
        }
        println!("{location}: {} addresses are asked, each has its listener", asked.len());
    }
}

#[test]
fn caddys_admin_endpoint_is_its_containers_own() {
    let caddyfile = read("caddy/Caddyfile.tmpl");
    let admin: Vec<&str> = caddyfile.lines().filter_map(|line| line.trim().strip_prefix("admin ")).collect();
    assert_eq!(admin, ["localhost:2019"]);
    for location in LOCATIONS {
        assert!(!asked(&components(location)).iter().any(|address| address.contains(":2019")));
    }
}

#[test]
fn grafana_is_given_both_stores_and_every_panel_uses_one_of_them() {
    let sources = fs::read_to_string(project().join("configs/monitoring/provisioning/datasources/store.yml"))
        .expect("readable");
    let kinds: Vec<&str> = sources.lines().filter_map(|line| line.trim().strip_prefix("type: ")).collect();
    assert_eq!(kinds, ["prometheus", "victoriametrics-logs-datasource"]);
    // What Grafana does not bring along has to be installed.
    assert!(read("wroclaw/monitoring.yaml").contains("GF_INSTALL_PLUGINS=victoriametrics-logs-datasource"));
    let tree = Containers::of("wroclaw");
    for url in sources.lines().filter_map(|line| line.trim().strip_prefix("url: ")) {
        tree.answers("wroclaw", url);
    }
    let text =
        fs::read_to_string(project().join("configs/monitoring/dashboards/causeway.json")).expect("readable");
    let dashboard: Json = serde_json::from_str(&text).expect("JSON");
    let mut logs = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        let source = panel["datasource"]["type"].as_str().expect("a data source");
        assert!(kinds.contains(&source), "{panel}");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(targets.iter().all(|target| target["datasource"]["type"] == source), "{panel}");
        logs += usize::from(source == kinds[1]);
    }
    assert!(logs >= 3, "{logs} panels of logs");
}

fn file(location: &str) -> std::path::PathBuf {
    project().join(format!("configs/stack/{location}/monitoring/alloy/config.alloy.tmpl"))
}

fn components(location: &str) -> Vec<Block> {
    parse(&fs::read_to_string(file(location)).expect("readable"))
}

fn read(path: &str) -> String {
    fs::read_to_string(project().join("configs/stack").join(path)).expect("readable")
}

/// Every address that a collector scrapes or probes.
fn asked(components: &[Block]) -> Vec<String> {
    let mut asked = Vec::new();
    for component in components {
        match component.kind.as_str() {
            "prometheus.scrape" => {
                if let Some(Value::List(targets)) = component.get("targets") {
                    asked.extend(
                        targets
                            .iter()
                            .map(|target| target.entry("__address__").expect("an address").to_owned()),
                    );
                }
            }
            "prometheus.exporter.blackbox" => {
                asked.extend(component.blocks.iter().map(|target| target.text("address").to_owned()));
            }
            _ => {}
        }
    }
    assert!(asked.len() > 6, "{asked:?}");
    asked
}

/// A location's containers, as Compose itself resolves them.
struct Containers(BTreeMap<String, Json>);

impl Containers {
    fn of(location: &str) -> Self {
        let stack = project().join("configs/stack");
        let compose = packages("docker").join("usr/libexec/docker/cli-plugins/docker-compose");
        let dir = tempfile::tempdir().expect("a folder");
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(stack.join(location)).expect("readable").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(service) = name.strip_suffix(".yaml") else { continue };
            let parts = [stack.join("_base").join(&name), entry.path()];
            let mut command = Command::new(&compose);
            command.current_dir(dir.path()).env_clear().env("PWD", stack.join(location));
            command.args(["--project-name", service, "--env-file"]);
            command.arg(stack.join(location).join(".env.user.example"));
            for (index, part) in parts.iter().filter(|part| part.exists()).enumerate() {
                let copy = dir.path().join(format!("{service}-{index}.yaml"));
                fs::write(&copy, without_placeholders(part)).expect("written");
                command.arg("-f").arg(copy);
            }
            command.env("IMMICH_DB_PASSWORD", "x").args(["config", "--format", "json"]);
            let output = command.output().expect("docker-compose runs");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let resolved: Json = serde_json::from_slice(&output.stdout).expect("JSON");
            let networks = &resolved["networks"];
            for (container, mut spec) in resolved["services"].as_object().expect("services").clone() {
                let own = spec["networks"].as_object().map(|own| own.keys().cloned().collect::<Vec<_>>());
                let own = own.unwrap_or_default();
                spec["on"] = own.iter().map(|key| networks[key]["name"].clone()).collect();
                all.insert(container, spec);
            }
        }
        Self(all)
    }

    fn on(&self, container: &str) -> BTreeSet<String> {
        let on = self.0[container]["on"].as_array().cloned().unwrap_or_default();
        on.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    fn is_on_the_machine(&self, container: &str) -> bool {
        self.0[container]["network_mode"] == "host"
    }

    /// Panics unless a container of the tree, or a program that the tree names, listens at this address where Alloy is.
    fn answers(&self, location: &str, address: &str) {
        let (host, port) = host_and_port(&with_examples(location, address));
        if address.starts_with("https://") {
            // A public name: a site of Caddy's.
            return assert!(read("caddy/Caddyfile.tmpl").contains(&format!("{address}, ")), "{address}");
        }
        if self.0.contains_key(&host) {
            assert!(!self.is_on_the_machine("alloy"), "{address}: on the machine there are no names");
            assert!(!self.on(&host).is_disjoint(&self.on("alloy")), "{address}: no network in common");
            return listens(&host, port, address);
        }
        if host == "127.0.0.1" && port == 12345 {
            return listens("alloy", port, address);
        }
        assert!(self.is_on_the_machine("alloy"), "{address} is no container of {location}");
        if port == 2049 {
            // The machine's own NFS server, which the edge's file opens to the tunnel.
            return assert!(read("kyiv/gateway/gateway.toml.tmpl").contains("ports = [\"2049\"]"));
        }
        let own = self.0.keys().filter(|name| self.is_on_the_machine(name));
        let own = own.map(|name| (name.clone(), port));
        let known = |(name, port): &(String, u16)| source(name, *port).is_some();
        let listener = self.published(&host, port).into_iter().chain(own).find(known);
        let (name, inside) = listener.unwrap_or_else(|| panic!("nothing listens at {address}"));
        listens(&name, inside, address);
    }

    /// Containers behind a published port, with the port inside.
    fn published(&self, host: &str, port: u16) -> Vec<(String, u16)> {
        let (mut found, port) = (Vec::new(), port.to_string());
        for (name, spec) in &self.0 {
            for published in spec["ports"].as_array().cloned().unwrap_or_default() {
                if published["host_ip"] == host && published["published"] == port.as_str() {
                    let inside = published["target"].as_u64().and_then(|p| u16::try_from(p).ok());
                    let inside = inside.expect("a port");
                    let same = format!("service:{name}");
                    let guests = self.0.iter().filter(|(_, spec)| spec["network_mode"] == same.as_str());
                    found.push((name.clone(), inside));
                    found.extend(guests.map(|(guest, _)| (guest.clone(), inside)));
                }
            }
        }
        found
    }
}

/// The container listens on this port, and the tree's own file says so where there is one.
fn listens(container: &str, port: u16, address: &str) {
    let Some(source) = source(container, port) else {
        panic!("{address}: {container} does not listen there");
    };
    let Some((path, words)) = source.split_once(' ') else { return };
    let text = read(path).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(words), "{address}: {path} has no {words:?}");
}

/// The file and the words by which a container listens on a port; empty where it is the image's default.
fn source(container: &str, port: u16) -> Option<&'static str> {
    let name = format!("{container} {port}");
    LISTENERS.lines().find_map(|line| line.strip_prefix(&name)).map(str::trim)
}

fn without_placeholders(path: &Path) -> String {
    fs::read_to_string(path).expect("readable").replace("{{", "").replace("}}", "")
}

fn with_examples(location: &str, text: &str) -> String {
    let example = read(&format!("{location}/.env.user.example"));
    example
        .lines()
        .filter_map(|line| line.split_once('='))
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

fn host_and_port(address: &str) -> (String, u16) {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let usual = if scheme == "https" { 443 } else { 80 };
    (host.to_owned(), port.parse().unwrap_or(usual))
}
