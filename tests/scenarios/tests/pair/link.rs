//! Messages on the link between the edges that the other edge did not send now.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Node, pattern, until};

use crate::edge::Edge;
use crate::site::Pair;

/// Where an edge takes messages of the other.
const STANDBY: &str = "10.9.9.2:51898";
/// How many messages are recorded: of each kind some.
const RECORDED: usize = 8;

/// What one who is on the cable makes up.
pub(crate) fn forged(pair: &mut Pair<'_>) -> Result<()> {
    first_is_active(pair)?;
    let (active, standby) = (&pair.edges[0], &pair.edges[1]);
    let known = State::of(standby)?;
    let before = standby.messages("refused")?;
    let socket = active.node.udp_socket("10.9.9.1:0")?;
    for length in [0, 1, 27, 28, 44, 200, 1_400] {
        let datagram = [&b"CWS1"[..], &pattern(9, 1_400)].concat();
        socket.send_to(datagram.get(..length).unwrap_or_default(), STANDBY)?;
    }
    refuses(standby, before + 7)?;
    known.is_still_of(standby)?;
    // What a router has passed on is no VRRP of the other edge, nor is that of anyone else.
    let dropped = || -> Result<u64> {
        let counters = scenarios::packet_counters(&standby.node)?;
        Ok(counters.get("drop_input_wan_guard").copied().unwrap_or(0))
    };
    let vrrp = |node: &Node, to: &str, ttl: u8| {
        let code = format!(
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)\n\
             s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, {ttl})\ns.sendto(bytes(20), ('{to}', 0))"
        );
        node.command("python3").args(["-c", &code]).run().map(drop)
    };
    let none = dropped()?;
    vrrp(&active.node, "10.9.9.2", 255)?;
    ensure!(dropped()? == none, "VRRP of the other edge was dropped");
    vrrp(&active.node, "10.9.9.2", 254)?;
    vrrp(&active.node, "192.0.2.12", 255)?;
    ensure!(dropped()? == none + 2, "{} of 2 forged packets were dropped", dropped()? - none);
    Ok(())
}

/// What one who is on the cable recorded, and sends again: in the same life of both edges, after the
/// sender was started again, and after the receiver was.
pub(crate) fn recorded(pair: &mut Pair<'_>) -> Result<()> {
    first_is_active(pair)?;
    let recording = record(&pair.edges[1])?;
    let first_endpoint = pair.edges[1].endpoint()?;
    repeats_change_nothing(pair, &recording)?;

    // The peer moves, so that what was recorded is wrong by now.
    pair.site.forwarder()?.kill()?;
    pair.site.start_forwarder()?;
    until(Duration::from_secs(20), "the peer's other endpoint at the standby", || {
        let now = pair.edges[1].endpoint()?;
        Ok((now.is_some() && now != first_endpoint).then_some(()))
    })?;
    repeats_change_nothing(pair, &recording)?;

    pair.edges[0].gateway()?.kill()?;
    pair.edges[0].start()?;
    is_heard(&pair.edges[1])?;
    repeats_change_nothing(pair, &recording)?;

    let standby = &mut pair.edges[1];
    standby.gateway()?.kill()?;
    standby.start()?;
    is_heard(standby)?;
    repeats_change_nothing(pair, &recording)
}

/// Waits until the edge counts messages of the other.
fn is_heard(edge: &Edge<'_>) -> Result<()> {
    let before = edge.messages("taken")?;
    until(Duration::from_secs(20), "the other edge to be heard", || {
        Ok((edge.messages("taken")? > before).then_some(()))
    })
}

/// Has the first edge active, and the other know what it must.
fn first_is_active(pair: &Pair<'_>) -> Result<()> {
    let (active, standby) = (&pair.edges[0], &pair.edges[1]);
    active.node.ip(&format!("address add {} dev eth0", active.shared()))?;
    until(Duration::from_secs(5), "the first edge to be active", || {
        Ok((active.role()? == "active").then_some(()))
    })?;
    until(Duration::from_secs(10), "the peer's endpoint at the standby", || {
        Ok(standby.endpoint()?.is_some().then_some(()))
    })
}

/// Messages as they arrive at an edge. Its packets are passed to a socket of ours as well.
fn record(edge: &Edge<'_>) -> Result<Vec<Vec<u8>>> {
    let copy: UdpSocket = edge.node.udp_socket("127.0.0.1:51999")?;
    copy.set_read_timeout(Some(Duration::from_secs(10)))?;
    let code = format!(
        "import socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))\n\
         s.bind(('sync0', 0))\nout = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nseen = 0\n\
         while seen < {RECORDED}:\n p, a = s.recvfrom(65535)\n h = (p[0] & 15) * 4\n\
         \x20if a[2] == 0 and p[9] == 17 and p[h + 2:h + 4] == (51898).to_bytes(2, 'big'):\n\
         \x20 out.sendto(p[h + 8:], ('127.0.0.1', 51999))\n\x20 seen += 1"
    );
    edge.node.command("python3").args(["-c", &code]).limit(Duration::from_secs(30)).run()?;
    let mut recording = Vec::new();
    for number in 0..RECORDED {
        let mut message = vec![0; 65_535];
        let length = copy.recv(&mut message).with_context(|| format!("recorded message {number}"))?;
        message.truncate(length);
        ensure!(message.starts_with(b"CWS1"), "{message:?}");
        recording.push(message);
    }
    Ok(recording)
}

fn repeats_change_nothing(pair: &Pair<'_>, recording: &[Vec<u8>]) -> Result<()> {
    let (active, standby) = (&pair.edges[0], &pair.edges[1]);
    let (known, before) = (State::of(standby)?, standby.messages("refused")?);
    let socket = active.node.udp_socket("10.9.9.1:0")?;
    for message in recording {
        socket.send_to(message, STANDBY)?;
    }
    refuses(standby, before + recording.len() as u64)?;
    known.is_still_of(standby)?;
    // The other edge goes on to be heard.
    is_heard(standby)
}

fn refuses(edge: &Edge<'_>, count: u64) -> Result<()> {
    until(Duration::from_secs(5), "the messages to be refused", || {
        Ok((edge.messages("refused")? >= count).then_some(()))
    })
}

/// What the edge would take over with.
struct State {
    endpoint: Option<String>,
    stored: String,
}

impl State {
    fn of(edge: &Edge<'_>) -> Result<Self> {
        let endpoint = edge.endpoint()?;
        let stored = until(Duration::from_secs(5), "the endpoint to be stored", || {
            let stored = fs::read_to_string(edge.node.directory().join("state/endpoints.json"))?;
            let is_known = endpoint.as_ref().is_some_and(|endpoint| stored.contains(endpoint));
            Ok(is_known.then_some(stored))
        })?;
        Ok(Self { endpoint, stored })
    }

    fn is_still_of(&self, edge: &Edge<'_>) -> Result<()> {
        let now = Self::of(edge)?;
        ensure!(now.endpoint == self.endpoint && edge.role()? == "standby", "{:?}", now.endpoint);
        ensure!(now.stored == self.stored, "the edge keeps another endpoint: {}", now.stored);
        Ok(())
    }
}
