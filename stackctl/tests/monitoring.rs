//! The monitoring pack on real parts: promtool, vmalert-tool, amtool and Alertmanager on loopback.
//!
//! Alloy's configuration is checked in collectors.rs. What needs a running gateway and forwarder is in tests/scenarios/tests:
//! the dashboard's queries and the pushing through the tunnel in monitoring.rs, the failures and their pages in pages.rs.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{packages, project};

#[test]
fn the_rules_pass_promtool_and_each_failure_is_one_page() {
    let promtool = packages("monitoring").join("usr/bin/promtool");
    let run = |words: &[&str]| {
        let output = Command::new(&promtool).args(words).current_dir(pack()).output().expect("promtool runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
    };
    run(&["check", "rules", "rules/causeway.yml", "watch/kyiv.yml"]);
    for (test, _) in RULE_TESTS {
        run(&["test", "rules", &format!("tests/{test}")]);
    }
    // vmalert evaluates the rules in the sample tree: its own tool must come to the same.
    let dir = tempfile::tempdir().expect("a folder");
    // It takes half a minute for the far sites, whose rules a real vmalert evaluates in tests/scenarios/tests/pages.
    let all = std::env::var_os("CAUSEWAY_SOAK").is_some();
    let chosen = RULE_TESTS.iter().filter(|(test, _)| all || *test != "far_sites_test.yml");
    let tools: Vec<Child> = chosen.map(|(test, rules)| vmalert_tool(dir.path(), test, rules)).collect();
    for tool in tools {
        let output = tool.wait_with_output().expect("vmalert-tool runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
    }
}

/// Tests of the rules, and the rules that they are about.
const RULE_TESTS: [(&str, &str); 3] = [
    ("far_sites_test.yml", "rules/causeway.yml"),
    ("services_test.yml", "rules/causeway.yml"),
    ("kyiv_test.yml", "watch/kyiv.yml"),
];

fn vmalert_tool(dir: &Path, test: &str, rules: &str) -> Child {
    let text = fs::read_to_string(pack().join("tests").join(test)).expect("readable");
    let full = pack().join(rules).display().to_string();
    let text = text.replace("promql_expr_test", "metricsql_expr_test").replace(&format!("../{rules}"), &full);
    fs::write(dir.join(test), text).expect("written");
    // It keeps its store at a fixed name in the folder for temporary files.
    let own = dir.join(test).with_extension("tmp");
    fs::create_dir(&own).expect("made");
    // And it serves at a fixed port.
    let tool = packages("monitoring").join("usr/bin/vmalert-tool");
    let script = format!(
        "ip link set lo up && exec {} unittest --disableAlertgroupLabel --files {}",
        tool.display(),
        dir.join(test).display()
    );
    Command::new("unshare")
        .env("TMPDIR", own)
        .args(["--map-root-user", "--net", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vmalert-tool runs")
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
      {"labels":{"alertname":"TunnelDown","level":"tunnel","severity":"page","location":"kyiv","component":"tunnel"}},
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
    let text = read("dashboards/causeway.json") + &read("rules/causeway.yml") + &read("watch/kyiv.yml");
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

fn pack() -> PathBuf {
    project().join("configs/monitoring")
}

fn read_all(dir: &Path, text: &mut String) {
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
