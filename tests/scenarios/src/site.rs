//! The worked example in a lab: Kyiv's edge, Wrocław's origin, their files and daemons.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, NodeCommand, Process, Release, time_until};
use serde_json::Value;

use crate::keys::{KeyPair, preshared_key, write_secret};
use crate::offload::Offload;

/// Uid and gid of the forwarder where the machine lets us choose.
const UNPRIVILEGED: (u32, u32) = (65_534, 65_534);

/// Commands of `gatewayctl` that write the daemon's own file.
pub(crate) const WRITING: [&str; 4] = ["apply", "confirm", "rollback", "reload"];

/// A configuration file that scenarios change before or after it was written.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its text.
    pub text: String,
    path: PathBuf,
}

/// Both ends of the worked example, not started.
#[derive(Debug)]
pub struct Site<'lab> {
    lab: &'lab Lab,
    /// The edge's machine.
    pub edge: Node,
    /// The origin's machine.
    pub origin: Node,
    /// The edge's keys.
    pub kyiv: KeyPair,
    /// The origin's keys.
    pub wroclaw: KeyPair,
    /// `gateway.toml`.
    pub gateway_config: Config,
    /// `forwarder.toml`.
    pub forwarder_config: Config,
    /// Whether the edge's daemon runs as its systemd unit runs it: a user of its own with one ambient capability.
    pub as_unit: bool,
    /// The release of the edge's programs and of the origin's.
    pub releases: [Release; 2],
    /// The file of the origin's daemon, where it is another than the release's.
    pub forwarder_program: Option<PathBuf>,
    /// Further environment variables of the edge's daemon and of the origin's.
    pub environment: [Vec<(String, String)>; 2],
    /// The edge's daemon, once started.
    pub gateway: Option<Process>,
    /// The origin's daemon, once started.
    pub forwarder: Option<Process>,
}

impl Config {
    pub(crate) fn new(path: PathBuf, text: String) -> Self {
        Self { text, path }
    }

    /// Replaces a piece of text that must be there.
    pub fn replace(&mut self, old: &str, new: &str) -> Result<&mut Self> {
        ensure!(self.text.contains(old), "{} has no {old:?}", self.path.display());
        self.text = self.text.replace(old, new);
        Ok(self)
    }

    /// Adds lines at the end.
    pub fn append(&mut self, lines: &str) -> &mut Self {
        self.text.push('\n');
        self.text.push_str(lines);
        self.text.push('\n');
        self
    }

    /// Writes the file.
    pub fn write(&self) -> Result<()> {
        fs::write(&self.path, &self.text).with_context(|| self.path.display().to_string())
    }

    /// The same text in another file.
    #[must_use]
    pub fn at(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// Where it is.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }
}

impl<'lab> Site<'lab> {
    /// Prepares the nodes `edge` and `origin` of a lab: keys and configuration, no process.
    pub fn new(lab: &'lab Lab) -> Result<Self> {
        let (edge, origin) = (lab.node("edge")?, lab.node("origin")?);
        let (kyiv, wroclaw) = (KeyPair::of("kyiv"), KeyPair::of("wroclaw"));
        for (node, key, name) in [(&edge, &kyiv, "kyiv"), (&origin, &wroclaw, "wroclaw")] {
            key.write(&node.directory().join(format!("{name}.key")))?;
            write_secret(&node.directory().join("wroclaw.psk"), &preshared_key("wroclaw"))?;
            fs::create_dir_all(node.directory().join("state"))?;
        }
        let gateway_config =
            Config::new(edge.directory().join("gateway.toml"), gateway_toml(&wroclaw.public, &edge));
        let forwarder_config =
            Config::new(origin.directory().join("forwarder.toml"), forwarder_toml(&kyiv.public, &origin));
        // On Debian hosts with Docker this is on already, and the gateway must work there as well.
        edge.sysctl("net/ipv4/ip_forward", "1")?;
        let mut site = Self {
            lab,
            edge,
            origin,
            kyiv,
            wroclaw,
            gateway_config,
            forwarder_config,
            as_unit: false,
            releases: [Release::This; 2],
            forwarder_program: None,
            environment: [Vec::new(), Vec::new()],
            gateway: None,
            forwarder: None,
        };
        if Offload::chosen()? == Offload::Off {
            site.without_offloads();
        }
        Ok(site)
    }

    /// Starts both daemons and waits until the tunnel is up; answers how long that took.
    pub fn start(&mut self) -> Result<Duration> {
        self.start_gateway()?;
        self.start_forwarder()?;
        let up = self.wait_until_up(Duration::from_secs(15))?;
        if Offload::chosen()? == Offload::Falling {
            let router_at_edge = match self.lab.node("router") {
                Ok(router) => (router, "lan0"),
                Err(_) => (self.lab.node("inet")?, "edge0"),
            };
            let router_at_origin = self.lab.node("cgnat")?;
            self.refuse_segmented_sends((&router_at_edge.0, router_at_edge.1), (&router_at_origin, "lan0"))?;
        }
        Ok(up)
    }

    /// Writes `gateway.toml` and starts the edge's daemon; returns once its control socket answers.
    pub fn start_gateway(&mut self) -> Result<()> {
        self.gateway_config.write()?;
        let command = if self.as_unit { self.unit()? } else { self.edge.command(self.of_edge("gateway")?) };
        let [environment, _] = &self.environment;
        let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let mut gateway = command.arg("--config").arg(self.gateway_config.path()).spawn("gateway")?;
        self.lab.judge(&gateway);
        let answered = lab::until(Duration::from_secs(10), "the gateway's control socket", || {
            ensure!(gateway.is_running(), "the gateway ended:\n{}", gateway.log()?);
            self.peers().map(Some)
        });
        self.gateway = Some(gateway);
        answered.map(drop)
    }

    /// Writes `forwarder.toml` and starts the origin's daemon, unprivileged where that is possible.
    pub fn start_forwarder(&mut self) -> Result<()> {
        self.forwarder_config.write()?;
        self.give_origin_away()?;
        let program = self.forwarder_program.clone().map_or_else(|| self.of_origin("forwarder"), Ok)?;
        let command = self.origin.command(program);
        let [_, environment] = &self.environment;
        let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let command = self.as_forwarder(command.arg("--config").arg(self.forwarder_config.path()));
        let forwarder = command.spawn("forwarder")?;
        self.lab.judge(&forwarder);
        self.forwarder = Some(forwarder);
        Ok(())
    }

    /// Runs the `forwarder` program with these arguments while the daemon runs, as the same user.
    pub fn forwarder_command(&self, arguments: &[&str]) -> Result<NodeCommand> {
        let command = self.origin.command(self.of_origin("forwarder")?).args(arguments);
        Ok(self.as_forwarder(command))
    }

    /// Asks the running forwarder: a verb with its arguments.
    pub fn ask_forwarder(&self, arguments: &[&str]) -> Result<NodeCommand> {
        let socket = self.origin.directory().join("state/forwarder.sock");
        Ok(self.forwarder_command(arguments)?.arg("--socket").arg(socket))
    }

    /// Runs `gatewayctl` on the edge; commands that write the daemon's file get its name.
    pub fn gatewayctl(&self, arguments: &[&str]) -> Result<NodeCommand> {
        let command = self.edge.command(self.of_edge("gatewayctl")?).args(arguments);
        let writes = arguments.first().is_some_and(|verb| WRITING.contains(verb));
        Ok(if writes { command.arg("--config").arg(self.gateway_config.path()) } else { command })
    }

    /// What `gatewayctl peers --json` says.
    pub fn peers(&self) -> Result<Value> {
        let text = self.gatewayctl(&["peers", "--json"])?.run()?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// One field of the only peer, by JSON pointer below it.
    pub fn peer_field(&self, pointer: &str) -> Result<Value> {
        let peers = self.peers()?;
        let field = peers.pointer(&format!("/peers/0{pointer}")).cloned();
        field.with_context(|| format!("no {pointer} in {peers}"))
    }

    /// The only peer's state: `up`, `stale`, `down` or `never`.
    pub fn state(&self) -> Result<String> {
        Ok(self.peer_field("/state")?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits for the tunnel as the edge sees it.
    pub fn wait_until_up(&self, limit: Duration) -> Result<Duration> {
        time_until(limit, "the tunnel to come up", || Ok(self.state()? == "up"))
    }

    /// The edge's daemon.
    pub fn gateway(&mut self) -> Result<&mut Process> {
        self.gateway.as_mut().context("the gateway was not started")
    }

    /// The origin's daemon.
    pub fn forwarder(&mut self) -> Result<&mut Process> {
        self.forwarder.as_mut().context("the forwarder was not started")
    }

    /// A program of the edge's release.
    pub fn of_edge(&self, name: &str) -> Result<PathBuf> {
        let [edge, _] = self.releases;
        edge.binary(name)
    }

    /// A program of the origin's release.
    pub fn of_origin(&self, name: &str) -> Result<PathBuf> {
        let [_, origin] = self.releases;
        origin.binary(name)
    }

    /// Whether the forwarder can run as another user than root here.
    pub fn is_unprivileged(&self) -> bool {
        lab::has_real_root()
    }

    fn as_forwarder(&self, command: NodeCommand) -> NodeCommand {
        let command = command.env("XDG_RUNTIME_DIR", self.origin.directory().join("state"));
        if self.is_unprivileged() { command.user(UNPRIVILEGED.0, UNPRIVILEGED.1) } else { command }
    }

    /// The gateway as its unit starts it, with the folders and the device that the unit gives it.
    fn unit(&self) -> Result<NodeCommand> {
        let (uid, gid) = UNPRIVILEGED;
        let folder = self.edge.directory();
        for name in ["kyiv.key", "wroclaw.psk", "gateway.toml", "state"] {
            chown(folder.join(name), Some(uid), Some(gid))?;
        }
        self.edge.shell(&format!(
            "mkdir -p /run/causeway /run/wireguard && chown {uid}:{gid} /run/causeway /run/wireguard
             mountpoint -q /dev/net || {{ mount -t tmpfs -o mode=0755 tmpfs /dev/net && mknod -m 0666 /dev/net/tun c 10 200; }}"
        ))?;
        let command =
            self.edge.command("setpriv").args(["--reuid", &uid.to_string(), "--regid", &gid.to_string()]);
        let command = command.args([
            "--clear-groups",
            "--inh-caps",
            "-all,+net_admin",
            "--ambient-caps",
            "-all,+net_admin",
        ]);
        let command = command.args(["--bounding-set", "-all,+net_admin", "--no-new-privs"]);
        Ok(command.arg(self.of_edge("gateway")?))
    }

    /// Gives the origin's files to the forwarder's user.
    fn give_origin_away(&self) -> Result<()> {
        if !self.is_unprivileged() {
            return Ok(());
        }
        let folder = self.origin.directory();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| ["key", "psk", "toml"].iter().any(|own| end == *own)) {
                chown(path, Some(UNPRIVILEGED.0), Some(UNPRIVILEGED.1))?;
            }
        }
        chown(folder.join("state"), Some(UNPRIVILEGED.0), Some(UNPRIVILEGED.1))?;
        fs::set_permissions(folder.join("state"), fs::Permissions::from_mode(0o700))?;
        Ok(())
    }
}

fn gateway_toml(wroclaw: &str, edge: &Node) -> String {
    format!(
        r#"[interface]
name = "gw0"
address = ["10.77.88.1/30"]
listen_port = 51820
private_key_file = "kyiv.key"
mtu = 1420

[wan]
interface = "eth0"
accept = ["tcp/22"]

[lan]
prefixes = ["192.168.1.0/24"]

[[peer]]
name = "wroclaw"
public_key = "{wroclaw}"
preshared_key_file = "wroclaw.psk"
allowed_ips = ["10.77.88.2/32", "192.168.88.0/24"]

[[publish]]
name = "https"
protocol = ["tcp"]
listen = "443"
target = "192.168.88.2:443"

[[publish]]
name = "bulk"
protocol = ["tcp"]
listen = "5001"
target = "192.168.88.2:5001"

[[allow]]
name = "nfs"
from = ["peer:wroclaw"]
to = ["self", "192.168.1.50"]
protocol = ["tcp"]
ports = ["2049"]
source = "masquerade"

[[allow]]
name = "monitoring"
from = ["self", "192.168.1.0/24"]
to = ["192.168.88.2"]
protocol = ["tcp"]
ports = ["8428", "9428", "8096", "2283"]

[metrics]
listen = ["127.0.0.1:9586", "10.77.88.1:9586"]

[control]
socket = "/run/causeway/gateway.sock"

[state]
directory = "{}"
"#,
        edge.directory().join("state").display()
    )
}

fn forwarder_toml(kyiv: &str, origin: &Node) -> String {
    let state = origin.directory().join("state");
    format!(
        r#"[interface]
address = ["10.77.88.2/30"]
private_key_file = "wroclaw.key"
mtu = 1420

[[peer]]
name = "kyiv"
public_key = "{kyiv}"
preshared_key_file = "wroclaw.psk"
endpoint = "192.0.2.2:51820"
allowed_ips = ["0.0.0.0/0", "::/0"]
keepalive = "25s"

[[service]]
name = "https"
protocol = ["tcp"]
match = "192.168.88.2:443"
upstream = "127.0.0.1:8443"
proxy_protocol = "v2"

[[service]]
name = "bulk"
protocol = ["tcp"]
match = "192.168.88.2:5001"
upstream = "127.0.0.1:5001"

[[service]]
name = "metrics"
protocol = ["tcp"]
match = "192.168.88.2:8428"
upstream = "127.0.0.1:8428"

[[reach]]
name = "nfs"
protocol = ["tcp"]
listen = "127.0.0.1:2049"
target = "192.168.1.2:2049"
source_port = "privileged"

[[reach]]
name = "nfs-lan"
protocol = ["tcp"]
listen = "127.0.0.1:2050"
target = "192.168.1.50:2049"
source_port = "privileged"

[metrics]
listen = ["127.0.0.1:9587"]

[control]
socket = "{0}/forwarder.sock"

[state]
directory = "{0}"
"#,
        state.display()
    )
}
