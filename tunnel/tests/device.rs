//! The device on a real TUN, in a user and network namespace of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr, UdpSocket as Plain};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tunnel::device::{Call, Device, DeviceEvent, Offloads, Threads};
use tunnel::io::self_test;
use tunnel::io::tun::{Tun, TunOffload, TunOptions};
use tunnel::io::udp::{ReceiveBatch, UdpOptions, UdpSocket};
use tunnel::io::{Wait, clock};
use tunnel::key::PrivateKey;
use tunnel::node::{Node, NodeConfig, PeerConfig};
use tunnel::offload::{CoalesceOptions, Coalescer, Offload, SuperPacket};
use tunnel::transmit::SendQueue;

const NEAR: &str = "10.77.88.1";
const FAR: &str = "10.77.88.2";

#[test]
fn packets_cross_both_ways_with_every_offload_on_off_and_switched() {
    in_namespace("packets_cross_both_ways_with_every_offload_on_off_and_switched", || {
        for threads in [Threads::One, Threads::Auto, Threads::PerDirection] {
            let mut lab = Lab::new(threads);
            lab.exchange(20);
            let off =
                Offloads { tun_tcp: false, tun_udp: false, udp_gso: false, udp_gro: false, busy_poll: false };
            lab.device.set_offloads(off).unwrap();
            lab.exchange(20);
            lab.device.set_offloads(Offloads::default()).unwrap();
            lab.exchange(20);
        }
    });
}

#[test]
fn the_receiving_side_changes_threads_while_traffic_flows() {
    in_namespace("the_receiving_side_changes_threads_while_traffic_flows", || {
        let mut lab = Lab::new(Threads::Auto);
        lab.exchange(3);
        assert_eq!(lab.device.stats().divisions.read(), 0);
        for round in 1..=3 {
            lab.device.set_threads(Threads::PerDirection);
            lab.exchange(3);
            assert_eq!(lab.device.stats().divisions.read(), round);
            lab.device.set_threads(Threads::Auto);
            let end = Instant::now() + Duration::from_secs(10);
            while lab.device.stats().joins.read() < round {
                assert!(Instant::now() < end, "it never came back");
                lab.exchange(1);
            }
            lab.exchange(3);
        }
    });
}

#[test]
fn another_socket_takes_over_while_traffic_flows_and_nothing_leaks() {
    in_namespace("another_socket_takes_over_while_traffic_flows_and_nothing_leaks", || {
        for threads in [Threads::One, Threads::Auto, Threads::PerDirection] {
            let mut lab = Lab::new(threads);
            lab.exchange(3);
            let before = descriptors();
            for _ in 0..5 {
                let old = lab.device.socket().local_port().unwrap();
                lab.device.rebind(UdpSocket::open(&UdpOptions::default()).unwrap()).unwrap();
                assert_ne!(lab.device.socket().local_port().unwrap(), old);
                // The far side follows the authenticated packets to the new port.
                lab.exchange(3);
            }
            assert_eq!((descriptors(), lab.device.stats().rebinds.read()), (before, 5));
            let start = Instant::now();
            lab.device.stop();
            assert!(!lab.device.is_running() && start.elapsed() < Duration::from_secs(1));
        }
    });
}

#[test]
fn a_deleted_tun_ends_the_threads_and_is_reported() {
    in_namespace("a_deleted_tun_ends_the_threads_and_is_reported", || {
        for threads in [Threads::One, Threads::Auto, Threads::PerDirection] {
            let lab = Lab::new(threads);
            ip("link del gw0");
            let end = Instant::now() + Duration::from_secs(5);
            while lab.events.recv_timeout(end - Instant::now()).unwrap() != DeviceEvent::TunGone {}
            assert!(!lab.device.is_running());
        }
    });
}

#[test]
fn packets_cross_the_device_both_ways_by_its_self_test() {
    in_namespace("packets_cross_the_device_both_ways_by_its_self_test", || {
        let offload = TunOffload { tcp: true, udp: true };
        let tun = Tun::open(&TunOptions { name: "gw0", persistent: false, offload }).unwrap();
        ip(&format!("addr add {NEAR}/30 dev gw0"));
        let (near, far) = (NEAR.parse().unwrap(), FAR.parse().unwrap());
        let error = self_test::test(&tun, near, far).unwrap_err().to_string();
        assert!(error.starts_with("nothing can be written to gw0: Input/output error"), "{error}");
        ip("link set gw0 up");
        self_test::test(&tun, near, far).unwrap();
        // The device gives no answer for an address that is not routed to it.
        ip("route add blackhole 192.0.2.0/24");
        let elsewhere = "192.0.2.1".parse().unwrap();
        let error = self_test::test(&tun, near, elsewhere).unwrap_err().to_string();
        assert!(error.contains("none of the answers came out of it"), "{error}");
        ip("addr add fd77::1/64 dev gw0");
        self_test::test(&tun, "fd77::1".parse().unwrap(), "fd77::2".parse().unwrap()).unwrap();
    });
}

#[test]
fn writes_that_keep_failing_are_a_problem_until_they_work_again() {
    in_namespace("writes_that_keep_failing_are_a_problem_until_they_work_again", || {
        let mut lab = Lab::new(Threads::Auto);
        lab.exchange(3);
        lab.app.send_to(&[7; 100], (FAR, 9)).unwrap();
        let packet = lab.far_receives();
        assert!(lab.device.problems(clock::instant()).is_empty());
        ip("link set gw0 down");
        let end = Instant::now() + Duration::from_secs(20);
        let problem = loop {
            assert!(Instant::now() < end, "no problem in sight");
            lab.far_answers(packet.clone());
            std::thread::sleep(Duration::from_millis(20));
            if let [problem] = &lab.device.problems(clock::instant())[..] {
                break problem.clone();
            }
        };
        assert!(problem.contains("written to gw0 (Input/output error"), "{problem}");
        assert!(problem.ends_with("run: ip link set gw0 up"), "{problem}");
        ip("link set gw0 up");
        lab.exchange(3);
        assert!(lab.device.problems(clock::instant()).is_empty());
        assert!(lab.device.call(Call::TunWrite, clock::instant()).0 >= 16);
    });
}

#[test]
fn an_idle_device_is_sound_and_a_device_ends_at_once_with_its_watchdog() {
    in_namespace("an_idle_device_is_sound_and_a_device_ends_at_once_with_its_watchdog", || {
        for threads in [Threads::One, Threads::Auto, Threads::PerDirection] {
            let mut lab = Lab::new(threads);
            lab.device.watch(|fault| panic!("{fault}")).unwrap();
            lab.exchange(3);
            // Long enough for more samples than a stuck thread is allowed.
            std::thread::sleep(Duration::from_secs(6));
            assert!(lab.device.is_healthy() && !lab.device.has_failed());
            let start = Instant::now();
            lab.device.stop();
            assert!(start.elapsed() < Duration::from_secs(1));
        }
    });
}

#[test]
fn packets_in_quick_succession_start_busy_polling_unless_it_is_turned_off() {
    if std::thread::available_parallelism().map_or(1, usize::from) == 1 {
        return;
    }
    in_namespace("packets_in_quick_succession_start_busy_polling_unless_it_is_turned_off", || {
        let mut lab = Lab::new(Threads::Auto);
        lab.exchange(3);
        let end = Instant::now() + Duration::from_secs(20);
        while lab.device.stats().busy_polls.read() == 0 {
            assert!(Instant::now() < end, "it never busy-polled");
            lab.app.send_to(&[0; 60], (FAR, 9)).unwrap();
            std::thread::sleep(Duration::from_micros(20));
        }
        lab.device.set_offloads(Offloads { busy_poll: false, ..Offloads::default() }).unwrap();
        // The wait under way may have begun before.
        std::thread::sleep(Duration::from_millis(5));
        let before = lab.device.stats().busy_polls.read();
        for _ in 0..2_000 {
            lab.app.send_to(&[0; 60], (FAR, 9)).unwrap();
            std::thread::sleep(Duration::from_micros(20));
        }
        assert_eq!(lab.device.stats().busy_polls.read(), before);
    });
}

/// A device on a TUN, and a far node that this test drives by hand.
struct Lab {
    device: Device,
    events: mpsc::Receiver<DeviceEvent>,
    app: Plain,
    far: Node,
    far_socket: UdpSocket,
    batch: ReceiveBatch,
    sink: Coalescer,
    out: SendQueue,
}

impl Lab {
    fn new(threads: Threads) -> Self {
        let offload = TunOffload { tcp: true, udp: true };
        let tun = Tun::open(&TunOptions { name: "gw0", persistent: false, offload }).unwrap();
        ip(&format!("addr add {NEAR}/30 dev gw0"));
        ip("link set gw0 up mtu 1420");
        ip("link set lo up");
        let far_socket = UdpSocket::open(&UdpOptions::default()).unwrap();
        let socket = UdpSocket::open(&UdpOptions::default()).unwrap();
        let near_port = socket.local_port().unwrap();
        let (near_key, far_key) = (PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32]));
        let near = node(&near_key, &far_key, FAR, far_socket.local_port().unwrap());
        let far = node(&far_key, &near_key, NEAR, near_port);
        let (send, events) = mpsc::channel();
        let on_event = move |event| {
            let _ = send.send(event);
        };
        let device =
            Device::start(Arc::new(near), tun, socket, Offloads::default(), threads, on_event).unwrap();
        let app = Plain::bind((NEAR, 0)).unwrap();
        app.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self {
            device,
            events,
            app,
            far,
            far_socket,
            batch: ReceiveBatch::new(4),
            sink: Coalescer::new(CoalesceOptions { tcp: true, udp: false }),
            out: SendQueue::with_capacity(256 << 10),
        }
    }

    /// Sends datagrams of growing size through the TUN and back; each must come out whole and in
    /// order.
    fn exchange(&mut self, count: usize) {
        for i in 0..count {
            let payload = vec![i as u8; 1 + i * 60];
            self.app.send_to(&payload, (FAR, 9)).unwrap();
            let packet = self.far_receives();
            assert_eq!(packet[28..], payload);
            self.far_answers(packet);
            let mut answer = vec![0; 2000];
            let (len, from) = self.app.recv_from(&mut answer).unwrap();
            assert_eq!((&answer[..len], from), (&payload[..], format!("{FAR}:9").parse().unwrap()));
        }
    }

    fn far_receives(&mut self) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            self.far.handle_timeout(clock::now(), &mut self.out);
            self.far_sends();
            if self.far_socket.receive(&mut self.batch, Wait::No).is_err() {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            for received in self.batch.iter_mut() {
                self.far.handle_received(clock::now(), received, &mut self.sink, &mut self.out);
            }
            self.far_sends();
            let mut found = None;
            while let Some((_, packet)) = self.sink.poll_packet() {
                // The kernel's own router solicitations may be there too.
                if packet.bytes[9] == 17 && packet.bytes[0] == 0x45 {
                    assert_eq!(packet.offload, Offload::None);
                    found = Some(packet.bytes.to_vec());
                }
            }
            if let Some(packet) = found {
                return packet;
            }
        }
        panic!("nothing came within 5 s");
    }

    /// Sends the packet back with addresses and ports swapped, which leaves both checksums right.
    fn far_answers(&mut self, mut packet: Vec<u8>) {
        let (head, tail) = packet.split_at_mut(16);
        head[12..].swap_with_slice(&mut tail[..4]);
        let (head, tail) = packet.split_at_mut(22);
        head[20..].swap_with_slice(&mut tail[..2]);
        let packet = SuperPacket { bytes: &mut packet, offload: Offload::None };
        self.far.handle_inner(clock::now(), packet, &mut self.out);
        self.far_sends();
    }

    fn far_sends(&mut self) {
        self.far_socket.send(self.out.transmits(), Wait::Block);
        self.out.clear();
    }
}

fn node(own: &PrivateKey, peer: &PrivateKey, peer_address: &str, peer_port: u16) -> Node {
    let now = clock::now();
    let config = NodeConfig {
        private_key: Some(own.clone()),
        addresses: Vec::new(),
        mtu: 1420,
        listen_port: 0,
        liveness: None,
        wall_watermark: Duration::ZERO,
    };
    let node = Node::new(config, now);
    let peer = PeerConfig {
        public_key: peer.public(),
        preshared_key: None,
        endpoint: Some(SocketAddr::from(([127, 0, 0, 1], peer_port))),
        keepalive: None,
        allowed_ips: vec![peer_address.parse::<IpAddr>().unwrap().into()],
        probe: None,
        initiate: false,
    };
    node.update_peers(&[peer], &[], now).unwrap();
    node
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs the body in a process of its own inside fresh namespaces, where it may make a TUN device.
fn in_namespace(test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "TUNNEL_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespace");
}
