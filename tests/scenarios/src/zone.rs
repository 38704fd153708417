//! A zone at a name server that takes updates.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, time_until, until};

/// The zone example.com at a name server on the internet (`client`).
#[derive(Debug)]
pub struct Zone {
    node: Node,
    server: Option<Process>,
}

impl Zone {
    /// The secret of the key `kyiv-dns`.
    pub const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0IQ==";

    /// A server that is not started.
    pub fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("client")?;
        let folder = node.directory().display().to_string();
        for name in ["run", "db"] {
            fs::create_dir_all(node.directory().join(name))?;
        }
        fs::write(node.directory().join("example.com.zone"), ZONE)?;
        fs::write(node.directory().join("knot.conf"), CONFIGURATION.replace("FOLDER", &folder))?;
        Ok(Self { node, server: None })
    }

    /// Starts it, with what it held before.
    pub fn start(&mut self) -> Result<()> {
        self.server = Some(self.node.command("/usr/sbin/knotd").args(["-c", "knot.conf"]).spawn("knotd")?);
        until(Duration::from_secs(10), "the name server", || Ok((!self.serial()?.is_empty()).then_some(())))
    }

    /// Kills it.
    pub fn stop(&mut self) -> Result<()> {
        self.server.as_mut().context("the name server was not started")?.kill()
    }

    /// TTL and address of every A record of a name.
    pub fn records(&self, name: &str) -> Result<Vec<String>> {
        let answer = self.node.run(&format!(
            "kdig +tcp +noall +answer +timeout=2 +retry=0 @203.0.113.10 {name}.example.com A"
        ))?;
        let fields = answer.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let records = fields.filter_map(|fields| match fields.as_slice() {
            [_, ttl, "IN", "A", address] => Some(format!("{ttl} {address}")),
            _ => None,
        });
        Ok(records.collect())
    }

    /// The only record of the edge's name.
    pub fn record(&self) -> Result<String> {
        let records = self.records("kyiv")?;
        ensure!(records.len() == 1, "the name has {records:?}");
        Ok(records.concat())
    }

    /// How often the zone was changed, and once.
    pub fn serial(&self) -> Result<String> {
        let answer = self.node.run("kdig +tcp +short +timeout=2 +retry=0 @203.0.113.10 example.com SOA")?;
        Ok(answer.split_whitespace().nth(2).unwrap_or_default().to_owned())
    }

    /// Waits for this only record of the edge's name.
    pub fn wait_for(&self, record: &str, seconds: u64) -> Result<()> {
        time_until(Duration::from_secs(seconds), &format!("the record {record}"), || {
            Ok(self.record()? == record)
        })?;
        Ok(())
    }
}

const ZONE: &str = "$TTL 3600
@ SOA ns1 admin 1 3600 600 86400 60
@ NS ns1
ns1 A 203.0.113.10
kyiv 300 A 198.51.100.99
home 300 A 198.51.100.99
both 300 A 192.0.2.2
both 300 A 198.18.66.2
www CNAME home
myip 60 A 192.0.2.77
";

/// The key may change the A records of these names and nothing else.
const CONFIGURATION: &str = r#"
server:
    rundir: "FOLDER/run"
    listen: 203.0.113.10@53
database:
    storage: "FOLDER/db"
key:
  - id: kyiv-dns
    algorithm: hmac-sha256
    secret: c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0IQ==
acl:
  - id: kyiv
    key: kyiv-dns
    action: update
    update-type: A
    update-owner: name
    update-owner-match: equal
    update-owner-name: [kyiv, new, both]
zone:
  - domain: example.com
    storage: "FOLDER"
    file: "example.com.zone"
    acl: kyiv
"#;
