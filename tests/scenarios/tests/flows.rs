//! `gatewayctl flows` and `gatewayctl offload`: what the running edge shows of its traffic, and its
//! offload switches.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, TcpServer, Topology, scenario};
use scenarios::{Offload, Site, download, serve_bulk, upload};
use serde_json::Value;

#[test]
fn flows_are_listed_with_who_where_bytes_age_and_peer_and_found_by_service_and_address() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _servers = [
            TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, lab::echo)?,
            TcpServer::start(site.origin.tcp_listener("127.0.0.1:8428")?, lab::echo)?,
            TcpServer::start(site.edge.tcp_listener("0.0.0.0:2049")?, lab::echo)?,
        ];
        site.start()?;
        let _published = session(&lab.node("client")?, "192.0.2.2:5001", 10_000)?;
        let _into = session(&lab.node("lan")?, "192.168.88.2:8428", 1_000)?;
        let _out_of = session(&site.origin, "127.0.0.1:2049", 1_000)?;

        let all = flows(&site, &[])?;
        ensure!(all.pointer("/schema") == Some(&Value::from(1)) && total(&all) == 3, "{all}");
        ensure!(all.pointer("/truncated") == Some(&Value::from(false)), "{all}");

        let bulk = only(&flows(&site, &["--service", "bulk"])?)?;
        ensure!(text(&bulk, "client").starts_with("203.0.113.10:"), "{bulk}");
        for (field, value) in [
            ("kind", "publish"),
            ("protocol", "tcp"),
            ("listen", "192.0.2.2:5001"),
            ("target", "192.168.88.2:5001"),
            ("peer", "wroclaw"),
            ("state", "established"),
        ] {
            ensure!(text(&bulk, field) == value, "{field} of {bulk}");
        }
        for field in ["bytes_in", "bytes_out"] {
            let bytes = bulk.get(field).and_then(Value::as_u64).unwrap_or(0);
            ensure!((10_000..20_000).contains(&bytes), "{field} of {bulk}");
        }
        let age = bulk.get("age_seconds").and_then(Value::as_f64);
        ensure!(age.is_some_and(|age| (0.0..120.0).contains(&age)), "{bulk}");

        let monitoring = only(&flows(&site, &["--address", "192.168.1.50"])?)?;
        ensure!(text(&monitoring, "service") == "monitoring" && text(&monitoring, "kind") == "allow");
        let nfs = only(&flows(&site, &["--service", "nfs"])?)?;
        ensure!(text(&nfs, "client").starts_with("10.77.88.2:") && text(&nfs, "peer") == "wroclaw", "{nfs}");

        let first = flows(&site, &["--limit", "1"])?;
        ensure!(first.pointer("/truncated") == Some(&Value::from(true)) && total(&first) == 3, "{first}");
        let most = first.pointer("/flows/0").context("no flow")?;
        ensure!(text(most, "service") == "bulk", "not the one that carried most: {first}");
        let unknown = site.gatewayctl(&["flows", "--service", "nothing"])?.output()?;
        ensure!(unknown.status.code() == Some(2), "{unknown:?}");
        let table = site.gatewayctl(&["flows"])?.run()?;
        ensure!(table.starts_with("SERVICE") && table.contains("192.168.88.2:8428"), "{table}");
        Ok(())
    })
}

#[test]
fn traffic_flows_with_every_offload_turned_off_and_on_again() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        let off = ["tun_tcp=off", "tun_udp=off", "udp_gso=off", "udp_gro=off", "busy_poll=off"];
        for switches in [&off[..2], &off[2..], &["tun_tcp=on", "udp_gro=on"], &off] {
            let shown = site.gatewayctl(&[&["offload", "set"], switches].concat())?.run()?;
            for switch in switches {
                ensure!(shown.contains(&switch.replace('=', " ")), "{switch} is not in {shown}");
            }
            download(&client, "192.0.2.2:5001", 8 << 20)?;
            upload(&client, "192.0.2.2:5001", 8 << 20)?;
        }
        let shown = site.gatewayctl(&["offload"])?.run()?;
        let is_marked = shown.contains("udp_gso off (configured: on)");
        ensure!(is_marked == (Offload::chosen()? != Offload::Off), "{shown}");
        let unknown = site.gatewayctl(&["offload", "set", "everything=off"])?.output()?;
        ensure!(unknown.status.code() == Some(2), "{unknown:?}");
        // An apply brings back what the configuration says.
        site.gatewayctl(&["reload"])?.run()?;
        let shown = site.gatewayctl(&["offload", "show", "--json"])?.run()?;
        let shown: Value = serde_json::from_str(&shown)?;
        let offloads = shown.get("offloads").and_then(Value::as_array).context("no offloads")?;
        let same = |offload: &Value| {
            let is = |field| offload.get(field).and_then(Value::as_bool).context("a word is missing");
            Ok::<_, anyhow::Error>(is("on")? == (is("configured")? && is("kernel")?))
        };
        ensure!(offloads.len() == 5, "{shown}");
        for offload in offloads {
            ensure!(same(offload)?, "{shown}");
        }
        download(&client, "192.0.2.2:5001", 8 << 20).map(drop)
    })
}

/// A connection that has carried this many bytes each way.
fn session(node: &Node, address: &str, bytes: usize) -> Result<TcpStream> {
    let mut stream = node.tcp_connect(address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&vec![7; bytes])?;
    stream.read_exact(&mut vec![0; bytes])?;
    Ok(stream)
}

fn flows(site: &Site<'_>, arguments: &[&str]) -> Result<Value> {
    let text = site.gatewayctl(&[&["flows", "--json"], arguments].concat())?.run()?;
    serde_json::from_str(&text).context(text)
}

fn total(report: &Value) -> u64 {
    report.pointer("/total").and_then(Value::as_u64).unwrap_or(0)
}

fn only(report: &Value) -> Result<Value> {
    ensure!(total(report) == 1, "not one flow: {report}");
    report.pointer("/flows/0").cloned().context("no flow")
}

fn text<'v>(flow: &'v Value, field: &str) -> &'v str {
    flow.get(field).and_then(Value::as_str).unwrap_or_default()
}
