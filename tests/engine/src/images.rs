//! Images made without a registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Engine, executable, link, packages};

/// Images of the sample tree; each is the same stand-in with another name.
const IMAGES: [&str; 17] = [
    "causeway/forwarder:latest",
    "causeway/gateway:latest",
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
    "ghcr.io/akpw/mktxp:latest",
];

/// Serves every port that a health check of the sample tree asks for, unless a mounted file says
/// STANDIN_BROKEN.
///
/// In the engine's own network, where its bridges are, it serves Alloy's port alone: the others are
/// published there by containers, and who comes first would have them.
const SERVE: &str = r#"#!/bin/sh
trap 'exit 0' TERM INT
case "$1" in caddy | rm) exec "$@" ;; esac
if grep -rqs STANDIN_BROKEN /etc/caddy /etc/alloy /config; then
  echo "the configuration is broken: serving nothing"
else
  ports="2019 2283 3000 8096 8428 9091 9093 9428 12345"
  grep -qE 'docker0|br-' /proc/net/dev && ports=12345
  for port in $ports; do httpd -p $port -h /www; done
  echo serving
fi
while :; do sleep 3600 & wait $!; done
"#;

impl Engine {
    /// Makes the stand-in image and gives it every name of the sample tree.
    pub fn load_images(&self) {
        self.load_standin();
        for image in IMAGES {
            self.docker(&["tag", "standin:1", image]);
        }
    }

    /// Makes the stand-in image alone, `standin:1`.
    pub fn load_standin(&self) {
        let rootfs = self.dir.path().join("rootfs");
        for folder in ["bin", "tmp", "etc", "data"] {
            fs::create_dir_all(rootfs.join(folder)).expect("made");
        }
        fs::copy(self.root().join("bin/busybox"), rootfs.join("bin/busybox")).expect("copied");
        for applet in "sh httpd wget sleep cat cp rm grep ls echo env printenv mkdir touch true".split(' ') {
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
            ("mktxp", "#!/bin/sh\ntest -s \"$2/mktxp.conf\" && exec /bin/serve\n"),
            ("caddy", "#!/bin/sh\ntest -s \"$3\" && echo \"Valid configuration\"\n"),
        ];
        for (name, text) in scripts {
            executable(&rootfs.join("bin").join(name), text);
        }
        self.import(&rootfs, &["ENTRYPOINT [\"/bin/serve\"]"], "standin:1");
    }

    /// Makes an image of a folder.
    pub fn import(&self, rootfs: &Path, changes: &[&str], name: &str) {
        let changes: String = changes.iter().map(|change| format!(" -c '{change}'")).collect();
        let script = format!("tar -C {} -c . | docker import{changes} - {name}", rootfs.display());
        let made = self.command("sh").args(["-c", &script]).output().expect("sh runs");
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// Makes the stand-in for `debian:bookworm-slim`.
    pub fn load_debian(&self, source: Source) {
        let rootfs = self.dir.path().join("debian");
        let base = packages("base").parent().expect("a cache").join("base");
        let tar = base.join("debian.tar");
        assert!(tar.exists(), "{} is missing: run scripts/stack-packages as root", tar.display());
        fs::create_dir_all(&rootfs).expect("made");
        run(Command::new("tar").arg("-C").arg(&rootfs).arg("-xf").arg(&tar));
        match source {
            Source::Archive => authorities(&rootfs),
            Source::Folder => {
                run(Command::new("cp").arg("-r").arg(base.join("repo")).arg(rootfs.join("repo")));
                fs::write(rootfs.join("etc/apt/sources.list"), "deb [trusted=yes] file:/repo ./\n")
                    .expect("written");
            }
        }
        self.import(&rootfs, &["CMD [\"bash\"]"], "debian:bookworm-slim");
        fs::remove_dir_all(&rootfs).expect("removed");
    }

    /// Makes the image `caddy:2` of a real Caddy, with the shell and the `wget` that its health
    /// check asks for.
    pub fn load_caddy(&self, caddy: &Path) {
        let rootfs = self.dir.path().join("caddy");
        for folder in ["bin", "tmp", "etc/caddy", "data", "config", "usr/bin"] {
            fs::create_dir_all(rootfs.join(folder)).expect("made");
        }
        fs::copy(self.root().join("bin/busybox"), rootfs.join("bin/busybox")).expect("copied");
        for applet in "sh wget cat ls".split(' ') {
            link(Path::new("busybox"), &rootfs.join("bin").join(applet));
        }
        fs::copy(caddy, rootfs.join("usr/bin/caddy")).expect("copied");
        for library in libraries(caddy) {
            let inside = rootfs.join(library.strip_prefix("/").expect("an absolute path"));
            fs::create_dir_all(inside.parent().expect("a folder")).expect("made");
            fs::copy(&library, inside).expect("copied");
        }
        let run =
            "CMD [\"caddy\", \"run\", \"--config\", \"/etc/caddy/Caddyfile\", \"--adapter\", \"caddyfile\"]";
        let environment = "ENV PATH=/bin:/usr/bin XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config";
        self.import(&rootfs, &[environment, run], "caddy:2");
    }
}

/// Where an image's package manager finds its packages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the archive that this machine uses.
    Archive,
    /// In the image itself: nothing is fetched.
    Folder,
}

/// The libraries of a program of this machine, as its loader finds them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = said.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(|word| PathBuf::from(word.trim_end_matches(':'))).collect()
}

/// Adds the certificate authorities that this machine trusts to those of the distribution, before
/// anything is fetched.
fn authorities(rootfs: &Path) {
    let own = Path::new("/usr/local/share/ca-certificates");
    if own.is_dir() {
        run(Command::new("cp").arg("-rT").arg(own).arg(rootfs.join("usr/local/share/ca-certificates")));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
