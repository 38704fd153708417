//! Health checks: every upstream of an entry with `health` is checked periodically.

mod hello;

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use policy::Host;
use policy::forwarder::{Check, Health, ProxyProtocol, Upstream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::link::check_failure;
use crate::proxy_protocol;
use crate::upstream::{Member, Pools};

/// Bytes of a status line that are read: `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// The upstreams that are being watched.
#[derive(Default)]
pub struct Watch {
    watched: Vec<Weak<Member>>,
    changed: Rc<Notify>,
}

impl Watch {
    /// What is notified when an upstream's health is another than before.
    #[must_use]
    pub fn changed(&self) -> Rc<Notify> {
        Rc::clone(&self.changed)
    }

    /// Begins to watch upstreams that are new; those that left the configuration are no longer
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
                    tokio::task::spawn_local(watch(weak, Rc::clone(&self.changed)));
                }
            }
        }
    }
}

async fn watch(member: Weak<Member>, changed: Rc<Notify>) {
    loop {
        let Some(checked) = member.upgrade() else { return };
        let Some(health) = checked.health.clone() else { return };
        let result = timeout(health.timeout, check(&checked, &health)).await;
        let result = result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = &result {
            checked.note_failure(check_failure(&checked.upstream, error));
        }
        let was_checked = checked.is_checked();
        let change = checked.handle_check(result.is_ok());
        if change.is_some() || checked.is_checked() != was_checked {
            changed.notify_one();
        }
        if let Some(is_up) = change {
            let error = result.err().map(|error| error.to_string()).unwrap_or_default();
            tracing::info!(upstream = %checked.upstream, is_up, error, "an upstream's health changed");
        }
        // Not held while it sleeps, so that one that left the configuration is dropped.
        drop(checked);
        sleep(health.every).await;
    }
}

async fn check(member: &Member, health: &Health) -> io::Result<()> {
    match &member.upstream {
        Upstream::Network { host, port } => {
            let port = port.of(member.first_port, member.first_port);
            let stream = match host {
                Host::Address(address) => TcpStream::connect((*address, port)).await?,
                Host::Name(name) => TcpStream::connect((&**name, port)).await?,
            };
            exchange(stream, member.proxy_protocol, &health.check).await
        }
        Upstream::Unix(path) => {
            exchange(UnixStream::connect(path).await?, member.proxy_protocol, &health.check).await
        }
    }
}

async fn exchange(
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
        Check::Tls { name } => {
            let mut random = [0; hello::RANDOM];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            request.extend_from_slice(&hello::client_hello(name, &random));
            stream.write_all(&request).await?;
            let mut record = [0; 6];
            stream.read_exact(&mut record).await?;
            if hello::is_server_hello(&record) { Ok(()) } else { Err(refused("no ServerHello")) }
        }
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
