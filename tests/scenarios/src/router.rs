//! A plain WireGuard router at the far end, set up only with what `gatewayctl export wg-quick`
//! writes.

use anyhow::Result;
use lab::{Node, NodeCommand};

use crate::keys::{KeyPair, preshared_key, write_secret};
use crate::site::Site;

/// A Linux machine whose end of the tunnel is wireguard-go under `wg-quick`.
#[derive(Debug)]
pub struct Router {
    node: Node,
    /// The file that was exported.
    pub exported: String,
}

impl Router {
    /// Exports the configuration of the edge's `peer`, writes it and its key to the paths that it
    /// names, and runs `wg-quick up kyiv`.
    pub fn up(site: &Site<'_>, node: &Node, peer: &str, key: &KeyPair) -> Result<Self> {
        site.gateway_config.write()?;
        let config = site.gateway_config.path().to_string_lossy();
        let arguments = ["export", "wg-quick", peer, "--name", "kyiv", "--endpoint", "192.0.2.2:51820"];
        let exported = site.gatewayctl(&arguments)?.args(["--config", &config]).run()?;
        let folder = node.directory().join("wireguard");
        std::fs::create_dir_all(&folder)?;
        write_secret(&folder.join("kyiv.conf"), &exported)?;
        key.write(&folder.join(format!("{peer}.key")))?;
        write_secret(&folder.join(format!("{peer}.psk")), &preshared_key(peer))?;
        node.command("mount").arg("--bind").arg(&folder).arg("/etc/wireguard").run()?;
        let router = Self { node: node.clone(), exported };
        router.wg_quick("up")?.run()?;
        Ok(router)
    }

    /// Kills the tunnel's program; its interface goes with it, and its rules stay.
    pub fn kill(&self) -> Result<()> {
        self.node.run("ip link delete kyiv").map(drop)
    }

    /// Runs `wg-quick down kyiv`.
    pub fn down(&self) -> Result<()> {
        self.wg_quick("down")?.run().map(drop)
    }

    fn wg_quick(&self, what: &str) -> Result<NodeCommand> {
        let command = self.node.command("wg-quick").args([what, "kyiv"]);
        Ok(command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", lab::newer("wireguard-go")?))
    }
}
