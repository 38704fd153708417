//! Changes of the network as the system reports them: another default route, another address.
//!
//! The system reports every interface that comes and goes, a container's too. What matters is
//! whether the path to an edge has changed. That is checked once, a moment after each report, since
//! changes come in bursts.

mod change;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod routing_socket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tunnel::time::Instant;

pub use change::NetworkChange;
#[cfg(target_os = "linux")]
use linux::{concerns, open};
#[cfg(not(target_os = "linux"))]
use routing_socket::{concerns, open};

/// How long after the first report of a burst the paths are checked.
const SETTLED: Duration = Duration::from_millis(300);
/// Messages read at a time.
const MESSAGES: usize = 64;
/// Bytes of one message: the kernel's page.
const MESSAGE: usize = 8 * 1024;

/// The socket on which the system reports changes.
pub struct Watch {
    socket: OwnedFd,
    /// When the burst is over, and the strongest change of it.
    pending: Option<(Instant, NetworkChange)>,
}

impl Watch {
    /// Opens the socket and has it watched.
    ///
    /// # Errors
    /// From the system; some containers forbid it, and changes are then noticed by silence alone.
    pub fn open(registry: &Registry, token: Token) -> io::Result<Self> {
        let socket = open()?;
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { socket, pending: None })
    }

    /// Reads what the system reported.
    pub fn handle_ready(&mut self, now: Instant) {
        let mut message = [0; MESSAGE];
        for _ in 0..MESSAGES {
            let change = match rustix::io::read(&self.socket, &mut message) {
                Ok(length) => concerns(message.get(..length).unwrap_or_default()),
                // More happened than the system kept for us: whatever it was, the paths are
                // checked.
                Err(rustix::io::Errno::NOBUFS) => Some(NetworkChange::Possible),
                Err(_) => return,
            };
            if let Some(change) = change {
                let (at, known) = self.pending.unwrap_or((now.after(SETTLED), change));
                self.pending = Some((at, known.max(change)));
            }
        }
        // The poll reports new messages only: the rest is read by the next `poll`.
        self.pending.get_or_insert((now.after(SETTLED), NetworkChange::Possible));
    }

    /// When [`poll`](Self::poll) is next due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.map(|(at, _)| at)
    }

    /// What changed, once the burst is over.
    pub fn poll(&mut self, now: Instant) -> Option<NetworkChange> {
        let (_, change) = self.pending.filter(|(at, _)| *at <= now)?;
        self.pending = None;
        self.handle_ready(now);
        Some(change)
    }
}

/// The local address from which datagrams to `remote` would leave now; `None` without a route.
/// Nothing is sent.
#[must_use]
pub fn source_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_towards_loopback_is_loopback() {
        let to = SocketAddr::from(([127, 0, 0, 1], 51820));
        assert_eq!(source_towards(to), Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn the_system_lets_us_listen_without_a_privilege() {
        let poll = mio::Poll::new().unwrap();
        let mut watch = Watch::open(poll.registry(), Token(7)).unwrap();
        let now = Instant::from_boot(Duration::from_secs(5));
        watch.handle_ready(now);
        assert!(watch.poll(now).is_none(), "nothing is looked at before the burst is over");
    }
}
