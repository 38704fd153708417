//! How an attack is measured: by packets where none may be, and by the pages that another client
//! gets meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::{Counter, Node, PacketSocket, Process, TcpServer, UdpServer, echo, until};
use tunnel::io::clock;
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::node::{Node as Engine, NodeConfig, PeerConfig};
use tunnel::transmit::SendQueue;

use crate::KeyPair;
use crate::forge::datagram;

/// How long a client goes on trying: its SYNs are repeated after 1, 3, 7 and 15 seconds.
const TIMEOUT: Duration = Duration::from_secs(31);
/// The port of the datagram whose arrival shows that everything before it was judged.
const LAST_PORT: u16 = 40_404;

/// A client that fetches one page after another until it is ended, and fails when one does not
/// come.
#[derive(Debug)]
pub struct Visitor {
    ending: Arc<AtomicBool>,
    pages: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Visitor {
    /// Starts to fetch; `address` is that of an echo server, as seen from `node`.
    pub fn start(node: &Node, address: &str) -> Self {
        let (ending, pages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&ending), Arc::clone(&pages));
        let (node, address) = (node.clone(), address.to_owned());
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                page(&node, &address).with_context(|| format!("page {}", count.load(Ordering::Relaxed)))?;
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        Self { ending, pages, thread: Some(thread) }
    }

    /// Waits until this many more pages came.
    pub fn sees(&self, more: u64) -> Result<()> {
        let goal = self.pages.load(Ordering::Relaxed) + more;
        until(2 * TIMEOUT, "pages for a visitor", || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            Ok((ended || self.pages.load(Ordering::Relaxed) >= goal).then_some(()))
        })
    }

    /// Ends, and answers how many pages came; an error if one did not.
    pub fn end(mut self) -> Result<u64> {
        self.sees(1)?;
        self.ending.store(true, Ordering::Relaxed);
        let ended = self.thread.take().context("ended already")?.join();
        ended.map_err(|_| anyhow!("the visitor panicked"))??;
        Ok(self.pages.load(Ordering::Relaxed))
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

/// One connection with a kilobyte there and back.
pub fn page(node: &Node, address: &str) -> Result<()> {
    exchange(&mut node.tcp_connect(address, TIMEOUT)?)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&[7; 1024])?;
    stream.read_exact(&mut [0; 1024]).context("a page did not come whole")
}

/// Counters of packets where none may be, read before and after an attack.
#[derive(Debug, Default)]
pub struct Silence {
    places: Vec<(String, Counter)>,
}

impl Silence {
    /// Watches nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches what arrives at a node, by an nftables expression.
    pub fn arriving(mut self, node: &Node, what: &str, expression: &str) -> Result<Self> {
        let name = self.name(node);
        self.places.push((what.to_owned(), Counter::arriving(node, &name, expression)?));
        Ok(self)
    }

    /// Watches what leaves a node.
    pub fn leaving(mut self, node: &Node, what: &str, expression: &str) -> Result<Self> {
        let name = self.name(node);
        self.places.push((what.to_owned(), Counter::leaving(node, &name, expression)?));
        Ok(self)
    }

    fn name(&self, node: &Node) -> String {
        format!("none_{}_{}", node.name(), self.places.len())
    }

    /// Fails when a packet was where none may be.
    pub fn holds(&self, attack: &str) -> Result<()> {
        for (what, counter) in &self.places {
            let packets = counter.packets()?;
            ensure!(packets == 0, "{attack}: {packets} packets {what}");
        }
        Ok(())
    }
}

/// Sends packets to a neighbour and knows when all of them have been judged there.
#[derive(Debug)]
pub struct Attacker {
    socket: PacketSocket,
    judged: Counter,
    last: Vec<u8>,
    sent: AtomicU64,
}

impl Attacker {
    /// Sends out of `interface` of `node` to `neighbour`; without one into a tunnel, at whose far
    /// end `judge` is. `source` and `target` are of a datagram that reaches it.
    pub fn new(
        (node, interface): (&Node, &str),
        neighbour: Option<(&Node, &str)>,
        judge: &Node,
        (source, target): (Ipv4Addr, Ipv4Addr),
    ) -> Result<Self> {
        let expression = format!("ip saddr {source} udp dport {LAST_PORT}");
        let judged = Counter::arriving(judge, &format!("judged_{}", node.name()), &expression)?;
        if neighbour.is_none() {
            node.run(&format!("ip link set {interface} txqueuelen 20000"))?;
        }
        let socket = node.packet_socket(interface, neighbour)?;
        let last = datagram(source, target, (LAST_PORT, LAST_PORT), b"last")?;
        Ok(Self { socket, judged, last, sent: AtomicU64::new(0) })
    }

    /// Sends one packet; one that this machine's kernel refuses is not counted.
    pub fn send(&self, packet: &[u8]) {
        self.sent.fetch_add(u64::from(self.socket.send(packet).is_ok()), Ordering::Relaxed);
    }

    /// How many packets have left.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends this many packets of a kind, no more than `rate` a second.
    pub fn flood(&self, count: u32, rate: u32, packet: impl Fn(u32) -> Result<Vec<u8>>) -> Result<()> {
        let start = std::time::Instant::now();
        for number in 0..count {
            self.send(&packet(number)?);
            if number % 64 == 63 {
                let due = Duration::from_secs_f64(f64::from(number) / f64::from(rate));
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        Ok(())
    }

    /// Waits until everything that was sent has been judged.
    pub fn settle(&self) -> Result<()> {
        let before = self.judged.packets()?;
        until(Duration::from_secs(30), "the packets to be judged", || {
            self.socket.send(&self.last)?;
            Ok((self.judged.packets()? > before).then_some(()))
        })?;
        // An answer, if there is one, comes within this time.
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }
}

/// Servers of both protocols that must not be reached.
#[derive(Debug)]
pub struct Closed {
    tcp: Vec<TcpServer>,
    asked: Arc<AtomicU64>,
    _udp: Vec<UdpServer>,
}

impl Closed {
    /// Listens on these ports of an address.
    pub fn start(node: &Node, address: &str, ports: &[u16]) -> Result<Self> {
        let tcp = ports
            .iter()
            .map(|port| TcpServer::start(node.tcp_listener(&format!("{address}:{port}"))?, echo))
            .collect::<Result<_>>()?;
        let asked = Arc::new(AtomicU64::new(0));
        let udp = |port: &u16| {
            let asked = Arc::clone(&asked);
            UdpServer::start(node.udp_socket(&format!("{address}:{port}"))?, move |_, bytes| {
                asked.fetch_add(1, Ordering::Relaxed);
                bytes.to_vec()
            })
        };
        let udp = ports.iter().map(udp).collect::<Result<_>>()?;
        Ok(Self { tcp, asked, _udp: udp })
    }

    /// Fails when a server was reached.
    pub fn holds(&self, attack: &str) -> Result<()> {
        for server in &self.tcp {
            ensure!(server.accepted() == 0, "{attack}: {} was reached", server.address());
        }
        let asked = self.asked.load(Ordering::Relaxed);
        ensure!(asked == 0, "{attack}: {asked} datagrams were read");
        Ok(())
    }
}

/// Resident memory of a process in KiB.
pub fn memory(process: &Process) -> Result<u64> {
    let text = process.status_field("VmRSS")?;
    text.split_whitespace().next().context("no VmRSS")?.parse().context("VmRSS")
}

/// Handshake initiations to the owner of a public key, from keys that it does not know. Their first
/// MAC is valid.
pub fn initiations(public: &str, count: u32) -> Result<Vec<Vec<u8>>> {
    (0..count).map(|number| initiation(&KeyPair::of(&format!("unknown {number}")).private, public)).collect()
}

/// A handshake initiation of the holder of a private key to the owner of a public one.
pub fn initiation(private: &str, public: &str) -> Result<Vec<u8>> {
    let config = NodeConfig {
        private_key: Some(PrivateKey::from_bytes(bytes(private)?)),
        addresses: Vec::new(),
        mtu: 1420,
        listen_port: 4000,
        liveness: None,
        wall_watermark: Duration::ZERO,
    };
    let peer = PeerConfig {
        public_key: PublicKey::from_bytes(bytes(public)?)?,
        preshared_key: None,
        endpoint: Some(([198, 51, 100, 2], 5002).into()),
        keepalive: None,
        allowed_ips: Vec::new(),
        probe: None,
        initiate: true,
    };
    let (now, mut out) = (clock::now(), SendQueue::with_capacity(4096));
    let node = Engine::new(config, now);
    node.update_peers(&[peer], &[], now)?;
    node.handle_timeout(now, &mut out);
    let message = out.transmits().next().map(|transmit| transmit.contents.to_vec());
    message.context("a node that does not begin")
}

fn bytes(key: &str) -> Result<[u8; 32]> {
    match STANDARD.decode(key)?.try_into() {
        Ok(bytes) => Ok(bytes),
        Err(_) => bail!("not 32 bytes"),
    }
}
