//! The origin as its own visitor: each name is connected to from the internet, and what was sent
//! must come out of the tunnel again.

#![allow(clippy::print_stdout, clippy::indexing_slicing)] // Figures are printed; a JSON value has an answer to any index.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, TcpServer, Topology, scenario, time_until};
use scenarios::{Caddy, Site, expired_certificate};
use serde_json::Value;

/// A path is probed once a minute; what fails is decided by a second probe 2 s later, and each
/// may wait 4 s for a connection.
const FOUND: Duration = Duration::from_secs(75);

/// Names with the addresses that they lead to, and what is to be found: the state, and the reason.
const NAMES: [(&str, &str, &str, Option<&str>); 8] = [
    ("away", "203.0.113.10", "failing", Some("elsewhere")),
    ("dead", "203.0.113.99", "failing", Some("elsewhere")),
    ("emby", "192.0.2.2", "proven", None),
    ("gone", "", "failing", Some("unresolved")),
    ("lan", "192.168.1.2", "unknown", Some("private_address")),
    ("loop", "127.0.0.1", "unknown", Some("private_address")),
    ("old", "192.0.2.2", "failing", Some("certificate_expired")),
    ("proxied", "203.0.113.10", "unknown", Some("proxy")),
];

#[test]
fn each_name_is_judged_from_the_internet_and_nothing_but_its_public_port_is_connected_to() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        hosts(&site.origin, &NAMES.map(|(name, address, ..)| (name, address)))?;
        expired_certificate(&site.origin)?;
        site.origin.nft(
            "table inet watch { counter foreign { }
               chain out { type filter hook output priority 0; oifname lo accept; tcp dport { 80, 443 } accept;
                 meta l4proto tcp counter name foreign; }
               chain private { type filter hook output priority 1;
                 ip daddr { 10.0.0.0/8, 127.0.0.0/8, 192.168.0.0/16 } tcp dport { 80, 443 } counter name foreign; }
             }",
        )?;
        let _caddy = Caddy::start_sites(&site.origin, true, &sites(&site.origin))?;
        let _others = Caddy::start_sites(&lab.node("client")?, false, OTHERS)?;
        let _plain = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8080")?, answer)?;
        publish(&mut site)?;
        site.start()?;

        let mut shown = Value::Null;
        let took = time_until(FOUND, "every path to be judged", || {
            shown = one(&at_edge(&site)?, "https")?;
            Ok(paths(&shown)? == NAMES.map(|(name, _, state, reason)| found(name, state, reason)))
        });
        let took = took.with_context(|| shown.to_string())?;
        println!("eight names were judged after {took:?}");
        let plain = time_until(FOUND, "HTTP without TLS", || {
            Ok(paths(&one(&at_edge(&site)?, "http")?)? == [found("plain", "proven", None)])
        })?;
        println!("a name on port 80 was proven after {plain:?} more");
        ensure!(
            paths(&one(&at_origin(&site)?, "https")?)? == paths(&shown)?,
            "the origin shows it otherwise"
        );
        texts_and_metrics_show_it(&site)?;
        let foreign = site.origin.run("nft list counter inet watch foreign")?;
        ensure!(foreign.contains("packets 0 "), "something else was connected to: {foreign}");
        Ok(())
    })
}

#[test]
fn a_router_that_masquerades_and_one_that_does_not_forward_are_found_and_proven_again() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.replace("[lan]\n", "[lan]\ninterfaces = [\"eth0\"]\n")?;
        hosts(&site.origin, &[("emby", "192.0.2.2")])?;
        let _caddy =
            Caddy::start_sites(&site.origin, true, &site_of("emby", "tls internal\n    respond \"emby\""))?;
        let router = lab.node("router")?;
        let masquerade = "add rule ip router out ip daddr 192.168.1.2 tcp dport 443 masquerade";
        router.nft(masquerade)?;
        with_names(&mut site, "\"emby.example.com\"")?;
        site.start()?;
        becomes(&site, "failing", Some("client_address_lost"))?;

        router.nft(
            "flush chain ip router out
             add rule ip router out oifname wan0 masquerade",
        )?;
        becomes(&site, "proven", None)?;
        ensure!(metric(&site, "gateway_service_path_proven{service=\"https\"} 1")?, "not proven in metrics");

        router.nft("insert rule ip router in iifname wan0 tcp dport 443 drop")?;
        becomes(&site, "failing", Some("not_forwarded"))?;
        ensure!(metric(&site, "gateway_service_path_proven{service=\"https\"} 0")?, "proven in metrics");
        let service = one(&at_edge(&site)?, "https")?;
        ensure!(service["health"]["state"] == "ok", "the service itself is {}", service["health"]);
        Ok(())
    })
}

/// Waits until both ends show this of the only name.
fn becomes(site: &Site<'_>, state: &str, reason: Option<&str>) -> Result<()> {
    let expected = [found("emby", state, reason)];
    let mut shown = Value::Null;
    let took = time_until(FOUND, &format!("{expected:?}"), || {
        shown = one(&at_edge(site)?, "https")?;
        Ok(paths(&shown)? == expected && paths(&one(&at_origin(site)?, "https")?)? == expected)
    });
    println!("{state} ({reason:?}) after {:?}", took.with_context(|| shown.to_string())?);
    Ok(())
}

/// A server that has nothing to do with the origin, and a proxy that ends TLS in front of the edge.
const OTHERS: &str = "https://away.example.com:443, https://away.example.com:8443 {
    tls internal
    respond \"another server\"
}
https://proxied.example.com:443 {
    tls internal
    reverse_proxy https://192.0.2.2:443 {
        header_up Host proxied.example.com
        transport http {
            tls_server_name proxied.example.com
            tls_insecure_skip_verify
        }
    }
}
";

fn site_of(name: &str, rest: &str) -> String {
    format!("https://{name}.example.com:8443 {{\n    bind 127.0.0.1\n    {rest}\n}}\n")
}

/// Sites of the origin's Caddy: it has every name, one with a certificate that has expired.
fn sites(origin: &Node) -> String {
    let folder = origin.directory().display().to_string();
    let site = |(name, ..): (&str, &str, &str, Option<&str>)| match name {
        "old" => site_of(name, &format!("tls {folder}/old.crt {folder}/old.key\n    respond \"old\"")),
        _ => site_of(name, &format!("tls internal\n    respond \"{name}\"")),
    };
    NAMES.map(site).concat()
}

/// Lets the origin's resolver know these names, and `plain.example.com`, and no others.
fn hosts(origin: &Node, names: &[(&str, &str)]) -> Result<()> {
    let known = names.iter().filter(|(_, address)| !address.is_empty());
    let lines: String = known.map(|(name, address)| format!("{address} {name}.example.com\n")).collect();
    origin
        .shadow_file("/etc/hosts", &format!("127.0.0.1 localhost\n192.0.2.2 plain.example.com\n{lines}"))?;
    origin.shadow_file("/etc/nsswitch.conf", "hosts: files\n").map(drop)
}

/// An HTTP service on port 80 as well, and the names of both.
fn publish(site: &mut Site<'_>) -> Result<()> {
    site.gateway_config.append(
        "[[publish]]\nname = \"http\"\nprotocol = [\"tcp\"]\nlisten = \"80\"\ntarget = \"192.168.88.2:80\"",
    );
    site.forwarder_config.append(
        "[[service]]\nname = \"http\"\nmatch = \"192.168.88.2:80\"\nupstream = \"127.0.0.1:8080\"\n\
         names = [\"plain.example.com\"]",
    );
    with_names(site, &NAMES.map(|(name, ..)| format!("\"{name}.example.com\"")).join(", "))
}

fn with_names(site: &mut Site<'_>, names: &str) -> Result<()> {
    let header = "proxy_protocol = \"v2\"";
    site.forwarder_config.replace(header, &format!("{header}\nnames = [{names}]")).map(drop)
}

/// An application that answers every request alike, each on a connection of its own.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4_096];
    let _ = stream.read(&mut request)?;
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
}

type Found = (String, String, Option<String>);

fn found(name: &str, state: &str, reason: Option<&str>) -> Found {
    (format!("{name}.example.com"), state.to_owned(), reason.map(str::to_owned))
}

/// The names of a service in order, each with what was found of its path.
fn paths(service: &Value) -> Result<Vec<Found>> {
    let rows = service["names"].as_array().context("no names")?;
    let row = |row: &Value| {
        let (text, path) = (|value: &Value| value.as_str().map(str::to_owned), &row["visitor"]);
        let (name, state) =
            (text(&row["name"]).context("no name")?, text(&path["state"]).unwrap_or_default());
        ensure!((state == "failing") == path["fix"].is_string(), "{row}");
        Ok((name, state, text(&path["reason"])))
    };
    let mut paths = rows.iter().map(row).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn at_edge(site: &Site<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&site.gatewayctl(&["services", "--json"])?.run()?)?)
}

fn at_origin(site: &Site<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&site.ask_forwarder(&["status", "--json"])?.run()?)?)
}

fn one(document: &Value, name: &str) -> Result<Value> {
    let services = document["services"].as_array().context("no services")?;
    let service = services.iter().find(|service| service["name"] == name);
    service.cloned().with_context(|| format!("no {name} in {document}"))
}

fn metric(site: &Site<'_>, line: &str) -> Result<bool> {
    Ok(site.edge.run("curl -sS --max-time 10 http://127.0.0.1:9586/metrics")?.contains(line))
}

fn texts_and_metrics_show_it(site: &Site<'_>) -> Result<()> {
    for text in [site.gatewayctl(&["services"])?.run()?, site.ask_forwarder(&["status"])?.run()?] {
        for part in [
            "path proven, certificate not trusted by the origin",
            "path unknown (proxy)",
            "away.example.com from the internet: public name is failing for ",
            "(elsewhere); fix: correct the DNS record of away.example.com",
            "old.example.com from the internet: certificate is failing for ",
        ] {
            ensure!(text.contains(part), "no {part:?} in {text}");
        }
    }
    for line in [
        "gateway_service_path_proven{service=\"https\"} 1",
        "gateway_service_name_path_proven{service=\"https\",name=\"emby.example.com\"} 1",
        "gateway_service_name_path_proven{service=\"https\",name=\"proxied.example.com\"} 0",
        "gateway_service_name_path_failing{service=\"https\",name=\"dead.example.com\",hop=\"public_name\",\
         reason=\"elsewhere\"} 1",
        "gateway_service_up{service=\"https\"} 1",
    ] {
        ensure!(metric(site, line)?, "no {line}");
    }
    Ok(())
}
