//! What `forwarder export caddy` writes, in a real Caddy: which sources it believes about a
//! client's address.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Topology, scenario};
use scenarios::{Caddy, Site};

/// Cloudflare's part is played by the lab's client, whose network is in this list.
const PROXY: &str = "203.0.113.0/24\n";
/// A list with no client of the lab.
const OTHERS: &str = "198.18.0.0/24\n";
const VISITOR: [&str; 2] = ["-H", "CF-Connecting-IP: 198.18.0.1"];

#[test]
fn the_visitors_address_that_cloudflare_adds_is_believed_from_cloudflare() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (_site, caddy) = site_with(lab, PROXY)?;
        let client = lab.node("client")?;
        ensure!(whoami(&caddy, &client, &[])? == "203.0.113.10 203.0.113.10");
        ensure!(whoami(&caddy, &client, &VISITOR)? == "203.0.113.10 198.18.0.1");
        // A visitor can write this header himself, and Cloudflare passes it on: it is not believed.
        let forwarded = ["-H", "X-Forwarded-For: 198.18.0.1"];
        ensure!(whoami(&caddy, &client, &forwarded)? == "203.0.113.10 203.0.113.10");
        Ok(())
    })
}

#[test]
fn no_address_that_an_untrusted_source_claims_is_believed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (site, caddy) = site_with(lab, OTHERS)?;
        let client = lab.node("client")?;
        // From outside: neither an HTTP header nor a PROXY header before it.
        ensure!(whoami(&caddy, &client, &VISITOR)? == "203.0.113.10 203.0.113.10");
        ensure!(caddy.curl(&client, "192.0.2.2", &["--haproxy-protocol"], "/whoami").is_err());
        // On the origin's own machine: without a header nothing is served.
        let headerless = ["--connect-to", "::127.0.0.1:8443"];
        ensure!(
            caddy.curl(&site.origin, "127.0.0.1", &headerless, "/whoami").is_err(),
            "served without a header"
        );
        // From the origin's LAN: this listener is closed, and Caddy's other one believes no source.
        let neighbour = lab.node("cgnat")?;
        let direct = ["--connect-to", "::100.64.0.2:8443", "--haproxy-protocol"];
        ensure!(
            caddy.curl(&neighbour, "100.64.0.2", &direct, "/whoami").is_err(),
            "the listener is open to the LAN"
        );
        ensure!(caddy.curl(&neighbour, "100.64.0.2", &["--haproxy-protocol"], "/whoami").is_err());
        ensure!(whoami(&caddy, &neighbour, &VISITOR)? == "100.64.0.1 100.64.0.1");
        caddy.logs(r#""client_ip":"100.64.0.1""#)?;
        ensure!(!caddy.access_log()?.contains(r#""client_ip":"198.18.0.1""#), "{}", caddy.access_log()?);
        Ok(())
    })
}

/// The worked example with Caddy as the forwarder's own export configures it, for this list of
/// proxies.
fn site_with<'lab>(lab: &'lab Lab, list: &str) -> Result<(Site<'lab>, Caddy)> {
    let mut site = Site::new(lab)?;
    fs::write(site.origin.directory().join("proxies.list"), list)?;
    site.forwarder_config.append("[[list]]\nname = \"proxies\"\nfile = \"proxies.list\"").write()?;
    let config = site.forwarder_config.path().to_string_lossy().into_owned();
    let arguments = ["export", "caddy", "--config", &config, "--proxies", "@proxies"];
    let exported = site.forwarder_command(&arguments)?.run()?;
    ensure!(exported.contains("Cloudflare ends TLS"), "nothing is explained: {exported}");
    let caddy = Caddy::start_exported(&site.origin, &exported)?;
    site.start()?;
    Ok((site, caddy))
}

/// What Caddy takes for the connection's address, and for the client's.
fn whoami(caddy: &Caddy, client: &Node, arguments: &[&str]) -> Result<String> {
    let address = if client.name() == "cgnat" { "100.64.0.2" } else { "192.0.2.2" };
    caddy.curl(client, address, arguments, "/whoami").context("no page")
}
