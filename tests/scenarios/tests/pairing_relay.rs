//! The gateway's half of a pairing: a plain WireGuard with the key of a code exchanges frames with
//! whoever has the control socket, and reaches nothing else.

#![allow(clippy::indexing_slicing)] // A JSON value has an answer to any index.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Node, Topology, scenario, until};
use scenarios::{Closed, KeyPair, PlainPeer, Site, WireGuardGo};
use serde_json::{Value, json};

/// Where the edge listens for links, and for the joiner.
const LINK: &str = "10.77.88.1:51899";
/// The address of the temporary peer.
const JOINER: &str = "10.77.88.9";
/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a connection that must not come about is tried.
const TRY: Duration = Duration::from_secs(1);
/// Ports that the edge listens on; a peer may reach 2049.
const CLOSED: [u16; 3] = [22, 2049, 9091];

#[test]
fn frames_go_both_ways_and_the_joiner_reaches_nothing_but_the_link_and_is_gone_after_the_close() -> Result<()>
{
    scenario(Topology::standard(), |lab| {
        let site = pairing_site(lab)?;
        let closed = Closed::start(&site.edge, "0.0.0.0", &CLOSED)?;
        let lan = Closed::start(&lab.node("lan")?, "0.0.0.0", &[2049])?;
        let refused = ask(
            &site,
            &json!({"command": "pairing", "pairing": "open", "key": site.wroclaw.public,
            "address": JOINER}),
        )?;
        ensure!(refused["failed"]["exit"] == 6, "{refused}");
        ensure!(exchange(&site, &[])?["end"] == "closed", "there is a pairing before one is opened");

        let opened = open(&site)?;
        ensure!(opened["connections"] == 0 && opened["has_session"] == false, "{opened}");
        let again = ask(&site, &open_request("10.77.88.10"))?;
        ensure!(
            again["failed"]["message"].as_str().is_some_and(|text| text.contains("open already")),
            "{again}"
        );
        let joiner = Joiner::start(&site)?;
        let seen = until(LIMIT, "the joiner's session", || {
            let seen = exchange(&site, &[])?;
            Ok((seen["has_session"] == true).then_some(seen))
        })?;
        ensure!(seen["datagrams"].as_u64().is_some_and(|count| count > 0), "{seen}");
        ensure!(seen["unknown"] == 0 && seen["is_heard"] == true, "the joiner counts as unknown: {seen}");
        let other = json!({"command": "pairing", "pairing": "close", "key": KeyPair::of("another").public});
        let reply = ask(&site, &other)?;
        ensure!(reply["pairing"]["end"] == "closed", "{reply}");
        ensure!(exchange(&site, &[])?["end"].is_null(), "a command closed the pairing of another one");
        let mut stream = site.origin.tcp_connect(LINK, LIMIT)?;
        send(&mut stream, b"my public key")?;
        ensure!(frame_of(&site)? == b"my public key", "another frame came");
        exchange(&site, &[b"words", b""])?;
        ensure!(read(&mut stream)? == b"words" && read(&mut stream)? == b"", "another frame came");

        reaches_nothing_else(&site)?;
        closed.holds("a joiner")?;
        lan.holds("a joiner")?;
        is_no_peer(&site)?;
        exchange(&site, &[b"welcome"])?;
        let end = ask(&site, &json!({"command": "pairing", "pairing": "close", "key": one_time_key()}))?;
        ensure!(end["pairing"]["end"] == "closed", "{end}");
        ensure!(read(&mut stream)? == b"welcome", "the last frame did not come");
        ensure!(stream.read(&mut [0])? == 0, "the connection is still open");
        is_gone(&site, &joiner)
    })
}

#[test]
fn a_second_connection_ends_the_pairing_and_both_connections() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = pairing_site(lab)?;
        open(&site)?;
        let joiner = Joiner::start(&site)?;
        let mut first = connect(&site)?;
        send(&mut first, b"mine")?;
        ensure!(frame_of(&site)? == b"mine", "another frame came");
        let mut second = connect(&site)?;
        send(&mut second, b"theirs")?;
        let end = until(LIMIT, "the end of the pairing", || {
            let reply = exchange(&site, &[])?;
            Ok((!reply["end"].is_null()).then_some(reply))
        })?;
        ensure!(end["end"] == "second_joiner" && end["connections"] == 2, "{end}");
        ensure!(end["frames"] == json!([]), "a frame of the second came: {end}");
        for stream in [&mut first, &mut second] {
            let count = stream.read(&mut [0]);
            ensure!(
                count.as_ref().map_or(true, |count| *count == 0),
                "a connection is still open: {count:?}"
            );
        }
        ensure!(exchange(&site, &[])?["end"] == "second_joiner", "the end is not readable any more");
        until(LIMIT, "the joiner to be removed", || Ok((!wg_shows_joiner(&site)?).then_some(())))?;
        is_gone(&site, &joiner)
    })
}

#[test]
fn an_apply_does_not_end_a_pairing_unless_it_gives_its_address_to_a_peer() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = pairing_site(lab)?;
        open(&site)?;
        let joiner = Joiner::start(&site)?;
        let mut stream = connect(&site)?;
        let keep = |site: &mut Site<'_>, name: &str, more: &str| -> Result<()> {
            let draft = site.edge.directory().join(name);
            std::fs::write(&draft, format!("{}\n{more}", site.gateway_config.text))?;
            site.gatewayctl(&["apply"])?.arg(&draft).run().map(drop)
        };
        let allow =
            "[[allow]]\nname = \"ssh\"\nfrom = [\"peer:wroclaw\"]\nto = [\"self\"]\nports = [\"22\"]\n";
        keep(&mut site, "first.toml", allow)?;
        send(&mut stream, b"after the apply")?;
        ensure!(frame_of(&site)? == b"after the apply", "another frame came");
        reaches_nothing_else(&site)?;
        is_no_peer(&site)?;
        let text = std::fs::read_to_string(site.gateway_config.path())?;
        ensure!(text.contains("\"ssh\"") && !text.contains(JOINER), "{text}");
        ensure!(!text.contains(&KeyPair::of("one-time").public), "{text}");

        let other = KeyPair::of("another").public;
        keep(
            &mut site,
            "second.toml",
            &format!(
                "[[peer]]\nname = \"another\"\npublic_key = \"{other}\"\nallowed_ips = [\"{JOINER}/32\"]\n"
            ),
        )?;
        until(LIMIT, "the pairing to end", || Ok((exchange(&site, &[])?["end"] == "closed").then_some(())))?;
        until(LIMIT, "the joiner to be removed", || Ok((!wg_shows_joiner(&site)?).then_some(())))?;
        ensure!(site.edge.run("wg show gw0 allowed-ips")?.contains(&format!("{JOINER}/32")));
        drop(joiner);
        Ok(())
    })
}

#[test]
fn a_pairing_ends_with_its_command_and_with_the_daemon() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        // After its restart the daemon does not know whose key goes on trying.
        lab.expect_warning("unknown_peer");
        let mut site = pairing_site(lab)?;
        open(&site)?;
        let joiner = Joiner::start(&site)?;
        connect(&site)?;
        let last = Instant::now();
        exchange(&site, &[])?;
        until(LIMIT, "the pairing to end", || Ok((!wg_shows_joiner(&site)?).then_some(())))?;
        println!("the temporary peer was removed {:?} after the last request", last.elapsed());
        ensure!(last.elapsed() > Duration::from_secs(9), "it ended early");
        is_gone(&site, &joiner)?;

        open(&site)?;
        connect(&site)?;
        site.gateway()?.kill()?;
        site.start_gateway()?;
        ensure!(exchange(&site, &[])?["end"] == "closed", "a restart did not end the pairing");
        is_gone(&site, &joiner)
    })
}

/// The edge with a tunnel that has room for another peer.
fn pairing_site(lab: &lab::Lab) -> Result<Site<'_>> {
    let mut site = Site::new(lab)?;
    site.gateway_config.replace("10.77.88.1/30", "10.77.88.1/24")?;
    site.start_gateway()?;
    Ok(site)
}

/// A plain WireGuard with the key of a code, at the origin's place.
struct Joiner {
    go: WireGuardGo,
}

impl Joiner {
    fn start(site: &Site<'_>) -> Result<Self> {
        let go = WireGuardGo::start(&site.origin, "wg0")?;
        go.configure(&PlainPeer {
            private_key: &KeyPair::of("one-time").private,
            listen_port: None,
            public_key: &site.kyiv.public,
            preshared_key: None,
            allowed_ips: "0.0.0.0/0",
            endpoint: Some("192.0.2.2:51820"),
            keepalive: Some(1),
        })?;
        go.bring_up(&[&format!("{JOINER}/24")], &["192.168.1.0/24", "192.168.88.0/24"])?;
        Ok(Self { go })
    }
}

fn connect(site: &Site<'_>) -> Result<TcpStream> {
    until(LIMIT, "the joiner to connect", || {
        exchange(site, &[])?;
        Ok(site.origin.tcp_connect(LINK, Duration::from_secs(2)).ok())
    })
}

/// No other port, no other address, and no echo.
fn reaches_nothing_else(site: &Site<'_>) -> Result<()> {
    let before = dropped(site)?;
    let places = [
        "10.77.88.1:22",
        "10.77.88.1:2049",
        "10.77.88.1:9091",
        "10.77.88.1:9586",
        "192.168.1.2:2049",
        "192.168.1.2:51899",
        "192.168.1.50:2049",
        "192.168.88.2:443",
        "10.77.88.2:443",
    ];
    for place in places {
        ensure!(site.origin.tcp_connect(place, TRY).is_err(), "the joiner reached {place}");
        exchange(site, &[])?;
    }
    for address in ["10.77.88.1", "192.168.1.2", "192.168.1.50"] {
        let output = site.origin.output(&format!("ping -n -q -c 1 -W 1 {address}"))?;
        ensure!(!output.status.success(), "{address} answered an echo request");
    }
    let after = dropped(site)?;
    ensure!(after >= before + places.len() as f64, "only {} packets came to the rules", after - before);
    Ok(())
}

/// Packets that the rules dropped because the joiner sent them.
fn dropped(site: &Site<'_>) -> Result<f64> {
    let metrics = metrics(&site.edge)?;
    let lines = metrics.lines().filter(|line| {
        line.starts_with("gateway_dropped_packets_total{")
            && line.contains("\"prerouting\"")
            && line.contains("\"not_listed\"")
    });
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// Neither peers, status, metrics nor the plan know the joiner.
fn is_no_peer(site: &Site<'_>) -> Result<()> {
    let key = KeyPair::of("one-time").public;
    let shown =
        site.peers()?.to_string() + &metrics(&site.edge)? + &site.gatewayctl(&["peers", "--dump"])?.run()?;
    ensure!(!shown.contains(&key) && !shown.contains(JOINER), "{shown}");
    let status = site.gatewayctl(&["status", "--json"])?.output()?;
    let status: Value = serde_json::from_slice(&status.stdout)?;
    ensure!(status["peers"] == 1 && !status.to_string().contains(key.split_at(8).0), "{status}");
    let plan = site.gatewayctl(&["plan"])?.arg(site.gateway_config.path()).run()?;
    ensure!(plan.trim().is_empty() || plan.contains("nothing"), "{plan}");
    ensure!(!site.edge.run("wg show gw0")?.is_empty() && wg_shows_joiner(site)?, "the node does not have it");
    Ok(())
}

/// The joiner has no session, and no packet of its tunnel arrives.
fn is_gone(site: &Site<'_>, joiner: &Joiner) -> Result<()> {
    ensure!(joiner.go.process.log().is_ok() && !wg_shows_joiner(site)?, "the node still has the joiner");
    ensure!(site.origin.tcp_connect(LINK, TRY).is_err(), "the joiner still reaches the link");
    let output = site.edge.output(&format!("ping -n -q -c 1 -W 1 {JOINER}"))?;
    ensure!(!output.status.success(), "the joiner's address is still routed to it");
    let table = until(LIMIT, "the rules to forget the joiner", || {
        let table = site.edge.run("nft list table inet causeway")?;
        Ok((!table.contains(&format!("saddr {JOINER}"))).then_some(table))
    })?;
    ensure!(table.contains("10.77.88.1"), "{table}");
    Ok(())
}

fn wg_shows_joiner(site: &Site<'_>) -> Result<bool> {
    Ok(site.edge.run("wg show gw0 peers")?.contains(&KeyPair::of("one-time").public))
}

fn open_request(address: &str) -> Value {
    json!({"command": "pairing", "pairing": "open", "key": one_time_key(), "address": address})
}

fn one_time_key() -> String {
    KeyPair::of("one-time").public
}

fn open(site: &Site<'_>) -> Result<Value> {
    let reply = ask(site, &open_request(JOINER))?;
    ensure!(reply["pairing"]["end"].is_null() && reply["failed"].is_null(), "{reply}");
    Ok(reply["pairing"].clone())
}

fn exchange(site: &Site<'_>, frames: &[&[u8]]) -> Result<Value> {
    let request =
        json!({"command": "pairing", "pairing": "exchange", "key": one_time_key(), "frames": frames});
    let reply = ask(site, &request)?;
    reply.get("pairing").cloned().with_context(|| reply.to_string())
}

/// The next frame of the joiner.
fn frame_of(site: &Site<'_>) -> Result<Vec<u8>> {
    let frames = until(LIMIT, "a frame", || {
        let reply = exchange(site, &[])?;
        ensure!(reply["end"].is_null(), "{reply}");
        Ok(reply["frames"].as_array().filter(|frames| !frames.is_empty()).cloned())
    })?;
    ensure!(frames.len() == 1, "{frames:?}");
    Ok(serde_json::from_value(frames[0].clone())?)
}

/// Sends the control socket one request.
fn ask(site: &Site<'_>, request: &Value) -> Result<Value> {
    let script = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect('/run/causeway/gateway.sock')
s.sendall(sys.argv[1].encode() + b'\\n')
print(s.makefile().readline())";
    let reply = site.edge.command("python3").args(["-c", script, &request.to_string()]).run()?;
    serde_json::from_str(&reply).with_context(|| reply)
}

fn send(stream: &mut TcpStream, body: &[u8]) -> Result<()> {
    let length = u32::try_from(body.len())?.to_be_bytes();
    Ok(stream.write_all(&[&length, body].concat())?)
}

fn read(stream: &mut TcpStream) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn metrics(node: &Node) -> Result<String> {
    node.run("curl -sS --max-time 10 http://127.0.0.1:9586/metrics")
}
