//! A download whose every byte is checked.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Node, pattern};

/// What `scenarios::serve_bulk` repeats.
const BLOCK: usize = 1 << 20;

/// What came of a download.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Download {
    /// Bytes that came, all of them right.
    pub(crate) bytes: u64,
    /// From the request to the last byte.
    pub(crate) elapsed: Duration,
    /// Whether everything asked for came.
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
    let mut stream = client.tcp_connect(address, Duration::from_secs(15))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let expected = pattern(1, BLOCK);
    let mut buffer = vec![0; 256 * 1024];
    let (mut count, mut offset) = (0, 0);
    let start = Instant::now();
    let mut last = start;
    stream.write_all(format!("down {bytes}\n").as_bytes())?;
    while count < bytes && start.elapsed() < limit {
        let len = match stream.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error.into()),
        };
        ensure!(len > 0, "the stream ended after {count} of {bytes} bytes");
        let mut rest = buffer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min(BLOCK - offset));
            ensure!(
                expected.get(offset..offset + piece.len()) == Some(piece),
                "a byte near {count} is wrong"
            );
            offset = (offset + piece.len()) % BLOCK;
            rest = later;
        }
        count += len as u64;
        last = Instant::now();
    }
    let is_whole = count == bytes;
    let elapsed = if is_whole { last - start } else { start.elapsed() };
    Ok(Download { bytes: count, elapsed, is_whole })
}
