//! Two plain WireGuard interfaces, set up by `wg`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::{Node, Process, until};
use tunnel::key::PrivateKey;

use super::contender::Running;
use super::path::{CGNAT, EDGE, Path, SERVICE};

/// The port the edge listens on, and the carrier's NAT keeps for the origin.
pub(crate) const PORT: u16 = 51820;

/// A userspace WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Causeway,
    CausewayOldKernel,
    Go,
    Gotatun,
    Boringtun,
}

/// A key pair in base64.
pub(crate) struct Keys {
    pub(crate) private: String,
    pub(crate) public: String,
}

impl Keys {
    /// The edge's and the origin's keys: the same in every run, and not secret.
    pub(crate) fn pair() -> (Self, Self) {
        let keys = |byte| {
            let key = PrivateKey::from_bytes([byte; 32]);
            Self { private: STANDARD.encode(key.as_bytes()), public: key.public().to_string() }
        };
        (keys(0x11), keys(0x22))
    }
}

pub(crate) fn start(path: &Path, edge: Engine, origin: Engine) -> Result<Running> {
    let (kyiv, wroclaw) = Keys::pair();
    let at_edge = edge.spawn(&path.edge)?;
    let at_origin = origin.spawn(&path.origin)?;
    let for_edge = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.77.88.2/32, {SERVICE}/32\n",
        kyiv.private, wroclaw.public
    );
    configure(&path.edge, &for_edge)?;
    path.edge.ip(&format!(
        "address add 10.77.88.1/30 dev wg0\nlink set wg0 mtu 1420 up\nroute add {SERVICE}/32 dev wg0"
    ))?;
    path.publish()?;
    join_origin(path, &wroclaw, &kyiv.public)?;
    let mut running = Running { edge: vec![at_edge], origin: vec![at_origin], ..Running::default() };
    if origin == Engine::Boringtun {
        // It waits a whole keepalive interval before its first handshake unless there is something
        // to send.
        running
            .origin
            .push(path.origin.command("ping").args(["-c", "20", "-i", "0.2", "10.77.88.1"]).spawn("ping")?);
    }
    Ok(running)
}

/// wireguard-go at the origin, for a peer at the edge that is no interface.
pub(crate) fn start_origin(path: &Path) -> Result<Process> {
    let (kyiv, wroclaw) = Keys::pair();
    let process = Engine::Go.spawn(&path.origin)?;
    join_origin(path, &wroclaw, &kyiv.public)?;
    Ok(process)
}

/// The origin's endpoint, for a peer at the edge that cannot learn it.
pub(crate) fn origin_endpoint() -> String {
    format!("{CGNAT}:{PORT}")
}

fn join_origin(path: &Path, own: &Keys, edge: &str) -> Result<()> {
    let text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\
         [Peer]\nPublicKey = {edge}\nAllowedIPs = 0.0.0.0/0\nEndpoint = {EDGE}:{PORT}\nPersistentKeepalive = 25\n",
        own.private
    );
    path.origin.ip("address add 10.77.88.2/30 dev wg0\nlink set wg0 mtu 1420 up")?;
    path.return_by("wg0")?;
    configure(&path.origin, &text)
}

fn configure(node: &Node, text: &str) -> Result<()> {
    let file = node.directory().join("wg0.conf");
    fs::write(&file, text)?;
    node.command("wg").args(["setconf", "wg0"]).arg(&file).run().map(drop)
}

impl Engine {
    fn spawn(self, node: &Node) -> Result<Process> {
        let command = match self {
            Self::Causeway => node.command(lab::binary("causeway-wg")?).args(["-f", "wg0"]),
            Self::CausewayOldKernel => {
                node.command(lab::binary("causeway-wg")?).args(["-f", "--without", "tun-udp", "wg0"])
            }
            Self::Go => node.command(lab::newer("wireguard-go")?).args(["-f", "wg0"]),
            Self::Gotatun => {
                node.command(registry("gotatun")?).args(["-f", "--disable-drop-privileges", "wg0"])
            }
            Self::Boringtun => {
                node.command(registry("boringtun-cli")?).args(["-f", "--disable-drop-privileges", "wg0"])
            }
        };
        let process = command.spawn("wireguard")?;
        until(Duration::from_secs(5), "the interface", || Ok(node.run("wg show wg0").ok()))?;
        Ok(process)
    }
}

/// A peer that `benches/packages` built from the crate registry.
pub(crate) fn registry(name: &str) -> Result<PathBuf> {
    let cache =
        std::env::var_os("CAUSEWAY_CACHE").map_or_else(|| lab::workspace().join(".cache"), PathBuf::from);
    let program = cache.join("peers/bin").join(name);
    anyhow::ensure!(program.is_file(), "{name} is not built: run benches/packages");
    Ok(program)
}
