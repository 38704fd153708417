//! UDP through the whole data plane, against a WireGuard node in this process.
// A test fails by panicking. Both data-plane test programs share a module, and each uses a part of
// it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    dead_code,
    missing_docs
)]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use forwarder::datagram::{Buffer, Joined, Reassembly};
use forwarder::flow::EdgeId;
use forwarder::stats::Dropped;
use support::{Daemon, Edge};
use tunnel::io::clock;
use tunnel::io::udp::Backend;
use tunnel::packet::icmp::{Echo, Error as IcmpError};
use tunnel::packet::{Ip, Udp, protocol};

const CLIENT: &str = "203.0.113.10:40001";
const SERVICE: &str = "192.168.88.2:53";

#[test]
fn a_request_is_answered_from_the_address_it_was_sent_to() {
    for backend in [Backend::Auto, Backend::Portable] {
        let (mut edge, upstream) = (Edge::new(), server());
        let daemon = Daemon::start(edge.port(), &service(SERVICE, &port(&upstream)), backend);
        come_up(&mut edge);
        edge.send(CLIENT, SERVICE, b"question");
        let (question, forwarder) = receive(&mut edge, &upstream);
        assert_eq!(question, b"question");
        upstream.send_to(b"answer", forwarder).unwrap();
        assert_eq!(edge.receive(SERVICE, CLIENT), b"answer");
        let stats = daemon.stats.services.load().values().next().unwrap().clone();
        let counted = [&stats.flows, &stats.received, &stats.sent].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counted, [1, 8, 6]);
    }
}

#[test]
fn datagrams_of_one_to_8000_bytes_cross_both_ways_over_both_families() {
    let (mut edge, upstream) = (Edge::new(), server());
    let entries = service(SERVICE, &port(&upstream))
        + &service("[fd88::2]:53", &port(&upstream)).replace("dns", "dns6");
    let _daemon = Daemon::start(edge.port(), &entries, Backend::Auto);
    come_up(&mut edge);
    for (client, to) in [(CLIENT, SERVICE), ("[2001:db8::10]:40001", "[fd88::2]:53")] {
        for length in [0, 1, 1_372, 1_392, 1_393, 4_000, 8_000] {
            let content = pattern(length);
            edge.send(client, to, &content);
            let (arrived, forwarder) = receive(&mut edge, &upstream);
            assert!(arrived == content, "{length} bytes to {to} came as {}", arrived.len());
            upstream.send_to(&content, forwarder).unwrap();
            assert!(edge.receive(to, client) == content, "{length} bytes from {to}");
        }
    }
}

#[test]
fn each_client_has_a_socket_of_its_own() {
    let (mut edge, upstream) = (Edge::new(), server());
    let _daemon = Daemon::start(edge.port(), &service(SERVICE, &port(&upstream)), Backend::Auto);
    come_up(&mut edge);
    let clients = ["203.0.113.10:40001", "203.0.113.10:40002", "203.0.113.11:40001"];
    let mut seen = Vec::new();
    for client in clients {
        edge.send(client, SERVICE, client.as_bytes());
        seen.push(receive(&mut edge, &upstream).1);
    }
    for (client, forwarder) in clients.iter().zip(&seen).rev() {
        upstream.send_to(client.as_bytes(), forwarder).unwrap();
        assert_eq!(edge.receive(SERVICE, client), client.as_bytes());
    }
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[test]
fn a_client_of_an_absent_upstream_gets_an_error_that_nothing_listens() {
    let (mut edge, upstream) = (Edge::new(), server());
    let _daemon = Daemon::start(edge.port(), &service(SERVICE, &port(&upstream)), Backend::Auto);
    drop(upstream);
    come_up(&mut edge);
    edge.send(CLIENT, SERVICE, b"question");
    edge.until("port unreachable", |edge| {
        edge.others.iter().any(|packet| is_port_unreachable(packet, CLIENT))
    });
}

#[test]
fn what_no_entry_matches_gets_an_error_and_is_counted() {
    let (mut edge, upstream) = (Edge::new(), server());
    let entry = service(SERVICE, &port(&upstream)) + "allow = [\"198.51.100.0/24\"]\n";
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    come_up(&mut edge);
    for (to, reason) in [("192.168.88.2:54", Dropped::NoService), (SERVICE, Dropped::NotAllowed)] {
        edge.others.clear();
        edge.send(CLIENT, to, b"question");
        edge.until("port unreachable", |edge| {
            edge.others.iter().any(|packet| is_port_unreachable(packet, CLIENT))
        });
        assert_eq!(daemon.stats.dropped(reason), 1, "{reason:?}");
    }
}

#[test]
fn a_burst_of_many_flows_that_cannot_be_joined_reaches_the_flows_whole() {
    let (mut edge, upstream) = (Edge::new(), server());
    let daemon = Daemon::start(edge.port(), &service(SERVICE, &port(&upstream)), Backend::Auto);
    come_up(&mut edge);
    let to: SocketAddr = "192.168.88.2:54".parse().unwrap();
    let client = |at: u16| SocketAddr::new("203.0.113.10".parse().unwrap(), 40_000 + at);
    let burst = (0..800).flat_map(|at| packets(client(at), to, &pattern(1_000))).collect();
    edge.inject_all(burst);
    // Each is refused separately, so each is counted.
    edge.until("all of the burst", |_| daemon.stats.dropped(Dropped::NoService) >= 800);
}

#[test]
fn spoofed_flows_push_out_one_another_and_never_one_that_is_answered() {
    let (mut edge, upstream) = (Edge::new(), server());
    let entry = service(SERVICE, &port(&upstream)) + "[limits]\nudp_flows = 8\n";
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    come_up(&mut edge);
    edge.send(CLIENT, SERVICE, b"first");
    let (_, forwarder) = receive(&mut edge, &upstream);
    upstream.send_to(b"answer", forwarder).unwrap();
    edge.receive(SERVICE, CLIENT);
    edge.send(CLIENT, SERVICE, b"second");
    assert_eq!(receive(&mut edge, &upstream).1, forwarder);
    for host in 0..100 {
        edge.send(&format!("198.51.100.{host}:4000"), SERVICE, b"spoofed");
        receive(&mut edge, &upstream);
    }
    edge.send(CLIENT, SERVICE, b"third");
    assert_eq!(receive(&mut edge, &upstream).1, forwarder, "the live flow has another socket now");
    assert_eq!(daemon.stats.udp_evicted.load(Ordering::Relaxed), 93);
    assert_eq!(daemon.stats.dropped(Dropped::ShedUdpFlows), 0);
}

#[test]
fn one_client_may_have_so_many_flows_and_no_more() {
    let (mut edge, upstream) = (Edge::new(), server());
    let entry = service(SERVICE, &port(&upstream)) + "[limits]\nudp_flows_per_client = 4\n";
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    come_up(&mut edge);
    for port in 0..6 {
        edge.send(&format!("203.0.113.10:{}", 40_000 + port), SERVICE, b"question");
    }
    edge.until("two to be refused", |_| daemon.stats.dropped(Dropped::ShedUdpFlowsOfClient) == 2);
    edge.send("203.0.113.11:40000", SERVICE, b"other");
    for _ in 0..5 {
        receive(&mut edge, &upstream);
    }
}

#[test]
fn an_upstream_gets_an_error_for_a_client_that_is_gone_but_no_message_ends_a_flow_whose_client_sends() {
    let (mut edge, upstream) = (Edge::new(), server());
    let daemon = Daemon::start(edge.port(), &service(SERVICE, &port(&upstream)), Backend::Auto);
    come_up(&mut edge);
    let gone = IcmpError::PortUnreachable;
    let (client, to): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), SERVICE.parse().unwrap());
    let answer = packets(to, client, b"answer").remove(0);
    let icmp_error = gone.build(&answer, client.ip()).unwrap();
    edge.send(CLIENT, SERVICE, b"question");
    let (_, forwarder) = receive(&mut edge, &upstream);
    for _ in 0..3 {
        edge.inject(icmp_error.clone());
        edge.send(CLIENT, SERVICE, b"again");
        assert_eq!(receive(&mut edge, &upstream).1, forwarder);
    }
    // An ICMP error from another machine is ignored.
    let forged = gone.build(&answer, "198.51.100.66".parse().unwrap()).unwrap();
    (0..4).for_each(|_| edge.inject(forged.clone()));
    edge.send(CLIENT, SERVICE, b"again");
    assert_eq!(receive(&mut edge, &upstream).1, forwarder);
    edge.inject(icmp_error.clone());
    edge.inject(icmp_error);
    edge.until("the flow to be over", |_| daemon.stats.udp_flows.load(Ordering::Relaxed) == 0);
    upstream.connect(forwarder).unwrap();
    upstream.send(b"late").unwrap();
    let refused = |upstream: &UdpSocket| {
        upstream.send(b"late").is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    edge.until("the upstream's error", |_| refused(&upstream));
}

#[test]
fn a_router_on_the_way_that_carries_less_gets_smaller_fragments() {
    let (mut edge, upstream) = (Edge::new(), server());
    let _daemon = Daemon::start(edge.port(), &service(SERVICE, &port(&upstream)), Backend::Auto);
    come_up(&mut edge);
    edge.send(CLIENT, SERVICE, b"question");
    let (_, forwarder) = receive(&mut edge, &upstream);
    let (client, to): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), SERVICE.parse().unwrap());
    let answer = packets(to, client, b"answer").remove(0);
    edge.inject(IcmpError::TooBig { mtu: 1_000 }.build(&answer, "192.0.2.1".parse().unwrap()).unwrap());
    edge.send(CLIENT, SERVICE, b"again");
    receive(&mut edge, &upstream);
    edge.others.clear();
    upstream.send_to(&pattern(1_300), forwarder).unwrap();
    edge.until("two fragments", |edge| {
        edge.others.retain(|packet| Ip::parse(packet).unwrap().protocol == protocol::UDP);
        edge.others.len() >= 2
    });
    assert!(edge.others.iter().all(|packet| packet.len() <= 1_000));
}

#[test]
fn a_local_client_reaches_a_udp_service_beyond_the_tunnel() {
    let mut edge = Edge::new();
    let listen = port(&server());
    let entry = format!(
        "[[reach]]\nname = \"dns\"\nprotocol = [\"udp\"]\nlisten = \"{listen}\"\ntarget = \"192.168.1.2:53\"\n"
    );
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    let clients = [server(), server()];
    come_up(&mut edge);
    for (place, client) in clients.iter().enumerate() {
        // Nothing is carried before the tunnel is up; a client of UDP repeats its request.
        client.send_to(b"early", &listen).unwrap();
        edge.others.clear();
        edge.until("the question", |edge| {
            client.send_to(b"question", &listen).unwrap();
            edge.others.retain(|packet| Ip::parse(packet).unwrap().protocol == protocol::UDP);
            !edge.others.is_empty()
        });
        let ip = Ip::parse(&edge.others[0]).unwrap();
        let udp = Udp::parse(ip.payload(&edge.others[0])).unwrap();
        assert_eq!((ip.src.to_string(), ip.dst.to_string()), ("10.77.88.2".into(), "192.168.1.2".into()));
        assert!(udp.source_port >= 49_152 && udp.destination_port == 53);
        let source = SocketAddr::new(ip.src, udp.source_port);
        edge.send("192.168.1.2:53", &source.to_string(), &pattern(3_000 + place));
        assert!(receive(&mut edge, client).0 == pattern(3_000 + place));
        // Not even from another port of the same machine.
        edge.send("192.168.1.2:54", &source.to_string(), b"forged");
    }
    edge.until("the forged ones to be dropped", |_| daemon.stats.dropped(Dropped::NoService) == 2);
    assert_eq!(daemon.stats.udp_flows.load(Ordering::Relaxed), 2);
}

/// Waits until the tunnel carries packets.
fn come_up(edge: &mut Edge) {
    let echo = Echo { is_reply: false, id: 9, sequence: 1, data: b"up?" };
    let packet = echo.build("10.77.88.1".parse().unwrap(), "10.77.88.2".parse().unwrap()).unwrap();
    edge.until("the tunnel", |edge| {
        edge.inject(packet.clone());
        std::thread::sleep(Duration::from_millis(5));
        !edge.others.is_empty()
    });
    edge.others.clear();
}

impl Edge {
    fn send(&mut self, from: &str, to: &str, payload: &[u8]) {
        for packet in packets(from.parse().unwrap(), to.parse().unwrap(), payload) {
            self.inject(packet);
        }
    }

    /// Waits for a datagram between these ends, whole or in fragments.
    fn receive(&mut self, from: &str, to: &str) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut reassembly = Reassembly::default();
        let mut payload = None;
        self.until("a datagram", |edge| {
            for packet in std::mem::take(&mut edge.others) {
                let ip = Ip::parse(&packet).unwrap();
                if (ip.protocol, ip.src, ip.dst) != (protocol::UDP, from.ip(), to.ip()) {
                    continue;
                }
                assert!(packet.len() <= 1_420);
                if let Joined::Whole(datagram) =
                    reassembly.handle_fragment(clock::instant(), EdgeId(0), &ip, ip.payload(&packet))
                {
                    let udp = Udp::parse(&datagram).unwrap();
                    assert_eq!((udp.source_port, udp.destination_port), (from.port(), to.port()));
                    payload = Some(datagram[8..].to_vec());
                }
            }
            payload.is_some()
        });
        payload.unwrap()
    }
}

fn packets(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<Vec<u8>> {
    let mut buffer = Buffer::default();
    buffer.payload_mut()[..payload.len()].copy_from_slice(payload);
    let mut packets = Vec::new();
    buffer.packets((from, to), payload.len(), (1420, 77), |packet| packets.push(packet.to_vec()));
    packets
}

fn is_port_unreachable(packet: &[u8], client: &str) -> bool {
    let ip = Ip::parse(packet).unwrap();
    let client: SocketAddr = client.parse().unwrap();
    ip.protocol == protocol::ICMP && ip.dst == client.ip() && ip.payload(packet).starts_with(&[3, 3])
}

/// Waits for a datagram at a local socket, and answers its sender.
fn receive(edge: &mut Edge, socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_535];
    let mut received = None;
    edge.until("a datagram at the local socket", |_| {
        received = socket.recv_from(&mut bytes).ok();
        received.is_some()
    });
    let (length, from) = received.unwrap();
    bytes.truncate(length);
    (bytes, from)
}

fn server() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn port(socket: &UdpSocket) -> String {
    socket.local_addr().unwrap().to_string()
}

fn service(matches: &str, upstream: &str) -> String {
    format!(
        "[[service]]\nname = \"dns\"\nprotocol = [\"udp\"]\nmatch = \"{matches}\"\nupstream = \"{upstream}\"\n"
    )
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}
