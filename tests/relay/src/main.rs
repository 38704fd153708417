//! `relay --listen ADDRESS --to ADDRESS`: put a bad path between two programs, and steer it by JSON
//! lines.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use relay::{Relay, answer};

/// The longest request line that is read.
const LINE_LIMIT: u64 = 64 * 1024;

/// A seeded UDP relay that loses, delays, reorders, duplicates, corrupts and rebinds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the dialling side sends.
    #[arg(long)]
    listen: SocketAddr,
    /// Where its datagrams go.
    #[arg(long)]
    to: SocketAddr,
    /// The faults' sequence.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A Unix socket for requests; without it they come on standard input, whose end ends the
    /// relay.
    #[arg(long)]
    control: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let near =
        UdpSocket::bind(arguments.listen).with_context(|| format!("listen on {}", arguments.listen))?;
    let any: SocketAddr = if arguments.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let relay = Relay::start(near, arguments.to, arguments.seed, move || UdpSocket::bind(any))?;
    let Some(path) = arguments.control else {
        return serve(&relay, io::stdin(), io::stdout());
    };
    let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
    for stream in listener.incoming() {
        let stream = stream?;
        let writer = stream.try_clone()?;
        // A controller that goes away in the middle does not end the relay.
        let _ = serve(&relay, stream, writer);
    }
    Ok(())
}

fn serve(relay: &Relay, input: impl Read, mut output: impl Write) -> Result<()> {
    let mut input = BufReader::new(input);
    let mut line = String::new();
    loop {
        line.clear();
        if input.by_ref().take(LINE_LIMIT).read_line(&mut line)? == 0 {
            return Ok(());
        }
        serde_json::to_writer(&mut output, &answer(relay, &line))?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
}
