//! Small servers for traffic with known content.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

/// How long one read waits before a server checks whether it must end.
const POLL: Duration = Duration::from_millis(100);

/// A TCP server that runs one handler per connection until it is dropped.
#[derive(Debug)]
pub struct TcpServer {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl TcpServer {
    /// Serves `listener`, which may belong to any node, with one thread for each connection.
    pub fn start(
        listener: TcpListener,
        handler: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (ending, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&ending), Arc::clone(&accepted));
        let handler = Arc::new(handler);
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        let handler = Arc::clone(&handler);
                        // A handler ends with its connection, and every handler with the lab.
                        std::thread::spawn(move || {
                            stream.set_nonblocking(false).and_then(|()| handler(stream))
                        });
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Self { address, ending, accepted, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A handler that returns every byte and closes after the other side did.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        stream.write_all(bytes)?;
    }
}

/// A handler that reads to the end and answers the number of bytes as a decimal line.
pub fn sink(mut stream: TcpStream) -> io::Result<()> {
    let count = io::copy(&mut stream, &mut io::sink())?;
    stream.write_all(format!("{count}\n").as_bytes())
}

/// The first `length` bytes of a pseudo-random pattern fixed by `seed`.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64: repeats only after 2^64 - 1 words.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A UDP server that answers every datagram until it is dropped.
#[derive(Debug)]
pub struct UdpServer {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// Serves `socket`, which may belong to any node; `answer` gets the sender and what it sent.
    pub fn start(
        socket: UdpSocket,
        answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8> + Send + 'static,
    ) -> Result<Self> {
        socket.set_read_timeout(Some(POLL))?;
        let ending = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !flag.load(Ordering::Relaxed) {
                let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
                let _ = socket.send_to(&answer(from, buffer.get(..count).unwrap_or_default()), from);
            }
        });
        Ok(Self { ending, thread: Some(thread) })
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A UDP server that returns every datagram to its sender until it is dropped.
#[derive(Debug)]
pub struct UdpEcho(#[expect(dead_code, reason = "held for its end")] UdpServer);

impl UdpEcho {
    /// Serves `socket`, which may belong to any node.
    pub fn start(socket: UdpSocket) -> Result<Self> {
        UdpServer::start(socket, |_, bytes| bytes.to_vec()).map(Self)
    }
}
