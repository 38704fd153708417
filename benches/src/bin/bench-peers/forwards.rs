//! Tunnels that forward ports instead of packets.

use std::fs;

use anyhow::{Context, Result};

use super::contender::Running;
use super::path::{BULK, DATAGRAMS, ECHO, EDGE, Path, SERVICE};
use super::wireguard::{self, Keys, registry};

/// onetun at the edge. It neither learns nor follows its peer's address: the carrier's NAT here
/// keeps the port.
pub(crate) fn start_onetun(path: &Path) -> Result<Running> {
    let (kyiv, wroclaw) = Keys::pair();
    let origin = wireguard::start_origin(path)?;
    let forward = |port: u16, kind: &str| format!("0.0.0.0:{port}:{SERVICE}:{port}:{kind}");
    let edge = path
        .edge
        .command(registry("onetun")?)
        .args(["--endpoint-addr", &wireguard::origin_endpoint()])
        .args(["--endpoint-public-key", &wroclaw.public, "--private-key", &kyiv.private])
        .args(["--endpoint-bind-addr", &format!("0.0.0.0:{}", wireguard::PORT)])
        .args(["--source-peer-ip", "10.77.88.1", "--keep-alive", "10", "--log", "error"])
        .args([forward(BULK, "TCP"), forward(ECHO, "TCP"), forward(DATAGRAMS, "UDP")])
        .spawn("onetun")?;
    Ok(Running { edge: vec![edge], origin: vec![origin], ..Running::default() })
}

/// rathole with noise: its server at the edge, its client at the origin.
pub(crate) fn start_rathole(path: &Path) -> Result<Running> {
    let program = registry("rathole")?;
    let keys = path.edge.command(&program).arg("--genkey").run()?;
    let lines: Vec<_> = keys.lines().map(str::trim).collect();
    let key = |title: &str| {
        let at = lines.iter().position(|line| line.starts_with(title))?;
        lines.get(at + 1).copied()
    };
    let private = key("Private").context("rathole made no private key")?;
    let public = key("Public").context("rathole made no public key")?;
    let services = [("bulk", BULK, "tcp"), ("echo", ECHO, "tcp"), ("datagrams", DATAGRAMS, "udp")];
    let mut server = format!(
        "[server]\nbind_addr = \"{EDGE}:2333\"\ndefault_token = \"bench\"\n\
         [server.transport]\ntype = \"noise\"\n[server.transport.noise]\nlocal_private_key = \"{private}\"\n"
    );
    let mut client = format!(
        "[client]\nremote_addr = \"{EDGE}:2333\"\ndefault_token = \"bench\"\n\
         [client.transport]\ntype = \"noise\"\n[client.transport.noise]\nremote_public_key = \"{public}\"\n"
    );
    for (name, port, kind) in services {
        server.push_str(&format!(
            "[server.services.{name}]\ntype = \"{kind}\"\nbind_addr = \"0.0.0.0:{port}\"\n"
        ));
        client.push_str(&format!(
            "[client.services.{name}]\ntype = \"{kind}\"\nlocal_addr = \"{SERVICE}:{port}\"\n"
        ));
    }
    let (at_edge, at_origin) =
        (path.edge.directory().join("server.toml"), path.origin.directory().join("client.toml"));
    fs::write(&at_edge, server)?;
    fs::write(&at_origin, client)?;
    let edge = path.edge.command(&program).arg("--server").arg(&at_edge).spawn("rathole")?;
    let origin = path.origin.command(&program).arg("--client").arg(&at_origin).spawn("rathole")?;
    Ok(Running { edge: vec![edge], origin: vec![origin], ..Running::default() })
}
