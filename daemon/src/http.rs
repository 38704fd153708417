//! A small HTTP server: `GET` of a few paths, bounded in time, bytes, clients and requests.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use policy::Host;
use policy::http_host::{Asked, asked};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::{Instant, sleep_until, timeout};

use crate::metrics::Number;

/// Longest request head, in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Most clients of one listener at once; the next ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may take for its request, and again for reading the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two clients of one listener once more than [`BURST`] came at once: 1,000 a
/// second, so that no flood of requests takes the processor from the data plane.
const PACE: Duration = Duration::from_millis(1);
/// How many clients may come at once.
const BURST: u32 = 50;

/// Plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What a listener serves.
pub trait Pages {
    /// The section of the configuration that it belongs to, for messages.
    const SECTION: &'static str;
    /// Its paths, for those who request another one.
    const PATHS: &'static str;

    /// What a path has; `None` for one that is not served.
    fn page(&self, path: &str) -> impl Future<Output = Option<Page>>;
    /// Names besides addresses and `localhost` under which the pages may be requested.
    fn hosts(&self) -> Vec<Host>;

    /// Whether a path is served to a request without a name: health checks of machines often send
    /// none.
    #[must_use]
    fn is_for_machines(_path: &str) -> bool {
        false
    }

    /// The answer to a request that is refused.
    fn refused(&self, status: Status, text: &str) -> Page {
        Page::new(status, TEXT, text)
    }

    /// Where requests are counted.
    fn requests(&self) -> Option<&Requests> {
        None
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// The status.
    pub status: Status,
    /// `Content-Type`.
    pub kind: &'static str,
    /// Further header lines, each with its `\r\n`.
    pub fields: Rc<str>,
    /// The body.
    pub body: Rc<str>,
}

impl Page {
    /// One without further header lines.
    #[must_use]
    pub fn new(status: Status, kind: &'static str, body: &str) -> Self {
        Self { status, kind, fields: Rc::from(""), body: Rc::from(body) }
    }
}

/// The statuses that are sent (RFC 9110 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 400
    BadRequest,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 421: the request is for another host than this one.
    Misdirected,
    /// 503
    Unavailable,
}

impl Status {
    /// Every one.
    const ALL: [Self; 6] = [
        Self::Ok,
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Misdirected,
        Self::Unavailable,
    ];

    /// The status line without the version.
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::Misdirected => "421 Misdirected Request",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

/// How many requests were answered, by status.
#[derive(Debug, Default)]
pub struct Requests([AtomicU64; Status::ALL.len()]);

impl Requests {
    fn count(&self, status: Status) {
        if let Some(count) = self.0.get(status as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As a metric of this name.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Vec<Number> {
        let help = "Requests for the status page, by status code of the answer.";
        let number = |(code, count)| Number::counter(name, help, count).with("code", code);
        self.counts().map(number).collect()
    }

    /// Each status code with its count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let code = |status: Status| status.line().split(' ').next().unwrap_or_default();
        Status::ALL.into_iter().map(code).zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Binds one address for the pages of a section. Must run inside a runtime.
///
/// # Errors
/// When it is taken or not ours, naming it.
pub fn bind(section: &str, address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        let fix = format!("free the address or change [{section}] listen");
        io::Error::new(error.kind(), format!("[{section}] {address} cannot be bound: {error}; {fix}"))
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
    let mut pace = Pace::new(Instant::now());
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
                if let Some(until) = pace.handle_client(Instant::now()) {
                    sleep_until(until).await;
                }
                let pages = Rc::clone(&pages);
                task::spawn_local(async move {
                    if let Err(error) = serve_client(stream, &*pages).await {
                        tracing::debug!(%error, "a client of a page went away");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a client of a page could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// When the next client is due.
struct Pace(Instant);

impl Pace {
    const fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Takes a client; until when it waits, if it came too early.
    fn handle_client(&mut self, now: Instant) -> Option<Instant> {
        let earliest = now.checked_sub(PACE * BURST).unwrap_or(now);
        self.0 = self.0.max(earliest) + PACE;
        (self.0 > now).then_some(self.0)
    }
}

async fn serve_client(mut stream: TcpStream, pages: &impl Pages) -> io::Result<()> {
    let mut head = Vec::new();
    timeout(TIMEOUT, read_head(&mut stream, &mut head)).await??;
    let (page, with_body) = respond(&head, pages).await;
    if let Some(requests) = pages.requests() {
        requests.count(page.status);
    }
    let body = if with_body { page.body.as_bytes() } else { &[] };
    let answer = async {
        stream.write_all(page.head().as_bytes()).await?;
        stream.write_all(body).await?;
        stream.shutdown().await
    };
    timeout(TIMEOUT, answer).await?
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

/// The answer to a request, and whether its body is sent.
async fn respond<P: Pages>(head: &[u8], pages: &P) -> (Page, bool) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    if head.len() >= MAX_HEAD || !is_http {
        return (pages.refused(Status::BadRequest, "not an HTTP/1 request\n"), true);
    }
    if method != "GET" && method != "HEAD" {
        return (pages.refused(Status::MethodNotAllowed, "only GET and HEAD\n"), true);
    }
    let path = target.split('?').next().unwrap_or_default();
    let is_known = match asked(head, &pages.hosts()) {
        Asked::Known => true,
        Asked::NoName => P::is_for_machines(path),
        Asked::Foreign => false,
    };
    let page = if is_known {
        let none = || pages.refused(Status::NotFound, &format!("{}\n", P::PATHS));
        pages.page(path).await.unwrap_or_else(none)
    } else {
        let section = P::SECTION;
        let fix = format!("ask by an address or localhost, or list the name in [{section}] hosts\n");
        pages.refused(Status::Misdirected, &fix)
    };
    (page, method == "GET")
}

impl Page {
    fn head(&self) -> String {
        let Self { status, kind, fields, body } = self;
        let (line, length) = (status.line(), body.len());
        let allow = if *status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
        format!(
            "HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}{fields}\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Pages for Fixed {
        const SECTION: &'static str = "metrics";
        const PATHS: &'static str = "/metrics or /healthz";

        async fn page(&self, path: &str) -> Option<Page> {
            match path {
                "/metrics" => Some(Page::new(Status::Ok, TEXT, "up 1\n")),
                "/healthz" => Some(Page::new(Status::Unavailable, TEXT, "no peer is up\n")),
                _ => None,
            }
        }

        fn is_for_machines(path: &str) -> bool {
            path == "/healthz"
        }

        fn hosts(&self) -> Vec<Host> {
            vec![Host::Name("edge.lan".into())]
        }
    }

    #[test]
    fn the_pages_are_served_and_nothing_else() {
        assert!(reply("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").ends_with("\r\n\r\nup 1\n"));
        assert!(reply("GET /healthz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 503"));
        assert!(reply("GET /etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(reply("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        let head = reply("HEAD /metrics HTTP/1.1\r\nHost: edge.lan\r\n\r\n");
        assert!(head.contains("Content-Length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn no_page_is_served_under_a_foreign_name_and_without_one_only_to_health_checks() {
        for path in ["/metrics", "/healthz", "/"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: evil.example.com:9586\r\n\r\n");
            let refused = reply(&head);
            assert!(refused.starts_with("HTTP/1.1 421") && refused.contains("[metrics] hosts"), "{refused}");
        }
        assert!(reply("GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 421"));
        assert!(reply("GET /metrics HTTP/1.1\r\nHost: EDGE.lan:9586\r\n\r\n").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn nonsense_and_endless_heads_are_refused() {
        assert!(reply("\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert!(reply(&"x".repeat(MAX_HEAD)).starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn more_clients_than_a_burst_wait_for_their_turn() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let now = start + Duration::from_secs(1);
        let waits = (0..BURST + 100).filter_map(|_| pace.handle_client(now)).collect::<Vec<_>>();
        assert_eq!((waits.len(), waits.last()), (100, Some(&(now + 100 * PACE))));
        assert_eq!(pace.handle_client(now + Duration::from_secs(1)), None);
    }

    #[test]
    fn every_status_has_a_count_of_its_own() {
        let requests = Requests::default();
        Status::ALL.iter().for_each(|status| requests.count(*status));
        let counts: Vec<_> = requests.counts().collect();
        assert_eq!(counts.first(), Some(&("200", 1)));
        assert!(counts.iter().all(|(_, count)| *count == 1), "{counts:?}");
    }

    fn reply(head: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (page, with_body) = runtime.block_on(respond(head.as_bytes(), &Fixed));
        page.head() + if with_body { &page.body } else { "" }
    }
}
