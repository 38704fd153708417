//! Our own daemons: gateway and forwarder.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path as FilePath;
use std::time::Duration;

use anyhow::Result;
use lab::{Node, Process};

use super::contender::Running;
use super::path::{BULK, DATAGRAMS, ECHO, EDGE, Path, SERVICE};
use super::wireguard::{Keys, PORT};

/// What is published.
const SERVICES: [(&str, &str, u16); 3] =
    [("bulk", "tcp", BULK), ("echo", "tcp", ECHO), ("datagrams", "udp", DATAGRAMS)];

/// What looks at the daemons while they carry traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// As they are by default: probes and a history.
    AsUsual,
    /// A probe of each service of TCP every second, a history, an agent and a status page at both
    /// ends, the pages read every five seconds, and `causeway doctor` every ten.
    Fully,
    /// No probes, no history on the disk, no agent and no page.
    Not,
}

pub(crate) fn start(path: &Path, watched: Watched) -> Result<Running> {
    let (kyiv, wroclaw) = Keys::pair();
    write_secret(&path.edge.directory().join("kyiv.key"), &kyiv.private)?;
    write_secret(&path.origin.directory().join("wroclaw.key"), &wroclaw.private)?;
    let more = if watched == Watched::Fully { WATCHED } else { "" };
    let gateway_toml = gateway_toml(&wroclaw.public, &path.edge) + more;
    let edge_config = write(&path.edge, "gateway.toml", &gateway_toml)?;
    let forwarder_toml = forwarder_toml(&kyiv.public, &path.origin, watched) + more;
    let origin_config = write(&path.origin, "forwarder.toml", &forwarder_toml)?;
    if watched == Watched::Not {
        // A file in the place of the folder: the history stays in memory.
        for node in [&path.edge, &path.origin] {
            fs::write(node.directory().join("state/history"), "")?;
        }
    }
    let mut edge = path.lab.daemon(&path.edge, "gateway", ["--config", &edge_config])?;
    // Every contender's origin starts after its edge: otherwise a failed first handshake would be
    // measured.
    edge.wait_for_log("gateway started", Duration::from_secs(10))?;
    let origin = path.lab.daemon(&path.origin, "forwarder", ["--config", &origin_config])?;
    let watchers = match watched {
        Watched::Fully => vec![
            agent(&path.edge, &edge_config)?,
            agent(&path.origin, &origin_config)?,
            every(&path.edge, 5, "curl -sS -o page http://127.0.0.1:9590/")?,
            every(&path.origin, 5, "curl -sS -o page http://127.0.0.1:9591/")?,
            every(&path.edge, 10, &format!("{} doctor >doctor", lab::binary("causeway")?.display()))?,
        ],
        Watched::AsUsual | Watched::Not => Vec::new(),
    };
    Ok(Running { edge: vec![edge], origin: vec![origin], watchers })
}

/// Nothing listens there, and nothing is sent.
const WATCHED: &str = r#"
[page]

[[notify]]
name = "hook"
kind = "webhook"
url = "http://127.0.0.1:9/"
"#;

fn agent(node: &Node, config: &str) -> Result<Process> {
    let folder = node.directory().join("agent");
    fs::create_dir_all(&folder)?;
    let command = node.command(lab::binary("causeway-agent")?).args(["--config", config]);
    command.env("RUNTIME_DIRECTORY", &folder).env("STATE_DIRECTORY", &folder).spawn("causeway-agent")
}

/// Runs a command again and again.
fn every(node: &Node, seconds: u32, command: &str) -> Result<Process> {
    let script = format!("while sleep {seconds}; do {command}; done");
    node.command("sh").args(["-c", &script]).spawn("every")
}

fn gateway_toml(wroclaw: &str, edge: &Node) -> String {
    let mut text = format!(
        r#"[interface]
name = "gw0"
address = ["10.77.88.1/30"]
listen_port = {PORT}
private_key_file = "kyiv.key"
mtu = 1420

[wan]
interface = "eth0"

[[peer]]
name = "wroclaw"
public_key = "{wroclaw}"
allowed_ips = ["10.77.88.2/32", "192.168.88.0/24"]

[control]
socket = "/run/causeway/gateway.sock"

[state]
directory = "{}"
"#,
        edge.directory().join("state").display()
    );
    for (name, protocol, port) in SERVICES {
        text.push_str(&format!(
            "\n[[publish]]\nname = \"{name}\"\nprotocol = [\"{protocol}\"]\nlisten = \"{port}\"\ntarget = \"{SERVICE}:{port}\"\n"
        ));
    }
    text
}

fn forwarder_toml(kyiv: &str, origin: &Node, watched: Watched) -> String {
    let health = match watched {
        Watched::AsUsual => "",
        Watched::Fully => "health = { check = \"tcp\", every = \"1s\" }\n",
        Watched::Not => "health = \"off\"\n",
    };
    let state = origin.directory().join("state");
    let mut text = format!(
        r#"[interface]
address = ["10.77.88.2/30"]
private_key_file = "wroclaw.key"
mtu = 1420

[[peer]]
name = "kyiv"
public_key = "{kyiv}"
endpoint = "{EDGE}:{PORT}"
allowed_ips = ["0.0.0.0/0", "::/0"]
keepalive = "25s"

[control]
socket = "{0}/forwarder.sock"

[state]
directory = "{0}"

[metrics]
listen = ["127.0.0.1:9587"]

[limits]
flows_per_client = 16384
pending_per_client = 1024
"#,
        state.display()
    );
    for (name, protocol, port) in SERVICES {
        let health = if protocol == "tcp" { health } else { "" };
        text.push_str(&format!(
            "\n[[service]]\nname = \"{name}\"\nprotocol = [\"{protocol}\"]\nmatch = \"{SERVICE}:{port}\"\nupstream = \"{SERVICE}:{port}\"\n{health}"
        ));
    }
    text
}

fn write(node: &Node, name: &str, text: &str) -> Result<String> {
    fs::create_dir_all(node.directory().join("state"))?;
    let file = node.directory().join(name);
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

fn write_secret(file: &FilePath, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    Ok(writeln!(file, "{text}")?)
}
