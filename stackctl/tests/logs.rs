//! The dashboard's panels of logs, asked of a real VictoriaLogs that has lines as Alloy pushes them: to the address of each
//! collector's file, with its labels, as compressed protocol buffers.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value as Json;
use support::alloy::{Block, Value, parse};
use support::{packages, project};

/// A line of a container: location, service, text.
type Line = (&'static str, &'static str, &'static str);

/// What both daemons write when they are no terminal's, and lines of others.
const LINES: [Line; 12] = [
    ("kyiv", "gateway", "2026-11-29T21:00:00.000001Z  INFO gateway::life: ready"),
    ("kyiv", "gateway", "2026-11-29T21:00:01.000001Z  WARN gateway::peers: no answer peer=\"wroclaw\""),
    ("kyiv", "gateway", "2026-11-29T21:00:02.000001Z ERROR gateway::kernel: the rules cannot be loaded"),
    ("kyiv", "gateway-tools", "WARN: not of the gateway"),
    ("kyiv", "transmission", "the word warn, in small letters"),
    ("wroclaw", "forwarder", "2026-11-29T21:00:03.000001Z  WARN forwarder::dial: refused service=\"https\""),
    ("wroclaw", "forwarder", "2026-11-29T21:00:03.000001Z  INFO forwarder::life: WARNING is another word"),
    ("wroclaw", "caddy", r#"{"level":"error","ts":1795986000.1,"msg":"dial tcp 127.0.0.1:8096: refused"}"#),
    ("wroclaw", "caddy", r#"{"level":"info","ts":1795986000.2,"msg":"serving"}"#),
    ("wroclaw", "immich", "[Nest] 7 - ERROR [Api] An Error occurred"),
    ("wroclaw", "immich", "an errorless line"),
    ("wroclaw-2", "immich", "error: a location whose name begins with another's"),
];

/// What Grafana makes of `${location:pipe}`, for all locations, one, and two.
const CHOSEN: [(&str, &[&str]); 3] = [
    (".*", &["kyiv", "wroclaw", "wroclaw-2"]),
    ("wroclaw", &["wroclaw"]),
    ("kyiv|wroclaw", &["kyiv", "wroclaw"]),
];

#[test]
fn every_panel_of_logs_shows_its_lines_and_no_others() {
    let store = Store::start();
    let collectors = ["kyiv", "wroclaw"].map(Collector::of);
    for line in LINES {
        let collector = collectors.iter().find(|c| c.location == line.0).unwrap_or(&collectors[1]);
        store.push(collector, line);
    }
    let panels = panels();
    store.await_lines(LINES.len());
    for (choice, locations) in CHOSEN {
        let shown = |wanted: &dyn Fn(&Line) -> bool| -> BTreeSet<String> {
            let within = LINES.iter().filter(|line| locations.contains(&line.0) && wanted(line));
            within.map(|line| line.2.to_owned()).collect()
        };
        let of_ends = |line: &Line| ["gateway", "forwarder"].contains(&line.1);
        let warns = |line: &Line| line.2.contains(" WARN ") || line.2.contains(" ERROR ");
        let errors = |line: &Line| {
            let words = line.2.split(|c: char| !c.is_ascii_alphanumeric());
            words.into_iter().any(|word| word.eq_ignore_ascii_case("error"))
        };
        for (title, kind, query) in &panels {
            let query = query.replace("${location:pipe}", choice);
            match (title.as_str(), kind.as_str()) {
                ("Log lines by service", "statsRange") => assert_eq!(store.counts(&query), counts(locations)),
                ("Warnings of both ends", "instant") => {
                    assert_eq!(store.lines(&query), shown(&|line| of_ends(line) && warns(line)), "{query}");
                }
                ("Errors of every service", "instant") => {
                    assert_eq!(store.lines(&query), shown(&errors), "{query}");
                }
                other => panic!("{other:?} is a panel of logs that this test does not know"),
            }
        }
    }
    assert_eq!(panels.len(), 3, "each panel was asked for");
    println!("{} panels of logs, each asked for {} choices of locations", panels.len(), CHOSEN.len());
}

#[test]
fn the_store_refuses_what_is_no_query() {
    let store = Store::start();
    for (_, _, query) in panels() {
        let query = query.replacen('{', "{,", 1);
        let output = store.ask("query", &query);
        assert!(!output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Each location's and service's number of lines.
fn counts(locations: &[&str]) -> BTreeSet<(String, String, usize)> {
    let within = || LINES.iter().filter(|line| locations.contains(&line.0));
    let count = |line: &Line| within().filter(|other| (other.0, other.1) == (line.0, line.1)).count();
    within().map(|line| (line.0.to_owned(), line.1.to_owned(), count(line))).collect()
}

/// The panels of logs of the dashboard: title, kind of query, query.
fn panels() -> Vec<(String, String, String)> {
    let path = project().join("configs/monitoring/dashboards/causeway.json");
    let dashboard: Json = serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON");
    let text = |value: &Json| value.as_str().expect("a text").to_owned();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            if target["datasource"]["type"] == "victoriametrics-logs-datasource" {
                found.push((text(&panel["title"]), text(&target["queryType"]), text(&target["expr"])));
            }
        }
    }
    found
}

/// Where a location's Alloy pushes, and the labels that its file gives each line.
struct Collector {
    location: String,
    path: String,
    labels: Vec<String>,
}

impl Collector {
    fn of(location: &str) -> Self {
        let file = project().join(format!("configs/monitoring/{location}.alloy.tmpl"));
        let all = parse(&fs::read_to_string(file).expect("readable"));
        let one = |kind: &str, label: &str| -> &Block {
            all.iter().find(|block| block.kind == kind && block.label == label).expect("a component")
        };
        let write = one("loki.write", "store");
        let external = write.get("external_labels").expect("labels");
        assert!(matches!(external, Value::Object(labels) if labels.len() == 1), "{external:?}");
        let rules = one("discovery.relabel", "containers").blocks.iter();
        let labels = rules.map(|rule| rule.text("target_label").to_owned()).collect();
        let url =
            write.blocks.iter().find(|block| block.kind == "endpoint").expect("an endpoint").text("url");
        let path = url.split_once(":9428").expect("the port of the store").1.to_owned();
        Self { location: external.entry("location").expect("the location").to_owned(), path, labels }
    }

    /// The labels of a container's lines, in the form in which they are pushed.
    fn stream(&self, (location, service, _): Line) -> String {
        let label = |name: &String| {
            let value = match name.as_str() {
                "service" => service.to_owned(),
                "container" => format!("{service}-1"),
                other => panic!("{other} is a label that this test does not know"),
            };
            format!("{name}=\"{value}\"")
        };
        let own = self.labels.iter().map(label).collect::<Vec<_>>().join(", ");
        format!("{{{own}, location=\"{location}\"}}")
    }
}

/// A VictoriaLogs of this test's own, on loopback.
struct Store {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Store {
    fn start() -> Self {
        let program = packages("logs").join("usr/bin/victoria-logs");
        let dir = tempfile::tempdir().expect("a folder");
        // Free a moment ago; when another program takes it, the store ends and the wait reports that.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).arg(format!("-httpListenAddr=127.0.0.1:{port}"));
        command.arg(format!("-storageDataPath={}", dir.path().join("data").display()));
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("setpriv runs");
        let store = Self { dir, port, child };
        store.wait("the store to answer", || store.get(&["/health"]).status.success());
        store
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(60), "waited for {what}:\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn get(&self, words: &[&str]) -> Output {
        let (path, options) = words.split_last().expect("a path");
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--max-time", "20"]).args(options);
        command.arg(format!("http://127.0.0.1:{}{path}", self.port)).output().expect("curl runs")
    }

    fn push(&self, collector: &Collector, line: Line) {
        let body = self.dir.path().join("body");
        fs::write(&body, snappy(&push_request(&collector.stream(line), line.2))).expect("written");
        let data = format!("@{}", body.display());
        let kind = "Content-Type: application/x-protobuf";
        let output = self.get(&["--header", kind, "--data-binary", &data, &collector.path]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn ask(&self, kind: &str, query: &str) -> Output {
        let query = format!("query={query}");
        self.get(&["--data-urlencode", &query, "--data", "step=1h", &format!("/select/logsql/{kind}")])
    }

    /// The whole texts of the lines that a query finds.
    fn lines(&self, query: &str) -> BTreeSet<String> {
        let output = self.ask("query", query);
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let line = |line: &str| {
            let row: Json = serde_json::from_str(line).expect("JSON");
            row["_msg"].as_str().expect("a message").to_owned()
        };
        text.lines().map(line).collect()
    }

    fn await_lines(&self, count: usize) {
        self.wait("every line to be found", || self.lines("*").len() == count);
    }

    fn counts(&self, query: &str) -> BTreeSet<(String, String, usize)> {
        let output = self.ask("stats_query_range", query);
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        let answer: Json = serde_json::from_slice(&output.stdout).expect("JSON");
        let row = |row: &Json| {
            let label = |name: &str| row["metric"][name].as_str().expect("a label").to_owned();
            // The lines may have come around a full hour.
            let values = row["values"].as_array().expect("values").iter();
            let sum = values.map(|pair| pair[1].as_str().expect("a number").parse::<usize>().expect("one"));
            (label("location"), label("service"), sum.sum())
        };
        answer["data"]["result"].as_array().expect("rows").iter().map(row).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Loki's message `PushRequest` with one stream of one line.
fn push_request(labels: &str, line: &str) -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    let mut time = vec![0x08];
    varint(now.as_secs(), &mut time);
    let entry = [field(1, &time), field(2, line.as_bytes())].concat();
    let stream = [field(1, labels.as_bytes()), field(2, &entry)].concat();
    field(1, &stream)
}

/// A field with a length.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    varint(bytes.len() as u64, &mut field);
    field.extend(bytes);
    field
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value > 0x7f {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// The block format of snappy, as one literal: nothing is compressed.
fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    varint(bytes.len() as u64, &mut block);
    let length = u16::try_from(bytes.len() - 1).expect("a short request");
    block.push(61 << 2);
    block.extend(length.to_le_bytes());
    block.extend(bytes);
    block
}
