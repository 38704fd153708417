//! A download of which every byte is checked.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Node, pattern};

/// What `scenarios::serve_bulk` repeats.
const BLOCK: usize = 1 << 20;

/// The result of a download.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Download {
    /// Bytes that came, all of them right.
    pub(crate) bytes: u64,
    /// From the request to the last byte.
    pub(crate) elapsed: Duration,
    /// Whether everything that was requested came.
    pub(crate) is_whole: bool,
}

impl Download {
    /// Millions of bits per second.
    pub(crate) fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.elapsed.as_secs_f64()
    }
}

/// Fetches `bytes` from a bulk server, no longer than `limit`.
///
/// # Errors
/// The connection failed, or a byte was wrong.
pub(crate) fn download(client: &Node, address: &str, bytes: u64, limit: Duration) -> Result<Download> {
    let mut content = Content::ask(client, address, bytes)?;
    let start = Instant::now();
    let mut last = start;
    while content.count < bytes && start.elapsed() < limit {
        if content.take()? > 0 {
            last = Instant::now();
        }
    }
    let is_whole = content.count == bytes;
    let elapsed = if is_whole { last - start } else { start.elapsed() };
    Ok(Download { bytes: content.count, elapsed, is_whole })
}

/// The rate of a long download between `from` and `to` after its request, in millions of bits per
/// second.
///
/// # Errors
/// The connection failed, or a byte was wrong.
pub(crate) fn settled_rate(client: &Node, address: &str, (from, to): (Duration, Duration)) -> Result<f64> {
    let mut content = Content::ask(client, address, u64::from(u32::MAX) * 8)?;
    let start = Instant::now();
    while start.elapsed() < from {
        content.take()?;
    }
    let (before, since) = (content.count, Instant::now());
    while start.elapsed() < to {
        content.take()?;
    }
    Ok((content.count - before) as f64 * 8.0 / 1e6 / since.elapsed().as_secs_f64())
}

/// What a bulk server sends, every byte checked.
struct Content {
    stream: TcpStream,
    expected: Vec<u8>,
    buffer: Vec<u8>,
    bytes: u64,
    count: u64,
}

impl Content {
    fn ask(client: &Node, address: &str, bytes: u64) -> Result<Self> {
        let mut stream = client.tcp_connect(address, Duration::from_secs(15))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(format!("down {bytes}\n").as_bytes())?;
        Ok(Self { stream, expected: pattern(1, BLOCK), buffer: vec![0; 256 * 1024], bytes, count: 0 })
    }

    /// Reads what is there, or waits until something is; answers how much it was.
    fn take(&mut self) -> Result<usize> {
        let len = match self.stream.read(&mut self.buffer) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        };
        ensure!(len > 0, "the stream ended after {} of {} bytes", self.count, self.bytes);
        let mut rest = self.buffer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let offset = usize::try_from(self.count)? % BLOCK;
            let (piece, later) = rest.split_at(rest.len().min(BLOCK - offset));
            let is_right = self.expected.get(offset..offset + piece.len()) == Some(piece);
            ensure!(is_right, "a byte near {} is wrong", self.count);
            self.count += piece.len() as u64;
            rest = later;
        }
        Ok(len)
    }
}
