//! As many probes as a day has, next to a bulk load, and none of them a false alarm.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Node, TcpServer, Topology, echo, scenario, until};
use scenarios::{Caddy, Site, download, serve_bulk, upload};

use crate::metrics;

/// A connection every ten seconds, and each name once a minute: a day of a service, and of a name.
const DAY: (u64, u64) = (8_640, 1_440);
/// Services that are checked once a second by a connection, at ports from the first on.
const CHECKED: u16 = 24;
const FIRST: u16 = 7_001;
/// Services with names, together nearly as many as are watched: 256, one without a name included.
const NAMED: u16 = 4;
const NAMES: usize = 63;
/// What must not be on a page of either end: the beginning of a line, and its value.
const ALARMS: [(&str, &str); 9] = [
    ("gateway_service_up{", "0"),
    ("gateway_service_failing_hop{", "1"),
    ("gateway_service_name_up{", "0"),
    ("gateway_peer_up{", "0"),
    ("gateway_link_up{", "0"),
    ("gateway_reconcile_failing", "1"),
    ("forwarder_name_up{", "0"),
    ("forwarder_upstream_up{", "0"),
    ("forwarder_peer_up{", "0"),
];

#[test]
fn a_day_of_probes_next_to_a_bulk_load_has_no_false_alarm() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        add_services(&mut site);
        let caddy = Caddy::start_sites(&site.origin, true, &sites(&site.origin))?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        let listeners = (0..CHECKED).map(|place| format!("127.0.0.1:{}", FIRST + place));
        let checked = listeners.map(|at| TcpServer::start(site.origin.tcp_listener(&at)?, echo));
        let checked = checked.collect::<Result<Vec<_>>>()?;
        let _metrics = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8428")?, echo)?;
        site.start()?;
        until(Duration::from_secs(120), "every name to be known", || {
            let page = metrics(&site.edge, 9586)?;
            let known = page.lines().filter(|line| line.starts_with("gateway_service_certificate_days{"));
            Ok((known.count() == usize::from(NAMED) * NAMES).then_some(()))
        })?;

        let client = lab.node("client")?;
        let is_over = AtomicBool::new(false);
        let begun = Instant::now();
        let watched = thread::scope(|scope| {
            let load = scope.spawn(|| load(&client, &is_over));
            let watched = watch(&site, &caddy, &checked);
            is_over.store(true, Ordering::Relaxed);
            let load = load.join().map_err(|_| anyhow!("the load panicked"))?;
            anyhow::Ok((watched?, load?))
        });
        let ((probes, names, looks), gib) = watched?;
        println!(
            "{probes} connections and {names} looks at names in {:?} next to {gib:.1} GiB; {looks} looks at both pages",
            begun.elapsed()
        );
        Ok(())
    })
}

fn add_services(site: &mut Site<'_>) {
    let (mut edge, mut origin) = (String::new(), String::new());
    let mut add = |name: &str, port: u16, upstream: u16, rest: &str| {
        let _ = writeln!(
            edge,
            "[[publish]]\nname = \"{name}\"\nlisten = \"{port}\"\ntarget = \"192.168.88.2:{port}\""
        );
        let _ = writeln!(
            origin,
            "[[service]]\nname = \"{name}\"\nmatch = \"192.168.88.2:{port}\"\nupstream = \"127.0.0.1:{upstream}\"\n{rest}"
        );
    };
    for place in 0..CHECKED {
        let port = FIRST + place;
        add(&format!("checked{place}"), port, port, "health = { check = \"tcp\", every = \"1s\" }");
    }
    for place in 0..NAMED {
        let names: Vec<_> = (0..NAMES).map(|name| format!("\"n{name}.s{place}.example.com\"")).collect();
        let rest = format!("proxy_protocol = \"v2\"\nnames = [{}]", names.join(", "));
        add(&format!("named{place}"), 8_001 + place, 8_443, &rest);
    }
    site.gateway_config.append(&edge);
    site.forwarder_config.append(&origin);
}

/// One site for the names of each service.
fn sites(origin: &Node) -> String {
    let log = origin.directory().join("caddy/access.log");
    let site = |place: u16| {
        format!(
            "https://*.s{place}.example.com:8443 {{\n    bind 127.0.0.1\n    tls internal\n    log {{\n        output file {}\n    }}\n    \
             respond \"page\"\n}}\n",
            log.display()
        )
    };
    (0..NAMED).map(site).collect()
}

/// Moves bytes both ways until the other side ends; how many GiB.
fn load(client: &Node, is_over: &AtomicBool) -> Result<f64> {
    let mut bytes = 0;
    while !is_over.load(Ordering::Relaxed) {
        bytes += download(client, "192.0.2.2:5001", 256 << 20)?.bytes;
        bytes += upload(client, "192.0.2.2:5001", 128 << 20)?.bytes;
    }
    Ok(bytes as f64 / f64::from(1 << 30))
}

/// Reads both pages again and again until there were as many probes as a day has: connections,
/// looks at names, and how often the pages were read.
fn watch(site: &Site<'_>, caddy: &Caddy, checked: &[TcpServer]) -> Result<(u64, u64, u32)> {
    let mut looks = 0;
    loop {
        for (node, port) in [(&site.edge, 9586), (&site.origin, 9587)] {
            let page = metrics(node, port)?;
            let alarm = page.lines().find(|line| is_alarm(line));
            ensure!(alarm.is_none(), "a false alarm after {looks} looks: {alarm:?}");
        }
        looks += 1;
        let probes = checked.iter().map(TcpServer::accepted).sum();
        let log = caddy.access_log().context("Caddy's access log")?;
        let names = log.lines().filter(|line| line.contains("\"HEAD\"")).count() as u64;
        if probes >= DAY.0 && names >= DAY.1 {
            return Ok((probes, names, looks));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn is_alarm(line: &str) -> bool {
    let value = line.rsplit(' ').next();
    ALARMS.iter().any(|(begin, alarm)| line.starts_with(begin) && value == Some(alarm))
}
