//! Flows at a steady pace through an edge to a bulk server: each byte is compared, and the longest
//! pause is measured.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Node, pattern, until};
use socket2::{Domain, Socket, Type};

/// How fast one flow reads or writes, in bytes a second, and in what pieces.
const PACE: usize = 400_000;
const PIECE: usize = 8_000;
/// What a flow may be held up before it fails; what it was is returned.
const STUCK: Duration = Duration::from_secs(15);
/// What each flow of a load carries: enough for four seconds.
const LOAD: usize = 4 * PACE;
/// More than any flow carries.
const WITHOUT_END: usize = 1 << 40;

/// Which way the bytes of a flow go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the client.
    Down,
    /// To the server.
    Up,
}

/// A flow that goes on until it is finished.
#[derive(Debug)]
pub struct PacedFlow {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Duration>>,
}

impl PacedFlow {
    /// Connects from a node to a bulk server.
    pub fn begin(client: &Node, server: SocketAddr, way: Way) -> Result<Self> {
        let mut stream = connect(client, server)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let goes_on = |_| !ends.load(Ordering::Relaxed);
            match way {
                Way::Down => read(&mut stream, WITHOUT_END, goes_on),
                Way::Up => write(&mut stream, goes_on),
            }
        });
        Ok(Self { is_over, thread })
    }

    /// Whether it failed already.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it; the longest pause, if every byte was right.
    pub fn finish(self) -> Result<Duration> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("a flow's thread ended")?
    }
}

/// Flows of a given length at the same time.
#[derive(Debug)]
pub struct PacedLoad {
    flows: Vec<JoinHandle<Result<Duration>>>,
    /// Flows that have carried a quarter.
    running: Arc<AtomicUsize>,
}

impl PacedLoad {
    /// So many downloads and uploads.
    pub fn begin(client: &Node, server: SocketAddr, (down, up): (usize, usize)) -> Result<Self> {
        let (mut flows, running) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
        for number in 0..down + up {
            let (mut stream, runs) = (connect(client, server)?, Arc::clone(&running));
            flows.push(std::thread::spawn(move || {
                let goes_on = |offset| {
                    if offset == LOAD / 4 {
                        runs.fetch_add(1, Ordering::Relaxed);
                    }
                    offset < LOAD
                };
                if number < down { read(&mut stream, LOAD, goes_on) } else { write(&mut stream, goes_on) }
            }));
        }
        Ok(Self { flows, running })
    }

    /// Waits until each flow has carried a quarter, or has ended.
    pub fn wait_until_running(&self) -> Result<()> {
        until(STUCK, "the load to run", || {
            let has_ended = self.flows.iter().any(JoinHandle::is_finished);
            Ok((has_ended || self.running.load(Ordering::Relaxed) == self.flows.len()).then_some(()))
        })
    }

    /// The shortest, the middle and the longest pause of the flows, all of which went on to their
    /// end.
    pub fn finish(self) -> Result<[Duration; 3]> {
        let mut pauses = Vec::new();
        for flow in self.flows {
            pauses.push(flow.join().ok().context("a flow's thread ended")??);
        }
        pauses.sort();
        let at = |place: usize| pauses.get(place).copied().context("no flow");
        Ok([at(0)?, at(pauses.len() / 2)?, at(pauses.len() - 1)?])
    }
}

fn connect(client: &Node, server: SocketAddr) -> Result<TcpStream> {
    let socket = client.within(|| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        // Small, so that no buffer hides a pause.
        socket.set_recv_buffer_size(32 << 10)?;
        socket.set_send_buffer_size(32 << 10)?;
        socket.connect_timeout(&server.into(), Duration::from_secs(10))?;
        Ok(socket)
    })?;
    let stream = TcpStream::from(socket.with_context(|| format!("a new connection to {server}"))?);
    stream.set_read_timeout(Some(STUCK))?;
    stream.set_write_timeout(Some(STUCK))?;
    Ok(stream)
}

/// Reads piece by piece; the longest time that one took.
fn read(stream: &mut TcpStream, bytes: usize, goes_on: impl Fn(usize) -> bool) -> Result<Duration> {
    stream.write_all(format!("down {bytes}\n").as_bytes())?;
    let content = pattern(1, 1 << 20);
    let mut piece = vec![0; PIECE];
    let (_, pause) = paced(goes_on, |offset| {
        stream.read_exact(&mut piece).with_context(|| format!("a download at {offset}"))?;
        let wanted = content.iter().cycle().skip(offset % content.len()).take(PIECE);
        ensure!(piece.iter().eq(wanted), "a download has wrong bytes at {offset}");
        Ok(())
    })?;
    Ok(pause)
}

fn write(stream: &mut TcpStream, goes_on: impl Fn(usize) -> bool) -> Result<Duration> {
    stream.write_all(b"up\n")?;
    let content = pattern(1, 1 << 20);
    let (bytes, pause) = paced(goes_on, |offset| {
        let piece: Vec<u8> =
            content.iter().cycle().skip(offset % content.len()).take(PIECE).copied().collect();
        stream.write_all(&piece).with_context(|| format!("an upload at {offset}"))
    })?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.trim() == bytes.to_string(), "of an upload of {bytes} arrived {answer:?}");
    Ok(pause)
}

/// The bytes that were carried, and the longest time that a piece took.
fn paced(
    goes_on: impl Fn(usize) -> bool,
    mut step: impl FnMut(usize) -> Result<()>,
) -> Result<(usize, Duration)> {
    let turn = Duration::from_secs_f64(PIECE as f64 / PACE as f64);
    let (mut longest, mut offset) = (Duration::ZERO, 0);
    while goes_on(offset) {
        let began = Instant::now();
        step(offset)?;
        let took = began.elapsed();
        longest = longest.max(took);
        offset += PIECE;
        std::thread::sleep(turn.saturating_sub(took));
    }
    Ok((offset, longest))
}
