//! A small HTTP responder for scrapes: three paths, bounded in clients, bytes and time.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use policy::Host;
use policy::http_host::{Asked, asked};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::{error::Elapsed, sleep, timeout};

use super::page;
use crate::control::Shared;
use crate::control::report::{Health, report};

/// Longest request head in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Clients of a listener at once; the next ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take for its request, and again for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Binds one address of `[metrics]`.
///
/// # Errors
/// In words, naming the address.
pub fn bind(address: SocketAddr) -> Result<StdListener, String> {
    let bound = StdListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| format!("[metrics] {address} cannot be bound: {error}"))
}

/// Serves one listener until the future is dropped. Must run inside a `LocalSet`.
///
/// # Errors
/// When tokio does not take the listener.
pub async fn serve(listener: StdListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                task::spawn_local(async move {
                    if let Err(error) = converse(stream, &shared).await {
                        tracing::debug!(%error, "a scrape ended early");
                    }
                    drop(place);
                });
            }
            // Out of descriptors, most likely: flows that end give some back.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::new();
    within(read_head(&mut stream, &mut head)).await?;
    let answer = answer(&head, shared);
    within(stream.write_all(answer.as_bytes())).await?;
    within(stream.shutdown()).await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_: Elapsed| io::ErrorKind::TimedOut)?
}

async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 1024];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = stream.read(&mut bytes).await?;
        if len == 0 {
            break;
        }
        head.extend_from_slice(bytes.get(..len).unwrap_or_default());
    }
    Ok(())
}

fn answer(head: &[u8], shared: &Shared) -> String {
    let (is_get, path) = match request(head, &shared.policy.load().metrics.hosts) {
        Ok(request) => request,
        Err(status) => return response(status, TEXT, status, true),
    };
    match path {
        "/metrics" => response("200 OK", METRICS, &page(shared), is_get),
        "/healthz" => response("200 OK", TEXT, "alive", is_get),
        "/readyz" => {
            let report = report(shared);
            match (report.health, report.problems.first()) {
                (Health::Broken, Some(problem)) => response("503 Service Unavailable", TEXT, problem, is_get),
                (Health::Broken, None) => response("503 Service Unavailable", TEXT, "no peer is up", is_get),
                (Health::Ok | Health::Degraded, _) => response("200 OK", TEXT, "a peer is up", is_get),
            }
        }
        _ => response("404 Not Found", TEXT, "/metrics, /healthz or /readyz", is_get),
    }
}

/// The path of a request, and whether its body is wanted; or the status that refuses it.
fn request<'h>(head: &'h [u8], hosts: &[Host]) -> Result<(bool, &'h str), &'static str> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "400 Bad Request")?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if head.len() >= MAX_HEAD || !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err("400 Bad Request");
    }
    let path = target.unwrap_or_default().split('?').next().unwrap_or_default();
    let is_get = match method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Err("405 Method Not Allowed"),
    };
    match asked(head, hosts) {
        Asked::Known => Ok((is_get, path)),
        // What looks after a machine may ask without a name how it is.
        Asked::NoName if matches!(path, "/healthz" | "/readyz") => Ok((is_get, path)),
        Asked::NoName | Asked::Foreign => {
            Err("421 Misdirected Request (use an address or localhost, or list the name in [metrics] hosts)")
        }
    }
}

fn response(status: &str, kind: &str, body: &str, with_body: bool) -> String {
    let length = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_get_and_head_of_http_1_are_taken() {
        let known = "Host: 127.0.0.1:9587\r\n\r\n";
        let metrics = format!("GET /metrics?x=1 HTTP/1.1\r\n{known}");
        assert_eq!(request(metrics.as_bytes(), &[]), Ok((true, "/metrics")));
        assert_eq!(request(format!("HEAD / HTTP/1.0\r\n{known}").as_bytes(), &[]), Ok((false, "/")));
        assert_eq!(request(b"POST / HTTP/1.1\r\n\r\n", &[]), Err("405 Method Not Allowed"));
        for bad in [&b""[..], b"\xff\xff\r\n", b"GET /\r\n", &[b'x'; MAX_HEAD]] {
            assert_eq!(request(bad, &[]), Err("400 Bad Request"));
        }
    }

    #[test]
    fn no_page_is_served_under_a_foreign_name_and_metrics_only_under_one() {
        let is_refused =
            |request: Result<(bool, &str), &str>| request.is_err_and(|why| why.starts_with("421"));
        let listed = [Host::Name("forwarder".into())];
        for path in ["/metrics", "/healthz", "/readyz", "/"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: evil.example.com\r\n\r\n");
            assert!(is_refused(request(head.as_bytes(), &listed)), "{path}");
        }
        assert!(is_refused(request(b"GET /metrics HTTP/1.0\r\n\r\n", &listed)));
        assert!(request(b"GET /readyz HTTP/1.0\r\n\r\n", &listed).is_ok());
        assert!(request(b"GET /metrics HTTP/1.1\r\nHost: forwarder:9587\r\n\r\n", &listed).is_ok());
    }
}
