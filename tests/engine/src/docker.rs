//! The engine itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::{link, packages};

/// The network of an engine and its containers.
pub enum Network {
    /// A new one with nothing but loopback: nothing can be fetched.
    Own,
    /// An existing namespace, by its path; what a container publishes is published there.
    Existing(String),
    /// The network of this machine, where the engine makes no bridge and no rule. It is for builds
    /// with `--network host` that fetch something.
    Machine,
}

/// A Docker engine in namespaces, with a socket and a data folder, of its own; it ends with this
/// value.
pub struct Engine {
    /// Where it keeps everything.
    pub dir: tempfile::TempDir,
    root: PathBuf,
    child: Child,
}

impl Engine {
    /// Starts one that has nothing but loopback.
    pub fn start() -> Self {
        Self::start_in(&Network::Own)
    }

    /// Starts one in a network.
    pub fn start_in(network: &Network) -> Self {
        let root = packages("docker");
        let dir = tempfile::Builder::new().prefix("stk").tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("bin")).expect("made");
        fs::create_dir_all(at("docker/cli-plugins")).expect("made");
        for name in ["iptables", "ip6tables"] {
            link(&root.join("usr/sbin/xtables-nft-multi"), &at("bin").join(name));
        }
        let plugin = "usr/libexec/docker/cli-plugins/docker-compose";
        link(&root.join(plugin), &at("docker/cli-plugins/docker-compose"));
        let script = daemon(&root, dir.path(), network);
        let log = File::create(at("dockerd.log")).expect("a log");
        // The engine ends with this test, however the test ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        match network {
            Network::Existing(path) => command.arg("nsenter").arg(format!("--net={path}")).arg("unshare"),
            Network::Own => command.args(["unshare", "--net"]),
            Network::Machine => command.arg("unshare"),
        };
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().expect("unshare runs");
        let engine = Self { dir, root, child };
        engine.await_answer();
        engine
    }

    fn await_answer(&self) {
        let start = Instant::now();
        while !self.try_docker(&["version"]).status.success() {
            let log = fs::read_to_string(self.dir.path().join("dockerd.log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(60), "dockerd does not answer:\n{log}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The environment of stackctl and docker.
    pub fn environment(&self) -> Vec<(String, String)> {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.root.join("usr/bin").display()
        );
        [
            ("PATH", path),
            ("HOME", at("")),
            ("DOCKER_HOST", format!("unix://{}", at("docker.sock"))),
            ("DOCKER_CONFIG", at("docker")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Prepares a program that reaches this engine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment());
        command
    }

    /// Runs docker; any answer is one.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        // The engine's own builder, which needs no plugin.
        self.command("docker").env("DOCKER_BUILDKIT", "1").args(arguments).output().expect("docker runs")
    }

    /// Runs docker, which must succeed; its output.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Container ids by name.
    pub fn ids(&self) -> BTreeMap<String, String> {
        let listed = self.docker(&["ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}"]);
        listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(n, i)| (n.to_owned(), i.to_owned()))
            .collect()
    }

    /// The unpacked packages.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The engine's own pid namespace ends with its first process, and with it every container.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Layers are mounted only in its mount namespace, which is gone by now.
    }
}

/// The script that becomes the daemon.
fn daemon(root: &Path, dir: &Path, network: &Network) -> String {
    let lib = |below: &str| root.join(below).display().to_string();
    let at = |name: &str| dir.join(name).display().to_string();
    let (loopback, quiet) = match network {
        Network::Own => ("ip link set lo up && ", ""),
        Network::Existing(_) => ("", ""),
        Network::Machine => ("", " --bridge none --iptables=false --ip6tables=false --ip-forward=false"),
    };
    format!(
        "mount -t tmpfs tmpfs /run && {loopback}\
         PATH={bin}:{root}/usr/sbin:{root}/usr/bin:$PATH LD_LIBRARY_PATH={}:{} XTABLES_LIBDIR={} \
         exec dockerd --data-root {data} --exec-root /run/docker --pidfile /run/docker.pid --host unix://{socket}{quiet}",
        lib("usr/lib/x86_64-linux-gnu"),
        lib("lib/x86_64-linux-gnu"),
        lib("usr/lib/x86_64-linux-gnu/xtables"),
        bin = at("bin"),
        root = root.display(),
        data = at("data"),
        socket = at("docker.sock"),
    )
}
