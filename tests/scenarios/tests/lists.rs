//! Lists that are fetched: what a bad answer does to them (nothing), and what the edge does with a
//! good one.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, scenario, until};
use scenarios::Site;

const GOOD: [&str; 4] = ["104.16.0.0/13", "172.64.0.0/13", "131.0.72.0/22", "203.0.112.0/23"];

#[test]
fn every_implausible_answer_leaves_the_list_and_says_stale() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let place = Place::new(lab)?;
        place.answer(200, &GOOD.join("\n"));
        let fresh = place.refresh(&[])?;
        ensure!(fresh.0 == Some(0) && fresh.1.contains("4 prefixes, changed"), "{fresh:?}");
        let good = place.list()?;
        ensure!(GOOD.iter().all(|prefix| good.contains(prefix)), "{good}");

        let large = format!("{}\n#{}", GOOD.join("\n"), "x".repeat(1 << 20));
        let everyone = format!("{}\n0.0.0.0/0", GOOD.join("\n"));
        let everyone6 = format!("{}\n::/0", GOOD.join("\n"));
        let private = format!("{}\n192.168.88.0/24", GOOD.join("\n"));
        for (status, text, why) in [
            (200, "", "no prefix"),
            (200, "<!DOCTYPE html><html>Please log in</html>", "web page"),
            (200, everyone.as_str(), "0.0.0.0/0"),
            (200, everyone6.as_str(), "::/0"),
            (200, private.as_str(), "no public client"),
            (200, &GOOD[..2].join("\n"), "loses 2 of the 4"),
            (200, "one\ntwo", "feed:1:1"),
            (200, large.as_str(), ""),
            (503, "104.16.0.0/13", "503"),
            (302, "", ""),
        ] {
            place.answer(status, text);
            let (code, said) = place.refresh(&[])?;
            ensure!(code == Some(8) && said.contains(why), "{why}: {code:?} {said}");
            ensure!(place.list()? == good, "{why}: the list was changed");
        }
        // A bad answer, and no list to fall back on.
        fs::remove_file(&place.file)?;
        ensure!(place.refresh(&[])?.0 == Some(1));
        Ok(())
    })
}

#[test]
fn over_tls_only_a_trusted_server_is_believed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let edge = &place.site.edge;
        fs::write(edge.directory().join("v4"), GOOD.join("\n"))?;
        fs::write(edge.directory().join("openssl.cnf"), CERTIFICATE)?;
        edge.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -config openssl.cnf -keyout tls.key -out tls.pem",
        )?;
        let server = edge.command("openssl").args(["s_server", "-WWW", "-accept", "8443"]);
        let _server = server.args(["-cert", "tls.pem", "-key", "tls.key"]).spawn("s_server")?;
        until(Duration::from_secs(10), "the TLS server", || {
            edge.tcp_connect("127.0.0.1:8443", Duration::from_secs(1)).map(Some)
        })?;
        place.point_to("https://localhost:8443/v4")?;
        let untrusted = place.refresh(&[])?;
        ensure!(untrusted.0 == Some(1) && !place.file.exists(), "{untrusted:?}");
        let pem = place.site.edge.directory().join("tls.pem");
        let trusted = place.refresh(&["--ca", &pem.to_string_lossy()])?;
        ensure!(trusted.0 == Some(0) && place.list()?.contains(GOOD[0]), "{trusted:?}");
        let clear =
            place.site.gateway_config.text.replace("https://localhost:8443/v4", "http://example.com/v4");
        fs::write(place.site.gateway_config.path(), clear)?;
        let refused = place.refresh(&[])?;
        ensure!(refused.0 == Some(4) && refused.1.contains("https://"), "{refused:?}");
        Ok(())
    })
}

#[test]
fn a_fetched_list_lets_its_clients_in_and_others_not_by_a_reload_and_by_the_agent() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let _echo = TcpServer::start(place.site.origin.tcp_listener("127.0.0.1:5001")?, lab::echo)?;
        place.answer(200, &GOOD[..3].join("\n"));
        ensure!(place.refresh(&[])?.0 == Some(0));
        place.site.start()?;
        let client = lab.node("client")?;
        let gets_in = || client.tcp_connect("192.0.2.2:5001", Duration::from_millis(1_500)).is_ok();
        ensure!(!gets_in(), "a client that is not in the list gets in");
        place.answer(200, &GOOD.join("\n"));
        ensure!(place.refresh(&[])?.0 == Some(0));
        place.site.gatewayctl(&["reload"])?.run()?;
        ensure!(gets_in(), "a client that is in the list now does not get in");
        // The agent fetches by itself, and no reload is asked for.
        place.answer(200, &GOOD[..3].join("\n"));
        let folder = place.site.edge.directory().join("agent");
        let agent = place.site.edge.command(lab::binary("causeway-agent")?).arg("--config");
        let agent = agent.arg(place.site.gateway_config.path()).env("STATE_DIRECTORY", folder);
        let mut agent = agent.spawn("causeway-agent")?;
        lab.judge(&agent);
        agent.wait_for_log("@proxy: 3 prefixes, changed", Duration::from_secs(10))?;
        until(Duration::from_secs(20), "the new list", || Ok((!gets_in()).then_some(())))?;
        Ok(())
    })
}

const CERTIFICATE: &str = "[req]\ndistinguished_name = dn\nx509_extensions = ext\nprompt = no\n[dn]\nCN = localhost\n\
                           [ext]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = DNS:localhost\n";
const ADDRESS: &str = "http://127.0.0.1:8080/v4";

/// A site whose published port is open to one list, and a server that gives the list's answers.
struct Place<'lab> {
    site: Site<'lab>,
    file: PathBuf,
    answer: Arc<Mutex<(u16, String)>>,
    _server: TcpServer,
}

impl<'lab> Place<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let mut site = Site::new(lab)?;
        site.gateway_config
            .replace("listen = \"5001\"", "listen = \"5001\"\nallow = [\"@proxy\"]")?
            .append(&format!("[[list]]\nname = \"proxy\"\nfile = \"lists/proxy.list\"\nurl = \"{ADDRESS}\""));
        site.gateway_config.write()?;
        let folder = site.edge.directory().join("lists");
        fs::create_dir_all(&folder)?;
        let answer = Arc::new(Mutex::new((404, String::new())));
        let server = serve(&site.edge, &answer)?;
        Ok(Self { site, file: folder.join("proxy.list"), answer, _server: server })
    }

    fn point_to(&mut self, address: &str) -> Result<()> {
        self.site.gateway_config.replace(ADDRESS, address)?.write()
    }

    fn answer(&self, status: u16, text: &str) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = (status, text.to_owned());
    }

    /// Exit code and all output.
    fn refresh(&self, more: &[&str]) -> Result<(Option<i32>, String)> {
        let config = self.site.gateway_config.path().to_string_lossy().into_owned();
        let arguments = [&["lists", "refresh", "--config", &config], more].concat();
        let output = self.site.gatewayctl(&arguments)?.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn list(&self) -> Result<String> {
        fs::read_to_string(&self.file).context("the list")
    }
}

fn serve(node: &Node, answer: &Arc<Mutex<(u16, String)>>) -> Result<TcpServer> {
    let answer = Arc::clone(answer);
    TcpServer::start(node.tcp_listener("127.0.0.1:8080")?, move |mut stream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            request.extend(byte);
        }
        let (status, text) = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let head = format!(
            "HTTP/1.1 {status} Chosen\r\nContent-Length: {}\r\nLocation: http://127.0.0.1:8080/v4\r\nConnection: close\r\n\r\n",
            text.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(text.as_bytes())
    })
}
