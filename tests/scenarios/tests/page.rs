//! The main job: a page from behind carrier-grade NAT, and the client's address as the server sees
//! it.

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{LeakWatch, TcpServer, Topology, pattern, scenario, until};
use scenarios::{Caddy, Nginx, Site, sha256};

#[test]
fn a_page_of_caddy_behind_the_carriers_nat_reaches_an_internet_client_whose_address_caddy_logs() -> Result<()>
{
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        let leaks = LeakWatch::start(&lab.node("inet")?)?;
        fs::write(caddy.root().join("film"), pattern(1, 3_000_000))?;
        site.start()?;
        let client = lab.node("client")?;
        ensure!(caddy.fetch(&client, "192.0.2.2", "/whoami")? == "203.0.113.10");
        let copy = client.directory().join("copy");
        caddy.curl(&client, "192.0.2.2", &["-o", &copy.to_string_lossy()], "/film")?;
        ensure!(sha256(&client, &copy)? == sha256(&client, &caddy.root().join("film"))?);
        caddy.logs(r#""remote_ip":"203.0.113.10""#)?;
        ensure!(leaks.packets()? == 0, "{} packets left outside the tunnel", leaks.packets()?);
        Ok(())
    })
}

#[test]
fn a_proxy_header_that_a_client_forges_is_never_an_identity() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        site.start()?;
        let client = lab.node("client")?;
        let forged = caddy.curl(&client, "192.0.2.2", &["--haproxy-protocol"], "/whoami");
        ensure!(forged.is_err(), "a forged header was served");
        let forged = ["--haproxy-protocol", "--haproxy-clientip", "198.18.0.1"];
        // Older curls do not know the second option, which is a refusal as well.
        ensure!(caddy.curl(&client, "192.0.2.2", &forged, "/whoami").is_err(), "a forged address was served");
        let headerless = ["--connect-to", "::127.0.0.1:8443"];
        ensure!(
            caddy.curl(&site.origin, "127.0.0.1", &headerless, "/whoami").is_err(),
            "served without a header"
        );
        ensure!(caddy.fetch(&client, "192.0.2.2", "/whoami")? == "203.0.113.10");
        caddy.logs(r#""remote_ip":"203.0.113.10""#)?;
        ensure!(!caddy.access_log()?.contains("198.18.0.1"));
        Ok(())
    })
}

#[test]
fn nginx_logs_the_clients_address_and_its_real_port() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let nginx = Nginx::start(&site.origin)?;
        site.start()?;
        let client = lab.node("client")?;
        let arguments = ["--local-port", "41234"];
        ensure!(nginx.curl(&client, "192.0.2.2", &arguments, "/whoami")? == "203.0.113.10");
        nginx.logs("203.0.113.10 41234 203.0.113.10")
    })
}

#[test]
fn a_header_of_version_one_is_written_where_it_is_asked_for() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.forwarder_config.replace("proxy_protocol = \"v2\"", "proxy_protocol = \"v1\"")?;
        let nginx = Nginx::start(&site.origin)?;
        site.start()?;
        let client = lab.node("client")?;
        ensure!(nginx.curl(&client, "192.0.2.2", &["--local-port", "41235"], "/whoami")? == "203.0.113.10");
        nginx.logs("203.0.113.10 41235")
    })
}

#[test]
fn a_refused_upstream_is_a_refused_client() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        let client = lab.node("client")?;
        let refused = client.tcp_connect("192.0.2.2:5001", Duration::from_secs(5));
        let error = refused.err().context("connected, though nothing listens upstream")?;
        ensure!(format!("{error:#}").contains("refused"), "{error:#}");
        Ok(())
    })
}

#[test]
fn either_side_may_finish_first_and_the_other_still_gets_everything() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        // Speaks only once the client has finished.
        let listener = site.origin.tcp_listener("127.0.0.1:5001")?;
        let _server = TcpServer::start(listener, |mut stream| {
            let mut question = Vec::new();
            stream.read_to_end(&mut question)?;
            stream.write_all(&question.repeat(1000))
        })?;
        site.start()?;
        let mut stream = lab.node("client")?.tcp_connect("192.0.2.2:5001", Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"question")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let answer = lab::read_all(&mut stream, 1 << 20)?;
        ensure!(answer.len() == 8000, "{} of 8000 bytes came", answer.len());
        Ok(())
    })
}

#[test]
fn a_client_of_an_upstream_that_dies_sees_its_connection_end() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let caddy = Caddy::start(&site.origin)?;
        site.start()?;
        let client = lab.node("client")?;
        let mut stream = client.tcp_connect("192.0.2.2:443", Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        drop(caddy);
        let answer = stream.read(&mut [0; 16]);
        ensure!(matches!(answer, Ok(0)) || is_reset(&answer), "{answer:?}");
        Ok(())
    })
}

#[test]
fn a_forwarder_that_is_asked_to_stop_lets_a_flow_finish() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _echo = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, lab::echo)?;
        site.start()?;
        let client = lab.node("client")?;
        let mut stream = client.tcp_connect("192.0.2.2:5001", Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"before")?;
        stream.read_exact(&mut [0; 6])?;
        site.forwarder()?.signal(lab::Signal::Terminate)?;
        until(Duration::from_secs(5), "new connections to be refused", || {
            Ok(client.tcp_connect("192.0.2.2:5001", Duration::from_secs(1)).is_err().then_some(()))
        })?;
        stream.write_all(b"after")?;
        stream.read_exact(&mut [0; 5]).context("the open flow was cut by a clean stop")?;
        drop(stream);
        let status = site.forwarder()?.wait(Duration::from_secs(15))?;
        ensure!(status.success(), "the forwarder ended with {status}");
        Ok(())
    })
}

fn is_reset(answer: &std::io::Result<usize>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}
