//! What the stack scenarios share: a Docker engine of their own, stand-in images, the sample tree, stackctl itself.
// Each scenario is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Images of the sample tree; each is the same stand-in under another name.
const IMAGES: [&str; 14] = [
    "authelia/authelia:4",
    "caddy:2",
    "emby/embyserver:latest",
    "altran1502/immich-server:release",
    "postgres:16",
    "redis:7",
    "grafana/alloy:v1.5.1",
    "victoriametrics/victoria-metrics:v1.112.0",
    "victoriametrics/victoria-logs:v1.15.0-victorialogs",
    "victoriametrics/vmalert:v1.112.0",
    "prom/alertmanager:v0.28.0",
    "grafana/grafana:11.4.0",
    "linuxserver/transmission:4.0.5",
    "metalmatze/transmission-exporter:0.3.0",
];

/// Serves every port that a health check of the sample tree asks for, unless a mounted file says STANDIN_BROKEN.
const SERVE: &str = r#"#!/bin/sh
trap 'exit 0' TERM INT
case "$1" in caddy | rm) exec "$@" ;; esac
if grep -rqs STANDIN_BROKEN /etc/caddy /etc/alloy /config; then
  echo "the configuration is broken: serving nothing"
else
  for port in 2019 2283 3000 8096 8428 9091 9093 9428 12345; do httpd -p $port -h /www; done
  echo serving
fi
while :; do sleep 3600 & wait $!; done
"#;

/// The project's root.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf()
}

/// The folder that the project's script unpacks a set of packages into.
pub(crate) fn packages(set: &str) -> PathBuf {
    let script = project().join("scripts/stack-packages");
    let output = Command::new(script).arg(set).output().expect("stack-packages runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Whether this process may make namespaces and run a Docker engine; says so loudly when it may not.
pub(crate) fn privileged() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this scenario runs a Docker engine of its own and needs root");
    }
    root
}

/// A Docker engine in namespaces, with a socket and a data folder, of its own.
pub(crate) struct Engine {
    pub(crate) dir: tempfile::TempDir,
    root: PathBuf,
    child: Child,
}

impl Engine {
    /// Starts one.
    pub(crate) fn start() -> Self {
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
        let lib = |below: &str| root.join(below).display().to_string();
        let script = format!(
            "mount -t tmpfs tmpfs /run && ip link set lo up && \
             PATH={bin}:{root}/usr/sbin:{root}/usr/bin:$PATH LD_LIBRARY_PATH={}:{} XTABLES_LIBDIR={} \
             exec dockerd --data-root {data} --exec-root /run/docker --pidfile /run/docker.pid --host unix://{socket}",
            lib("usr/lib/x86_64-linux-gnu"),
            lib("lib/x86_64-linux-gnu"),
            lib("usr/lib/x86_64-linux-gnu/xtables"),
            bin = at("bin").display(),
            root = root.display(),
            data = at("data").display(),
            socket = at("docker.sock").display(),
        );
        let log = File::create(at("dockerd.log")).expect("a log");
        // The engine ends with this test, however the test ends.
        let child = Command::new("setpriv")
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
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("unshare runs");
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

    /// Makes the stand-in image and gives it every name of the sample tree.
    pub(crate) fn load_images(&self) {
        let rootfs = self.dir.path().join("rootfs");
        for folder in ["bin", "tmp", "etc", "data"] {
            fs::create_dir_all(rootfs.join(folder)).expect("made");
        }
        fs::copy(self.root.join("bin/busybox"), rootfs.join("bin/busybox")).expect("copied");
        for applet in "sh httpd wget sleep cat rm grep ls echo env printenv mkdir touch".split(' ') {
            link(Path::new("busybox"), &rootfs.join("bin").join(applet));
        }
        let pages = "System/Ping api/health api/server/ping config/index.html health -/ready transmission/web/index.html";
        for page in pages.split(' ') {
            let path = rootfs.join("www").join(page);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, "ok\n").expect("written");
        }
        let scripts = [
            ("serve", SERVE),
            ("pg_isready", "#!/bin/sh\nexit 0\n"),
            ("caddy", "#!/bin/sh\ntest -s \"$3\" && echo \"Valid configuration\"\n"),
        ];
        for (name, text) in scripts {
            executable(&rootfs.join("bin").join(name), text);
        }
        let tar = format!(
            "tar -C {} -c . | docker import -c 'ENTRYPOINT [\"/bin/serve\"]' - standin:1",
            rootfs.display()
        );
        let made = self.command("sh").args(["-c", &tar]).output().expect("sh runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for image in IMAGES {
            self.docker(&["tag", "standin:1", image]);
        }
    }

    /// What stackctl and docker are called with.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
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

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment());
        command
    }

    fn try_docker(&self, arguments: &[&str]) -> Output {
        self.command("docker").args(arguments).output().expect("docker runs")
    }

    /// Runs docker, which must succeed; its output.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Container ids by name.
    pub(crate) fn ids(&self) -> BTreeMap<String, String> {
        let listed = self.docker(&["ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}"]);
        listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(n, i)| (n.to_owned(), i.to_owned()))
            .collect()
    }

    pub(crate) fn root(&self) -> &Path {
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

/// The names whose container is not the one it was.
pub(crate) fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    after.iter().filter(|(name, id)| before.get(*name) != Some(*id)).map(|(name, _)| name.clone()).collect()
}

/// A copy of the sample tree, with its env files filled in.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    /// Copies the sample tree below a folder.
    pub(crate) fn sample(dir: &Path, name: &str) -> Self {
        let root = dir.join(name);
        let sample = project().join("configs/stack");
        let copied = Command::new("cp").arg("-rL").arg(&sample).arg(&root).status().expect("cp runs");
        assert!(copied.success());
        let media = dir.join("media");
        fs::create_dir_all(&media).expect("made");
        let changes = [
            ("EMBY_MEDIA_TYPE", "none".to_owned()),
            ("EMBY_MEDIA_OPTIONS", "bind".to_owned()),
            ("EMBY_MEDIA_DEVICE", media.display().to_string()),
            ("CADDY_LISTEN", "127.0.0.2".to_owned()),
            ("STORE_LISTEN", "127.0.0.2".to_owned()),
            ("TRANSMISSION_LISTEN", "127.0.0.2".to_owned()),
        ];
        for location in ["wroclaw", "kyiv"] {
            let example =
                fs::read_to_string(root.join(location).join(".env.user.example")).expect("an example");
            let mut lines: Vec<String> = example.lines().map(str::to_owned).collect();
            for (name, value) in &changes {
                for line in lines.iter_mut().filter(|line| line.starts_with(&format!("{name}="))) {
                    *line = format!("{name}={value}");
                }
            }
            let path = root.join(location).join(".env.user");
            fs::write(&path, lines.join("\n") + "\n").expect("written");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("closed");
        }
        Self { root }
    }

    /// A tree made of the given files.
    pub(crate) fn of(dir: &Path, files: &[(&str, &str)]) -> Self {
        let root = dir.to_path_buf();
        let tree = Self { root };
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let full = self.root.join(path);
        fs::create_dir_all(full.parent().expect("a folder")).expect("made");
        fs::write(&full, text).expect("written");
        if path.contains(".env.") {
            fs::set_permissions(&full, Permissions::from_mode(0o600)).expect("closed");
        }
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Replaces text in a file of the tree.
    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no {from}");
        fs::write(self.root.join(path), text.replacen(from, to, 1)).expect("written");
    }

    /// Every file with its mode and bytes.
    pub(crate) fn fingerprint(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut all = BTreeMap::new();
        collect(&self.root, &mut all);
        all
    }
}

fn collect(dir: &Path, all: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        if kind.is_dir() {
            collect(&path, all);
        } else if kind.is_file() {
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            all.insert(path.clone(), (mode, fs::read(&path).expect("readable")));
        }
    }
}

/// What a call of stackctl said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// The same, after checking the exit code.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// The stackctl under test.
pub(crate) const STACKCTL: &str = env!("CARGO_BIN_EXE_stackctl");

/// Runs stackctl in a folder of a tree, against an engine.
pub(crate) fn stackctl(engine: &Engine, tree: &Tree, location: &str, words: &[&str]) -> Said {
    let mut command = engine.command("timeout");
    // A scenario that hangs must say where.
    let output = command
        .args(["300", STACKCTL])
        .args(words)
        .current_dir(tree.root.join(location))
        .output()
        .expect("stackctl runs");
    Said::of(&output)
}

/// Runs stackctl where no Docker is needed, with programs from `bin` first on the `PATH`.
pub(crate) fn alone(tree: &Tree, location: &str, bin: Option<&Path>, words: &[&str]) -> Said {
    let path = bin.map(|bin| format!("{}:", bin.display())).unwrap_or_default();
    let output = Command::new(STACKCTL)
        .args(words)
        .env_clear()
        .env("PATH", format!("{path}/usr/local/bin:/usr/bin:/bin"))
        .env("HOME", &tree.root)
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .current_dir(tree.root.join(location))
        .output()
        .expect("stackctl runs");
    Said::of(&output)
}

pub(crate) fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("executable");
}

pub(crate) fn link(target: &Path, path: &Path) {
    std::os::unix::fs::symlink(target, path).expect("linked");
}
