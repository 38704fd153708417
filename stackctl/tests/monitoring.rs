//! The monitoring pack on real parts: promtool, vmalert-tool, amtool and Alertmanager on loopback.
//!
//! Alloy has no package here, so its configuration is checked by its shape only. What needs a running gateway and
//! forwarder, the dashboard's queries and the pushing through the tunnel, is in tests/scenarios/tests/monitoring.rs.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{packages, project};

#[test]
fn the_rules_pass_promtool_and_a_dead_site_is_one_page() {
    let promtool = packages("monitoring").join("usr/bin/promtool");
    for (words, file) in
        [(["check", "rules"], "rules/causeway.yml"), (["test", "rules"], "tests/causeway_test.yml")]
    {
        let output =
            Command::new(&promtool).args(words).arg(pack().join(file)).output().expect("promtool runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
    }
    // vmalert evaluates the rules in the sample tree: its own tool must come to the same.
    let dir = tempfile::tempdir().expect("a folder");
    let tests = fs::read_to_string(pack().join("tests/causeway_test.yml")).expect("readable");
    let rules = pack().join("rules/causeway.yml").display().to_string();
    let tests =
        tests.replace("promql_expr_test", "metricsql_expr_test").replace("../rules/causeway.yml", &rules);
    fs::write(dir.path().join("test.yml"), tests).expect("written");
    let output = Command::new(packages("monitoring").join("usr/bin/vmalert-tool"))
        .args(["unittest", "--disableAlertgroupLabel", "--files"])
        .arg(dir.path().join("test.yml"))
        .output()
        .expect("vmalert-tool runs");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
}

#[test]
fn every_alert_of_a_dead_site_together_is_one_notification() {
    let pages = Arc::new(Mutex::new(Vec::new()));
    let hook = serve({
        let pages = Arc::clone(&pages);
        move |request: &str| {
            pages.lock().expect("held").push(request.to_owned());
            String::new()
        }
    });
    let dir = tempfile::tempdir().expect("a folder");
    let text = fs::read_to_string(pack().join("alertmanager.yml.tmpl")).expect("readable");
    let text = text
        .replace("{{ALERT_WEBHOOK_URL}}", &format!("http://127.0.0.1:{hook}/page"))
        .replace("{{WATCHDOG_URL}}", &format!("http://127.0.0.1:{hook}/watchdog"))
        .replace("group_wait: 30s", "group_wait: 2s");
    let config = dir.path().join("alertmanager.yml");
    fs::write(&config, text).expect("written");
    let tool = |words: &[&str]| {
        let amtool = packages("monitoring").join("usr/bin/amtool");
        let output = Command::new(amtool).args(words).current_dir(dir.path()).output().expect("amtool runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        said
    };
    let path = config.display().to_string();
    tool(&["check-config", &path]);
    let file = format!("--config.file={path}");
    for (labels, receiver) in
        [("severity=page", "page"), ("severity=ticket", "ticket"), ("level=watchdog", "watchdog")]
    {
        // amtool also warns, below the answer, that it reads the file we named.
        assert_eq!(tool(&["config", "routes", "test", &file, labels]).lines().next(), Some(receiver));
    }

    let port = free_port();
    // Debian's build reads its templates from a fixed place, which the unpacked package only has below its own root.
    let root = packages("monitoring");
    let script = format!(
        "mount --bind {root}/usr/share /usr/share && exec {root}/usr/bin/prometheus-alertmanager {file} --storage.path={dir} \
         --web.listen-address=127.0.0.1:{port} --cluster.listen-address=",
        root = root.display(),
        dir = dir.path().display(),
    );
    let _alertmanager = Program(
        Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &script])
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare runs"),
    );
    await_http(port, "/-/ready");
    let alerts = r#"[
      {"labels":{"alertname":"LocationDown","level":"location","severity":"page","location":"kyiv"}},
      {"labels":{"alertname":"ComponentDown","level":"component","severity":"page","location":"kyiv","component":"tunnel"}},
      {"labels":{"alertname":"ComponentDown","level":"component","severity":"page","location":"kyiv","component":"nfs"}},
      {"labels":{"alertname":"ServiceDown","level":"service","severity":"page","location":"kyiv","component":"docker","service":"transmission"}},
      {"labels":{"alertname":"PushBehind","level":"config","severity":"ticket","location":"kyiv"}}]"#;
    http(port, "POST", "/api/v2/alerts", alerts).expect("alertmanager answers");
    std::thread::sleep(Duration::from_secs(6));
    let heard = pages.lock().expect("held").clone();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].contains("LocationDown") && !heard[0].contains("ComponentDown"), "{}", heard[0]);
}

#[test]
fn dashboard_and_rules_name_only_metrics_that_the_daemons_have() {
    let mut sources = String::new();
    for daemon in ["gateway/src", "forwarder/src"] {
        read_all(&project().join(daemon), &mut sources);
    }
    // What both have begins with the name of the one that exports it.
    let mut shared = String::new();
    read_all(&project().join("daemon/src"), &mut shared);
    let read = |file: &str| fs::read_to_string(pack().join(file)).expect("readable");
    let text = read("dashboards/causeway.json") + &read("rules/causeway.yml");
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let metric =
        |word: &&str| ["gateway_", "forwarder_", "wireguard_"].iter().any(|start| word.starts_with(start));
    let names: BTreeSet<&str> = words.filter(metric).map(|word| word.trim_end_matches("_bucket")).collect();
    for name in &names {
        let rest = name.split_once('_').map_or(*name, |(_, rest)| rest);
        let is_shared = [format!("\"{name}\""), format!("\"{rest}\""), format!("_{rest}\"")]
            .iter()
            .any(|text| shared.contains(text));
        assert!(is_shared || sources.contains(&format!("\"{name}\"")), "no daemon exports {name}");
    }
    println!("{} metric names, each in a daemon's source", names.len());
}

#[test]
fn the_alloy_configurations_have_the_right_shape() {
    for location in ["wroclaw", "kyiv"] {
        let text = fs::read_to_string(pack().join(format!("{location}.alloy.tmpl"))).expect("readable");
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|l| format!("{l}\n"))
            .collect();
        let mut depth = 0i32;
        let mut quoted = false;
        let mut defined = BTreeSet::new();
        for line in code.replace("{{", "<").replace("}}", ">").lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let (0, [kind, label, "{"]) = (depth, words.as_slice()) {
                defined.insert(format!("{kind}.{}", label.trim_matches('"')));
            }
            for c in line.chars() {
                match c {
                    '"' => quoted = !quoted,
                    '{' | '[' if !quoted => depth += 1,
                    '}' | ']' if !quoted => depth -= 1,
                    _ => {}
                }
            }
            assert!(!quoted && depth >= 0, "{location}: {line}");
        }
        assert_eq!(depth, 0, "{location}: a block is not closed");
        for word in code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_')) {
            let exported = [".receiver", ".targets", ".output"].iter().find_map(|end| word.strip_suffix(end));
            if let Some(name) = exported.filter(|name| name.contains('.')) {
                assert!(defined.contains(name), "{location}: {name} is used but not defined");
            }
        }
        for must in [
            "prometheus.remote_write.store",
            "loki.write.store",
            "prometheus.scrape.router",
            "prometheus.exporter.cadvisor.docker",
        ] {
            assert!(defined.contains(must), "{location}: {must} is missing");
        }
        assert_eq!(code.matches("wal {").count(), 2, "{location}: both ways are buffered");
    }
}

fn pack() -> PathBuf {
    project().join("configs/monitoring")
}

fn read_all(dir: &std::path::Path, text: &mut String) {
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, text);
        } else {
            text.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

/// A program of the monitoring packages; it ends with this value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A little HTTP server on loopback: `answer` gets each request and gives the body.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let request = read_request(&mut stream);
            let body = answer(&request);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    port
}

fn read_request(stream: &mut TcpStream) -> String {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned())
            });
            if body.len() >= length.and_then(|n| n.parse().ok()).unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => bytes.extend_from_slice(&buffer[..length]),
            _ => return text,
        }
    }
}

fn http(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // HTTP/1.0, so that the answer is not chunked.
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.contains(" 200 ") || head.contains(" 204 ") {
        Ok(body.to_owned())
    } else {
        Err(std::io::Error::other(answer))
    }
}

fn await_http(port: u16, path: &str) {
    let start = Instant::now();
    while http(port, "GET", path, "").is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "no answer at {path}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}
