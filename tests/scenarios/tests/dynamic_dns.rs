//! `causeway-agent` with a real name server: the edge's record follows its address, in one change,
//! and stays as it is where anything fails.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, TcpServer, Topology, full_counts, has_real_root, scenario, until};
use scenarios::{Site, Zone, write_secret};

/// The gateway's user in scenarios, and the agent's.
const DAEMON: u32 = 65_534;
const AGENT: u32 = 64_001;
const SECRET: &str = Zone::SECRET;
const OTHER_SECRET: &str = "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXIhIQ==";
/// The record before the agent has run.
const STALE: &str = "300 198.51.100.99";

#[test]
fn the_record_follows_the_edges_address_within_five_seconds_by_one_change() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        place.zone.start()?;
        ensure!(place.zone.record()? == STALE, "{}", place.zone.record()?);
        place.site.as_unit = has_real_root();
        place.site.start_gateway()?;
        let mut agent = place.agent()?;
        place.zone.wait_for("300 192.0.2.2", 5)?;
        ensure!(place.zone.serial()? == "2", "more than one change: {}", place.zone.serial()?);
        agent.wait_for_log("the record was changed", Duration::from_secs(5))?;
        place.move_to("192.0.2.2", "192.0.2.9")?;
        place.zone.wait_for("300 192.0.2.9", 5)?;
        ensure!(place.zone.serial()? == "3", "more than one change: {}", place.zone.serial()?);
        // An address that is there already changes nothing, nor does a new start.
        place.site.edge.ip("address add 192.0.2.10/24 dev eth0")?;
        agent.kill()?;
        let mut agent = place.agent()?;
        agent.wait_for_log("the record is right", Duration::from_secs(5))?;
        ensure!(place.zone.serial()? == "3", "a record that is right was changed");
        ensure!(agent.stop(Duration::from_secs(5))?.success());
        Ok(())
    })
}

#[test]
fn a_key_that_the_server_refuses_is_reported_with_the_fix_and_the_record_stays() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        place.zone.start()?;
        for (key, name, fix) in [
            (format!("hmac-sha256:kyiv-dns:{OTHER_SECRET}"), "kyiv", "has another secret"),
            (format!("hmac-sha256:kyiv:{SECRET}"), "kyiv", "does not take the key kyiv for this record"),
            (format!("hmac-sha512:kyiv-dns:{SECRET}"), "kyiv", "does not take the key kyiv-dns"),
            (format!("hmac-sha256:kyiv-dns:{SECRET}"), "home", "does not take the key kyiv-dns"),
            (format!("hmac-sha256:kyiv-dns:{SECRET}"), "both", "it has 2 A records"),
            (format!("hmac-sha256:kyiv-dns:{SECRET}"), "www", "it is a CNAME"),
        ] {
            place.write(&key, &format!("name = \"{name}.example.com\"\nserver = \"203.0.113.10\""))?;
            let (code, said) = place.once()?;
            ensure!(code == Some(1) && said.contains(fix), "{fix}: {code:?} {said}");
            ensure!(!said.contains(SECRET) && !said.contains(OTHER_SECRET), "the secret is shown: {said}");
        }
        let section = place.section.clone();
        place.write("hmac-sha256:kyiv-dns", &section)?;
        let (code, said) = place.once()?;
        ensure!(code == Some(4) && said.contains("gateway.toml:") && said.contains("tsig-keygen"), "{said}");
        let elsewhere = "name = \"kyiv.example.net\"\nserver = \"203.0.113.10\"";
        place.write(&format!("hmac-sha256:kyiv-dns:{SECRET}"), elsewhere)?;
        let (code, said) = place.once()?;
        ensure!(code == Some(1) && said.contains("the server has no zone of kyiv.example.net"), "{said}");
        ensure!(place.zone.record()? == STALE && place.zone.serial()? == "1");
        Ok(())
    })
}

#[test]
fn a_name_server_that_is_away_is_tried_again_and_the_record_catches_up() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let mut agent = place.agent()?;
        agent.wait_for_log("cannot be kept for now", Duration::from_secs(10))?;
        place.zone.start()?;
        place.zone.wait_for("300 192.0.2.2", 30)?;
        place.zone.stop()?;
        place.move_to("192.0.2.2", "192.0.2.9")?;
        until(Duration::from_secs(10), "the failure", || {
            Ok((agent.log()?.matches("cannot be kept for now").count() == 2).then_some(()))
        })?;
        place.zone.start()?;
        place.zone.wait_for("300 192.0.2.9", 30)
    })
}

#[test]
fn the_daemons_user_cannot_read_the_agents_secret_and_runs_without_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !has_real_root() {
            return lab::skip(lab.name(), "other users need real root").map(drop);
        }
        let mut place = Place::new(lab)?;
        place.zone.start()?;
        let file = place.site.edge.directory().join("kyiv.tsig");
        let read = place.site.edge.command("cat").arg(&file).user(DAEMON, DAEMON).output()?;
        ensure!(!read.status.success(), "the daemon's user reads the secret");
        place.site.as_unit = true;
        place.site.start_gateway()?;
        let config = place.site.gateway_config.path().clone();
        let check = place.site.edge.command(lab::binary("gateway")?).args(["check", "--config"]).arg(&config);
        check.user(DAEMON, DAEMON).run().context("the check as the daemon's user")?;
        let (code, said) = place.once()?;
        ensure!(code == Some(0), "{said}");
        // As another user the agent cannot start, and a file that others may read is refused.
        let other = place.site.edge.command(lab::binary("causeway-agent")?).arg("--once").arg("--config");
        let output = other.arg(&config).user(DAEMON, DAEMON).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(5) && said.contains("chown causeway-agent"), "{said}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?;
        let (code, said) = place.once()?;
        ensure!(code == Some(5) && said.contains("chmod 0600"), "{code:?} {said}");
        Ok(())
    })
}

#[test]
fn an_agent_that_is_killed_anywhere_leaves_the_name_with_one_address_and_the_next_ends_right() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        place.zone.start()?;
        let rounds = if full_counts() { 100 } else { 12 };
        let (mut own, mut other) = ("192.0.2.2", "192.0.2.9");
        for round in 0..rounds {
            let mut agent = place.agent()?;
            // Later and later after it knows the address: reading, changing, reading again.
            agent.wait_for_log("the edge's public address", Duration::from_secs(10))?;
            let moment = Duration::from_millis(2 * round);
            std::thread::sleep(moment);
            agent.kill()?;
            let records = place.zone.records("kyiv")?;
            ensure!(records.len() == 1, "killed after {moment:?}: {records:?}");
            place.move_to(own, other)?;
            std::mem::swap(&mut own, &mut other);
        }
        // The last change of a killed agent may still be under way to the server.
        until(Duration::from_secs(10), "the next agent to end right", || {
            let (code, said) = place.once()?;
            ensure!(code == Some(0) || said.contains("changed by another hand"), "{said}");
            Ok((code == Some(0)).then_some(()))
        })?;
        ensure!(place.zone.record()? == format!("300 {own}"), "{} is not {own}", place.zone.record()?);
        Ok(())
    })
}

#[test]
fn a_missing_record_is_made_and_other_records_of_the_zone_stay() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        place.zone.start()?;
        place.write(
            &format!("hmac-sha256:kyiv-dns:{SECRET}"),
            "name = \"new.example.com\"\nserver = \"203.0.113.10\"",
        )?;
        let (code, said) = place.once()?;
        ensure!(code == Some(0) && said.contains("the record was changed"), "{said}");
        ensure!(place.zone.records("new")? == ["60 192.0.2.2"], "{:?}", place.zone.records("new")?);
        ensure!(place.zone.record()? == STALE && place.zone.records("both")?.len() == 2);
        Ok(())
    })
}

#[test]
fn behind_a_router_the_address_is_asked_for_and_without_that_the_fix_is_named() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut place = Place::new(lab)?;
        place.zone.start()?;
        let (code, said) = place.once()?;
        ensure!(
            code == Some(1) && said.contains("192.168.1.2, which is not the public one"),
            "{code:?} {said}"
        );
        let page = Page::serve(&lab.node("router")?, "192.0.2.2\n")?;
        let key = format!("hmac-sha256:kyiv-dns:{SECRET}");
        let section = place.section.clone();
        place.write(
            &key,
            &format!("{section}\naddress = \"http://192.168.1.1:8080/ip\"\ninterval = \"10s\""),
        )?;
        let mut agent = place.agent()?;
        place.zone.wait_for("300 192.0.2.2", 10)?;
        // What is no address of the internet changes nothing.
        lab.expect_warning("the public address is not known");
        for wrong in ["192.168.1.2", "<html>", ""] {
            page.show(wrong);
            let (code, said) = place.once()?;
            ensure!(code == Some(1) && said.contains("the public address is not known"), "{said}");
        }
        page.show("192.0.2.9");
        place.zone.wait_for("300 192.0.2.9", 30)?;
        ensure!(agent.is_running());
        // A name server that answers with the address does as well.
        place.write(&key, &format!("{section}\naddress = \"dns://203.0.113.10/myip.example.com\""))?;
        let (code, said) = place.once()?;
        ensure!(code == Some(0) && place.zone.record()? == "300 192.0.2.77", "{code:?} {said}");
        Ok(())
    })
}

#[test]
fn a_change_of_the_file_is_followed_a_wrong_one_is_not_and_without_the_section_it_ends() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        place.zone.start()?;
        let key = format!("hmac-sha256:kyiv-dns:{SECRET}");
        let mut agent = place.agent()?;
        place.zone.wait_for("300 192.0.2.2", 5)?;
        place.write(&key, "name = \"kyiv.example.com\"\nsevrer = \"203.0.113.10\"")?;
        lab.expect_warning("goes on with the configuration before");
        agent.wait_for_log("did you mean \"server\"?", Duration::from_secs(5))?;
        place.write(&key, "name = [\"kyiv.example.com\", \"new.example.com\"]\nserver = \"203.0.113.10\"")?;
        until(Duration::from_secs(10), "the second name", || {
            Ok((place.zone.records("new")? == ["60 192.0.2.2"]).then_some(()))
        })?;
        let text = place.site.gateway_config.text.clone();
        fs::write(place.site.gateway_config.path(), text.split("\n[dns]").next().unwrap_or_default())?;
        ensure!(agent.wait(Duration::from_secs(5))?.success());
        ensure!(agent.log()?.contains("has no [dns]"), "{}", agent.log()?);
        let (code, said) = place.once()?;
        ensure!(code == Some(0) && said.contains("nothing to do"), "{code:?} {said}");
        Ok(())
    })
}

/// The edge with a `[dns]`, and the zone example.com.
struct Place<'lab> {
    lab: &'lab Lab,
    site: Site<'lab>,
    zone: Zone,
    /// The keys of `[dns]` but for the key file.
    section: String,
}

impl<'lab> Place<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let section = "name = \"kyiv.example.com\"\nserver = \"203.0.113.10\"".to_owned();
        let mut place = Self { lab, site: Site::new(lab)?, zone: Zone::new(lab)?, section: section.clone() };
        place.write(&format!("hmac-sha256:kyiv-dns:{SECRET}"), &section)?;
        Ok(place)
    }

    /// Writes the secret, for the agent's user alone, and `[dns]`.
    fn write(&mut self, key: &str, section: &str) -> Result<()> {
        let file = self.site.edge.directory().join("kyiv.tsig");
        write_secret(&file, key)?;
        if has_real_root() {
            chown(&file, Some(AGENT), Some(AGENT))?;
        }
        let config = &mut self.site.gateway_config;
        let before = config.text.split("\n[dns]").next().unwrap_or_default().to_owned();
        config.text = before;
        config.append(&format!("[dns]\n{section}\nkey_file = \"kyiv.tsig\"")).write()
    }

    /// Starts the agent; a warning of it fails the scenario.
    fn agent(&self) -> Result<Process> {
        let command = self.site.edge.command(lab::binary("causeway-agent")?).arg("--config");
        let command = command.arg(self.site.gateway_config.path());
        let command = if has_real_root() { command.user(AGENT, AGENT) } else { command };
        let agent = command.spawn("causeway-agent")?;
        self.lab.judge(&agent);
        Ok(agent)
    }

    /// Runs it once: exit code and all output.
    fn once(&self) -> Result<(Option<i32>, String)> {
        let command = self.site.edge.command(lab::binary("causeway-agent")?).args(["--once", "--config"]);
        let command = command.arg(self.site.gateway_config.path());
        let command = if has_real_root() { command.user(AGENT, AGENT) } else { command };
        let output = command.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Gives the edge another address, as its provider does.
    fn move_to(&self, old: &str, new: &str) -> Result<()> {
        self.site.edge.ip(&format!(
            "address del {old}/24 dev eth0\naddress add {new}/24 dev eth0\nroute add default via 192.0.2.1"
        ))
    }
}

/// A page that shows an address, as a router has one.
struct Page {
    text: Arc<Mutex<String>>,
    _server: TcpServer,
}

impl Page {
    fn serve(node: &Node, text: &str) -> Result<Self> {
        let text = Arc::new(Mutex::new(text.to_owned()));
        let shown = Arc::clone(&text);
        let server = TcpServer::start(node.tcp_listener("192.168.1.1:8080")?, move |mut stream| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte)? == 0 {
                    return Ok(());
                }
                request.extend(byte);
            }
            let text = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let length = text.len();
            stream.write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
                    .as_bytes(),
            )
        })?;
        Ok(Self { text, _server: server })
    }

    fn show(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
