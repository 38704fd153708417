//! The other end of the forwarder's tunnel, in this process: a WireGuard node with a cell as TCP client or server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Deadline};

use forwarder::arrivals::Arrivals;
use forwarder::cell::{Cell, Egress, Path, SCRATCH, Settings};
use forwarder::config;
use forwarder::dataplane::{Command, Commands, DataPlane, Inbox, Parts};
use forwarder::flow::EdgeIds;
use forwarder::handover::Descriptors;
use forwarder::setup;
use forwarder::state::MarkWriter;
use forwarder::stats::Stats;
use forwarder::upstream::Pools;
use tunnel::io::Wait;
use tunnel::io::clock;
use tunnel::io::udp::{Backend, ReceiveBatch, UdpOptions, UdpSocket};
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::node::{Liveness, Node, NodeConfig, PeerConfig};
use tunnel::offload::SuperPacket;
use tunnel::offload::coalesce::{CoalesceOptions, Coalescer};
use tunnel::packet::{Bare, Ip, Tcp, tcp_flags};
use tunnel::transmit::SendQueue;

const EDGE_KEY: [u8; 32] = [0x11; 32];
const ORIGIN_KEY: [u8; 32] = [0x22; 32];

/// The forwarder's data plane on a thread of its own.
pub struct Daemon {
    pub stats: Arc<Stats>,
    /// The upstreams of each `[[service]]`.
    pub pools: Arc<Pools>,
    /// What is looked for in the first bytes of flows.
    pub arrivals: Arc<Arrivals>,
    commands: Commands,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    /// Runs these entries against an edge on this port.
    pub fn start(edge_port: u16, entries: &str, backend: Backend) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = write_config(folder.path(), edge_port, entries);
        let loaded = config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        let (inbox, commands) = Inbox::new().unwrap();
        let mark = daemon::clock_mark::ClockMark::of(folder.path());
        let watermark = mark.read();
        let state = MarkWriter::start(mark).unwrap();
        let stats = Arc::new(Stats::default());
        stats.adopt(&loaded.policy);
        let pools = Arc::new(Pools::new(&loaded.policy));
        let arrivals = Arc::<Arrivals>::default();
        let parts = Parts {
            edges: setup::edges(
                &loaded,
                &mut EdgeIds::default(),
                (watermark, backend),
                &mut Descriptors::default(),
            )
            .unwrap(),
            listeners: setup::listeners(setup::listened(&loaded.policy), &mut Descriptors::default())
                .unwrap(),
            stats: Arc::clone(&stats),
            pools: Arc::clone(&pools),
            arrivals: Arc::clone(&arrivals),
            state,
            policy: loaded.policy,
        };
        let plane = DataPlane::new(inbox, parts).unwrap();
        let thread = Some(std::thread::spawn(|| plane.run()));
        Self { stats, pools, arrivals, commands, thread, _folder: folder }
    }

    /// Stops it within this time, and waits.
    pub fn stop(&mut self, drain: Duration) {
        self.commands.send(Command::Stop { drain });
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

fn write_config(folder: &std::path::Path, edge_port: u16, entries: &str) -> PathBuf {
    use base64::Engine as _;
    use std::os::unix::fs::PermissionsExt as _;
    let key = folder.join("origin.key");
    let text = base64::engine::general_purpose::STANDARD.encode(ORIGIN_KEY);
    std::fs::write(&key, text).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = folder.join("forwarder.toml");
    let edge = PrivateKey::from_bytes(EDGE_KEY).public();
    let text = format!(
        "[interface]\naddress = [\"10.77.88.2/30\", \"fd77::2/126\"]\nprivate_key_file = \"origin.key\"\n\
         [[peer]]\nname = \"kyiv\"\npublic_key = \"{edge}\"\nendpoint = \"127.0.0.1:{edge_port}\"\n\
         allowed_ips = [\"0.0.0.0/0\", \"::/0\"]\n{entries}\n[state]\ndirectory = \"{}\"\n",
        folder.display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// The edge: a node, its socket, and one TCP endpoint behind it.
pub struct Edge {
    node: Node,
    socket: UdpSocket,
    batch: ReceiveBatch,
    inlet: Coalescer,
    pub cell: Option<Cell>,
    pub resets: usize,
    /// Whole packets that arrived and were no segments of the cell.
    pub others: Vec<Vec<u8>>,
    listens: Option<(SocketAddr, Option<SocketAddr>)>,
    scratch: Vec<u8>,
}

struct Out<'a>(&'a Node, &'a mut SendQueue);

impl Egress for Out<'_> {
    fn is_ready(&self) -> bool {
        self.1.room() > 80_000
    }

    fn send(&mut self, packet: SuperPacket<'_>) {
        self.0.handle_inner(clock::now(), packet, self.1);
    }
}

/// How the forwarder watches its edges.
const LIVENESS: Liveness = Liveness {
    interval: Duration::from_secs(5),
    interval_lost: Duration::from_secs(1),
    tolerated: 3,
    up_within: Duration::from_secs(15),
    plain_up_within: Duration::from_secs(180),
};

impl Edge {
    pub fn new() -> Self {
        Self::with(None)
    }

    /// An edge that answers probes, as the product's own does.
    pub fn answering() -> Self {
        Self::with(Some(LIVENESS))
    }

    fn with(liveness: Option<Liveness>) -> Self {
        let now = clock::now();
        let socket = UdpSocket::open(&UdpOptions::default()).unwrap();
        let config = NodeConfig {
            private_key: Some(PrivateKey::from_bytes(EDGE_KEY)),
            addresses: vec!["10.77.88.1".parse().unwrap(), "fd77::1".parse().unwrap()],
            mtu: 1420,
            listen_port: socket.local_port().unwrap(),
            liveness,
            wall_watermark: Duration::ZERO,
        };
        let node = Node::new(config, now);
        let peer = PeerConfig {
            public_key: origin_key(),
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            allowed_ips: ["10.77.88.2/32", "192.168.88.0/24", "fd77::2/128", "fd88::/64"]
                .map(|prefix| prefix.parse().unwrap())
                .to_vec(),
            probe: None,
            initiate: false,
        };
        node.update_peers(&[peer], &[], now).unwrap();
        Self {
            node,
            socket,
            batch: ReceiveBatch::new(4),
            inlet: Coalescer::new(CoalesceOptions { tcp: true, udp: false }),
            cell: None,
            resets: 0,
            others: Vec::new(),
            listens: None,
            scratch: vec![0; SCRATCH],
        }
    }

    pub fn port(&self) -> u16 {
        self.socket.local_port().unwrap()
    }

    /// Opens a flow from an internet client.
    pub fn connect(&mut self, client: &str, to: &str) {
        let path = Path { local: client.parse().unwrap(), remote: to.parse().unwrap() };
        let settings = Settings { mtu: 1420, ring: 1 << 20, seed: 7 };
        self.cell = Some(Cell::connect(clock::instant(), path, settings));
        self.resets = 0;
        self.others.clear();
    }

    /// Answers the next flow to this address.
    pub fn listen(&mut self, address: &str) {
        self.listens = Some((address.parse().unwrap(), None));
    }

    /// The address of the client that connected to [`listen`](Self::listen).
    pub fn caller(&self) -> Option<SocketAddr> {
        self.listens.and_then(|(_, caller)| caller)
    }

    /// Sends a packet of our own making.
    pub fn inject(&mut self, packet: Vec<u8>) {
        self.inject_all(vec![packet]);
    }

    /// Sends packets of our own making all at once, as one burst.
    pub fn inject_all(&mut self, packets: Vec<Vec<u8>>) {
        let mut queue = SendQueue::with_capacity(1 << 20);
        for mut bytes in packets {
            let packet = SuperPacket { bytes: &mut bytes, offload: tunnel::offload::Offload::None };
            self.node.handle_inner(clock::now(), packet, &mut queue);
        }
        self.socket.send(queue.transmits(), Wait::Block);
    }

    /// Sends one authentic packet of the tunnel from another socket, which stays open and silent
    /// afterwards.
    pub fn stray(&mut self) -> UdpSocket {
        let socket = UdpSocket::open(&UdpOptions::default()).unwrap();
        let mut queue = SendQueue::with_capacity(1 << 20);
        let (source, destination) = ("10.77.88.1:9", "10.77.88.2:9");
        let bare = Bare {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sequence: 0,
            acknowledgement: None,
            flags: tcp_flags::RST,
        };
        let packet = SuperPacket { bytes: &mut bare.packet(), offload: tunnel::offload::Offload::None };
        self.node.handle_inner(clock::now(), packet, &mut queue);
        socket.send(queue.transmits(), Wait::Block);
        socket
    }

    /// Sessions agreed since the start.
    pub fn handshakes(&self) -> u64 {
        self.node.peers(clock::now())[0].counts.handshakes
    }

    /// Runs until `done` is satisfied with what has happened; fails after ten seconds.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Deadline::now() + Duration::from_secs(10);
        loop {
            self.round();
            if done(self) {
                self.round();
                return;
            }
            assert!(Deadline::now() < deadline, "waited ten seconds for {what}");
        }
    }

    /// Sends bytes through the cell, all of them.
    pub fn write_all(&mut self, mut bytes: &[u8]) {
        self.until("room to send", |edge| {
            let Some(cell) = &mut edge.cell else { return false };
            while let Some(sent) = cell.fill(|room| {
                let len = room.len().min(bytes.len());
                room[..len].copy_from_slice(&bytes[..len]);
                (len, len)
            }) {
                bytes = &bytes[sent..];
                if bytes.is_empty() {
                    return true;
                }
            }
            false
        });
    }

    /// Receives until this many bytes have come.
    pub fn read_exact(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until(&format!("{len} bytes"), |edge| {
            let Some(cell) = &mut edge.cell else { return false };
            while bytes.len() < len {
                let wanted = len - bytes.len();
                let some = cell.drain(|data| {
                    let taken = data.len().min(wanted);
                    (taken, data[..taken].to_vec())
                });
                match some {
                    Some(some) => bytes.extend(some),
                    None => return false,
                }
            }
            true
        });
        bytes
    }

    fn round(&mut self) {
        let mut queue = SendQueue::with_capacity(1 << 20);
        let now = clock::now();
        if self.socket.receive(&mut self.batch, Wait::No).is_ok() {
            for received in self.batch.iter_mut() {
                self.node.handle_received(now, received, &mut self.inlet, &mut queue);
            }
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
        let Self { node, inlet, cell, scratch, resets, others, listens, .. } = self;
        while let Some((_, packet)) = inlet.poll_packet() {
            let bytes = packet.bytes;
            let ip = Ip::parse(bytes).unwrap();
            if ip.protocol != 6 {
                others.push(bytes.to_vec());
                continue;
            }
            let tcp = Tcp::parse(ip.payload(bytes)).unwrap();
            let (source, destination) = ends(&ip, &tcp);
            if let Some((address, caller)) = listens
                && *address == destination
                && tcp.flags & tcp_flags::SYN != 0
                && caller.is_none()
            {
                *caller = Some(source);
                let path = Path { local: destination, remote: source };
                let settings = Settings { mtu: 1420, ring: 1 << 20, seed: 9 };
                *cell = Some(Cell::accept(now.instant, path, (&tcp, ip.payload(bytes)), settings));
            }
            if tcp.flags & tcp_flags::RST != 0 {
                *resets += 1;
            }
            if let Some(cell) = cell {
                let out = &mut Out(node, &mut queue);
                cell.handle_segment(now.instant, bytes, (&ip, &tcp), (out, scratch));
            } else {
                others.push(bytes.to_vec());
            }
        }
        if let Some(cell) = cell {
            cell.poll_transmit(now.instant, (&mut Out(node, &mut queue), scratch));
        }
        self.node.handle_timeout(now, &mut queue);
        self.socket.send(queue.transmits(), Wait::Block);
    }
}

fn ends(ip: &Ip, tcp: &Tcp) -> (SocketAddr, SocketAddr) {
    let end = |address: IpAddr, port: u16| SocketAddr::new(address, port);
    (end(ip.src, tcp.source_port), end(ip.dst, tcp.destination_port))
}

fn origin_key() -> PublicKey {
    PrivateKey::from_bytes(ORIGIN_KEY).public()
}
