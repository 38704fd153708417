//! Questions and answers over TCP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sample::{Samples, Summary};

/// Bytes of a question and of its answer.
const SIZE: usize = 64;
/// How long an answer or a connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The result of a run with idle connections.
#[derive(Debug, Serialize)]
pub(crate) enum Idle {
    /// All that could be opened are open.
    Connected {
        /// How many.
        count: usize,
        /// How long that took.
        seconds: f64,
    },
    /// Each was asked twice.
    Answered {
        /// Answers to the first question.
        first: usize,
        /// Answers to the second.
        second: usize,
    },
}

/// When the first answer came.
#[derive(Debug, Serialize)]
pub(crate) struct First {
    seconds: f64,
}

pub(crate) fn rr(target: SocketAddr, connections: usize, length: Duration) -> Result<Summary> {
    let streams = (0..connections).map(|_| connect(target)).collect::<io::Result<Vec<_>>>()?;
    let end = Instant::now() + length;
    Ok(together(streams, |mut stream, samples| {
        while Instant::now() < end {
            let begin = Instant::now();
            match ask(&mut stream) {
                Ok(()) => samples.add(begin.elapsed()),
                Err(_) => return samples.fail(),
            }
        }
    })?
    .summary(length))
}

pub(crate) fn crr(target: SocketAddr, parallel: usize, length: Duration) -> Result<Summary> {
    let end = Instant::now() + length;
    Ok(together(0..parallel, |_, samples| {
        while Instant::now() < end {
            let begin = Instant::now();
            match connect(target).and_then(|mut stream| ask(&mut stream)) {
                Ok(()) => samples.add(begin.elapsed()),
                Err(_) => samples.fail(),
            }
        }
    })?
    .summary(length))
}

pub(crate) fn idle(
    target: SocketAddr,
    count: usize,
    hold: Duration,
    say: impl Fn(Idle) -> Result<()>,
) -> Result<()> {
    benches::raise_descriptor_limit();
    let begin = Instant::now();
    let mut streams: Vec<_> = (0..count).map_while(|_| connect(target).ok()).collect();
    say(Idle::Connected { count: streams.len(), seconds: begin.elapsed().as_secs_f64() })?;
    std::thread::sleep(hold);
    let mut answers = || streams.iter_mut().filter_map(|stream| ask(stream).ok()).count();
    say(Idle::Answered { first: answers(), second: answers() })
}

pub(crate) fn first(target: SocketAddr, limit: Duration) -> Result<First> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let tried = TcpStream::connect_timeout(&target, Duration::from_millis(250)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_millis(250)))?;
            ask(&mut stream)
        });
        if tried.is_ok() {
            return Ok(First { seconds: begin.elapsed().as_secs_f64() });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(anyhow::anyhow!("no answer from {target} within {limit:?}"))
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [7; SIZE];
    stream.write_all(&bytes)?;
    stream.read_exact(&mut bytes)
}

/// Runs one thread for each of `works` and joins what they measured.
fn together<W: Send>(
    works: impl IntoIterator<Item = W>,
    run: impl Fn(W, &mut Samples) + Sync,
) -> Result<Samples> {
    std::thread::scope(|scope| {
        let start = |work| {
            let run = &run;
            scope.spawn(move || {
                let mut samples = Samples::default();
                run(work, &mut samples);
                samples
            })
        };
        let threads: Vec<_> = works.into_iter().map(start).collect();
        threads.into_iter().try_fold(Samples::default(), |all, thread| {
            Ok(all.join(thread.join().ok().context("a client panicked")?))
        })
    })
}
