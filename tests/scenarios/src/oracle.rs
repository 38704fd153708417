//! The second edge of the worked example: a machine in a cloud, with a tunnel of its own to the
//! same origin.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, NodeCommand, Process, until};
use serde_json::Value;

use crate::keys::KeyPair;
use crate::site::{Config, Site};

/// The edge `oracle` of [`lab::Topology::two_edges`], with a key of its own. In its tunnel it is
/// 10.88.99.1 and the origin is 10.88.99.2; or a third edge like it.
#[derive(Debug)]
pub struct Oracle<'lab> {
    lab: &'lab Lab,
    /// Its machine.
    pub node: Node,
    /// Its `gateway.toml`: https for `@cloudflare`, and bulk for everyone.
    pub config: Config,
    /// Its daemon, once started.
    pub gateway: Option<Process>,
}

impl<'lab> Oracle<'lab> {
    /// Prepares the second edge and adds it to the forwarder's configuration; starts neither.
    pub fn add_to(site: &mut Site<'lab>, lab: &'lab Lab) -> Result<Self> {
        Self::add(site, lab, ("oracle", "198.18.66.2", "10.88.99"))
    }

    /// The same with the edge `vienna` of [`lab::Topology::three_edges`]. In its tunnel it is
    /// 10.66.77.1 and the origin is 10.66.77.2.
    pub fn add_third_to(site: &mut Site<'lab>, lab: &'lab Lab) -> Result<Self> {
        Self::add(site, lab, ("vienna", "198.18.55.2", "10.66.77"))
    }

    fn add(
        site: &mut Site<'lab>,
        lab: &'lab Lab,
        (name, address, tunnel): (&str, &str, &str),
    ) -> Result<Self> {
        let node = lab.node(name)?;
        let (own, far) = (KeyPair::of(name), KeyPair::of(&format!("wroclaw at {name}")));
        own.write(&node.directory().join(format!("{name}.key")))?;
        far.write(&site.origin.directory().join(format!("wroclaw-{name}.key")))?;
        fs::create_dir_all(node.directory().join("state"))?;
        let list = lab::workspace().join("configs/lists/cloudflare.list");
        fs::copy(&list, node.directory().join("cloudflare.list"))
            .context("the list of Cloudflare's prefixes")?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        let config = &mut site.forwarder_config;
        let has_others = config.text.contains("peer = \"kyiv\"");
        for target in ["192.168.1.2:2049", "192.168.1.50:2049"].iter().filter(|_| !has_others) {
            let line = format!("target = \"{target}\"");
            config.replace(&line, &format!("{line}\npeer = \"kyiv\""))?;
        }
        config.append(&format!(
            "[[peer]]\nname = \"{name}\"\npublic_key = \"{}\"\nendpoint = \"{address}:51820\"\n\
             address = [\"{tunnel}.2/30\"]\nprivate_key_file = \"wroclaw-{name}.key\"",
            own.public
        ));
        let text = toml(&far.public, &node, (name, tunnel));
        let config = Config::new(node.directory().join("gateway.toml"), text);
        Ok(Self { lab, node, config, gateway: None })
    }

    /// Writes `gateway.toml` and starts the daemon; returns once its control socket answers.
    pub fn start(&mut self) -> Result<()> {
        self.config.write()?;
        let command = self.node.command(lab::binary("gateway")?).arg("--config").arg(self.config.path());
        let mut gateway = command.spawn("gateway")?;
        self.lab.judge(&gateway);
        let answered = until(Duration::from_secs(20), "the second gateway's control socket", || {
            ensure!(gateway.is_running(), "the second gateway ended:\n{}", gateway.log()?);
            self.peers().map(Some)
        });
        self.gateway = Some(gateway);
        answered.map(drop)
    }

    /// Waits for its tunnel.
    pub fn wait_until_up(&self, limit: Duration) -> Result<()> {
        until(limit, "the second tunnel to come up", || {
            Ok((self.peers()?.pointer("/peers/0/state") == Some(&Value::from("up"))).then_some(()))
        })
    }

    /// Its daemon.
    pub fn gateway(&mut self) -> Result<&mut Process> {
        self.gateway.as_mut().context("the second gateway was not started")
    }

    /// Runs `gatewayctl` there.
    pub fn gatewayctl(&self, arguments: &[&str]) -> Result<NodeCommand> {
        Ok(self.node.command(lab::binary("gatewayctl")?).args(arguments))
    }

    fn peers(&self) -> Result<Value> {
        let text = self.gatewayctl(&["peers", "--json"])?.run()?;
        serde_json::from_str(&text).with_context(|| text)
    }
}

fn toml(wroclaw: &str, node: &Node, (name, tunnel): (&str, &str)) -> String {
    format!(
        r#"[interface]
name = "gw0"
address = ["{tunnel}.1/30"]
listen_port = 51820
private_key_file = "{name}.key"

[wan]
interface = "eth0"
accept = ["tcp/22"]

[[peer]]
name = "wroclaw"
public_key = "{wroclaw}"
allowed_ips = ["{tunnel}.2/32", "192.168.88.0/24"]

[[list]]
name = "cloudflare"
file = "cloudflare.list"

[[publish]]
name = "https"
listen = "443"
target = "192.168.88.2:443"
allow = ["@cloudflare"]

[[publish]]
name = "bulk"
listen = "5001"
target = "192.168.88.2:5001"

[control]
socket = "/run/causeway/gateway.sock"

[state]
directory = "{}"
"#,
        node.directory().join("state").display()
    )
}
