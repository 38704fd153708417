//! The status page of both ends: what it shows, to whom, and what it does not let happen.

// A JSON value has an answer to any index; figures are printed.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Node, TcpServer, Topology, echo, pattern, scenario, until};
use scenarios::Site;
use serde_json::Value;

/// How soon a state is on the page.
const SOON: Duration = Duration::from_secs(30);
/// How many hostile requests there are.
const REQUESTS: usize = 10_000;
/// How many clients send them at the same time.
const CLIENTS: usize = 20;

#[test]
fn both_ends_name_what_is_down_first_and_show_no_address_of_a_visitor() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = with_pages(Site::new(lab)?)?;
        let web = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let _https = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8443")?, echo)?;
        let _metrics = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8428")?, echo)?;
        site.start()?;
        let mut visitor = lab.node("client")?.tcp_connect("192.0.2.2:5001", Duration::from_secs(10))?;
        visitor.write_all(b"stay")?;
        visitor.read_exact(&mut [0; 4])?;
        for (node, port) in [(&site.edge, 9590), (&site.origin, 9591)] {
            until(SOON, "the page to show that all works", || {
                let document = status(node, port)?;
                Ok((document["state"] == "ok").then_some(()))
            })?;
            shows_no_address(node, port)?;
        }

        drop(web);
        for (node, port) in [(&site.edge, 9590), (&site.origin, 9591)] {
            let document = until(SOON, "the page to name what is down", || {
                let document = status(node, port)?;
                Ok(document["headline"]["fix"].is_string().then_some(document))
            })?;
            let headline = &document["headline"];
            ensure!(
                headline["what"].as_str().is_some_and(|what| what.starts_with("bulk is down")),
                "{headline}"
            );
            ensure!(headline["reason"] == "refused" && headline["since"].is_u64(), "{headline}");
            let html = get(node, port, "/")?;
            for part in ["<h1 id=\"what\">bulk is down", "<dt>Since</dt>", "<dt>Fix</dt>", "[[service]] bulk"]
            {
                ensure!(html.contains(part), "no {part} in {html}");
            }
            shows_no_address(node, port)?;
        }
        Ok(())
    })
}

#[test]
fn the_lan_may_read_the_page_and_neither_the_wan_nor_a_peer_nor_another_website() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = with_pages(Site::new(lab)?)?;
        site.gateway_config
            .replace(r#"prefixes = ["192.168.1.0/24"]"#, r#"prefixes = ["192.168.1.0/24", "fd00:1::/64"]"#)?;
        site.edge.ip("address add fd00:1::2/64 dev eth1 nodad")?;
        lab.node("lan")?.ip("address add fd00:1::50/64 dev eth0 nodad")?;
        site.forwarder_config
            .append("[[reach]]\nname = \"page\"\nlisten = \"127.0.0.1:9999\"\ntarget = \"192.168.1.2:9590\"");
        site.start()?;
        let (client, lan) = (lab.node("client")?, lab.node("lan")?);
        for address in ["192.168.1.2", "[fd00:1::2]"] {
            until(SOON, "the page in the LAN", || {
                let answer =
                    lan.run(&format!("curl -s -o /dev/null -w %{{http_code}} http://{address}:9590/"));
                Ok(answer.is_ok_and(|code| code == "200").then_some(()))
            })?;
        }

        // Past the router, as if the provider sent packets for the LAN's address to the edge.
        lab.node("inet")?.ip("route add 192.168.1.0/24 via 192.0.2.2")?;
        lab.node("inet")?.ip("route add fd00:1::/64 via 2001:db8:192::2")?;
        for address in ["192.0.2.2", "192.168.1.2", "[2001:db8:192::2]", "[fd00:1::2]", "10.77.88.1"] {
            let at = format!("{address}:9590");
            ensure!(client.tcp_connect(&at, Duration::from_secs(1)).is_err(), "{at} from the WAN");
        }
        let by_peer = site.origin.run("curl -s --max-time 3 http://127.0.0.1:9999/");
        ensure!(by_peer.is_err(), "a peer reads {by_peer:?}");

        for (node, port) in [(&site.edge, 9590), (&site.origin, 9591)] {
            refuses(node, port)?;
        }
        Ok(())
    })
}

#[test]
fn ten_thousand_hostile_requests_leave_a_transfer_as_it_is() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = with_pages(Site::new(lab)?)?;
        let _echo = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        let client = lab.node("client")?;
        let is_over = AtomicBool::new(false);
        let begun = Instant::now();
        let (rounds, served) = thread::scope(|scope| -> Result<_> {
            let transfer = scope.spawn(|| echoed(&client, &is_over));
            let clients = (0..CLIENTS).map(|number| {
                let edge = site.edge.clone();
                scope.spawn(move || hostile(&edge, number))
            });
            let clients: Vec<_> = clients.collect();
            let mut answered = 0;
            for client in clients {
                answered += client.join().map_err(|_| anyhow!("a client panicked"))??;
            }
            is_over.store(true, Ordering::Relaxed);
            let rounds = transfer.join().map_err(|_| anyhow!("the transfer panicked"))??;
            Ok((rounds, answered))
        })?;
        println!(
            "{served} of {REQUESTS} hostile requests were answered in {:?}, next to {rounds} MiB each way",
            begun.elapsed()
        );
        ensure!(rounds > 0, "nothing was transferred meanwhile");
        let metrics = site.edge.run("curl -sS http://127.0.0.1:9586/metrics")?;
        let refused = metrics.lines().filter(|line| line.starts_with("gateway_page_requests_total{code=\"4"));
        ensure!(refused.filter(|line| !line.ends_with(" 0")).count() >= 3, "{metrics}");
        ensure!(get(&site.edge, 9590, "/status.json")?.contains("\"schema\":1"));
        Ok(())
    })
}

fn with_pages(mut site: Site<'_>) -> Result<Site<'_>> {
    site.gateway_config.append("[page]\nlisten = \"lan\"\nhosts = [\"pi.lan\"]");
    site.forwarder_config.append("[page]\nhosts = [\"pi.lan\"]");
    Ok(site)
}

fn get(node: &Node, port: u16, path: &str) -> Result<String> {
    node.run(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}{path}"))
}

fn status(node: &Node, port: u16) -> Result<Value> {
    let text = get(node, port, "/status.json")?;
    serde_json::from_str(&text).with_context(|| text)
}

/// Neither visitors nor the endpoints of peers.
fn shows_no_address(node: &Node, port: u16) -> Result<()> {
    for path in ["/", "/status.json"] {
        let page = get(node, port, path)?;
        for address in ["203.0.113.10", "198.51.100.", "100.64.0.2"] {
            ensure!(!page.contains(address), "{path} names {address}: {page}");
        }
    }
    Ok(())
}

/// Other names, methods and paths; what is served has the header fields that keep others out.
fn refuses(node: &Node, port: u16) -> Result<()> {
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let code = |arguments: &[&str], path: &str| {
        let curl = node.command("curl").args(["-sS", "--max-time", "10", "-o", "/dev/null"]);
        curl.args(["-w", "%{http_code}"]).args(arguments).arg(url(path)).run()
    };
    for path in ["/", "/status.json", "/none"] {
        for host in ["evil.example.com", "evil.example.com:9590", "127.0.0.1.evil.example.com", ""] {
            let code = code(&["-H", &format!("Host:{host}")], path)?;
            ensure!(code == "421", "{path} as {host:?}: {code}");
        }
    }
    for (host, path, expected) in
        [("pi.lan", "/", "200"), ("LOCALHOST", "/status.json", "200"), ("[::1]:1", "/none", "404")]
    {
        let code = code(&["-H", &format!("Host:{host}")], path)?;
        ensure!(code == expected, "{path} as {host:?}: {code}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let code = code(&["-X", method], "/")?;
        ensure!(code == "405", "{method}: {code}");
    }
    for path in ["/", "/status.json", "/none"] {
        let head = node.run(&format!("curl -sSI --max-time 10 {}", url(path)))?.to_lowercase();
        for field in [
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            ensure!(head.contains(field), "{path} without {field}: {head}");
        }
        for field in ["set-cookie", "access-control-", "unsafe-inline"] {
            ensure!(!head.contains(field), "{path} with {field}: {head}");
        }
    }
    Ok(())
}

/// Sends a mebibyte and reads it back until it is over; how many times.
fn echoed(client: &Node, is_over: &AtomicBool) -> Result<u64> {
    let sent = pattern(7, 1 << 20);
    let mut rounds = 0;
    while !is_over.load(Ordering::Relaxed) {
        let mut stream = client.tcp_connect("192.0.2.2:5001", Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut back = stream.try_clone()?;
        let writer = thread::scope(|scope| -> Result<Vec<u8>> {
            let writer = scope.spawn(|| stream.write_all(&sent));
            let mut received = vec![0; sent.len()];
            back.read_exact(&mut received)?;
            writer.join().map_err(|_| anyhow!("the writer panicked"))??;
            Ok(received)
        })?;
        ensure!(writer == sent, "other bytes came back in round {rounds}");
        rounds += 1;
    }
    Ok(rounds)
}

/// One client's share of the hostile requests; how many were answered.
fn hostile(edge: &Node, number: usize) -> Result<usize> {
    let mut answered = 0;
    for round in 0..REQUESTS / CLIENTS {
        let mut stream = edge.tcp_connect("127.0.0.1:9590", Duration::from_secs(30))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let is_answered = attack(&mut stream, number * 31 + round).unwrap_or(false);
        answered += usize::from(is_answered);
    }
    Ok(answered)
}

fn attack(stream: &mut TcpStream, kind: usize) -> std::io::Result<bool> {
    let long = "x".repeat(9_000);
    let request = match kind % 10 {
        0 => "GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n".to_owned(),
        1 => "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        2 => format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        3 => "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        4 => "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
        5 => "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example.com\r\n\r\n".to_owned(),
        // Gone before the answer.
        6 => return stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").map(|()| false),
        // A beginning without an end.
        7 => return stream.write_all(b"GET / HTT").map(|()| false),
        _ => "GET /status.json?<script> HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
    };
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 "))
}
