//! Bulk transfers with known content, which are timed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Node, TcpServer, pattern};

/// One block of the pattern that bulk traffic repeats.
const BLOCK: usize = 1 << 20;

/// The size and the duration of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Bytes of content.
    pub bytes: u64,
    /// From the first request to the last byte.
    pub elapsed: Duration,
}

impl Measured {
    /// Millions of bits per second.
    pub fn mbit_per_second(self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.elapsed.as_secs_f64()
    }
}

/// Serves bulk traffic on a node. A client sends `down N\n` and gets N bytes. Or it sends `up\n`
/// and its bytes, ends its side, and gets the number of bytes that arrived, after `wrong` if they
/// were not the pattern.
pub fn serve_bulk(node: &Node, address: &str) -> Result<TcpServer> {
    TcpServer::start(node.tcp_listener(address)?, |mut stream| {
        let request = read_line(&mut stream)?;
        match request.strip_prefix("down ").map(str::parse::<u64>) {
            Some(Ok(count)) => send(&mut stream, count),
            _ => {
                let (count, right) = receive(&mut stream)?;
                let verdict = if right { "" } else { "wrong " };
                stream.write_all(format!("{verdict}{count}\n").as_bytes())
            }
        }
    })
}

/// Fetches `bytes` from a bulk server and checks every one.
pub fn download(node: &Node, address: &str, bytes: u64) -> Result<Measured> {
    let mut stream = connect(node, address)?;
    let start = Instant::now();
    stream.write_all(format!("down {bytes}\n").as_bytes())?;
    let (count, right) = receive(&mut stream)?;
    ensure!(right && count == bytes, "{count} of {bytes} bytes came, content right: {right}");
    Ok(Measured { bytes, elapsed: start.elapsed() })
}

/// Sends `bytes` to a bulk server, which checks every one.
pub fn upload(node: &Node, address: &str, bytes: u64) -> Result<Measured> {
    let mut stream = connect(node, address)?;
    let start = Instant::now();
    stream.write_all(b"up\n")?;
    send(&mut stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let answer = read_line(&mut stream)?;
    ensure!(answer == bytes.to_string(), "{bytes} bytes were sent, the server says {answer:?}");
    Ok(Measured { bytes, elapsed: start.elapsed() })
}

/// The SHA-256 of a file, by the system's own program.
pub fn sha256(node: &Node, path: &Path) -> Result<String> {
    let text = node.command("sha256sum").arg(path).limit(Duration::from_secs(120)).run()?;
    Ok(text.split_whitespace().next().context("no checksum")?.to_owned())
}

fn connect(node: &Node, address: &str) -> Result<TcpStream> {
    let stream = node.tcp_connect(address, Duration::from_secs(10))?;
    // A stuck transfer fails here, long before the time limit of the whole test.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let block = pattern(1, BLOCK);
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        stream.write_all(block.get(..now).unwrap_or_default())?;
        left -= now as u64;
    }
    Ok(())
}

/// Reads to the end; answers how much came and whether it was the repeated pattern.
fn receive(stream: &mut TcpStream) -> io::Result<(u64, bool)> {
    let expected = pattern(1, BLOCK);
    let mut buffer = vec![0; 256 * 1024];
    let (mut count, mut offset, mut right) = (0, 0, true);
    loop {
        let length = stream.read(&mut buffer)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Ok((count, right));
        }
        count += length as u64;
        while !rest.is_empty() {
            let now = rest.len().min(BLOCK - offset);
            let (piece, later) = rest.split_at(now);
            right &= expected.get(offset..offset + now) == Some(piece);
            offset = (offset + now) % BLOCK;
            rest = later;
        }
    }
}

fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 64 && stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
