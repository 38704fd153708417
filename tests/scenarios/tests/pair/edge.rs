//! One edge of the pair, with its daemon, keepalived and conntrackd.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, full_counts, until};
use serde_json::Value;

/// One of the two edges.
pub(crate) struct Edge<'lab> {
    lab: &'lab Lab,
    pub(crate) node: Node,
    /// The port of the router that leads to it.
    pub(crate) port: &'static str,
    /// The address that both share.
    shared: IpAddr,
    environment: Vec<(String, String)>,
    gateway: Option<Process>,
    keepalived: Option<Process>,
    pub(crate) conntrackd: Option<Process>,
}

impl<'lab> Edge<'lab> {
    pub(crate) fn new(
        lab: &'lab Lab,
        (node, port): (Node, &'static str),
        shared: IpAddr,
        environment: Vec<(String, String)>,
    ) -> Self {
        Self { lab, node, port, shared, environment, gateway: None, keepalived: None, conntrackd: None }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.node.directory().join("gateway.toml")
    }

    pub(crate) fn health(&self) -> PathBuf {
        self.node.directory().join("state/keepalived-health")
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        let command = self.node.command(lab::binary("gateway")?).arg("--config").arg(self.config());
        let command =
            self.environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let mut gateway = command.spawn("gateway")?;
        self.lab.judge(&gateway);
        let answered = until(Duration::from_secs(30), "the gateway's control socket", || {
            ensure!(gateway.is_running(), "the gateway ended:\n{}", gateway.log()?);
            Ok(self.role().ok())
        });
        self.gateway = Some(gateway);
        answered.map(drop)
    }

    pub(crate) fn start_helpers(&mut self) -> Result<()> {
        let folder = self.node.directory().to_owned();
        for what in ["keepalived", "conntrackd"] {
            let export = self.node.command(lab::binary("gatewayctl")?).args(["export", what, "--config"]);
            let text = unhurried(export.arg(self.config()).run()?);
            fs::write(folder.join(format!("{what}.conf")), text)?;
        }
        self.node.shell("mkdir -p /run/lock")?;
        let conntrackd = self.node.command("conntrackd").arg("-C").arg(folder.join("conntrackd.conf"));
        self.conntrackd = Some(conntrackd.spawn("conntrackd")?);
        let keepalived = self.node.command("keepalived").args(["-n", "-l", "-D", "-f"]);
        let keepalived =
            keepalived.arg(folder.join("keepalived.conf")).arg("-p").arg(folder.join("keepalived.pid"));
        let keepalived = keepalived.arg("-r").arg(folder.join("vrrp.pid"));
        self.keepalived = Some(keepalived.spawn("keepalived")?);
        Ok(())
    }

    pub(crate) fn ask(&self, what: &str) -> Result<Value> {
        let text = self.node.command(lab::binary("gatewayctl")?).args([what, "--json"]).output()?;
        serde_json::from_slice(&text.stdout).with_context(|| format!("{text:?}"))
    }

    pub(crate) fn role(&self) -> Result<String> {
        let role = self.ask("status")?.pointer("/standby").and_then(Value::as_str).map(str::to_owned);
        role.context("no role")
    }

    pub(crate) fn endpoint(&self) -> Result<Option<String>> {
        let peers = self.ask("peers")?;
        Ok(peers.pointer("/peers/0/endpoint").and_then(Value::as_str).map(str::to_owned))
    }

    /// Messages of the other edge that counted, or did not.
    pub(crate) fn messages(&self, result: &str) -> Result<u64> {
        let page = self.node.run("curl -s http://127.0.0.1:9586/metrics")?;
        let metric = format!("gateway_standby_messages_total{{result=\"{result}\"}}");
        let line = page.lines().find(|line| line.starts_with(&metric));
        let number = line.and_then(|line| line.split(' ').next_back()).context("no such metric")?;
        Ok(number.parse::<f64>()? as u64)
    }

    /// The shared address with its prefix length.
    pub(crate) fn shared(&self) -> String {
        format!("{}/{}", self.shared, if self.shared.is_ipv4() { 32 } else { 128 })
    }

    pub(crate) fn has_address(&self) -> Result<bool> {
        Ok(self.node.run("ip -o address show dev eth0")?.contains(&format!(" {} ", self.shared())))
    }

    pub(crate) fn gateway(&mut self) -> Result<&mut Process> {
        self.gateway.as_mut().context("the gateway was not started")
    }

    /// The processes of keepalived.
    pub(crate) fn signal_keepalived(&self, signal: &str) -> Result<()> {
        let folder = self.node.directory();
        for file in ["keepalived.pid", "vrrp.pid"] {
            let number = fs::read_to_string(folder.join(file)).unwrap_or_default();
            if !number.trim().is_empty() {
                self.node.shell(&format!("kill -{signal} {} 2>/dev/null || true", number.trim()))?;
            }
        }
        Ok(())
    }
}

/// The configuration as it is exported; next to other tests a process may be delayed for longer than
/// three of its adverts, so that there they are further apart.
fn unhurried(text: String) -> String {
    if full_counts() {
        return text;
    }
    let text = text.replace("advert_int 0.2", "advert_int 1").replace("timeout 1\n", "timeout 4\n");
    text.replace("timeout 0.5", "timeout 3")
}
