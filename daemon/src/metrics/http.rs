//! A small HTTP server: `GET` of three paths, bounded in time, bytes and clients.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use policy::Host;
use policy::http_host::{Asked, asked};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::timeout;

/// Longest request head, in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Most clients of one listener at once; the next ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take for its request, and again for reading the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the pages hold.
pub trait Pages {
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> impl Future<Output = String>;
    /// Whether traffic is carried, and a line about it.
    fn readiness(&self) -> (bool, String);
    /// Names besides addresses and `localhost` under which the pages may be asked for.
    fn hosts(&self) -> Vec<Host>;
}

/// Binds one address. Must run inside a runtime.
///
/// # Errors
/// When it is taken or not ours, naming it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        let fix = "free the address or change [metrics] listen";
        io::Error::new(error.kind(), format!("[metrics] {address} cannot be bound: {error}; {fix}"))
    };
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )
    .map_err(named)?;
    socket.set_nonblocking(true).and_then(|()| socket.set_reuse_address(true)).map_err(named)?;
    if address.is_ipv6() {
        // Each address of the configuration is served by itself.
        socket.set_only_v6(true).map_err(named)?;
    }
    socket.bind(&address.into()).and_then(|()| socket.listen(64)).map_err(named)?;
    TcpListener::from_std(socket.into())
}

/// Serves one listener for as long as its owner keeps it. Must run inside a `LocalSet`.
pub async fn serve<P: Pages + 'static>(listener: Weak<TcpListener>, pages: Rc<P>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // Held for one poll at a time, so that the address is free as soon as the owner drops the
        // listener.
        let accepted = poll_fn(|context| match listener.upgrade() {
            Some(listener) => listener.poll_accept(context).map(Some),
            None => Poll::Ready(None),
        });
        let Some(accepted) = accepted.await else { return };
        match accepted {
            Ok((stream, _)) => {
                let pages = Rc::clone(&pages);
                task::spawn_local(async move {
                    if let Err(error) = serve_client(stream, &*pages).await {
                        tracing::debug!(%error, "a scrape ended early");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a scrape could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_client(mut stream: TcpStream, pages: &impl Pages) -> io::Result<()> {
    let mut head = Vec::new();
    timeout(TIMEOUT, read_head(&mut stream, &mut head)).await??;
    let answer = respond(&head, pages).await;
    timeout(TIMEOUT, stream.write_all(answer.as_bytes())).await??;
    timeout(TIMEOUT, stream.shutdown()).await?
}

async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 1024];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let got = stream.read(&mut bytes).await?;
        if got == 0 {
            break;
        }
        head.extend_from_slice(bytes.get(..got).unwrap_or_default());
    }
    Ok(())
}

async fn respond(head: &[u8], pages: &impl Pages) -> String {
    const TEXT: &str = "text/plain; charset=utf-8";
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    if head.len() >= MAX_HEAD || !is_http {
        return page("400 Bad Request", TEXT, "not an HTTP/1 request\n", true);
    }
    if method != "GET" && method != "HEAD" {
        return page("405 Method Not Allowed", TEXT, "only GET\n", true);
    }
    let with_body = method == "GET";
    let path = target.split('?').next().unwrap_or_default();
    match asked(head, &pages.hosts()) {
        Asked::Known => {}
        // Health checks of machines often send no name.
        Asked::NoName if matches!(path, "/healthz" | "/readyz") => {}
        Asked::NoName | Asked::Foreign => {
            let fix = "ask by an address or localhost, or list the name in [metrics] hosts\n";
            return page("421 Misdirected Request", TEXT, fix, with_body);
        }
    }
    match path {
        "/metrics" => {
            page("200 OK", "text/plain; version=0.0.4; charset=utf-8", &pages.metrics().await, with_body)
        }
        "/healthz" => page("200 OK", TEXT, "ok\n", with_body),
        "/readyz" => match pages.readiness() {
            (true, line) => page("200 OK", TEXT, &line, with_body),
            (false, line) => page("503 Service Unavailable", TEXT, &line, with_body),
        },
        _ => page("404 Not Found", TEXT, "/metrics, /healthz or /readyz\n", with_body),
    }
}

fn page(status: &str, kind: &str, body: &str, with_body: bool) -> String {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    if with_body { head + body } else { head }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Pages for Fixed {
        async fn metrics(&self) -> String {
            "up 1\n".to_owned()
        }

        fn readiness(&self) -> (bool, String) {
            (false, "no peer is up\n".to_owned())
        }

        fn hosts(&self) -> Vec<Host> {
            vec![Host::Name("edge.lan".into())]
        }
    }

    #[test]
    fn three_pages_are_served_and_nothing_else() {
        assert!(reply("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").ends_with("\r\n\r\nup 1\n"));
        assert!(reply("GET /healthz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200"));
        assert!(reply("GET /readyz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        assert!(reply("GET /etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(reply("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(reply("HEAD /metrics HTTP/1.1\r\nHost: edge.lan\r\n\r\n").ends_with("\r\n\r\n"));
    }

    #[test]
    fn no_page_is_served_under_a_foreign_name_and_metrics_only_under_one() {
        for path in ["/metrics", "/healthz", "/readyz", "/"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: evil.example.com:9586\r\n\r\n");
            assert!(reply(&head).starts_with("HTTP/1.1 421"), "{path}");
        }
        assert!(reply("GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 421"));
        assert!(reply("GET /metrics HTTP/1.1\r\nHost: EDGE.lan:9586\r\n\r\n").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn nonsense_and_endless_heads_are_refused() {
        assert!(reply("\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert!(reply(&"x".repeat(MAX_HEAD)).starts_with("HTTP/1.1 400"));
    }

    fn reply(head: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(respond(head.as_bytes(), &Fixed))
    }
}
