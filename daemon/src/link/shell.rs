//! The shell around a link: bytes between a connection and the pure end, and what only the machine
//! knows.

use std::io;
use std::time::Duration;

use policy::Name;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::sleep;
use tunnel::io::clock;
use tunnel::time::Instant;

use super::message::{About, Bytes};

/// Bytes that are read and written at a time.
const CHUNK: usize = 1 << 10;
/// The longest sleep, for an end that has no timer.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// One end of a connection, as [`carry`] drives it; what the calls mean is said at
/// [`Session`](super::session::Session).
pub trait LinkEnd {
    /// Whether bytes are to be read now.
    fn wants_input(&self, now: Instant) -> bool;
    /// Takes bytes; how many.
    fn handle_input(&self, now: Instant, bytes: &[u8]) -> usize;
    /// Appends what is to be sent next, `most` bytes at most.
    fn output(&self, now: Instant, most: usize, into: &mut Vec<u8>);
    /// So many bytes were sent.
    fn handle_sent(&self, now: Instant, count: usize);
    /// The connection is closed or failed.
    fn handle_hangup(&self, now: Instant);
    /// Does what is due.
    fn handle_timeout(&self, now: Instant);
    /// When something is due.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Whether the connection is to be closed.
    fn is_over(&self) -> bool;
}

/// Carries bytes both ways until the end is over; `touched` is notified when it has something to
/// send, or is over, for another reason than its connection and its timers.
pub async fn carry(stream: impl AsyncRead + AsyncWrite, end: &impl LinkEnd, touched: &Notify) {
    let (mut reader, mut writer) = tokio::io::split(Box::pin(stream));
    let (mut input, mut rest) = (vec![0; CHUNK], 0..0);
    let mut output = Vec::with_capacity(CHUNK);
    loop {
        let now = clock::instant();
        rest.start += end.handle_input(now, input.get(rest.clone()).unwrap_or_default());
        output.clear();
        end.output(now, CHUNK, &mut output);
        if end.is_over() {
            return;
        }
        let reads = rest.is_empty() && end.wants_input(now);
        let pause = end.poll_timeout().map_or(LONGEST_SLEEP, |due| due.since(now)).min(LONGEST_SLEEP);
        tokio::select! {
            read = reader.read(&mut input), if reads => match read {
                Ok(count) if count > 0 => rest = 0..count,
                Ok(_) | Err(_) => end.handle_hangup(clock::instant()),
            },
            sent = writer.write(&output), if !output.is_empty() => match sent {
                Ok(count) => end.handle_sent(clock::instant(), count),
                Err(_) => end.handle_hangup(clock::instant()),
            },
            () = sleep(pause) => end.handle_timeout(clock::instant()),
            () = touched.notified() => {}
        }
    }
}

/// A nonce of one connection.
///
/// # Errors
/// When the system has no randomness.
pub fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

/// This machine, and this start of the daemon.
///
/// # Errors
/// When the system has no randomness.
pub fn about(version: &str, capabilities: &[&str]) -> io::Result<About> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance).map_err(io::Error::other)?;
    let host = rustix::system::uname();
    Ok(About {
        version: name_of(version)?,
        name: name_of(&host.nodename().to_string_lossy())?,
        capabilities: capabilities.iter().map(|capability| name_of(capability)).collect::<io::Result<_>>()?,
        instance: Bytes(instance),
    })
}

/// The characters of a text that a name may have, `-` for the others and for none.
fn name_of(text: &str) -> io::Result<Name> {
    let text = if text.is_empty() { "-" } else { text };
    let plain = |char: char| if Name::new(char.encode_utf8(&mut [0; 4])).is_some() { char } else { '-' };
    let plain: String = text.chars().take(Name::MAX).map(plain).collect();
    Name::new(&plain).ok_or_else(|| io::Error::other(format!("{text:?} does not become a name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_a_name() {
        for (text, name) in [
            ("kyiv", "kyiv"),
            ("Jürgens Mac", "J-rgens-Mac"),
            ("", "-"),
            ("a.b_c-1", "a.b_c-1"),
            ("x\ny\u{1b}[0m", "x-y--0m"),
        ] {
            assert_eq!(name_of(text).unwrap().as_str(), name);
        }
        assert_eq!(name_of(&"é".repeat(99)).unwrap().as_str(), "-".repeat(Name::MAX));
    }
}
