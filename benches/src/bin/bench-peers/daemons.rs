//! Our own daemons: gateway and forwarder.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path as FilePath;
use std::time::Duration;

use anyhow::Result;
use lab::Node;

use super::contender::Running;
use super::path::{BULK, DATAGRAMS, ECHO, EDGE, Path, SERVICE};
use super::wireguard::{Keys, PORT};

/// What is published.
const SERVICES: [(&str, &str, u16); 3] =
    [("bulk", "tcp", BULK), ("echo", "tcp", ECHO), ("datagrams", "udp", DATAGRAMS)];

pub(crate) fn start(path: &Path) -> Result<Running> {
    let (kyiv, wroclaw) = Keys::pair();
    write_secret(&path.edge.directory().join("kyiv.key"), &kyiv.private)?;
    write_secret(&path.origin.directory().join("wroclaw.key"), &wroclaw.private)?;
    let edge_config = write(&path.edge, "gateway.toml", &gateway_toml(&wroclaw.public, &path.edge))?;
    let origin_config = write(&path.origin, "forwarder.toml", &forwarder_toml(&kyiv.public, &path.origin))?;
    let mut edge = path.lab.daemon(&path.edge, "gateway", ["--config", &edge_config])?;
    // Every contender's origin starts after its edge: otherwise a failed first handshake would be
    // measured.
    edge.wait_for_log("gateway started", Duration::from_secs(10))?;
    let origin = path.lab.daemon(&path.origin, "forwarder", ["--config", &origin_config])?;
    Ok(Running { edge: vec![edge], origin: vec![origin] })
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

fn forwarder_toml(kyiv: &str, origin: &Node) -> String {
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
        text.push_str(&format!(
            "\n[[service]]\nname = \"{name}\"\nprotocol = [\"{protocol}\"]\nmatch = \"{SERVICE}:{port}\"\nupstream = \"{SERVICE}:{port}\"\n"
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
