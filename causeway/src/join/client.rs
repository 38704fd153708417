//! The joiner's tunnel: a WireGuard node of its own on one UDP socket, and one TCP connection
//! through it. It needs no device and no privilege.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use daemon::link::frame::{FrameReader, frame};
use daemon::local_network::Program;
use daemon::pairing::code::Code;
use daemon::pairing::message::MAX_MESSAGE;
use ipnetwork::IpNetwork;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tunnel::io::udp::{Backend, ReceiveBatch, UdpOptions, UdpSocket};
use tunnel::io::{Wait, clock};
use tunnel::node::{Event, Node, NodeConfig, PeerConfig};
use tunnel::offload::{Offload, SuperPacket};
use tunnel::time::{Instant, Now};
use tunnel::transmit::SendQueue;

use super::stream::Stream;

/// Inner MTU: every path carries it.
const MTU: u16 = 1280;
/// How long one endpoint is tried before the next.
const TURN: Duration = Duration::from_secs(3);
/// Keeps the mapping of a NAT while the operators compare words.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Wanted kernel buffer of the socket, each way.
const SOCKET_BUFFER: usize = 256 << 10;

/// How far the way to the edge was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// Nothing has come back.
    Nothing,
    /// The system of an endpoint reports that nothing listens there.
    Refused,
    /// The temporary tunnel is up.
    Tunnel,
    /// The gateway took the connection.
    Gateway,
}

/// The way to the edge.
pub(super) struct Client {
    node: Node,
    socket: UdpSocket,
    batch: ReceiveBatch,
    queue: SendQueue,
    stream: Stream,
    reader: FrameReader,
    /// Where the edge may be, the one that is tried at last.
    endpoints: Vec<SocketAddr>,
    turn: usize,
    turn_ends: Instant,
    reached: Reached,
}

impl Client {
    /// Begins to reach the edge at these addresses, tried in turn.
    pub(super) fn open(code: &Code, endpoints: Vec<SocketAddr>) -> io::Result<Self> {
        let now = clock::now();
        let options = UdpOptions {
            port: 0,
            mark: 0,
            backend: Backend::Portable,
            gso: false,
            gro: false,
            buffer: SOCKET_BUFFER,
        };
        let socket = UdpSocket::open(&options)?;
        // Elsewhere than on Linux a refusal looks like silence.
        drop(socket.set_error_reports(true));
        let config = NodeConfig {
            private_key: Some(code.one_time.clone()),
            addresses: vec![code.address.ip()],
            mtu: MTU,
            listen_port: socket.local_port()?,
            liveness: None,
            wall_watermark: Duration::ZERO,
        };
        let node = Node::new(config, now);
        let peer = PeerConfig {
            public_key: code.edge_key,
            preshared_key: None,
            endpoint: endpoints.first().copied(),
            keepalive: Some(KEEPALIVE),
            allowed_ips: vec![IpNetwork::from(code.edge_address)],
            probe: None,
            initiate: true,
        };
        node.update_peers(&[peer], &[], now).map_err(io::Error::other)?;
        let target = SocketAddr::new(code.edge_address, code.link_port);
        Ok(Self {
            node,
            socket,
            batch: ReceiveBatch::new(4),
            queue: SendQueue::with_capacity(256 << 10),
            stream: Stream::new(code.address, target, usize::from(MTU), now.instant),
            reader: FrameReader::new(MAX_MESSAGE),
            endpoints,
            turn: 0,
            turn_ends: now.instant.after(TURN),
            reached: Reached::Nothing,
        })
    }

    /// How far the way was gone.
    pub(super) const fn reached(&self) -> Reached {
        self.reached
    }

    /// What macOS may deny, where nothing could be sent to an endpoint of the LAN.
    pub(super) fn denied(&self) -> Option<&'static str> {
        let is_unsent = self.socket.stats().send_errors.read() > 0;
        let advice = |endpoint: &SocketAddr| Program::this().advice_without_route(Some(endpoint.ip()));
        self.endpoints.iter().find_map(advice).filter(|_| is_unsent)
    }

    /// Which of the endpoints answered, once the tunnel is up: its reply may have come in another
    /// one's turn.
    pub(super) fn answered(&self) -> Option<SocketAddr> {
        if !matches!(self.reached, Reached::Tunnel | Reached::Gateway) {
            return None;
        }
        let peers = self.node.peers(clock::now());
        let from = peers.iter().find_map(|peer| Some(peer.endpoint?.remote));
        from.filter(|from| self.endpoints.contains(from)).or_else(|| self.endpoints.get(self.turn).copied())
    }

    /// Whether the connection was open and is no more.
    pub(super) fn is_over(&self) -> bool {
        self.reached == Reached::Gateway && self.stream.is_closed()
    }

    /// Whether everything that was sent has arrived.
    pub(super) fn is_flushed(&self) -> bool {
        self.stream.is_flushed()
    }

    /// Sends a message once there is room.
    pub(super) fn send(&mut self, message: &[u8]) {
        if let Some(frame) = frame(message) {
            self.stream.send(&frame);
        }
    }

    /// Takes a message that came.
    ///
    /// # Errors
    /// `InvalidData` for one that is too long.
    pub(super) fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let bytes = self.stream.received();
            let mut rest = bytes.as_slice();
            let taken = self.reader.take(&mut rest);
            let used = bytes.len() - rest.len();
            self.stream.discard(used);
            match taken {
                Ok(None) if used > 0 => {}
                other => return other.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }

    /// Waits for something to happen, at most so long, and does what it requires.
    pub(super) fn step(&mut self, longest: Duration) -> io::Result<()> {
        self.sleep(longest)?;
        self.receive_datagrams();
        let now = clock::now();
        self.take_turns(now);
        while let Some(event) = self.node.poll_event() {
            if matches!(event, Event::Handshake { .. }) && self.reached != Reached::Gateway {
                self.reached = Reached::Tunnel;
            }
        }
        if matches!(self.reached, Reached::Tunnel | Reached::Gateway) {
            for packet in self.stream.poll(now.instant) {
                self.send_packet(now, packet);
            }
        }
        if self.stream.is_open() {
            self.reached = Reached::Gateway;
        }
        self.node.handle_timeout(now, &mut self.queue);
        self.flush();
        Ok(())
    }

    fn sleep(&mut self, longest: Duration) -> io::Result<()> {
        let now = clock::instant();
        let until = |at: Instant| at.since(now);
        let deadlines = [self.node.poll_timeout().map(until), self.stream.poll_timeout(now)];
        let wait = deadlines.into_iter().flatten().fold(longest, Duration::min);
        let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
        let fd = self.socket.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn receive_datagrams(&mut self) {
        loop {
            match self.socket.receive(&mut self.batch, Wait::No) {
                Ok(_) => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::ConnectionRefused && self.reached == Reached::Nothing {
                        self.reached = Reached::Refused;
                    }
                    return;
                }
            }
            let now = clock::now();
            for received in self.batch.iter_mut() {
                self.node.handle_received(now, received, &mut self.stream, &mut self.queue);
            }
        }
    }

    /// While nothing answers, the next endpoint is tried.
    fn take_turns(&mut self, now: Now) {
        let is_unanswered = matches!(self.reached, Reached::Nothing | Reached::Refused);
        if !is_unanswered || self.endpoints.len() < 2 || now.instant < self.turn_ends {
            return;
        }
        self.turn = (self.turn + 1) % self.endpoints.len();
        self.turn_ends = now.instant.after(TURN);
        let Some(endpoint) = self.endpoints.get(self.turn) else { return };
        for peer in self.node.peers(now) {
            self.node.set_endpoint(peer.id, *endpoint, now);
        }
    }

    fn send_packet(&mut self, now: Now, mut packet: Vec<u8>) {
        // What cannot go is sent again by TCP.
        self.node.handle_inner(
            now,
            SuperPacket { bytes: &mut packet, offload: Offload::None },
            &mut self.queue,
        );
    }

    fn flush(&mut self) {
        self.socket.send(self.queue.transmits(), Wait::Block);
        self.queue.clear();
    }
}
