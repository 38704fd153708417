//! A stream socket to a local service or client: TCP, or a Unix-domain one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

/// A nonblocking stream socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix-domain socket.
    Unix(UnixStream),
}

impl Stream {
    /// Begins to connect to an address.
    ///
    /// # Errors
    /// From the system.
    pub fn dial(to: SocketAddr) -> io::Result<Self> {
        TcpStream::connect(to).map(Self::Tcp)
    }

    /// Connects to a Unix-domain socket.
    ///
    /// # Errors
    /// From the system; `WouldBlock` when its queue is full.
    pub fn dial_unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::Unix)
    }

    /// Whether the socket is connected; `None` while it is not known.
    pub fn dialled(&self) -> Option<io::Result<()>> {
        let error = match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
        };
        match error {
            Ok(Some(error)) | Err(error) => return Some(Err(error)),
            Ok(None) => {}
        }
        let peer = match self {
            Self::Tcp(stream) => stream.peer_addr().map(drop),
            Self::Unix(stream) => stream.peer_addr().map(drop),
        };
        match peer {
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => None,
            result => Some(result),
        }
    }

    /// Sends what is written at once; otherwise the last bytes of a reply may wait for an
    /// acknowledgement.
    pub fn set_nodelay(&self) {
        if let Self::Tcp(stream) = self {
            // Failing costs only latency.
            let _ = stream.set_nodelay(true);
        }
    }

    /// Ends one direction or both.
    ///
    /// # Errors
    /// From the system.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    /// Makes the coming close a reset (RFC 9293 ABORT); a Unix-domain socket has none.
    pub fn reset(&self) {
        if let Self::Tcp(stream) = self {
            // When it fails the peer sees an orderly end, which is the most that can be done.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Starts to watch the socket for both directions.
    ///
    /// # Errors
    /// From the system.
    pub fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        };
        source.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
