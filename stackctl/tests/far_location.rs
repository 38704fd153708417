//! A location on another machine: a real sshd in another namespace, and that machine's own checkout and stackctl.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A scenario that cannot go on stops.

mod support;

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{Completed, Engine, Tree, executable, privileged};

#[test]
fn verbs_of_a_far_location_run_there_over_ssh() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    engine.load_images();
    let near = Tree::sample(engine.dir.path(), "near");
    let far = Tree::sample(engine.dir.path(), "far");
    let sites = Sites::start(&engine);
    let far_command = engine.dir.path().join("far-stackctl");
    let environment: String =
        engine.environment().iter().map(|(name, value)| format!("{name}='{value}' ")).collect();
    executable(&far_command, &format!("#!/bin/sh\nexec env -i {environment} {} \"$@\"\n", support::STACKCTL));
    let stack = near.read("stack.toml");
    let machine = format!(
        "{stack}\n[location.kyiv]\nhost = \"ssh://root@192.168.1.2:2222\"\npath = \"{}\"\nssh_config = \"../ssh/config\"\ncommand = \"{}\"\n",
        far.root.display(),
        far_command.display()
    );
    near.write("stack.toml", &machine);
    let run = |location: &str, words: &[&str]| sites.stackctl(&engine, &near, location, words);

    run("kyiv", &["all-setup"]).expect(0);
    assert!(far.root.join("kyiv/monitoring/alloy/config.alloy").exists(), "rendered there");
    assert!(!near.root.join("kyiv/monitoring/alloy/config.alloy").exists(), "and not here");
    let up = run("kyiv", &["up", "transmission", "--json"]).expect(0).json();
    assert_eq!(up["services"][0]["result"]["created"], serde_json::json!(["exporter", "transmission"]));
    let inside = engine.docker(&[
        "inspect",
        "--format",
        "{{range .Mounts}}{{.Source}} {{end}}",
        "transmission-transmission-1",
    ]);
    assert!(inside.contains(&far.root.join("kyiv/transmission/downloads").display().to_string()), "{inside}");

    run("wroclaw", &["all-setup"]).expect(0);
    // Caddy was never started here.
    let table = run("wroclaw", &["status", "--all-locations", "--json"]).expect(10).json();
    let state = |container: &str| {
        let rows = table["containers"].as_array().expect("rows").clone();
        let row = rows.into_iter().find(|row| row["container"] == container).expect("a row");
        (row["location"].as_str().expect("text").to_owned(), row["state"].as_str().expect("text").to_owned())
    };
    assert_eq!(state("transmission"), ("kyiv".into(), "running".into()));
    assert_eq!(state("caddy"), ("wroclaw".into(), "missing".into()));
    run("kyiv", &["up", "nonsense"]).expect(2);

    // Kyiv's own watch, next to a collector on the machine's network. Both locations share this engine, so it comes last.
    run("kyiv", &["up", "monitoring"]).expect(0);

    sites.cut();
    let table = run("wroclaw", &["status", "--all-locations", "--json"]).expect(10).json();
    assert_eq!(table["unreachable"][0]["location"], "kyiv", "{table}");
    assert!(table["containers"].as_array().is_some_and(|rows| rows.len() > 10), "the others go on");
    run("kyiv", &["up", "transmission"]).expect(3);
}

/// Two namespaces joined by a cable; sshd listens in the far one.
struct Sites {
    keeper: Child,
}

impl Sites {
    fn start(engine: &Engine) -> Self {
        let dir = engine.dir.path().join("ssh");
        fs::create_dir_all(&dir).expect("made");
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).expect("closed");
        for key in ["host", "user"] {
            let path = dir.join(key);
            let made = engine
                .command("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&path)
                .status();
            assert!(made.expect("ssh-keygen runs").success());
        }
        fs::copy(dir.join("user.pub"), dir.join("authorized")).expect("copied");
        let at = |name: &str| dir.join(name).display().to_string();
        let known = fs::read_to_string(dir.join("host.pub")).expect("a key");
        fs::write(dir.join("known"), format!("[192.168.1.2]:2222 {known}")).expect("written");
        let client = format!(
            "Host *\n  IdentityFile {}\n  UserKnownHostsFile {}\n  StrictHostKeyChecking yes\n",
            at("user"),
            at("known")
        );
        fs::write(dir.join("config"), client).expect("written");
        let server = format!(
            "Port 2222\nListenAddress 192.168.1.2\nHostKey {}\nAuthorizedKeysFile {}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\n",
            at("host"),
            at("authorized")
        );
        fs::write(dir.join("sshd_config"), server).expect("written");
        let passwd = fs::read_to_string("/etc/passwd").expect("readable");
        fs::write(dir.join("passwd"), passwd + "sshd:x:65000:65534::/run/sshd:/usr/sbin/nologin\n")
            .expect("written");
        let script = format!(
            "set -e; ip link set lo up; mount -t tmpfs tmpfs /run; mkdir /run/sshd; grep -q ^sshd: /etc/passwd || mount --bind {passwd} /etc/passwd
             unshare --net sleep 1000 & far=$!
             while [ \"$(readlink /proc/$far/ns/net)\" = \"$(readlink /proc/$$/ns/net)\" ]; do sleep 0.05; done
             ip link add near type veth peer name far netns $far
             ip addr add 192.168.1.1/24 dev near; ip link set near up
             nsenter -t $far -n sh -c 'ip link set lo up; ip addr add 192.168.1.2/24 dev far; ip link set far up'
             LD_LIBRARY_PATH={lib} nsenter -t $far -n {sshd} -f {config} -D -e 2>{log} & sleep 1; echo ready; wait",
            passwd = at("passwd"),
            lib = engine.root().join("usr/lib/x86_64-linux-gnu").display(),
            sshd = engine.root().join("usr/sbin/sshd").display(),
            config = at("sshd_config"),
            log = at("sshd.log"),
        );
        let mut keeper = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                &script,
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("a pipe")).read_line(&mut line).expect("readable");
        assert_eq!(line, "ready\n", "{}", fs::read_to_string(dir.join("sshd.log")).unwrap_or_default());
        Self { keeper }
    }

    /// A process inside the near namespace.
    fn inside(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.keeper.id());
        let text = fs::read_to_string(children).expect("a child");
        text.split_whitespace().next().expect("a child").to_owned()
    }

    fn stackctl(&self, engine: &Engine, tree: &Tree, location: &str, words: &[&str]) -> Completed {
        let inside = self.inside();
        let mut command = engine.command("timeout");
        command
            .args(["300", "nsenter", "-t", &inside, "-n", support::STACKCTL, "--location", location])
            .args(words);
        Completed::of(&command.current_dir(Path::new(&tree.root)).output().expect("nsenter runs"))
    }

    fn cut(&self) {
        let status = Command::new("nsenter")
            .args(["-t", &self.inside(), "-n", "ip", "link", "set", "near", "down"])
            .status();
        assert!(status.expect("nsenter runs").success());
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
