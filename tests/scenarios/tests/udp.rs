//! UDP through the edge, the tunnel and the forwarder.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Topology, UdpEcho, pattern, scenario, until};
use scenarios::Site;

const SERVICE: &str = "192.0.2.2:5353";

#[test]
fn datagrams_of_one_to_8000_bytes_come_back_unchanged() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        let _echo = UdpEcho::start(site.origin.udp_socket("127.0.0.1:5353")?)?;
        site.start()?;
        let client = connected(&lab.node("client")?)?;
        for length in [1, 100, 1_372, 1_392, 1_393, 1_472, 1_473, 4_000, 8_000] {
            let content = pattern(length as u64, length);
            let answer = until(Duration::from_secs(10), &format!("{length} bytes"), || {
                client.send(&content)?;
                receive(&client).map(Some)
            })?;
            ensure!(answer == content, "{length} bytes came back as {}", answer.len());
        }
        Ok(())
    })
}

#[test]
fn a_client_of_an_absent_upstream_gets_an_icmp_error() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        site.start()?;
        let client = connected(&lab.node("client")?)?;
        until(Duration::from_secs(10), "port unreachable", || {
            // The error is that of the datagram before.
            let refused = client
                .send(b"question")
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
                || matches!(client.recv(&mut [0; 16]), Err(error) if error.kind() == ErrorKind::ConnectionRefused);
            Ok(refused.then_some(()))
        })
    })
}

#[test]
fn a_live_flow_survives_a_flood_of_spoofed_ones() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        site.forwarder_config.append("[limits]\nudp_flows = 64\nudp_flows_per_client = 16");
        let ports = site.origin.udp_socket("127.0.0.1:5353")?;
        site.start()?;
        let client = connected(&lab.node("client")?)?;
        let first = question(&client, &ports)?;
        ensure!(question(&client, &ports)? == first);
        let flood = lab.node("client")?;
        let addresses: Vec<String> =
            (129..250).map(|host| format!("address add 203.0.113.{host}/24 dev eth0")).collect();
        flood.ip(&addresses.join("\n"))?;
        for host in 129..250 {
            for _ in 0..4 {
                // This begins a flow that is never answered.
                flood.udp_socket(&format!("203.0.113.{host}:0"))?.send_to(b"spoofed", SERVICE)?;
            }
            // A service that does not read loses what its socket cannot hold, the live flow's question among it.
            empty(&ports)?;
        }
        ensure!(question(&client, &ports)? == first, "the live flow has another socket now");
        Ok(())
    })
}

#[test]
fn the_origin_asks_a_udp_service_in_kyiv_through_its_own_listener() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        let _echo = UdpEcho::start(lab.node("lan")?.udp_socket("192.168.1.50:53")?)?;
        site.start()?;
        let local = site.origin.udp_socket("127.0.0.1:0")?;
        local.set_read_timeout(Some(Duration::from_millis(500)))?;
        local.connect("127.0.0.1:5300")?;
        for length in [1, 500, 3_000] {
            let content = pattern(length as u64, length);
            let answer = until(Duration::from_secs(10), "an answer", || {
                local.send(&content)?;
                receive(&local).map(Some)
            })?;
            ensure!(answer == content, "{length} bytes came back as {}", answer.len());
        }
        Ok(())
    })
}

/// The worked example with a UDP service each way.
fn site(lab: &Lab) -> Result<Site<'_>> {
    let mut site = Site::new(lab)?;
    site.gateway_config.append(
        "[[publish]]\nname = \"dns\"\nprotocol = [\"udp\"]\nlisten = \"5353\"\ntarget = \"192.168.88.2:5353\"\n\
         [[allow]]\nname = \"names\"\nfrom = [\"peer:wroclaw\"]\nto = [\"192.168.1.50\"]\nprotocol = [\"udp\"]\n\
         ports = [\"53\"]\nsource = \"masquerade\"",
    );
    site.forwarder_config.append(
        "[[service]]\nname = \"dns\"\nprotocol = [\"udp\"]\nmatch = \"192.168.88.2:5353\"\nupstream = \"127.0.0.1:5353\"\n\
         [[reach]]\nname = \"names\"\nprotocol = [\"udp\"]\nlisten = \"127.0.0.1:5300\"\ntarget = \"192.168.1.50:53\"",
    );
    Ok(site)
}

fn connected(client: &Node) -> Result<UdpSocket> {
    let socket = client.udp_socket("203.0.113.10:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect(SERVICE)?;
    Ok(socket)
}

/// Asks and is answered; which port of the forwarder the service saw.
fn question(client: &UdpSocket, service: &UdpSocket) -> Result<u16> {
    service.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.send(b"question")?;
    let mut bytes = [0; 64];
    loop {
        let (length, from) = service.recv_from(&mut bytes)?;
        if bytes.get(..length) == Some(b"question") {
            service.send_to(b"answer", from)?;
            client.set_read_timeout(Some(Duration::from_secs(5)))?;
            client.recv(&mut bytes).context("no answer")?;
            return Ok(from.port());
        }
    }
}

/// Takes what waits in a socket.
fn empty(socket: &UdpSocket) -> Result<()> {
    socket.set_nonblocking(true)?;
    while socket.recv(&mut [0; 64]).is_ok() {}
    Ok(socket.set_nonblocking(false)?)
}

fn receive(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 65_535];
    let length = socket.recv(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}
