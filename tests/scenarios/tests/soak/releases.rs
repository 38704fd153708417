//! This tree and an earlier commit at the two ends of one tunnel.
//!
//! What a release knows is what its `check` takes; what only one end knows is to be missing, and
//! nothing else is to be different.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Release::{Previous, This};
use lab::{Lab, Node, Release, TcpServer, Topology, scenario, time_until, until};
use scenarios::{Config, Site};
use serde_json::Value;

use crate::{metrics, pairing};

/// How soon what is to be shown is shown.
const KNOWN: Duration = Duration::from_secs(30);
/// What the origin publishes by itself.
const PUBLISHED: &str =
    "[[service]]\nname = \"web\"\nupstream = \"127.0.0.1:8080\"\nproxy_protocol = \"v1\"\npublish = [9443]\n";
const ALLOWED: &str = "allowed_ips = [\"10.77.88.2/32\", \"192.168.88.0/24\"]";

#[test]
fn an_edge_is_upgraded_before_its_origin() -> Result<()> {
    upgraded(&[[Previous, Previous], [This, Previous], [This, This]])
}

#[test]
fn an_origin_is_upgraded_before_its_edge() -> Result<()> {
    upgraded(&[[Previous, Previous], [Previous, This], [This, This]])
}

#[test]
fn an_edge_of_this_release_pairs_with_a_machine_of_the_earlier_one() -> Result<()> {
    paired([This, Previous])
}

#[test]
fn an_edge_of_the_earlier_release_pairs_with_a_machine_of_this_one() -> Result<()> {
    paired([Previous, This])
}

fn paired(releases: [Release; 2]) -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !pairing::is_known(lab)? {
            println!("the earlier release does not pair");
            return Ok(());
        }
        pairing::pair(lab, releases)
    })
}

/// Goes from one pair of releases (of the edge, of the origin) to the next, on the files and states
/// that the one before left, and has each carry pages.
fn upgraded(steps: &[[Release; 2]]) -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let grants = add_grants(&mut site, lab)?;
        site.forwarder_config.replace(
            "upstream = \"127.0.0.1:5001\"",
            "upstream = \"127.0.0.1:5001\"\nproxy_protocol = \"v1\"",
        )?;
        let _web = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8080")?, client_of_proxy_header)?;
        let mut before = None;
        for releases in steps {
            site.releases = *releases;
            println!("edge: {:?}, origin: {:?}", releases[0], releases[1]);
            follow(&mut site, before)?;
            before = Some(*releases);
            carries_pages(&site, lab, grants)?;
        }
        Ok(())
    })
}

/// Starts what is of another release than before, or not started yet.
fn follow(site: &mut Site<'_>, before: Option<[Release; 2]>) -> Result<()> {
    let [edge, origin] = site.releases;
    if before.is_none_or(|[was, _]| was != edge) {
        if let Some(gateway) = &mut site.gateway {
            gateway.stop(KNOWN)?;
        }
        site.start_gateway()?;
    }
    if before.is_none_or(|[_, was]| was != origin) {
        if let Some(forwarder) = &mut site.forwarder {
            forwarder.stop(KNOWN)?;
        }
        site.start_forwarder()?;
    }
    site.wait_until_up(KNOWN).map(drop)
}

/// Has the origin publish a port by itself, if both releases know that.
fn add_grants(site: &mut Site<'_>, lab: &Lab) -> Result<bool> {
    let lets = format!("{ALLOWED}\nmay_publish = [\"9443\"]");
    let (mut edge, mut origin) = (site.gateway_config.clone(), site.forwarder_config.clone());
    edge.replace(ALLOWED, &lets)?;
    origin.append(PUBLISHED);
    let is_known =
        takes(&lab.node("edge")?, "gateway", edge)? && takes(&lab.node("origin")?, "forwarder", origin)?;
    if is_known {
        site.gateway_config.replace(ALLOWED, &lets)?;
        site.forwarder_config.append(PUBLISHED);
    }
    println!("the earlier release knows grants: {is_known}");
    Ok(is_known)
}

/// Whether the earlier release takes such a file.
fn takes(node: &Node, daemon: &str, config: Config) -> Result<bool> {
    let config = config.at(node.directory().join("draft.toml"));
    config.write()?;
    let command = node.command(Previous.binary(daemon)?).args(["check", "--config"]).arg(config.path());
    Ok(command.output()?.status.success())
}

fn carries_pages(site: &Site<'_>, lab: &Lab, grants: bool) -> Result<()> {
    let client = lab.node("client")?;
    let page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, client_of_proxy_header)?;
    is_served(&client, 5001)?;
    println!("the link is up after {:?}", linked(site)?);
    if grants {
        until(KNOWN, "the port to be granted", || {
            let services = site.gatewayctl(&["services", "--json"])?.run()?;
            Ok(services.contains("\"wroclaw/web\"").then_some(()))
        })?;
        is_served(&client, 9443)?;
    }
    if !shows(site, "ok")? {
        println!("this edge does not show the health of a service");
        return Ok(());
    }
    drop(page);
    shows(site, "failing")?;
    let page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, client_of_proxy_header)?;
    shows(site, "ok")?;
    drop(page);
    Ok(())
}

/// Waits until the client gets a page with its own address.
fn is_served(client: &Node, port: u16) -> Result<()> {
    until(KNOWN, &format!("a page of port {port}"), || {
        let page = client.run(&format!("curl -sS --fail --max-time 5 http://192.0.2.2:{port}/"))?;
        ensure!(page.trim() == "203.0.113.10", "the page is {page:?}");
        Ok(Some(()))
    })
}

/// Waits until both ends show the link. Both releases have it, or both ends show none and refused
/// none.
fn linked(site: &Site<'_>) -> Result<Duration> {
    let at_origin = || -> Result<Value> {
        let text = site.ask_forwarder(&["peers", "--json"])?.run()?;
        let peers: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(peers["peers"][0]["link"].clone())
    };
    if knows_links(site)? {
        return time_until(KNOWN, "the link at both ends", || {
            Ok(site.peer_field("/link")?["up"] == true && at_origin()?["up"] == true)
        });
    }
    std::thread::sleep(Duration::from_secs(10));
    let links = [site.peers()?["peers"][0]["link"].clone(), at_origin()?];
    ensure!(links.iter().all(Value::is_null), "a link with a release that knows none: {links:?}");
    let page = metrics(&site.edge, 9586)?;
    let refused = page.lines().find(|line| line.starts_with("gateway_link_refusals_total{"));
    ensure!(refused.is_none(), "{refused:?}");
    Ok(Duration::ZERO)
}

/// Whether the earlier release, if it is at one end, knows the link.
fn knows_links(site: &Site<'_>) -> Result<bool> {
    if !site.releases.contains(&Previous) {
        return Ok(true);
    }
    let mut config = site.gateway_config.clone();
    config.append("[link]\nport = 51899");
    takes(&site.edge, "gateway", config)
}

/// Waits until the edge shows the bulk service so; `false` if it shows no health at all.
fn shows(site: &Site<'_>, state: &str) -> Result<bool> {
    let shown = || -> Result<Value> {
        let services: Value = serde_json::from_str(&site.gatewayctl(&["services", "--json"])?.run()?)?;
        let services = services["services"].as_array().cloned().unwrap_or_default();
        let service = services.into_iter().find(|service| service["name"] == "bulk");
        Ok(service.context("no such service")?["health"]["state"].clone())
    };
    if shown()?.is_null() {
        return Ok(false);
    }
    let took = time_until(KNOWN, &format!("the service to be {state}"), || Ok(shown()? == state))?;
    println!("the service is {state} after {took:?}");
    Ok(true)
}

/// A web server that replies with the client that the PROXY header names.
pub(crate) fn client_of_proxy_header(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4_096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned();
    let client = request.strip_prefix("PROXY TCP4 ").and_then(|rest| rest.split(' ').next());
    let client = client.unwrap_or("none");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", client.len());
    stream.write_all(format!("{head}{client}").as_bytes())
}
