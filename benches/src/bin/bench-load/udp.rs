//! Datagrams at a steady rate, counted at the other end.
//!
//! A datagram begins with its kind and the number of its run. The client either streams data and
//! asks afterwards how much came, or asks the server to stream and counts itself.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

/// The receiving socket's buffer: a pause of the reader of some milliseconds must not count as a
/// loss on the path.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Between two bursts of the sender.
const TICK: Duration = Duration::from_micros(250);
/// Silence that ends a stream.
const SILENCE: Duration = Duration::from_millis(200);
/// Where the search begins, packets per second.
const TOP_RATE: f64 = 400_000.0;

const DATA: u8 = b'D';
const START: u8 = b'S';
const ASK: u8 = b'Q';
const COUNT: u8 = b'A';

/// A search for the highest rate under a limit of loss.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) target: SocketAddr,
    pub(crate) reverse: bool,
    pub(crate) size: usize,
    pub(crate) loss: f64,
    pub(crate) length: Duration,
    pub(crate) steps: u32,
}

/// What the search found.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    /// Highest delivered rate with little loss, packets per second.
    best_pps: f64,
    /// What was sent when twice that was offered, packets per second.
    overload_sent_pps: f64,
    /// What then arrived, packets per second.
    overload_pps: f64,
}

/// One stream: how many were sent and how many arrived.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    sent: u64,
    received: u64,
}

pub(crate) fn bind(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // Only root gets more than the machine's limit; without root the limit is used.
    #[cfg(target_os = "linux")]
    let is_set = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_ok();
    #[cfg(not(target_os = "linux"))]
    let is_set = false;
    if !is_set {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

/// Counts and streams until the process is killed.
pub(crate) fn serve(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    let (mut run, mut count) = (0, 0);
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some((kind, number)) = parse(buffer.get(..length).unwrap_or_default()) else { continue };
        if number != run && kind != ASK {
            (run, count) = (number, 0);
        }
        match kind {
            DATA => count += 1,
            ASK => drop(
                socket.send_to(&message(COUNT, number, if number == run { count } else { 0 }, 0, 0), from),
            ),
            START if count == 0 => {
                let (rate, micros, size) = order(&buffer);
                let length = Duration::from_micros(micros);
                count = stream(|data| socket.send_to(data, from).is_ok(), number, rate, length, size);
            }
            _ => {}
        }
    }
}

impl Search {
    pub(crate) fn run(&self) -> Result<Found> {
        ensure!((32..=1400).contains(&self.size), "between 32 and 1400 bytes fit");
        let socket = bind(([0, 0, 0, 0], 0).into())?;
        socket.connect(self.target)?;
        let mut number = u32::from(std::process::id() as u16) << 16;
        let mut try_rate = |rate: f64| {
            number += 1;
            self.once(&socket, number, rate)
        };
        try_rate(1000.0)?;
        let (mut good, mut bad, mut best) = (0.0, TOP_RATE, 0.0_f64);
        for _ in 0..self.steps {
            let rate = if good == 0.0 { bad / 2.0 } else { (good + bad) / 2.0 };
            let outcome = try_rate(rate)?;
            if outcome.loss() <= self.loss {
                best = best.max(self.rate(outcome.received));
                // The sender itself may be too slow.
                if self.rate(outcome.sent) < rate * 0.95 {
                    break;
                }
                good = rate;
            } else {
                bad = rate;
            }
        }
        let overload = try_rate((best * 2.0).max(2000.0))?;
        Ok(Found {
            best_pps: best,
            overload_sent_pps: self.rate(overload.sent),
            overload_pps: self.rate(overload.received),
        })
    }

    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.length.as_secs_f64()
    }

    fn once(&self, socket: &UdpSocket, number: u32, rate: f64) -> Result<Outcome> {
        if self.reverse { self.listen(socket, number, rate) } else { self.send(socket, number, rate) }
    }

    fn send(&self, socket: &UdpSocket, number: u32, rate: f64) -> Result<Outcome> {
        let sent = stream(|data| socket.send(data).is_ok(), number, rate, self.length, self.size);
        std::thread::sleep(SILENCE);
        Ok(Outcome { sent, received: ask(socket, number)? })
    }

    fn listen(&self, socket: &UdpSocket, number: u32, rate: f64) -> Result<Outcome> {
        let micros = u64::try_from(self.length.as_micros())?;
        let start = message(START, number, rate as u64, micros, u32::try_from(self.size)?);
        socket.set_read_timeout(Some(SILENCE))?;
        let (mut buffer, mut received, mut tries) = ([0; 2048], 0, 0);
        loop {
            if received == 0 {
                ensure!(tries < 20, "the server does not stream");
                tries += 1;
                socket.send(&start)?;
            }
            while let Ok(length) = socket.recv(&mut buffer) {
                let data = parse(buffer.get(..length).unwrap_or_default());
                received += u64::from(data == Some((DATA, number)));
            }
            if received > 0 {
                return Ok(Outcome { sent: ask(socket, number)?, received });
            }
        }
    }
}

impl Outcome {
    fn loss(self) -> f64 {
        if self.sent == 0 { 1.0 } else { 1.0 - self.received as f64 / self.sent as f64 }
    }
}

/// Sends at a steady rate in small bursts; answers how many went out. What is more than 20 ms late
/// is not sent, so that no flood follows a pause.
fn stream(send: impl Fn(&[u8]) -> bool, number: u32, rate: f64, length: Duration, size: usize) -> u64 {
    let mut data = vec![0; size.max(32)];
    if let Some(head) = data.get_mut(..32) {
        head.copy_from_slice(&message(DATA, number, 0, 0, 0));
    }
    let begin = Instant::now();
    let (mut sent, mut planned) = (0, 0.0);
    let mut last = begin;
    while begin.elapsed() < length {
        let now = Instant::now();
        planned = (planned + rate * (now - last).as_secs_f64()).min(rate * 0.02 + 1.0);
        last = now;
        while planned >= 1.0 {
            planned -= 1.0;
            sent += u64::from(send(&data));
        }
        std::thread::sleep(TICK);
    }
    sent
}

/// Asks the server for its count of a run.
fn ask(socket: &UdpSocket, number: u32) -> Result<u64> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 2048];
    for _ in 0..50 {
        socket.send(&message(ASK, number, 0, 0, 0))?;
        while let Ok(length) = socket.recv(&mut buffer) {
            if parse(buffer.get(..length).unwrap_or_default()) == Some((COUNT, number)) {
                return Ok(word(&buffer, 8));
            }
        }
    }
    anyhow::bail!("the server does not say its count")
}

/// Kind, run, and three numbers in 32 bytes.
fn message(kind: u8, number: u32, first: u64, second: u64, third: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    let kind = [kind];
    let fields = [
        (0, kind.as_slice()),
        (4, &number.to_be_bytes()),
        (8, &first.to_be_bytes()),
        (16, &second.to_be_bytes()),
        (24, &third.to_be_bytes()),
    ];
    for (at, field) in fields {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    }
    bytes
}

fn parse(bytes: &[u8]) -> Option<(u8, u32)> {
    let number = bytes.get(4..8)?.first_chunk()?;
    Some((*bytes.first()?, u32::from_be_bytes(*number)))
}

/// Rate, microseconds and size of a START.
fn order(bytes: &[u8]) -> (f64, u64, usize) {
    let size = usize::try_from(word(bytes, 24) >> 32).unwrap_or(usize::MAX);
    (word(bytes, 8) as f64, word(bytes, 16), size.min(1400))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_be_bytes(*word))
}
