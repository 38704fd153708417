//! The kernel's side of a flow: a socket to a local service, or from a local client.

mod pool;
mod stream;
mod visits;
mod watched;

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;

use mio::{Registry, Token};

use crate::arrivals::FirstBytes;
use crate::cell::Cell;
use crate::stats::Dialled;
pub use pool::{ByEntry, Lease, Member, Pool, Pools};
pub use stream::Stream;
pub use visits::{Finding, LEAST, Visits};
pub use watched::{Found, Speech, Visit, Watched, expected};

/// A nonblocking socket with its readiness.
#[derive(Debug)]
pub struct Upstream {
    stream: Stream,
    /// Written before anything else; empty once it is out.
    header: Vec<u8>,
    /// What looks at the first bytes that go to the socket, while a visitor's probe is out.
    first: Option<Box<FirstBytes>>,
    is_readable: bool,
    is_writable: bool,
    read_closed: bool,
    write_closed: bool,
}

/// How moving data ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// This many bytes; nothing more can be moved now.
    Bytes(usize),
    /// This many bytes; there is more to do after the turns of others.
    More(usize),
    /// The socket failed.
    Failed,
}

/// How a dial ended that ended with this error.
#[must_use]
pub fn failure(error: &io::Error) -> Dialled {
    match error.raw_os_error() {
        // A Unix-domain socket that is not there is a service that does not run.
        Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::ENOENT) => Dialled::Refused,
        Some(libc::ETIMEDOUT) => Dialled::TimedOut,
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EAGAIN,
        ) => Dialled::Exhausted,
        _ => Dialled::Unreachable,
    }
}

/// Whether the process or the machine has no descriptor left.
#[must_use]
pub fn lacks_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The first bytes of a flow are looked at until enough of them were.
fn look_at(first: &mut Option<Box<FirstBytes>>, bytes: &[u8]) {
    if first.as_mut().is_some_and(|first| !first.handle_bytes(bytes)) {
        *first = None;
    }
}

/// The socket of a flow is of no use any more.
#[cold]
fn failed(doing: &str, error: &io::Error) -> Moved {
    tracing::debug!(doing, %error, "the socket of a flow failed");
    Moved::Failed
}

impl Upstream {
    /// A connected socket; `header` goes out before the first byte of the flow.
    #[must_use]
    pub fn new(stream: Stream, header: Vec<u8>) -> Self {
        stream.set_nodelay();
        Self {
            stream,
            header,
            first: None,
            is_readable: true,
            is_writable: true,
            read_closed: false,
            write_closed: false,
        }
    }

    /// Lets the first bytes that go to the socket be looked at.
    #[must_use]
    pub fn with_first(self, first: Option<Box<FirstBytes>>) -> Self {
        Self { first, ..self }
    }

    /// Remembers what the poll reported.
    pub fn ready(&mut self, readable: bool, writable: bool) {
        self.is_readable |= readable;
        self.is_writable |= writable;
    }

    /// Whether there may be something to read.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.is_readable && !self.read_closed
    }

    /// Moves data that arrived through the tunnel to the socket, `budget` bytes at most or a little
    /// more.
    pub fn write_from(&mut self, cell: &mut Cell, budget: usize) -> Moved {
        if !self.write_header() {
            return Moved::Failed;
        }
        let mut moved = 0;
        while self.is_writable && self.header.is_empty() && !self.write_closed {
            if moved >= budget {
                return Moved::More(moved);
            }
            let (stream, first) = (&mut self.stream, &mut self.first);
            let written = cell.drain(|data| match stream.write(data) {
                Ok(len) => {
                    look_at(first, data.get(..len).unwrap_or_default());
                    (len, Ok(len))
                }
                Err(error) => (0, Err(error)),
            });
            match written {
                None => break,
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Some(Err(error)) => return failed("write", &error),
                Some(Ok(len)) => moved += len,
            }
        }
        if !self.write_closed && self.header.is_empty() && cell.is_drained() {
            self.write_closed = true;
            // A socket that is gone already fails when it is read.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Moved::Bytes(moved)
    }

    /// Moves data from the socket into the tunnel, `budget` bytes at most or a little more.
    ///
    /// The end of the stream closes the cell's sending side.
    pub fn read_into(&mut self, cell: &mut Cell, budget: usize) -> Moved {
        let mut moved = 0;
        while self.is_readable && !self.read_closed {
            if moved >= budget {
                return Moved::More(moved);
            }
            let stream = &mut self.stream;
            let read = cell.fill(|room| match stream.read(room) {
                Ok(len) => (len, Ok(len)),
                Err(error) => (0, Err(error)),
            });
            match read {
                None => break,
                Some(Ok(0)) => {
                    self.read_closed = true;
                    cell.close();
                }
                Some(Ok(len)) => moved += len,
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
                Some(Err(error)) => return failed("read", &error),
            }
        }
        Moved::Bytes(moved)
    }

    fn write_header(&mut self) -> bool {
        while self.is_writable && !self.header.is_empty() {
            match self.stream.write(&self.header) {
                Ok(len) => {
                    self.header.drain(..len.min(self.header.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether everything that came through the tunnel was written and the end was sent.
    #[must_use]
    pub const fn is_write_closed(&self) -> bool {
        self.write_closed
    }

    /// Starts to watch the socket.
    ///
    /// # Errors
    /// From the system.
    pub fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.stream.watch(registry, token)
    }

    /// Makes the coming close of the socket a reset instead of an orderly end.
    pub fn reset(&self) {
        self.stream.reset();
    }
}
