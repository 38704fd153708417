//! Many flows at once: the service that keeps them open, and the client that uses each.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::Node;
use parking_lot::Mutex;

/// Each flow of a [`Crowd`] exchanges a few bytes so often.
const EVERY: Duration = Duration::from_secs(1);
/// What it sends and gets back.
const LINE: [u8; 8] = *b"exchange";
/// Between two looks at all flows.
const LOOK: Duration = Duration::from_millis(10);

/// Raises this process's limit on descriptors to this many, or to what the machine allows; answers
/// the limit.
pub fn raise_descriptors(wanted: usize) -> Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit")?;
    let most = line.split_whitespace().nth(4).context("no hard limit")?.parse().context("the hard limit")?;
    let own = std::process::id().to_string();
    // Only a process that may change the machine's limits gets beyond the hard one.
    for limit in [wanted.max(most), most] {
        let nofile = format!("--nofile={limit}:{limit}");
        if Command::new("prlimit").args(["--pid", &own, &nofile]).output()?.status.success() {
            return Ok(limit);
        }
    }
    bail!("prlimit refused {most} descriptors")
}

/// A service that keeps every connection open and returns what it gets, on one thread.
#[derive(Debug)]
pub struct EchoService {
    ending: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl EchoService {
    /// Serves what comes to this listener.
    pub fn start(listener: TcpListener) -> Result<Self> {
        Self::run(listener, false)
    }

    /// The same with a table of descriptors of its own. The listener stays open until this process
    /// ends.
    pub fn apart(listener: TcpListener) -> Result<Self> {
        Self::run(listener, true)
    }

    fn run(listener: TcpListener, is_apart: bool) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let (ending, count) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (flag, held) = (Arc::clone(&ending), Arc::clone(&count));
        let (sender, is_ready) = std::sync::mpsc::channel::<()>();
        let thread = Some(std::thread::spawn(move || {
            // If that fails, both ends share one limit on descriptors, and the test shows it.
            let has_own = !is_apart || lab::own_descriptors().is_ok();
            drop(sender);
            if has_own {
                serve(&listener, &flag, &held);
            }
        }));
        // A copy of the table that is made while a process is started keeps the pipe open by which
        // that start is awaited, permanently.
        let _ = is_ready.recv();
        Ok(Self { ending, count, thread })
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

fn serve(listener: &TcpListener, ending: &AtomicBool, count: &AtomicUsize) {
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut buffer = [0; 2048];
    while !ending.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                streams.push(stream);
            }
        }
        count.store(streams.len(), Ordering::Relaxed);
        streams.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => stream.write_all(buffer.get(..length).unwrap_or_default()).is_ok(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for EchoService {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread ends within one round, and its streams are closed with it.
            let _ = thread.join();
        }
    }
}

/// Many flows of one client to a service that returns what it gets. Each exchanges a few bytes every
/// second, until the crowd is dropped.
#[derive(Debug)]
pub struct Crowd {
    ending: Arc<AtomicBool>,
    shared: Arc<Mutex<Vec<Exchanges>>>,
    thread: Option<JoinHandle<()>>,
}

/// What the exchanges of one flow have shown.
#[derive(Debug, Clone)]
struct Exchanges {
    /// When the last one was complete.
    last: Instant,
    /// The longest since the last [`Crowd::handle_round`].
    longest: Duration,
    /// How the flow ended.
    ended: Option<String>,
}

struct Flow {
    stream: TcpStream,
    due: Instant,
    sent: Option<Instant>,
}

impl Crowd {
    /// Opens `count` flows from `client` to `address`.
    pub fn connect(client: &Node, address: &str, count: usize) -> Result<Self> {
        let start = Instant::now();
        let mut flows = Vec::with_capacity(count);
        for place in 0..count {
            let stream = client.tcp_connect(address, Duration::from_secs(10))?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            // They take turns over the second.
            let due = Instant::now() + EVERY.mul_f64(place as f64 / count as f64);
            flows.push(Flow { stream, due, sent: None });
        }
        let none = Exchanges { last: start, longest: Duration::ZERO, ended: None };
        let (ending, shared) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![none; count])));
        let (flag, seen) = (Arc::clone(&ending), Arc::clone(&shared));
        let thread = Some(std::thread::spawn(move || exchange_all(&mut flows, &flag, &seen)));
        Ok(Self { ending, shared, thread })
    }

    /// How many of the flows are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.lock().iter().filter(|flow| flow.ended.is_none()).count()
    }

    /// Waits until every flow has completed an exchange that it began after this call. Returns the
    /// longest exchange since the last round.
    ///
    /// # Errors
    /// When a flow ended, or not all exchanged in time.
    pub fn handle_round(&self, limit: Duration) -> Result<Duration> {
        // What is complete within one second may have been under way before.
        let after = Instant::now() + EVERY;
        lab::until(limit, "every flow to exchange", || {
            let flows = self.shared.lock();
            let ended: Vec<_> = flows.iter().filter_map(|flow| flow.ended.clone()).collect();
            ensure!(ended.is_empty(), "{} flows ended, the first: {}", ended.len(), ended.join(", "));
            Ok(flows.iter().all(|flow| flow.last > after).then_some(()))
        })?;
        let mut flows = self.shared.lock();
        let longest = flows.iter().map(|flow| flow.longest).max().unwrap_or_default();
        flows.iter_mut().for_each(|flow| flow.longest = Duration::ZERO);
        Ok(longest)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within one look, and its streams are closed with it.
            let _ = thread.join();
        }
    }
}

fn exchange_all(flows: &mut [Flow], ending: &AtomicBool, shared: &Mutex<Vec<Exchanges>>) {
    while !ending.load(Ordering::Relaxed) {
        for (place, flow) in flows.iter_mut().enumerate() {
            let exchanged = flow.exchange(Instant::now());
            let mut shared = shared.lock();
            let Some(seen) = shared.get_mut(place).filter(|seen| seen.ended.is_none()) else { continue };
            match exchanged {
                Ok(Some(took)) => {
                    seen.last = Instant::now();
                    seen.longest = seen.longest.max(took);
                }
                Ok(None) => {}
                Err(error) => seen.ended = Some(error.to_string()),
            }
        }
        std::thread::sleep(LOOK);
    }
}

impl Flow {
    /// Sends when it is due, and looks for the reply; how long the exchange took when that is
    /// there.
    fn exchange(&mut self, now: Instant) -> std::io::Result<Option<Duration>> {
        let Some(sent) = self.sent else {
            if now >= self.due {
                self.stream.write_all(&LINE)?;
                self.sent = Some(now);
            }
            return Ok(None);
        };
        let mut reply = LINE;
        match self.stream.peek(&mut reply) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) if length < LINE.len() => return Ok(None),
            Ok(_) => self.stream.read_exact(&mut reply)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        self.sent = None;
        self.due = (self.due + EVERY).max(now);
        Ok(Some(now.duration_since(sent)))
    }
}
