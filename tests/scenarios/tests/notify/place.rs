//! Both ends with an agent each, and what receives their messages.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, time_until, until};
use scenarios::{Caddy, Site, write_secret};
use serde_json::Value;

use crate::receivers::{MailServer, Requests};

/// How soon after a fault its message is there.
pub(crate) const REPORTED: Duration = Duration::from_secs(90);

/// Both ends with an agent each: the edge's has an HTTP receiver, the origin's a mail server.
pub(crate) struct Place<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) site: Site<'lab>,
    pub(crate) requests: Requests,
    pub(crate) mail_server: MailServer,
    pub(crate) edge_agent: Process,
    pub(crate) origin_agent: Process,
}

impl<'lab> Place<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> Result<Self> {
        // What the forwarder logs while the gateway is away.
        lab.expect_warning("nothing listens on this UDP port");
        lab.expect_warning("nothing came back");
        let mut site = Site::new(lab)?;
        let requests = Requests::serve(&site.edge)?;
        write_secret(&site.edge.directory().join("hook.token"), "top-secret\n")?;
        let url = "http://127.0.0.1:8099/hook";
        let hook = format!(
            "[[notify]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{url}\"\ntoken_file = \"hook.token\"\n"
        );
        site.gateway_config.append(&hook);
        let mail_server = MailServer::start(&site.origin)?;
        site.forwarder_config.append(&mail_server.section);
        // Nothing listens there.
        for port in ["5001", "8428"] {
            let upstream = format!("upstream = \"127.0.0.1:{port}\"");
            site.forwarder_config.replace(&upstream, &format!("{upstream}\nhealth = \"off\""))?;
        }
        // Agents that have nothing to do end at once; the real ones start with the daemons.
        let placeholder = |node: &Node| node.command("true").spawn("none");
        let (edge_agent, origin_agent) = (placeholder(&site.edge)?, placeholder(&site.origin)?);
        Ok(Self { lab, site, requests, mail_server, edge_agent, origin_agent })
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.site.start()?;
        self.edge_agent = agent(self.lab, &self.site.edge, self.site.gateway_config.path())?;
        self.origin_agent = agent(self.lab, &self.site.origin, self.site.forwarder_config.path())?;
        Ok(())
    }

    /// Kills the origin's agent and starts it again.
    pub(crate) fn restart_origin_agent(&mut self) -> Result<()> {
        self.origin_agent.kill()?;
        self.origin_agent = agent(self.lab, &self.site.origin, self.site.forwarder_config.path())?;
        Ok(())
    }

    /// Waits until the agents answer, and no service of the origin is failing.
    pub(crate) fn wait_until_all_works(&self) -> Result<()> {
        until(Duration::from_secs(30), "the agents", || {
            let both = [&self.site.edge, &self.site.origin].map(|node| self.causeway(node, &["quiet"]));
            let [edge, origin] = both;
            Ok((edge?.0 == Some(0) && origin?.0 == Some(0)).then_some(()))
        })?;
        self.wait_for_link()
    }

    /// The same of the edge's.
    pub(crate) fn restart_edge_agent(&mut self) -> Result<()> {
        self.edge_agent.kill()?;
        self.edge_agent = agent(self.lab, &self.site.edge, self.site.gateway_config.path())?;
        Ok(())
    }

    /// Stops the origin as systemd does before a reboot.
    pub(crate) fn stop_origin(&mut self) -> Result<()> {
        let patience = Duration::from_secs(45);
        ensure!(
            self.origin_agent.stop(patience)?.success() && self.site.forwarder()?.stop(patience)?.success()
        );
        Ok(())
    }

    /// Caddy where one has been before.
    pub(crate) fn new_caddy(&self) -> Result<Caddy> {
        fs::remove_dir_all(self.site.origin.directory().join("caddy"))?;
        Caddy::start(&self.site.origin)
    }

    /// Waits until the origin has seen that https works, or that it fails.
    pub(crate) fn wait_until_https(&self, state: &str) -> Result<()> {
        until(Duration::from_secs(45), &format!("https to be {state}"), || {
            let report: Value =
                serde_json::from_str(&self.site.ask_forwarder(&["status", "--json"])?.run()?)?;
            let services = report["services"].as_array().context("no services")?;
            let https = services.iter().find(|service| service["name"] == "https");
            Ok(https.filter(|https| https["health"]["state"] == state).map(drop))
        })
    }

    /// That there are so many requests and mails, and no more for this time.
    pub(crate) fn nothing_more_comes(&self, time: Duration, requests: usize, mails: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let (got, letters) = (self.requests.all(), self.mails()?);
            ensure!(
                (got.len(), letters.len()) == (requests, mails),
                "not {requests} requests and {mails} mails after {:?}: {got:?} {letters:?}",
                begun.elapsed()
            );
            if begun.elapsed() >= time {
                return Ok(());
            }
            sleep(Duration::from_secs(1).min(time));
        }
    }

    pub(crate) fn wait_for_link(&self) -> Result<()> {
        until(Duration::from_secs(30), "the link", || {
            let link = self.site.peer_field("/link/up").ok();
            Ok((link == Some(Value::Bool(true))).then_some(()))
        })
    }

    /// Runs `causeway` on a node: exit code and all output.
    pub(crate) fn causeway(&self, node: &Node, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let command = node.command(lab::binary("causeway")?).args(arguments).arg("--socket");
        let output = command.arg(node.directory().join("agent/agent.sock")).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    pub(crate) fn mails(&self) -> Result<Vec<String>> {
        let mut files: Vec<PathBuf> = Vec::new();
        let folder = self.site.origin.directory().join("mail/new");
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            files.push(entry?.path());
        }
        files.sort_by_key(|file| fs::metadata(file).and_then(|it| it.modified()).ok());
        files.iter().map(|file| fs::read_to_string(file).context("a mail")).collect()
    }

    pub(crate) fn wait_for_mail(&self, count: usize) -> Result<Duration> {
        time_until(REPORTED, &format!("mail {count}"), || Ok(self.mails()?.len() >= count))
    }
}

/// Starts an agent with folders of its own; a warning of it fails the scenario.
fn agent(lab: &Lab, node: &Node, config: &PathBuf) -> Result<Process> {
    let folder = node.directory().join("agent");
    fs::create_dir_all(&folder)?;
    let command = node.command(lab::binary("causeway-agent")?).arg("--config").arg(config);
    let command = command.env("RUNTIME_DIRECTORY", &folder).env("STATE_DIRECTORY", &folder);
    let command = command.env("SSL_CERT_FILE", node.directory().join("mail.pem"));
    let agent = command.spawn("causeway-agent")?;
    lab.judge(&agent);
    Ok(agent)
}
