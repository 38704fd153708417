//! `causeway doctor` at either end of the worked example, and the pair that it examines.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, NodeCommand, TcpServer, echo, until};
use serde_json::Value;

use crate::site::Site;
use crate::web::Caddy;

/// The name that visitors of the pair ask for.
const NAME: &str = "emby.example.com";
/// Each examination asks both ends, which answer few questions a second.
const PAUSE: Duration = Duration::from_millis(500);
/// How soon a pair that was just started, or repaired, is well.
const WELL: Duration = Duration::from_secs(45);

/// What `causeway doctor --json` printed.
#[derive(Debug)]
pub struct Checkup {
    /// Its exit code.
    pub exit: Option<i32>,
    /// The document.
    pub document: Value,
}

impl Checkup {
    fn of(command: NodeCommand) -> Result<Self> {
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let document = serde_json::from_str(&text).with_context(|| format!("{text}{errors}"))?;
        Ok(Self { exit: output.status.code(), document })
    }

    /// `ok`, `failing` or `unknown`.
    pub fn state(&self) -> &str {
        self.document.get("state").and_then(Value::as_str).unwrap_or_default()
    }

    /// A field of the first failing hop.
    pub fn first(&self, field: &str) -> &str {
        self.document
            .get("failing")
            .and_then(|hop| hop.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether this hop fails for this reason, whatever fails before or after it.
    pub fn names(&self, hop: &str, reason: &str) -> bool {
        let all = self.document.get("findings").and_then(Value::as_array);
        let is = |finding: &Value, field: &str, value: &str| {
            finding.get(field).and_then(Value::as_str) == Some(value)
        };
        all.into_iter().flatten().any(|finding| {
            is(finding, "state", "failing") && is(finding, "hop", hop) && is(finding, "reason", reason)
        })
    }

    /// The command in the fix of the first failing hop.
    pub fn command(&self) -> Result<String> {
        let fix = self.first("fix");
        let (_, command) = fix.split_once("run: ").with_context(|| format!("no command in {fix:?}"))?;
        Ok(command.split("; ").next().unwrap_or(command).to_owned())
    }
}

impl Site<'_> {
    /// `causeway doctor` at the edge.
    pub fn doctor_at_edge(&self, arguments: &[&str]) -> Result<NodeCommand> {
        Ok(self.edge.command(self.of_edge("causeway")?).arg("doctor").args(arguments))
    }

    /// `causeway doctor` at the origin, as root.
    pub fn doctor_at_origin(&self, arguments: &[&str]) -> Result<NodeCommand> {
        let socket = self.origin.directory().join("state/forwarder.sock");
        let command = self.origin.command(self.of_origin("causeway")?).arg("doctor").args(arguments);
        Ok(command.arg("--socket").arg(socket))
    }

    /// What it finds for a file before the daemon runs.
    pub fn checkup_before(&self, at: End) -> Result<Checkup> {
        let (node, file, causeway) = match at {
            End::Edge => (&self.edge, &self.gateway_config, self.of_edge("causeway")?),
            End::Origin | End::Visitor => (&self.origin, &self.forwarder_config, self.of_origin("causeway")?),
        };
        file.write()?;
        Checkup::of(node.command(causeway).args(["doctor", "--json", "--config"]).arg(file.path()))
    }

    /// What it finds at an end.
    pub fn checkup(&self, at: End) -> Result<Checkup> {
        Checkup::of(match at {
            End::Edge => self.doctor_at_edge(&["--json"])?,
            End::Origin => self.doctor_at_origin(&["--json"])?,
            End::Visitor => self.doctor_at_origin(&["--json", "--now"])?,
        })
    }

    /// Waits until it names this hop and reason first at an end, and prints what it says.
    #[allow(clippy::print_stdout)]
    pub fn named(&self, at: End, hop: &str, reason: &str, limit: Duration) -> Result<Checkup> {
        let mut last = None;
        let found = until(limit, &format!("doctor to name {hop} ({reason}) {at:?}"), || {
            let found = self.checkup(at)?;
            let is_named = (found.first("hop"), found.first("reason")) == (hop, reason);
            ensure!(!is_named || found.exit == Some(10), "exit {:?}", found.exit);
            if !is_named {
                last = Some(found);
                std::thread::sleep(PAUSE);
                return Ok(None);
            }
            Ok(Some(found))
        });
        let found = found.with_context(|| match last {
            Some(last) => last.document.to_string(),
            None => "nothing was found".to_owned(),
        })?;
        ensure!(!found.first("fix").is_empty(), "no fix in {}", found.document);
        println!("{at:?}: {hop} ({reason}): {} | fix: {}", found.first("evidence"), found.first("fix"));
        Ok(found)
    }

    /// Waits until it finds nothing wrong at both ends.
    pub fn well(&self) -> Result<()> {
        for at in [End::Edge, End::Origin] {
            let mut last = None;
            let found = until(WELL, &format!("doctor to find nothing {at:?}"), || {
                let found = self.checkup(at)?;
                let is_well = (found.exit, found.state()) == (Some(0), "ok");
                last = Some(found.document);
                if !is_well {
                    std::thread::sleep(PAUSE);
                }
                Ok(is_well.then_some(()))
            });
            found.with_context(|| last.unwrap_or_default().to_string())?;
        }
        Ok(())
    }
}

/// An end of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The edge.
    Edge,
    /// The origin.
    Origin,
    /// The origin, once it has visited every name.
    Visitor,
}

/// What serves behind the origin of [`examined`].
#[derive(Debug)]
pub struct Served {
    /// The site of [`NAME`].
    pub caddy: Caddy,
    /// The service `bulk`.
    pub bulk: TcpServer,
}

/// The sites of the pair's Caddy.
pub const SITES: &str = "https://emby.example.com:8443 {
    bind 127.0.0.1
    tls internal
    respond emby
}
";

/// The worked example with one name on its web site, everything behind it running, not started.
pub fn examined(lab: &Lab) -> Result<(Site<'_>, Served)> {
    let mut site = Site::new(lab)?;
    let header = "proxy_protocol = \"v2\"";
    site.forwarder_config.replace(header, &format!("{header}\nnames = [\"{NAME}\"]"))?;
    let Some((before, rest)) = site.forwarder_config.text.split_once("[[service]]\nname = \"metrics\"")
    else {
        bail!("no service metrics");
    };
    let (_, after) = rest.split_once("[[reach]]").context("no [[reach]]")?;
    site.forwarder_config.text = format!("{before}[[reach]]{after}");
    leads_to(&site, "192.0.2.2")?;
    let caddy = Caddy::start_sites(&site.origin, true, SITES)?;
    let bulk = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
    Ok((site, Served { caddy, bulk }))
}

/// Lets the origin's resolver know the name by this address.
pub fn leads_to(site: &Site<'_>, address: &str) -> Result<()> {
    let hosts = format!("127.0.0.1 localhost\n{address} {NAME}\n");
    site.origin.shadow_file("/etc/hosts", &hosts)?;
    site.origin.shadow_file("/etc/nsswitch.conf", "hosts: files\n").map(drop)
}
