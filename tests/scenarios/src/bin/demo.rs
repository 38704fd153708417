//! `make demo`: a real web server behind carrier-grade NAT, fetched by an internet client, all in
//! namespaces.

use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Lab, LeakWatch, Node, Topology};
use scenarios::{Caddy, Nginx, Site, download, serve_bulk, upload};
use serde_json::json;

/// How much is transferred each way to measure the throughput.
const BULK: u64 = 512 << 20;

const PUBLISHED: &str = "192.0.2.2";

pub(crate) fn main() -> Result<()> {
    let lab = Lab::build("demo", Topology::standard())?;
    let outcome = show(&lab);
    if outcome.is_err() {
        lab.report_failure();
    }
    outcome
}

fn show(lab: &Lab) -> Result<()> {
    let mut out = stdout();
    let mut site = Site::new(lab)?;
    let client = lab.node("client")?;
    let leaks = LeakWatch::start(&lab.node("inet")?)?;
    writeln!(
        out,
        "client 203.0.113.10 -- internet -- 192.0.2.2 edge (gateway) == tunnel == origin (forwarder)"
    )?;
    writeln!(out, "the origin, 100.64.0.2, is behind a carrier's NAT that lets nothing in\n")?;
    let web = Web::start(&site.origin)?;
    let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
    site.start_gateway()?;
    site.start_forwarder()?;
    let handshake = site.wait_until_up(Duration::from_secs(15))?;

    let status = web.curl(&client, &["-o", "/dev/null", "-w", "%{http_code}"])?;
    let seen = web.curl(&client, &[])?;
    writeln!(
        out,
        "curl https://emby.example.com/whoami -> {status}, {} saw the client as {seen}\n",
        web.name()
    )?;
    let down = download(&client, &format!("{PUBLISHED}:5001"), BULK)?;
    let up = upload(&client, &format!("{PUBLISHED}:5001"), BULK)?;
    writeln!(out, "gatewayctl peers\n{}", site.gatewayctl(&["peers"])?.run()?)?;
    writeln!(out, "through the published port, {} MiB each way, every byte checked:", BULK >> 20)?;
    writeln!(
        out,
        "  download {:.0} Mbit/s\n  upload   {:.0} Mbit/s\n",
        down.mbit_per_second(),
        up.mbit_per_second()
    )?;

    let peers = site.peers()?;
    let all = peers.get("peers").and_then(|list| list.as_array()).context("no peers")?;
    let up_count = all.iter().filter(|peer| peer.get("state").is_some_and(|state| state == "up")).count();
    let summary = format!(
        "{{\"http_status\":{},\"client_seen\":{},\"service\":\"192.168.88.2:443\",\"handshake_ms\":{},\
         \"download_mbit_s\":{:.0},\"upload_mbit_s\":{:.0},\"peers_up\":{up_count},\"leaked_packets\":{}}}",
        status.trim().parse::<u16>()?,
        json!(seen),
        handshake.as_millis(),
        down.mbit_per_second(),
        up.mbit_per_second(),
        leaks.packets()?,
    );
    lab.judge_logs()?;
    writeln!(out, "{summary}")?;
    Ok(())
}

/// Caddy where its newest package could be had, else the distribution's nginx.
enum Web {
    Caddy(Caddy),
    Nginx(Nginx),
}

impl Web {
    fn start(origin: &Node) -> Result<Self> {
        if lab::newer("caddy").is_ok() {
            Caddy::start(origin).map(Self::Caddy)
        } else {
            Nginx::start(origin).map(Self::Nginx)
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Caddy(_) => "Caddy",
            Self::Nginx(_) => "nginx",
        }
    }

    fn curl(&self, client: &Node, arguments: &[&str]) -> Result<String> {
        match self {
            Self::Caddy(caddy) => caddy.curl(client, PUBLISHED, arguments, "/whoami"),
            Self::Nginx(nginx) => nginx.curl(client, PUBLISHED, arguments, "/whoami"),
        }
    }
}
