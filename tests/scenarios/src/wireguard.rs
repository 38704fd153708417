//! Other WireGuard implementations, next to ours.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use lab::{Node, Process};

use crate::{KeyPair, Site, preshared_key};

/// A wireguard-go, Debian's newest, that serves one interface of a node.
#[derive(Debug)]
pub struct WireGuardGo {
    /// The running program.
    pub process: Process,
    node: Node,
    interface: String,
}

/// What `wg setconf` sets on a plain WireGuard interface.
#[derive(Debug, Clone)]
pub struct PlainPeer<'text> {
    /// Own private key, base64.
    pub private_key: &'text str,
    /// Own UDP port; `None` lets the system choose.
    pub listen_port: Option<u16>,
    /// The peer's public key, base64.
    pub public_key: &'text str,
    /// The preshared key, base64.
    pub preshared_key: Option<&'text str>,
    /// The peer's prefixes, separated by commas.
    pub allowed_ips: &'text str,
    /// Where the peer is.
    pub endpoint: Option<&'text str>,
    /// Persistent keepalive in seconds.
    pub keepalive: Option<u16>,
}

impl WireGuardGo {
    /// Starts it and waits for its socket; the interface has no addresses yet and is down.
    pub fn start(node: &Node, interface: &str) -> Result<Self> {
        // `wg` removes a socket that refuses it, and wireguard-go ends when the socket that it is
        // about to replace is removed meanwhile. So the socket of a killed one is removed first,
        // and `wg` is used only once the new one listens.
        node.run(&format!("rm -f /var/run/wireguard/{interface}.sock"))?;
        let command =
            node.command(lab::newer("wireguard-go")?).args(["-f", interface]).env("LOG_LEVEL", "verbose");
        let mut process = command.spawn(&format!("wireguard-go-{interface}"))?;
        process.wait_for_log("UAPI listener started", Duration::from_secs(10))?;
        Ok(Self { process, node: node.clone(), interface: interface.to_owned() })
    }

    /// A site's origin as a plain WireGuard peer with these addresses and routes.
    pub fn origin(site: &Site<'_>, addresses: &[&str], routes: &[&str]) -> Result<Self> {
        let far = Self::start(&site.origin, "wg0")?;
        far.configure(&PlainPeer {
            private_key: &site.wroclaw.private,
            listen_port: None,
            public_key: &site.kyiv.public,
            preshared_key: Some(&preshared_key("wroclaw")),
            allowed_ips: "0.0.0.0/0,::/0",
            endpoint: Some("192.0.2.2:51820"),
            keepalive: Some(5),
        })?;
        far.bring_up(addresses, routes)?;
        Ok(far)
    }

    /// A further machine that dials a site's edge with a key of its own, without a preshared one.
    pub fn dialling(
        site: &Site<'_>,
        node: &Node,
        key: &KeyPair,
        addresses: &[&str],
        routes: &[&str],
    ) -> Result<Self> {
        let tunnel = Self::start(node, "wg0")?;
        tunnel.configure(&PlainPeer {
            private_key: &key.private,
            listen_port: None,
            public_key: &site.kyiv.public,
            preshared_key: None,
            allowed_ips: "0.0.0.0/0",
            endpoint: Some("192.0.2.2:51820"),
            keepalive: Some(5),
        })?;
        tunnel.bring_up(addresses, routes)?;
        Ok(tunnel)
    }

    /// A site's edge as a plain WireGuard peer, which the origin dials.
    pub fn edge(site: &Site<'_>, addresses: &[&str], routes: &[&str]) -> Result<Self> {
        let near = Self::start(&site.edge, "wg0")?;
        near.configure(&PlainPeer {
            private_key: &site.kyiv.private,
            listen_port: Some(51_820),
            public_key: &site.wroclaw.public,
            preshared_key: Some(&preshared_key("wroclaw")),
            allowed_ips: "10.77.88.2/32,192.168.88.0/24,fd77:88::2/128",
            endpoint: None,
            keepalive: None,
        })?;
        near.bring_up(addresses, routes)?;
        Ok(near)
    }

    /// Sets keys and the peer.
    pub fn configure(&self, peer: &PlainPeer<'_>) -> Result<()> {
        let file = self.node.directory().join(format!("{}.wg", self.interface));
        fs::write(&file, peer.to_string())?;
        self.node.command("wg").args(["setconf", &self.interface]).arg(&file).run().map(drop)
    }

    /// Sets addresses (`ip address add`) and routes (`ip route add`) and brings the interface up.
    pub fn bring_up(&self, addresses: &[&str], routes: &[&str]) -> Result<()> {
        let name = &self.interface;
        for address in addresses {
            self.node.run(&format!("ip address add {address} dev {name}"))?;
        }
        self.node.run(&format!("ip link set {name} mtu 1420 up"))?;
        for route in routes {
            self.node.run(&format!("ip route add {route} dev {name}"))?;
        }
        Ok(())
    }
}

impl std::fmt::Display for PlainPeer<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "[Interface]\nPrivateKey = {}", self.private_key)?;
        if let Some(port) = self.listen_port {
            writeln!(formatter, "ListenPort = {port}")?;
        }
        writeln!(formatter, "[Peer]\nPublicKey = {}\nAllowedIPs = {}", self.public_key, self.allowed_ips)?;
        if let Some(key) = self.preshared_key {
            writeln!(formatter, "PresharedKey = {key}")?;
        }
        if let Some(endpoint) = self.endpoint {
            writeln!(formatter, "Endpoint = {endpoint}")?;
        }
        if let Some(keepalive) = self.keepalive {
            writeln!(formatter, "PersistentKeepalive = {keepalive}")?;
        }
        Ok(())
    }
}
