//! `causeway-agent` reports what is down, and what is over, to a mail server and to an HTTP receiver.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, TcpServer, Topology, scenario, time_until, until};
use scenarios::{Caddy, Site, write_secret};
use serde_json::Value;

/// How soon after a fault its message is there.
const REPORTED: Duration = Duration::from_secs(90);

#[test]
fn a_dead_caddy_is_one_mail_at_the_origin_and_a_dead_gateway_one_request_at_the_edge() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let mut caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;

        caddy.process.kill()?;
        // Killed in the middle of it, nothing is lost and nothing is sent twice.
        place.origin_agent.kill()?;
        place.origin_agent = agent(lab, &place.site.origin, place.site.forwarder_config.path())?;
        let after = place.wait_for_mail(1)?;
        place.origin_agent.wait_for_log("task: sent: ", Duration::from_secs(10))?;
        println!("the mail came {after:?} after the end of Caddy");
        let mail = place.mails()?.concat();
        for part in
            ["(upstream)", "Down since ", "Cause: upstream (refused): ", "Fix: start the program", "Works: "]
        {
            ensure!(mail.contains(part), "no {part:?} in:\n{mail}");
        }
        ensure!(mail.contains("Auto-Submitted: auto-generated"), "{mail}");
        ensure!(!mail.contains("203.0.113.") && place.requests.all().is_empty(), "{mail}");

        place.origin_agent.kill()?;
        place.origin_agent = agent(lab, &place.site.origin, place.site.forwarder_config.path())?;
        drop(caddy);
        fs::remove_dir_all(place.site.origin.directory().join("caddy"))?;
        let _caddy = Caddy::start(&place.site.origin)?;
        place.site.gateway()?.kill()?;
        let after = place.requests.wait_for(1)?;
        println!("the request came {after:?} after the end of the gateway");
        let request = place.requests.all().concat();
        let message: Value = serde_json::from_str(&request)?;
        ensure!(
            message["kind"] == "down" && message["hop"] == "daemon" && message["end"] == "edge",
            "{request}"
        );
        ensure!(request.contains("systemctl restart gateway"), "{request}");
        place.wait_for_mail(2)?;
        let over = place.mails()?.last().cloned().unwrap_or_default();
        ensure!(over.contains(": over after ") && place.mails()?.len() == 2, "{:?}", place.mails()?);
        place.site.start_gateway()?;
        Ok(())
    })
}

#[test]
fn a_test_message_shows_what_each_receiver_says_and_quiet_is_set_shown_and_ended() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let broken = "[[notify]]\nname = \"broken\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:7/\"\n";
        place.site.gateway_config.append(broken);
        place.start()?;
        place.wait_until_all_works()?;
        let edge = |arguments: &[&str]| place.causeway(&place.site.edge, arguments);
        let (code, said) = edge(&["notify", "test"])?;
        ensure!(code == Some(1) && said.contains("hook: sent"), "{code:?} {said}");
        ensure!(said.contains("broken: not sent: 127.0.0.1:7: "), "{said}");
        ensure!(place.requests.all().len() == 1 && place.requests.all()[0].contains("nothing is down"));
        ensure!(place.requests.headers()[0].contains("authorization: bearer top-secret"), "no token");
        // The mail is encrypted by a certificate that this machine trusts.
        let (code, said) = place.causeway(&place.site.origin, &["notify", "test"])?;
        ensure!(code == Some(0) && said.trim() == "mail: sent", "{code:?} {said}");
        ensure!(place.mails()?.concat().contains("This is a test"), "{:?}", place.mails()?);

        let (code, said) = edge(&["quiet"])?;
        ensure!(code == Some(0) && said.starts_with("Nothing is quiet"), "{said}");
        let (code, said) = edge(&["quiet", "8h", "https"])?;
        ensure!(code == Some(0) && said.contains("about https for 7 hours, 59 minutes"), "{code:?} {said}");
        for (wrong, says) in [
            (&["quiet", "8h", "htps"][..], "did you mean https?"),
            (&["quiet", "8", "https"], "is no time"),
            (&["quiet", "31d"], "a time from 1s to 30d"),
            (&["quiet", "off", "bulk"], "nothing is quiet by that name"),
        ] {
            let (code, said) = edge(wrong)?;
            ensure!(code == Some(2) && said.contains(says), "{wrong:?}: {code:?} {said}");
        }
        // It survives the agent.
        place.edge_agent.kill()?;
        place.edge_agent = agent(lab, &place.site.edge, place.site.gateway_config.path())?;
        until(Duration::from_secs(10), "the agent", || {
            let (code, said) = place.causeway(&place.site.edge, &["quiet"])?;
            Ok((code == Some(0) && said.contains("about https")).then_some(()))
        })?;
        let (code, said) = place.causeway(&place.site.edge, &["quiet", "off"])?;
        ensure!(code == Some(0) && said.starts_with("Nothing is quiet"), "{said}");
        Ok(())
    })
}

/// Both ends with an agent each: the edge's has an HTTP receiver, the origin's a mail server.
struct Place<'lab> {
    lab: &'lab Lab,
    site: Site<'lab>,
    requests: Requests,
    _mail: Process,
    edge_agent: Process,
    origin_agent: Process,
}

impl<'lab> Place<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
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
        let mail = mail_server(&site.origin)?;
        site.forwarder_config.append(MAIL);
        // Nothing listens there.
        for port in ["5001", "8428"] {
            let upstream = format!("upstream = \"127.0.0.1:{port}\"");
            site.forwarder_config.replace(&upstream, &format!("{upstream}\nhealth = \"off\""))?;
        }
        // Agents that have nothing to do end at once; the real ones start with the daemons.
        let placeholder = |node: &Node| node.command("true").spawn("none");
        let (edge_agent, origin_agent) = (placeholder(&site.edge)?, placeholder(&site.origin)?);
        Ok(Self { lab, site, requests, _mail: mail, edge_agent, origin_agent })
    }

    fn start(&mut self) -> Result<()> {
        self.site.start()?;
        self.edge_agent = agent(self.lab, &self.site.edge, self.site.gateway_config.path())?;
        self.origin_agent = agent(self.lab, &self.site.origin, self.site.forwarder_config.path())?;
        Ok(())
    }

    /// Waits until the agents answer, and no service of the origin is failing.
    fn wait_until_all_works(&self) -> Result<()> {
        until(Duration::from_secs(30), "the agents", || {
            let both = [&self.site.edge, &self.site.origin].map(|node| self.causeway(node, &["quiet"]));
            let [edge, origin] = both;
            Ok((edge?.0 == Some(0) && origin?.0 == Some(0)).then_some(()))
        })?;
        self.wait_for_link()
    }

    fn wait_for_link(&self) -> Result<()> {
        until(Duration::from_secs(30), "the link", || {
            let link = self.site.peer_field("/link/up").ok();
            Ok((link == Some(Value::Bool(true))).then_some(()))
        })
    }

    /// Runs `causeway` on a node: exit code and all output.
    fn causeway(&self, node: &Node, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let command = node.command(lab::binary("causeway")?).args(arguments).arg("--socket");
        let output = command.arg(node.directory().join("agent/agent.sock")).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn mails(&self) -> Result<Vec<String>> {
        let mut files: Vec<PathBuf> = Vec::new();
        let folder = self.site.origin.directory().join("mail/new");
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            files.push(entry?.path());
        }
        files.sort_by_key(|file| fs::metadata(file).and_then(|it| it.modified()).ok());
        files.iter().map(|file| fs::read_to_string(file).context("a mail")).collect()
    }

    fn wait_for_mail(&self, count: usize) -> Result<Duration> {
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

/// Debian's aiosmtpd, which demands STARTTLS.
fn mail_server(node: &Node) -> Result<Process> {
    fs::write(node.directory().join("openssl.cnf"), CERTIFICATE)?;
    node.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
         -config openssl.cnf -keyout mail-key.pem -out mail.pem",
    )?;
    let command = node.command("/usr/bin/aiosmtpd").args(["-n", "-l", "127.0.0.1:2525"]);
    let command = command.args(["--tlscert", "mail.pem", "--tlskey", "mail-key.pem"]);
    let server = command.args(["-c", "aiosmtpd.handlers.Mailbox", "mail"]).spawn("aiosmtpd")?;
    until(Duration::from_secs(10), "the mail server", || {
        Ok(node.tcp_connect("127.0.0.1:2525", Duration::from_secs(1)).ok())
    })?;
    Ok(server)
}

const MAIL: &str = r#"
[[notify]]
name = "mail"
kind = "smtp"
server = "127.0.0.1:2525"
from = "causeway@example.com"
to = "you@example.com"
"#;

const CERTIFICATE: &str = "[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = mail
[extensions]
subjectAltName = IP:127.0.0.1
basicConstraints = critical,CA:FALSE
";

/// A receiver of webhooks on the loopback interface of a node.
struct Requests {
    seen: Arc<Mutex<Vec<(String, String)>>>,
    _server: TcpServer,
}

impl Requests {
    fn serve(node: &Node) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&seen);
        let server = TcpServer::start(node.tcp_listener("127.0.0.1:8099")?, move |mut stream| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte)? == 0 {
                    return Ok(());
                }
                head.extend(byte);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
            stream.read_exact(&mut body)?;
            let body = String::from_utf8_lossy(&body).into_owned();
            taken.lock().unwrap_or_else(PoisonError::into_inner).push((head, body));
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        })?;
        Ok(Self { seen, _server: server })
    }

    fn all(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(_, body)| body.clone()).collect()
    }

    fn headers(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(head, _)| head.clone()).collect()
    }

    fn wait_for(&self, count: usize) -> Result<Duration> {
        time_until(REPORTED, &format!("request {count}"), || Ok(self.all().len() >= count))
    }
}

/// Minutes of real time: `make soak` runs these.
mod outages {
    use super::*;

    #[test]
    fn a_killed_origin_is_one_message_of_the_edge_and_one_when_it_is_back() -> Result<()> {
        scenario(Topology::standard(), |lab| {
            let mut place = Place::new(lab)?;
            let _caddy = Caddy::start(&place.site.origin)?;
            place.start()?;
            place.wait_until_all_works()?;
            // The machine is gone, with its agent.
            place.origin_agent.kill()?;
            place.site.forwarder()?.kill()?;
            println!("the edge reported it {:?} after the end of the origin", place.requests.wait_for(1)?);
            ensure!(place.requests.all()[0].contains("tunnel to wroclaw"), "{:?}", place.requests.all());
            place.site.start_forwarder()?;
            place.origin_agent = agent(lab, &place.site.origin, place.site.forwarder_config.path())?;
            place.requests.wait_for(2)?;
            ensure!(place.requests.all()[1].contains("over after"), "{:?}", place.requests.all());
            ensure!(place.mails()?.is_empty(), "{:?}", place.mails()?);
            Ok(())
        })
    }

    #[test]
    fn a_tunnel_that_is_cut_between_living_sites_is_one_message_of_each() -> Result<()> {
        scenario(Topology::standard(), |lab| {
            let mut place = Place::new(lab)?;
            let _caddy = Caddy::start(&place.site.origin)?;
            place.start()?;
            place.wait_until_all_works()?;
            place.site.edge.nft(
                "table inet cut { chain cut { type filter hook prerouting priority -300;
                   udp dport 51820 drop;
                 }
                 }",
            )?;
            println!("the edge reported the cut after {:?}", place.requests.wait_for(1)?);
            println!("and the origin {:?} later", place.wait_for_mail(1)?);
            place.site.edge.run("nft delete table inet cut")?;
            place.requests.wait_for(2)?;
            place.wait_for_mail(2)?;
            ensure!(place.requests.all().len() == 2 && place.mails()?.len() == 2, "{:?}", place.mails()?);
            Ok(())
        })
    }

    #[test]
    fn an_announced_stop_is_reported_after_five_minutes_and_never_when_it_ends_before() -> Result<()> {
        scenario(Topology::standard(), |lab| {
            let mut place = Place::new(lab)?;
            let _caddy = Caddy::start(&place.site.origin)?;
            place.start()?;
            place.wait_until_all_works()?;
            place.origin_agent.kill()?;
            ensure!(place.site.forwarder()?.stop(Duration::from_secs(45))?.success());
            std::thread::sleep(Duration::from_secs(200));
            place.site.start_forwarder()?;
            place.wait_for_link()?;
            std::thread::sleep(Duration::from_secs(120));
            ensure!(place.requests.all().is_empty(), "{:?}", place.requests.all());
            Ok(())
        })
    }
}
