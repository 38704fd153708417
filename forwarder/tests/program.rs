//! The program as an operator runs it: commands, exit codes, signals and output.
// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n";

#[test]
fn a_good_configuration_is_checked_without_a_trace() {
    let site = Site::new();
    let output = site.run(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output.stderr));
    assert!(words(&output.stdout).contains("service web: 192.168.88.2/32:443"));
    assert!(!site.path("forwarder.sock").exists() && !site.path("clock").exists());
}

#[test]
fn every_kind_of_failure_has_its_exit_code_and_its_fix() {
    let site = Site::new();
    let code = |arguments: &[&str]| site.run(arguments).status.code();
    assert_eq!(code(&["status"]), Some(3));
    assert_eq!(code(&["no-such-command"]), Some(2));
    fs::set_permissions(site.path("wroclaw.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let output = site.run(&["check"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(words(&output.stderr).contains("chmod 0600"), "{}", words(&output.stderr));
    site.append("[[service]]\nname = \"web\"\nmach = \"192.168.88.2:80\"\n");
    let output = site.run(&["check"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(words(&output.stderr).contains("match"), "{}", words(&output.stderr));
}

#[test]
fn a_running_daemon_reports_its_health_and_ends_cleanly() {
    let mut site = Site::new();
    site.start();
    assert_eq!(site.run(&["health"]).status.code(), Some(11), "its only peer was never heard");
    let peers: Value = serde_json::from_slice(&site.run(&["peers", "--json"]).stdout).unwrap();
    assert_eq!((&peers["schema"], &peers["peers"][0]["state"]), (&1.into(), &"never".into()));
    assert_eq!(peers["interface"]["mtu"], 1420);
    let status = words(&site.run(&["status"]).stdout);
    assert!(status.contains("service web: 192.168.88.2/32:443 -> 127.0.0.1:8443"), "{status}");
    let waited = site.run(&["wait", "kyiv", "--timeout", "0s"]);
    assert_eq!(waited.status.code(), Some(1));
    assert_eq!(site.run(&["wait", "unknown"]).status.code(), Some(2));
    let second = site.run(&[]);
    assert_eq!(second.status.code(), Some(6), "{}", words(&second.stderr));
    let mode = fs::metadata(site.path("forwarder.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let page = site.page("/metrics");
    for line in [
        "forwarder_flows{service=\"web\"} 0",
        "forwarder_peer_up{peer=\"kyiv\"} 0",
        "forwarder_dials_total{service=\"web\",result=\"refused\"} 0",
        "forwarder_dropped_packets_total{stage=\"admission\",reason=\"no_service\"} 0",
        "wireguard_device_info{device=\"kyiv\"",
        "wireguard_received_bytes_total{interface=\"kyiv\"",
    ] {
        assert!(page.contains(line), "no {line} in\n{page}");
    }
    assert!(site.page("/readyz").starts_with("HTTP/1.1 503"));
    site.signal("TERM");
    assert_eq!(site.daemon.take().unwrap().wait().unwrap().code(), Some(0));
    assert!(!site.path("forwarder.sock").exists());
}

#[test]
fn a_reload_applies_all_or_nothing() {
    let mut site = Site::new();
    site.start();
    let reach = free_port();
    site.append(&format!(
        "[[reach]]\nname = \"nfs\"\nlisten = \"127.0.0.1:{reach}\"\ntarget = \"192.168.1.2:2049\"\n"
    ));
    site.signal("HUP");
    site.until("the new listener", || TcpStream::connect(("127.0.0.1", reach)).is_ok());
    site.append("colour = \"blue\"\n");
    site.signal("HUP");
    site.until("the error", || site.log().contains("not applied, the configuration before stays in force"));
    let refused = site.run(&["reload", "--socket", &site.path("forwarder.sock").display().to_string()]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(words(&refused.stderr).contains("colour"), "{}", words(&refused.stderr));
    assert_eq!(site.run(&["status"]).status.code(), Some(4), "the configuration no longer names a socket");
    let socket = site.path("forwarder.sock").display().to_string();
    assert!(words(&site.run(&["status", "--socket", &socket]).stdout).contains("reach nfs"));
    assert!(TcpStream::connect(("127.0.0.1", reach)).is_ok());
    let config = fs::read_to_string(site.path("forwarder.toml")).unwrap();
    let removed = config.split("[[reach]]").next().unwrap().to_owned();
    fs::write(site.path("forwarder.toml"), removed).unwrap();
    let reloaded = site.run(&["reload", "--json"]);
    assert_eq!(reloaded.status.code(), Some(0));
    assert!(words(&reloaded.stdout).contains("- nfs"), "{}", words(&reloaded.stdout));
    site.until("the listener to close", || TcpStream::connect(("127.0.0.1", reach)).is_err());
}

#[test]
fn a_reload_moves_the_metrics_page_and_one_to_a_taken_address_leaves_it_where_it_is() {
    let mut site = Site::new();
    site.start();
    let (old, new) = (site.metrics, free_port());
    let before = fs::read_to_string(site.path("forwarder.toml")).unwrap();
    let listening_on = |listen: &str| before.replace(&format!("\"127.0.0.1:{old}\""), listen);
    let page_of = |port: u16, host: &str| page(port, "/healthz", host);

    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    fs::write(site.path("forwarder.toml"), listening_on(&format!("\"{taken}\""))).unwrap();
    let refused = site.run(&["reload"]);
    assert_eq!(refused.status.code(), Some(6));
    let error = words(&refused.stderr);
    assert!(error.contains(&taken.to_string()) && error.contains("[metrics] listen"), "{error}");
    assert!(page_of(old, "localhost").is_some_and(|page| page.starts_with("HTTP/1.1 200")));

    // The wildcard has the old address as well, which must go first.
    for (listen, port) in [(format!("\"0.0.0.0:{old}\""), old), (format!("\"127.0.0.1:{new}\""), new)] {
        let hosts = "hosts = [\"origin.lan\"]\n";
        let text = listening_on(&listen).replace("[control]", &format!("{hosts}[control]"));
        fs::write(site.path("forwarder.toml"), text).unwrap();
        let reloaded = site.run(&["reload"]);
        assert_eq!(reloaded.status.code(), Some(0), "{}", words(&reloaded.stderr));
        assert!(words(&reloaded.stdout).contains("~ listen ["), "{}", words(&reloaded.stdout));
        assert!(page_of(port, "origin.lan").is_some_and(|page| page.starts_with("HTTP/1.1 200")), "{listen}");
    }
    assert_eq!(page_of(old, "localhost"), None, "nothing listens where the page was");
}

#[test]
fn a_change_that_is_not_confirmed_goes_back_and_one_that_is_stays() {
    let mut site = Site::new();
    site.start();
    let reach = free_port();
    let before = fs::read_to_string(site.path("forwarder.toml")).unwrap();
    let draft = site.path("draft.toml");
    let entry =
        format!("[[reach]]\nname = \"nfs\"\nlisten = \"127.0.0.1:{reach}\"\ntarget = \"192.168.1.2:2049\"\n");
    fs::write(&draft, before.clone() + &entry).unwrap();
    let draft = draft.display().to_string();
    let is_open = || TcpStream::connect(("127.0.0.1", reach)).is_ok();

    let plan = site.run(&["plan", &draft]);
    assert!(words(&plan.stdout).contains("+ nfs") && !is_open(), "{}", words(&plan.stdout));
    assert_eq!(words(&plan.stdout).lines().count(), 1, "nothing else differs: {}", words(&plan.stdout));

    let applied = site.run(&["apply", &draft, "--confirm", "2s"]);
    assert_eq!(applied.status.code(), Some(0), "{}", words(&applied.stderr));
    site.until("the new listener", is_open);
    assert_eq!(site.run(&["apply", &draft]).status.code(), Some(6), "a change waits");
    site.until("the change to go back", || !is_open());
    assert_eq!(site.run(&["confirm"]).status.code(), Some(7), "too late");
    assert_eq!(fs::read_to_string(site.path("forwarder.toml")).unwrap(), before);

    let applied = site.run(&["apply", &draft, "--confirm", "60s"]);
    assert_eq!(applied.status.code(), Some(0), "{}", words(&applied.stderr));
    site.signal("KILL");
    site.daemon.take().unwrap().wait().unwrap();
    site.start();
    site.until("the unconfirmed change after a restart", is_open);
    let confirmed = site.run(&["confirm"]);
    assert_eq!(confirmed.status.code(), Some(0), "{}", words(&confirmed.stderr));
    assert_eq!(fs::read_to_string(site.path("forwarder.toml")).unwrap(), before.clone() + &entry);

    assert_eq!(site.run(&["rollback"]).status.code(), Some(0));
    site.until("the configuration before", || !is_open());
    assert_eq!(fs::read_to_string(site.path("forwarder.toml")).unwrap(), before);
    fs::write(&draft, before.clone() + "colour = 1\n").unwrap();
    let refused = site.run(&["apply", &draft]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(words(&refused.stderr).starts_with(&format!("{draft}:")), "{}", words(&refused.stderr));
    assert_eq!(fs::read_to_string(site.path("forwarder.toml")).unwrap(), before);
}

struct Site {
    folder: tempfile::TempDir,
    metrics: u16,
    daemon: Option<Child>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, metrics) = (folder.path().display(), free_port());
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"wroclaw.key\"\n\
             [[peer]]\nname = \"kyiv\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
             endpoint = \"127.0.0.1:{}\"\n[metrics]\nlisten = [\"127.0.0.1:{metrics}\"]\n\
             [control]\nsocket = \"{root}/forwarder.sock\"\n[state]\ndirectory = \"{root}\"\n\
             [[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\nupstream = \"127.0.0.1:8443\"\n",
            free_port()
        );
        fs::write(folder.path().join("forwarder.toml"), text).unwrap();
        let key = folder.path().join("wroclaw.key");
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder, metrics, daemon: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.path("forwarder.toml")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_forwarder")));
        command
            .current_dir(self.folder.path())
            .arg("--config")
            .arg("forwarder.toml")
            .args(arguments)
            .env("NO_COLOR", "1");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn start(&mut self) {
        let log = fs::File::create(self.path("log")).unwrap();
        self.daemon = Some(self.command(&[]).stderr(log).stdout(Stdio::null()).spawn().unwrap());
        self.until("the daemon", || self.run(&["status"]).status.success());
    }

    fn signal(&self, name: &str) {
        let pid = self.daemon.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn page(&self, path: &str) -> String {
        page(self.metrics, path, "localhost").unwrap()
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < limit, "waited ten seconds for {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// What the page of a port answers; `None` where nothing listens.
fn page(port: u16, path: &str, host: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    Some(page)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
