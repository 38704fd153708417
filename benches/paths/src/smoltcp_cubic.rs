//! smoltcp unchanged: one socket with its own CUBIC on a tunnel of its own, which serves what
//! `scenarios::serve_bulk` serves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use lab::pattern;
use scenarios::{Site, preshared_key};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address};
use tunnel::io::udp::{ReceiveBatch, UdpOptions, UdpSocket};
use tunnel::io::{Wait, clock};
use tunnel::node::{Node, NodeConfig, PeerConfig};
use tunnel::offload::coalesce::{CoalesceOptions, Coalescer};
use tunnel::offload::{Offload, SuperPacket};
use tunnel::transmit::SendQueue;

use crate::way::RELAY;

const PORT: u16 = 5001;
/// Bytes of each buffer: what the forwarder's rings have.
const BUFFER: usize = 4 << 20;
const BLOCK: usize = 1 << 20;

/// A sender that runs until it is dropped.
pub(crate) struct SmoltcpOrigin {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SmoltcpOrigin {
    /// Starts it at the site's origin, which dials the relay.
    pub(crate) fn start(site: &Site<'_>) -> Result<Self> {
        let options = UdpOptions { buffer: 8 << 20, ..UdpOptions::default() };
        let socket = site.origin.within(|| UdpSocket::open(&options))??;
        let now = clock::now();
        let config = NodeConfig {
            private_key: Some(site.wroclaw.private.parse().map_err(|error| anyhow!("{error}"))?),
            addresses: vec!["10.77.88.2".parse()?],
            mtu: 1420,
            listen_port: socket.local_port()?,
            liveness: None,
            wall_watermark: Duration::ZERO,
        };
        let node = Node::new(config, now);
        let peer = PeerConfig {
            public_key: site.kyiv.public.parse().map_err(|error| anyhow!("{error}"))?,
            preshared_key: Some(preshared_key("wroclaw").parse().map_err(|error| anyhow!("{error}"))?),
            endpoint: Some(RELAY.parse()?),
            keepalive: Some(Duration::from_secs(5)),
            allowed_ips: vec!["0.0.0.0/0".parse()?],
            probe: None,
            initiate: true,
        };
        node.update_peers(&[peer], &[], now).map_err(|error| anyhow!("{error}"))?;
        let ending = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&ending);
        let mut server = Server::new(node, socket);
        let thread = std::thread::Builder::new().name("smoltcp".to_owned()).spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                if !server.round() {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        })?;
        Ok(Self { ending, thread: Some(thread) })
    }
}

impl Drop for SmoltcpOrigin {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic was printed by the thread itself.
            let _ = thread.join();
        }
    }
}

struct Server {
    node: Node,
    socket: UdpSocket,
    batch: ReceiveBatch,
    inlet: Coalescer,
    packets: Packets,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: smoltcp::iface::SocketHandle,
    content: Vec<u8>,
    request: Vec<u8>,
    /// Bytes still to be written, and how many were.
    left: Option<(u64, usize)>,
}

impl Server {
    fn new(node: Node, socket: UdpSocket) -> Self {
        let mut packets = Packets::default();
        let interface = interface(&mut packets);
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut tcp = tcp::Socket::new(buffer(), buffer());
        tcp.set_congestion_control(tcp::CongestionControl::Cubic);
        tcp.set_nagle_enabled(false);
        tcp.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(tcp);
        Self {
            node,
            socket,
            batch: ReceiveBatch::new(4),
            inlet: Coalescer::new(CoalesceOptions { tcp: false, udp: false }),
            packets,
            interface,
            sockets,
            handle,
            content: pattern(1, BLOCK),
            request: Vec::new(),
            left: None,
        }
    }

    /// Packets in, the service, packets out; `false` when nothing moved.
    fn round(&mut self) -> bool {
        let now = clock::now();
        let mut queue = SendQueue::with_capacity(8 << 20);
        let mut has_moved = false;
        if self.socket.receive(&mut self.batch, Wait::No).is_ok() {
            for received in self.batch.iter_mut() {
                self.node.handle_received(now, received, &mut self.inlet, &mut queue);
            }
            has_moved = true;
        }
        while let Some((_, packet)) = self.inlet.poll_packet() {
            self.packets.arrived.push_back(packet.bytes.to_vec());
        }
        let time = smoltcp::time::Instant::from_micros(
            i64::try_from(now.instant.since_boot().as_micros()).unwrap_or(i64::MAX),
        );
        self.interface.poll(time, &mut self.packets, &mut self.sockets);
        self.serve();
        self.interface.poll(time, &mut self.packets, &mut self.sockets);
        for mut bytes in self.packets.leaving.drain(..) {
            let packet = SuperPacket { bytes: &mut bytes, offload: Offload::None };
            self.node.handle_inner(now, packet, &mut queue);
            has_moved = true;
        }
        self.node.handle_timeout(now, &mut queue);
        self.socket.send(queue.transmits(), Wait::Block);
        has_moved
    }

    /// Reads `down N`, writes N bytes, closes, listens again.
    fn serve(&mut self) {
        let tcp = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        let is_over = !tcp.is_open() || (self.left.is_some() && !tcp.may_recv());
        if is_over {
            tcp.abort();
            self.request.clear();
            self.left = None;
            // Listening is refused only while the socket is open; the next round tries again.
            let _ = tcp.listen(PORT);
        }
        if self.left.is_none() && tcp.can_recv() {
            let request = &mut self.request;
            let _ = tcp.recv(|data| {
                request.extend_from_slice(data);
                (data.len(), ())
            });
            let line = String::from_utf8_lossy(&self.request).into_owned();
            let count = line.strip_prefix("down ").and_then(|line| line.strip_suffix('\n'));
            self.left = count.and_then(|count| Some((count.parse().ok()?, 0)));
        }
        let Some((left, at)) = &mut self.left else { return };
        while *left > 0 && tcp.can_send() {
            let len = usize::try_from(*left).unwrap_or(BLOCK).min(BLOCK - *at);
            let piece = self.content.get(*at..*at + len).unwrap_or_default();
            let sent = tcp.send_slice(piece).unwrap_or(0);
            *left -= sent as u64;
            *at = (*at + sent) % BLOCK;
        }
    }
}

fn interface(packets: &mut Packets) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = 0x5eed;
    let mut interface = Interface::new(config, packets, smoltcp::time::Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        // The list is empty and holds two.
        let _ = addresses.push(IpCidr::new(IpAddress::v4(192, 168, 88, 2), 24));
    });
    let _ = interface.routes_mut().add_default_ipv4_route(Ipv4Address::new(192, 168, 88, 1));
    interface
}

/// Packets between smoltcp and the tunnel.
#[derive(Default)]
struct Packets {
    arrived: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
}

struct Arrived(Vec<u8>);

struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Packets {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1420;
        capabilities
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}
