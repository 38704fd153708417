//! The whole data plane against a WireGuard node in this process, over loopback UDP.
// A test fails by panicking. What the other data-plane test program shares is public.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use forwarder::stats::{Dialled, Dropped};
use support::{Daemon, Edge};
use tunnel::io::udp::Backend;
use tunnel::packet::icmp::{Echo, Error};
use tunnel::packet::{Bare, Ip};

#[test]
fn a_page_is_fetched_and_the_upstream_sees_the_client_in_a_proxy_header() {
    for backend in [Backend::Auto, Backend::Portable] {
        let (mut edge, upstream) = (Edge::new(), listener());
        let entry = service("web", "192.168.88.2:443", port(&upstream), "v2");
        let _daemon = Daemon::start(edge.port(), &entry, backend);
        connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
        edge.write_all(b"GET / HTTP/1.0\r\n\r\n");
        let (mut service, _) = upstream.accept().unwrap();
        let mut header = [0; 28];
        service.read_exact(&mut header).unwrap();
        assert_eq!(header[16..24], [203, 0, 113, 10, 192, 168, 88, 2]);
        assert_eq!(header[24..28], [0x9c, 0x41, 0x01, 0xbb]);
        let mut request = [0; 18];
        service.read_exact(&mut request).unwrap();
        service.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").unwrap();
        drop(service);
        assert_eq!(edge.read_exact(24), b"HTTP/1.0 200 OK\r\n\r\nhello");
        edge.until("the end of the answer", |edge| edge.cell.as_mut().unwrap().is_drained());
    }
}

#[test]
fn what_a_visitors_probe_has_sent_is_found_in_the_first_bytes_of_its_flow_with_its_client() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "v2");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    let (sought, other) = (daemon.arrivals.seek([7; 32]).unwrap(), daemon.arrivals.seek([8; 32]).unwrap());
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    edge.write_all(&[&[0; 11][..], &[7; 32]].concat());
    let _service = upstream.accept().unwrap();
    edge.until("the mark", |_| sought.client().is_some());
    assert_eq!((sought.client(), other.client()), (Some("203.0.113.10".parse().unwrap()), None));
}

#[test]
fn ipv6_flows_are_carried_to_an_ipv4_upstream() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "[fd88::2]:443", port(&upstream), "v1");
    let _daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "[2001:db8::10]:40001", "[fd88::2]:443");
    edge.write_all(b"ping");
    let (mut service, _) = upstream.accept().unwrap();
    let expected = b"PROXY TCP6 2001:db8::10 fd88::2 40001 443\r\nping";
    let mut bytes = vec![0; expected.len()];
    service.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
    let large = pattern(300_000);
    let copy = large.clone();
    let writer = std::thread::spawn(move || service.write_all(&copy));
    assert_eq!(edge.read_exact(large.len()), large);
    writer.join().unwrap().unwrap();
}

#[test]
fn megabytes_cross_both_ways_unchanged() {
    for backend in [Backend::Auto, Backend::Portable] {
        let (mut edge, upstream) = (Edge::new(), listener());
        let entry = service("bulk", "192.168.88.2:5001", port(&upstream), "off");
        let daemon = Daemon::start(edge.port(), &entry, backend);
        connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:5001");
        let (mut service, _) = upstream.accept().unwrap();
        let content = pattern(8 << 20);
        let echo = std::thread::spawn(move || {
            let mut bytes = vec![0; 8 << 20];
            service.read_exact(&mut bytes).unwrap();
            service.write_all(&bytes).unwrap();
        });
        edge.write_all(&content);
        assert!(edge.read_exact(content.len()) == content, "the bytes differ");
        echo.join().unwrap();
        let entry = daemon.stats.services.load().values().next().unwrap().clone();
        assert_eq!(entry.received.load(std::sync::atomic::Ordering::Relaxed), 8 << 20);
        assert_eq!(entry.sent.load(std::sync::atomic::Ordering::Relaxed), 8 << 20);
    }
}

#[test]
fn a_refused_upstream_is_a_refused_client() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    drop(upstream);
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    edge.connect("203.0.113.10:40001", "192.168.88.2:443");
    edge.until("the reset", |edge| edge.cell.as_mut().unwrap().ending().is_some());
    let stats = daemon.stats.services.load().values().next().unwrap().clone();
    assert!(stats.dials(Dialled::Refused) >= 1);
}

#[test]
fn a_flow_goes_to_the_next_upstream_when_one_refuses() {
    let (mut edge, first, second) = (Edge::new(), listener(), listener());
    let both = format!("[\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", port(&first), port(&second));
    drop(first);
    let entry = format!("[[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\nupstream = {both}\n");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    for client in 0..4 {
        connect_when_up(&mut edge, &format!("203.0.113.10:{}", 40_001 + client), "192.168.88.2:443");
        second.accept().unwrap();
    }
    let pools = daemon.pools.load();
    let failures: Vec<u64> =
        pools.values().next().unwrap().members().iter().map(|member| member.failures()).collect();
    assert_eq!(failures, [1, 0], "one that refused is not dialled again at once");
    let stats = daemon.stats.services.load().values().next().unwrap().clone();
    assert_eq!((stats.dials(Dialled::Connected), stats.dials(Dialled::Refused)), (4, 0));
}

#[test]
fn flows_are_spread_over_the_upstreams() {
    let (mut edge, one, other) = (Edge::new(), listener(), listener());
    let both = format!("[\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", port(&one), port(&other));
    let entry = format!("[[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\nupstream = {both}\n");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    for client in 0..6 {
        connect_when_up(&mut edge, &format!("203.0.113.10:{}", 40_001 + client), "192.168.88.2:443");
    }
    let pools = daemon.pools.load();
    let flows: Vec<u64> =
        pools.values().next().unwrap().members().iter().map(|member| member.flows()).collect();
    assert_eq!(flows, [3, 3]);
}

#[test]
fn a_unix_socket_is_an_upstream_and_gets_the_header() {
    let mut edge = Edge::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("caddy.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let entry = format!(
        "[[service]]\nname = \"web\"\nmatch = \"192.168.88.2:443\"\nupstream = \"unix:{}\"\nproxy_protocol = \"v1\"\n",
        path.display()
    );
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    edge.write_all(b"ping");
    let (mut service, _) = listener.accept().unwrap();
    let expected = b"PROXY TCP4 203.0.113.10 192.168.88.2 40001 443\r\nping";
    let mut bytes = vec![0; expected.len()];
    service.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
    service.write_all(b"pong").unwrap();
    assert_eq!(edge.read_exact(4), b"pong");
    drop((service, listener));
    std::fs::remove_file(&path).unwrap();
    edge.connect("203.0.113.10:40002", "192.168.88.2:443");
    edge.until("the reset", |edge| edge.cell.as_mut().unwrap().ending().is_some());
    let stats = daemon.stats.services.load().values().next().unwrap().clone();
    assert_eq!(stats.dials(Dialled::Refused), 1);
}

#[test]
fn every_address_of_a_name_is_tried() {
    // The name leads to ::1 as well where the machine has IPv6, and nothing listens there.
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry =
        service("web", "192.168.88.2:443", port(&upstream), "off").replace("127.0.0.1:", "localhost:");
    let _daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    upstream.accept().unwrap();
}

#[test]
fn only_those_in_a_named_list_may_connect() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), "203.0.113.0/28 # friends\n").unwrap();
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off")
        + &format!(
            "allow = [\"@friends\"]\n[[list]]\nname = \"friends\"\nfile = \"{}\"\n",
            list.path().display()
        );
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    edge.connect("203.0.113.16:40001", "192.168.88.2:443");
    edge.until("the reset", |edge| edge.cell.as_mut().unwrap().ending().is_some());
    assert!(daemon.stats.dropped(Dropped::NotAllowed) >= 1);
}

#[test]
fn a_flood_of_spoofed_syns_keeps_no_client_out_that_tries_twice() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off") + "[limits]\nflows = 64\n";
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    let (mut first, _) = upstream.accept().unwrap();
    for host in 0..500u32 {
        edge.inject(spoofed_syn(host));
    }
    edge.until("the flood to be counted", |_| daemon.stats.dropped(Dropped::Greylisted) >= 400);
    // The flow from before goes on.
    edge.write_all(b"still here");
    first.read_exact(&mut [0; 10]).unwrap();
    // A real client sends its SYN again after a second.
    connect_when_up(&mut edge, "203.0.113.11:40001", "192.168.88.2:443");
    assert!(daemon.stats.half_open_evicted.load(std::sync::atomic::Ordering::Relaxed) >= 1);
    assert_eq!(daemon.stats.dropped(Dropped::ShedFlows), 0);
}

#[test]
fn what_no_entry_matches_is_reset_and_counted() {
    let mut edge = Edge::new();
    let entry = service("web", "192.168.88.2:443", 1, "off") + "allow = [\"198.51.100.0/24\"]\n";
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    for (port, reason) in [(22, Dropped::NoService), (443, Dropped::NotAllowed)] {
        edge.connect("203.0.113.10:40001", &format!("192.168.88.2:{port}"));
        edge.until("the reset", |edge| edge.cell.as_mut().unwrap().ending().is_some());
        assert!(daemon.stats.dropped(reason) >= 1, "{reason:?}");
    }
}

#[test]
fn each_direction_closes_by_itself() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    let (mut service, _) = upstream.accept().unwrap();
    edge.write_all(b"question");
    edge.cell.as_mut().unwrap().close();
    let answer = std::thread::spawn(move || {
        let mut question = String::new();
        service.read_to_string(&mut question).unwrap();
        service.write_all(b"answer").unwrap();
        question
    });
    assert_eq!(edge.read_exact(6), b"answer");
    assert_eq!(answer.join().unwrap(), "question");
    edge.until("the end", |edge| edge.cell.as_mut().unwrap().ending().is_some());
    assert_eq!(edge.resets, 0);
    wait_for("the flow to be over", || open_flows(&daemon) == 0);
}

#[test]
fn a_reset_passes_through_both_ways() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    let _daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    let (mut service, _) = upstream.accept().unwrap();
    edge.cell.as_mut().unwrap().abort();
    edge.until("the reset to leave", |edge| edge.cell.as_mut().unwrap().ending().is_some());
    service.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let error = service.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    connect_when_up(&mut edge, "203.0.113.10:40002", "192.168.88.2:443");
    let (service, _) = upstream.accept().unwrap();
    edge.write_all(b"unread");
    wait_for("the byte to arrive", || service.peek(&mut [0; 6]).is_ok_and(|len| len == 6));
    drop(service);
    edge.until("the reset", |edge| edge.resets > 0);
}

#[test]
fn a_port_that_a_client_resets_and_uses_again_at_once_opens_a_new_flow() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    let first = upstream.accept().unwrap();
    let (sequence, acknowledged) = edge.cell.take().unwrap().final_numbers();
    let (source, destination) = ("203.0.113.10:40001".parse().unwrap(), "192.168.88.2:443".parse().unwrap());
    let reset = Bare {
        source,
        destination,
        sequence,
        acknowledgement: Some(acknowledged),
        flags: tunnel::packet::tcp_flags::RST,
    };
    let sequence = sequence.wrapping_add(100_000);
    let syn = Bare { sequence, acknowledgement: None, flags: tunnel::packet::tcp_flags::SYN, ..reset };
    edge.inject_all(vec![reset.packet(), syn.packet()]);
    edge.until("an answer", |edge| !edge.others.is_empty());
    assert_eq!(edge.resets, 0, "the new flow was refused");
    drop((first, upstream.accept().unwrap()));
    wait_for("one flow alone to be left", || open_flows(&daemon) == 1);
}

#[test]
fn a_local_client_reaches_a_service_beyond_the_tunnel_from_a_privileged_port() {
    let mut edge = Edge::new();
    let (listen, entry) = reach("source_port = \"privileged\"\non_down = \"hold\"\n");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    edge.listen("192.168.1.2:2049");
    let mut client = TcpStream::connect(("127.0.0.1", listen)).unwrap();
    client.write_all(b"mount").unwrap();
    assert_eq!(edge.read_exact(5), b"mount");
    let caller = edge.caller().unwrap();
    assert_eq!(caller.ip().to_string(), "10.77.88.2");
    assert!((600..1024).contains(&caller.port()), "{caller}");
    edge.write_all(b"exported");
    edge.cell.as_mut().unwrap().close();
    let reader = std::thread::spawn(move || {
        let mut answer = String::new();
        client.read_to_string(&mut answer).map(|_| answer)
    });
    edge.until("the client to be served", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap().unwrap(), "exported");
    assert_eq!(daemon.stats.reach.load().values().next().unwrap().dials(Dialled::Connected), 1);
}

#[test]
fn a_dial_into_the_tunnel_fails_as_soon_as_a_router_reports_unreachable() {
    let mut edge = Edge::new();
    let (listen, entry) = reach("on_down = \"hold\"\n");
    let _daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    let mut client = TcpStream::connect(("127.0.0.1", listen)).unwrap();
    edge.until("the SYN", |edge| edge.others.iter().any(|packet| goes_to_the_reach(packet)));
    let syn = edge.others.iter().find(|packet| goes_to_the_reach(packet)).unwrap();
    let answer = Error::HostUnreachable.build(syn, "10.77.88.1".parse().unwrap()).unwrap();
    edge.inject(answer);
    let reader = std::thread::spawn(move || client.read(&mut [0]).unwrap_err().kind());
    edge.until("the client's error", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_router_is_believed_only_if_it_quotes_what_is_on_the_path() {
    let mut edge = Edge::new();
    let (listen, entry) = reach("on_down = \"hold\"\n");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    let client = TcpStream::connect(("127.0.0.1", listen)).unwrap();
    client.set_nonblocking(true).unwrap();
    edge.until("the SYN", |edge| edge.others.iter().any(|packet| goes_to_the_reach(packet)));
    let syn = edge.others.iter().find(|packet| goes_to_the_reach(packet)).unwrap().clone();
    let router = "10.77.88.1".parse().unwrap();
    let believed = || daemon.stats.dropped(Dropped::UnrelatedIcmp);
    let quoting = |sequence: u32| {
        let mut forged = syn.clone();
        forged[24..28].copy_from_slice(&sequence.to_be_bytes());
        Error::HostUnreachable.build(&forged, router).unwrap()
    };
    let sent = u32::from_be_bytes(syn[24..28].try_into().unwrap());
    let forged = [0, 1, u32::MAX, sent.wrapping_sub(1), sent.wrapping_add(1), sent ^ (1 << 31)];
    edge.inject_all(forged.map(quoting).to_vec());
    edge.until("the forged messages to be counted", |_| believed() == forged.len() as u64);
    let read = |mut client: &TcpStream| client.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read(&client), Err(std::io::ErrorKind::WouldBlock), "the dial goes on");
    edge.inject(quoting(sent));
    edge.until("the true message", |_| read(&client) == Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_forged_too_big_message_does_not_shrink_a_flow_and_a_true_one_does() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    let mut server = upstream.accept().unwrap().0;
    server.write_all(&pattern(3_000)).unwrap();
    assert_eq!(edge.read_exact(3_000), pattern(3_000));
    let acknowledged = edge.cell.as_ref().unwrap().final_numbers().1;
    let (local, remote) = ("192.168.88.2:443".parse().unwrap(), "203.0.113.10:40001".parse().unwrap());
    let too_big = |sequence| {
        let quoted =
            Bare { source: local, destination: remote, sequence, acknowledgement: Some(1), flags: 16 };
        Error::TooBig { mtu: 576 }.build(&quoted.packet(), "10.77.88.1".parse().unwrap()).unwrap()
    };
    let forged = [0, 1, u32::MAX, acknowledged.wrapping_sub(1), acknowledged, acknowledged.wrapping_add(9)];
    edge.inject_all(forged.map(too_big).to_vec());
    let refused = || daemon.stats.dropped(Dropped::UnrelatedIcmp);
    edge.until("the forged messages to be counted", |_| refused() == forged.len() as u64);

    // What is not acknowledged is on the path.
    let cell = edge.cell.take();
    server.write_all(&pattern(1_000)).unwrap();
    edge.until("data that is not acknowledged", |edge| edge.others.iter().any(|packet| packet.len() > 1_000));
    edge.inject(too_big(acknowledged));
    edge.until("the same in smaller pieces", |edge| {
        edge.others.iter().filter(|packet| (100..=576).contains(&packet.len())).count() >= 2
    });
    assert_eq!(refused(), forged.len() as u64);
    drop(cell);
}

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[test]
fn an_origin_that_one_stray_packet_led_elsewhere_returns_to_its_configured_endpoint() {
    let mut edge = Edge::answering();
    let _daemon = Daemon::start(edge.port(), &service("web", "192.168.88.2:443", 1, "off"), Backend::Auto);
    edge.until("the session", |edge| edge.handshakes() == 1);
    let settled = Instant::now() + Duration::from_secs(1);
    edge.until("the first probe to be answered", |_| Instant::now() > settled);
    let mut elsewhere = edge.stray();
    let (limit, mut again) = (after(50), after(20));
    // Three probes without a reply, and the three steps of recovery.
    while edge.handshakes() < 2 {
        assert!(Instant::now() < limit, "it stays where one packet led it");
        if Instant::now() > again {
            // A reply to a probe that was under way has moved the endpoint back at once, and
            // nothing was lost.
            (elsewhere, again) = (edge.stray(), after(20));
        }
        let soon = Instant::now() + Duration::from_millis(500);
        edge.until("half a second", |_| Instant::now() > soon);
    }
    drop(elsewhere);
}

#[test]
fn a_listener_refuses_while_the_tunnel_is_down() {
    let edge = Edge::new();
    let (listen, entry) = reach("");
    let daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    let mut client = TcpStream::connect(("127.0.0.1", listen)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(daemon.stats.reach.load().values().next().unwrap().dials(Dialled::Down), 1);
}

#[test]
fn echo_requests_to_tunnel_and_service_addresses_are_answered_and_no_others() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    let _daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    for (id, address) in [(1, "10.77.88.2"), (2, "192.168.88.3"), (3, "192.168.88.2")] {
        let echo = Echo { is_reply: false, id, sequence: 1, data: b"0123456789abcdefghijklmnopqrstuvwxyz" };
        edge.inject(echo.build("203.0.113.10".parse().unwrap(), address.parse().unwrap()).unwrap());
    }
    let ids = |edge: &Edge| -> Vec<u16> {
        let id = |packet: &Vec<u8>| {
            Echo::parse(&Ip::parse(packet).ok()?, packet).filter(|echo| echo.is_reply).map(|echo| echo.id)
        };
        edge.others.iter().filter_map(id).collect()
    };
    edge.until("two replies", |edge| ids(edge).len() >= 2);
    assert_eq!(ids(&edge), [1, 3]);
}

#[test]
fn a_stop_lets_a_flow_finish_and_takes_no_new_one() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    let mut daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    let (mut service, _) = upstream.accept().unwrap();
    let stopping = std::thread::spawn(move || {
        daemon.stop(Duration::from_secs(20));
        daemon
    });
    std::thread::sleep(Duration::from_millis(100));
    edge.write_all(b"late");
    let mut late = [0; 4];
    service.read_exact(&mut late).unwrap();
    drop(service);
    edge.cell.as_mut().unwrap().close();
    edge.until("the daemon to end", |_| stopping.is_finished());
    let daemon = stopping.join().unwrap();
    assert_eq!(open_flows(&daemon), 0);
}

#[test]
fn a_flow_that_does_not_finish_is_reset_when_its_time_is_over() {
    let (mut edge, upstream) = (Edge::new(), listener());
    let entry = service("web", "192.168.88.2:443", port(&upstream), "off");
    let mut daemon = Daemon::start(edge.port(), &entry, Backend::Auto);
    connect_when_up(&mut edge, "203.0.113.10:40001", "192.168.88.2:443");
    let (mut service, _) = upstream.accept().unwrap();
    daemon.stop(Duration::from_millis(300));
    edge.until("the reset", |edge| edge.resets > 0);
    assert_eq!(service.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

fn spoofed_syn(host: u32) -> Vec<u8> {
    let from = std::net::SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + host), 4_000));
    let syn = Bare {
        source: from,
        destination: "192.168.88.2:443".parse().unwrap(),
        sequence: host,
        acknowledgement: None,
        flags: tunnel::packet::tcp_flags::SYN,
    };
    syn.packet()
}

/// Opens a flow; the first SYNs are lost while the tunnel comes up.
fn connect_when_up(edge: &mut Edge, client: &str, to: &str) {
    edge.connect(client, to);
    edge.until("the flow to open", |edge| edge.cell.as_mut().unwrap().is_established());
}

fn open_flows(daemon: &Daemon) -> u64 {
    let flows = |entry: &std::sync::Arc<forwarder::stats::EntryStats>| {
        entry.flows.load(std::sync::atomic::Ordering::Relaxed)
    };
    daemon.stats.services.load().values().map(flows).sum()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited five seconds for {what}");
}

fn service(name: &str, matches: &str, upstream: u16, proxy: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nmatch = \"{matches}\"\nupstream = \"127.0.0.1:{upstream}\"\n\
         proxy_protocol = \"{proxy}\"\n"
    )
}

/// An entry for a service beyond the tunnel, and the local port it listens on.
fn reach(more: &str) -> (u16, String) {
    let listen = port(&listener());
    let entry = format!(
        "[[reach]]\nname = \"nfs\"\nlisten = \"127.0.0.1:{listen}\"\ntarget = \"192.168.1.2:2049\"\n{more}"
    );
    (listen, entry)
}

/// Whether a packet is one that the entry of [`reach`] sent; the link sends its own.
fn goes_to_the_reach(packet: &[u8]) -> bool {
    Ip::parse(packet).is_ok_and(|ip| ip.dst.to_string() == "192.168.1.2")
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}
