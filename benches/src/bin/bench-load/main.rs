//! The load of `bench-peers`: an echo server, and clients that say what they measured as one line
//! of JSON.

mod echo;
mod request;
mod sample;
mod udp;

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;

/// Puts load on a path and measures it; every client prints JSON.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Echo TCP, and serve the UDP client, until killed.
    Serve {
        /// Where to echo TCP.
        #[arg(long)]
        tcp: SocketAddr,
        /// Where to serve the UDP client.
        #[arg(long)]
        udp: SocketAddr,
    },
    /// Ask and wait for the answer, over and over, on connections that stay open.
    Rr {
        /// An echo server.
        target: SocketAddr,
        /// Connections at the same time.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// How long.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// A new connection for every question.
    Crr {
        /// An echo server.
        target: SocketAddr,
        /// Connections at the same time.
        #[arg(long, default_value_t = 1)]
        parallel: usize,
        /// How long.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Open connections, leave them idle, then ask one question on each, twice.
    Idle {
        /// An echo server.
        target: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 5000)]
        count: usize,
        /// Seconds of silence.
        #[arg(long, default_value_t = 5.0)]
        hold: f64,
    },
    /// Wait for the first answer, trying every 5 ms.
    First {
        /// An echo server.
        target: SocketAddr,
        /// Seconds until giving up.
        #[arg(long, default_value_t = 10.0)]
        limit: f64,
    },
    /// Search the highest rate of datagrams with little loss, then offer twice that.
    Udp {
        /// A server of this program.
        target: SocketAddr,
        /// From the server to us instead of from us to the server.
        #[arg(long)]
        reverse: bool,
        /// UDP payload in bytes.
        #[arg(long, default_value_t = 200)]
        size: usize,
        /// Loss still accepted.
        #[arg(long, default_value_t = 0.005)]
        loss: f64,
        /// Seconds per step.
        #[arg(long, default_value_t = 0.6)]
        seconds: f64,
        /// Steps of the search.
        #[arg(long, default_value_t = 7)]
        steps: u32,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().work {
        Work::Serve { tcp, udp } => {
            let socket = udp::bind(udp)?;
            std::thread::spawn(move || udp::serve(&socket));
            echo::serve(tcp)
        }
        Work::Rr { target, connections, seconds } => say(&request::rr(target, connections, length(seconds))?),
        Work::Crr { target, parallel, seconds } => say(&request::crr(target, parallel, length(seconds))?),
        Work::Idle { target, count, hold } => request::idle(target, count, length(hold), |step| say(&step)),
        Work::First { target, limit } => say(&request::first(target, length(limit))?),
        Work::Udp { target, reverse, size, loss, seconds, steps } => {
            let search = udp::Search { target, reverse, size, loss, length: length(seconds), steps };
            say(&search.run()?)
        }
    }
}

fn length(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Prints one line at once, so that a reader sees it whole while this goes on.
fn say(result: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(result)?;
    line.push('\n');
    Ok(std::io::stdout().write_all(line.as_bytes())?)
}
