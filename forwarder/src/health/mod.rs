//! Health checks: every upstream of a single TCP port is checked periodically, and every name of its
//! entry, at the upstream and from the internet, unless the entry turns that off.

mod names;
mod visitor;

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use daemon::health::{CONFIRM_AFTER, State};
use policy::Host;
use policy::forwarder::{Check, Health, ProxyProtocol, Upstream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tunnel::io::clock;

use crate::control::Shared;
use crate::link::check_failure;
use crate::proxy_protocol;
use crate::upstream::{Member, Pools};
pub(crate) use names::Prober;
use names::{Client, NameWatch};
use visitor::VisitorWatch;
pub(crate) use visitor::visit_now;

/// Bytes of a status line that are read: `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// The upstreams and names that are being watched.
pub struct Watch {
    watched: Vec<Weak<Member>>,
    names: NameWatch,
    visitor: VisitorWatch,
    changed: Rc<Notify>,
}

impl Watch {
    /// Nothing so far.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let changed = Rc::<Notify>::default();
        let names = NameWatch::new(Rc::clone(&changed)).map_err(io::Error::other)?;
        let visitor = VisitorWatch::new(shared, Rc::clone(&changed)).map_err(io::Error::other)?;
        Ok(Self { watched: Vec::new(), names, visitor, changed })
    }

    /// What is notified when the health of an upstream or name is another than before.
    #[must_use]
    pub fn changed(&self) -> Rc<Notify> {
        Rc::clone(&self.changed)
    }

    /// Begins to watch upstreams and names that are new; those that left the configuration are no longer
    /// checked.
    ///
    /// Must be called within a [`tokio::task::LocalSet`].
    pub fn watch_new(&mut self, pools: &Pools) {
        self.watched.retain(|known| known.strong_count() > 0);
        for pool in pools.load().values() {
            for member in pool.members().iter().filter(|member| member.health.is_some()) {
                let weak = Arc::downgrade(member);
                if !self.watched.iter().any(|known| known.ptr_eq(&weak)) {
                    self.watched.push(Weak::clone(&weak));
                    let shell = Shell {
                        client: self.names.client(),
                        changed: Rc::clone(&self.changed),
                        for_names: self.names.upstream_changed(),
                    };
                    tokio::task::spawn_local(keep(weak, shell));
                }
            }
        }
        self.names.watch_new(pools);
        self.visitor.watch_new(pools);
    }
}

/// What a check needs, and what is notified of its result.
struct Shell {
    client: Client,
    changed: Rc<Notify>,
    for_names: watch::Sender<()>,
}

async fn keep(member: Weak<Member>, shell: Shell) {
    loop {
        let Some(checked) = member.upgrade() else { return };
        let Some(health) = checked.health.clone() else { return };
        let vouched = checked.vouched_until(clock::instant()).filter(|_| health.counts_dials);
        let result = match vouched {
            Some(_) => Ok(()),
            None => {
                let result = timeout(health.timeout, check(&shell.client, &checked, &health)).await;
                let result = result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                result.map_err(|error| check_failure(&checked.upstream, &error))
            }
        };
        let error = result.as_ref().err().map(|failure| failure.evidence.as_str().to_owned());
        let before = checked.state();
        if checked.handle_check(result) {
            shell.changed.notify_one();
            shell.for_names.send_replace(());
            let (is_up, error) = (checked.is_up(), error.unwrap_or_default());
            // The first verdict is no change, unless it is a bad one.
            if before != State::Unknown || !is_up {
                tracing::info!(upstream = %checked.upstream, is_up, error, "an upstream's health changed");
            }
        }
        let pause = pause(&health, checked.is_in_doubt(), vouched.map(|until| until.since(clock::instant())));
        // Not held while it sleeps, so that one that left the configuration is dropped.
        drop(checked);
        sleep(pause).await;
    }
}

/// The pause until the next check; a client's connection may count for `vouched`.
fn pause(health: &Health, is_in_doubt: bool, vouched: Option<Duration>) -> Duration {
    match vouched {
        Some(rest) => rest.min(health.every),
        None if is_in_doubt && health.counts_dials => CONFIRM_AFTER.min(health.every),
        None => health.every,
    }
}

async fn check(client: &Client, member: &Member, health: &Health) -> io::Result<()> {
    let (proxy, check) = (member.proxy_protocol, &health.check);
    let result = match connect(member).await? {
        Connection::Tcp(stream) => exchange(client, stream, proxy, check).await,
        Connection::Unix(stream) => exchange(client, stream, proxy, check).await,
    };
    result.map_err(|error| if names::is_closed(&error) { closed(&error) } else { error })
}

/// What took the connection has ended it: that is its reply, and not that nothing listens.
fn closed(error: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it closed the connection: {error}"))
}

/// A connection to an upstream.
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn connect(member: &Member) -> io::Result<Connection> {
    let (host, port) = match &member.upstream {
        Upstream::Network { host, port } => (host, port.of(member.first_port, member.first_port)),
        Upstream::Unix(path) => return UnixStream::connect(path).await.map(Connection::Unix),
    };
    let stream = match host {
        Host::Address(address) => TcpStream::connect((*address, port)).await,
        Host::Name(name) => TcpStream::connect((&**name, port)).await,
    };
    stream.map(Connection::Tcp)
}

async fn exchange(
    client: &Client,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    proxy: ProxyProtocol,
    check: &Check,
) -> io::Result<()> {
    let mut request = proxy_protocol::own(proxy);
    match check {
        Check::Tcp => stream.write_all(&request).await,
        Check::Http { name, path } => {
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: causeway-forwarder\r\nConnection: close\r\n\r\n"
            );
            request.extend_from_slice(head.as_bytes());
            stream.write_all(&request).await?;
            let mut line = [0; STATUS_LINE];
            stream.read_exact(&mut line).await?;
            if is_success(&line) { Ok(()) } else { Err(refused(&String::from_utf8_lossy(&line))) }
        }
        Check::Tls { name } => names::begin_session(client, &mut stream, name, request).await,
    }
}

fn refused(reply: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it replied: {reply}"))
}

/// Whether a status line reports success or a redirection.
fn is_success(line: &[u8; STATUS_LINE]) -> bool {
    line.starts_with(b"HTTP/1.") && matches!(line.get(8..10), Some(b" 2" | b" 3"))
}

#[cfg(test)]
mod tests;
