//! `[steer]` with a real name server: the name of a home with two edges leads to those that are
//! there.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, Process, TcpServer, Topology, scenario, time_until, until};
use scenarios::{Oracle, Site, Zone, write_secret};

/// The name that is steered, in the zone.
const NAME: &str = "both";
const KYIV: &str = "300 192.0.2.2";
const ORACLE: &str = "300 198.18.66.2";
/// Three times what is promised: five seconds.
const PROMISED: Duration = Duration::from_secs(15);

#[test]
fn a_dead_edge_leaves_the_name_within_five_seconds_and_is_back_after_it_has_been_there_for_a_time()
-> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let mut home = Home::start(lab, "")?;
        let _webhook = home.webhook()?;
        let mut agent = home.agent()?;
        agent.wait_for_log("the record is right", Duration::from_secs(10))?;
        let before = home.zone.serial()?;

        home.site.gateway()?.kill()?;
        let gone = time_until(PROMISED, "Kyiv to leave the name", || home.leads_to(&[ORACLE]))?;
        println!("Kyiv was killed; the authority had the name without it after {gone:?}");
        home.site.start_gateway()?;
        time_until(Duration::from_secs(60), "Kyiv to be back", || home.leads_to(&[KYIV, ORACLE]))?;
        agent.wait_for_log("the edge is there and is taken back", Duration::from_secs(5))?;
        ensure!(home.zone.serial()?.parse::<u32>()? == before.parse::<u32>()? + 2, "more than two changes");

        home.oracle.gateway()?.kill()?;
        let gone = time_until(PROMISED, "the second edge to leave the name", || home.leads_to(&[KYIV]))?;
        println!("the second edge was killed; the authority had the name without it after {gone:?}");
        // Both dead: the name stays.
        let serial = home.zone.serial()?;
        home.site.gateway()?.kill()?;
        agent.wait_for_log("no edge is heard", Duration::from_secs(60))?;
        ensure!(home.leads_to(&[KYIV])? && home.zone.serial()? == serial, "the name was changed");
        // The one that is back first takes the place of the dead one.
        home.oracle.start()?;
        time_until(Duration::from_secs(60), "the name to lead to the edge that is there", || {
            home.leads_to(&[ORACLE])
        })?;

        until(Duration::from_secs(20), "the messages", || {
            let log = agent.log()?;
            let sent = |text: &str| log.matches(&format!("sent: causeway {text}")).count();
            Ok((sent("") >= 5).then_some(()))
        })?;
        let history = home.site.origin.command(lab::binary("causeway")?).args(["history", "--config"]);
        let history = history.arg(home.site.forwarder_config.path()).run()?;
        for line in ["both.example.com no longer leads to kyiv, which is silent", "leads to kyiv again"] {
            ensure!(history.contains(line), "no {line:?} in {history}");
        }
        Ok(())
    })
}

#[test]
fn a_dry_run_changes_nothing_and_a_key_that_the_server_refuses_leaves_the_name_as_it_is() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let mut home = Home::start(lab, "dry_run = true")?;
        let mut agent = home.agent()?;
        agent.wait_for_log("the record is right", Duration::from_secs(10))?;
        let serial = home.zone.serial()?;
        home.oracle.gateway()?.kill()?;
        agent.wait_for_log("dry run: the edge is silent and is taken out", Duration::from_secs(30))?;
        ensure!(home.leads_to(&[KYIV, ORACLE])? && home.zone.serial()? == serial, "the name was changed");
        agent.kill()?;

        // An edge that was taken over has no key of the zone, and a forged update is refused.
        home.oracle.start()?;
        home.oracle.wait_until_up(Duration::from_secs(30))?;
        home.site.forwarder_config.replace("dry_run = true", "")?.write()?;
        home.write_key("hmac-sha256:kyiv-dns:b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXIhIQ==")?;
        lab.expect_warning("the record cannot be kept");
        let mut agent = home.agent()?;
        agent.wait_for_log("the record is right", Duration::from_secs(10))?;
        home.oracle.gateway()?.kill()?;
        agent.wait_for_log("has another secret", Duration::from_secs(30))?;
        ensure!(home.leads_to(&[KYIV, ORACLE])? && home.zone.serial()? == serial, "the name was changed");
        Ok(())
    })
}

#[test]
fn the_address_of_an_edge_that_leaves_the_configuration_leaves_the_name() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let mut home = Home::start(lab, "")?;
        let mut agent = home.agent()?;
        agent.wait_for_log("the record is right", Duration::from_secs(10))?;
        let oracle = "endpoint = \"198.18.66.2:51820\"";
        let elsewhere = format!("{oracle}\npublic_address = \"198.18.66.9\"");
        home.site.forwarder_config.replace(oracle, &elsewhere)?.write()?;
        agent.wait_for_log("goes on with the configuration as it is now", Duration::from_secs(10))?;
        until(PROMISED, "the address to leave the name", || Ok(home.leads_to(&[KYIV])?.then_some(())))
    })
}

/// An origin with two edges and a name that leads to both.
struct Home<'lab> {
    lab: &'lab Lab,
    site: Site<'lab>,
    oracle: Oracle<'lab>,
    zone: Zone,
}

impl<'lab> Home<'lab> {
    fn start(lab: &'lab Lab, line: &str) -> Result<Self> {
        let mut site = Site::new(lab)?;
        let mut oracle = Oracle::add_to(&mut site, lab)?;
        let mut zone = Zone::new(lab)?;
        zone.start()?;
        let section = "name = \"both.example.com\"\nserver = \"203.0.113.10\"\nkey_file = \"home.tsig\"";
        site.forwarder_config.append(&format!("[steer]\n{section}\nreturn_after = \"10s\"\n{line}"));
        oracle.start()?;
        let mut home = Self { lab, site, oracle, zone };
        home.write_key(&format!("hmac-sha256:kyiv-dns:{}", Zone::SECRET))?;
        home.site.start()?;
        home.oracle.wait_until_up(Duration::from_secs(30))?;
        Ok(home)
    }

    fn write_key(&self, key: &str) -> Result<()> {
        write_secret(&self.site.origin.directory().join("home.tsig"), key)
    }

    /// A receiver of notifications at the origin, which takes everything.
    fn webhook(&mut self) -> Result<TcpServer> {
        let server = TcpServer::start(self.site.origin.tcp_listener("127.0.0.1:8080")?, taken)?;
        let receiver =
            "[[notify]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:8080/hook\"";
        self.site.forwarder_config.append(receiver).write()?;
        Ok(server)
    }

    /// Starts the agent as root's, so that it may ask the daemon; a warning of it fails the
    /// scenario.
    fn agent(&self) -> Result<Process> {
        let command = self.site.origin.command(lab::binary("causeway-agent")?).arg("--config");
        let command = command.arg(self.site.forwarder_config.path());
        let state = self.site.origin.directory().join("agent");
        std::fs::create_dir_all(&state)?;
        let agent = command
            .env("STATE_DIRECTORY", &state)
            .env("RUNTIME_DIRECTORY", &state)
            .spawn("causeway-agent")?;
        self.lab.judge(&agent);
        Ok(agent)
    }

    /// Whether the name has exactly these records.
    fn leads_to(&self, records: &[&str]) -> Result<bool> {
        let mut found = self.zone.records(NAME)?;
        found.sort();
        Ok(found == records)
    }
}

/// Takes a request and says so.
fn taken(mut stream: TcpStream) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    let mut request = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        let length = stream.read(&mut piece)?;
        request.extend_from_slice(piece.get(..length).unwrap_or_default());
        let text = String::from_utf8_lossy(&request);
        if length == 0 || text.contains("\r\n\r\n") && text.ends_with('}') {
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
