use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use daemon::link::message::{Reason, State as Reported};
use policy::Source;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tunnel::time::Instant;

use super::*;
use crate::upstream::Pool;

const NAME: &str = "emby.example.com";
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[test]
fn a_name_with_a_valid_certificate_works_and_its_time_is_known() {
    let server = Server::tls(certificate(NAME, 2020, 4000)).start();
    let found = server.found("").unwrap();
    assert_eq!((found.result, found.speech), (Ok(()), Speech::Tls));
    assert!(found.certificate.unwrap().hours > 1_900 * 365 * 24);
}

#[test]
fn each_fault_of_a_certificate_has_its_reason() {
    for (certificate, reason) in [
        (certificate(NAME, 2020, 2021), Reason::CertificateExpired),
        (certificate(NAME, 2021, 2020), Reason::CertificateExpired),
        (certificate(NAME, 3999, 4000), Reason::CertificateNotYetValid),
        (certificate("other.example.com", 2020, 4000), Reason::WrongCertificate),
        (certificate("*.other.example.com", 2020, 4000), Reason::WrongCertificate),
    ] {
        assert_eq!(Server::tls(certificate).start().reason(""), Some(reason));
    }
    assert_eq!(Server::tls(certificate("*.example.com", 2020, 4000)).start().reason(""), None);
}

#[test]
fn the_certificate_of_an_authority_is_judged_like_any_other() {
    let mut params = params(NAME, 2020, 2021);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let found = Server::tls(signed(&params)).start().found("").unwrap();
    assert_eq!(found.result.unwrap_err().reason, Reason::CertificateExpired);
    let validity = found.certificate.unwrap();
    assert!(validity.hours < 0 && validity.lifetime == 366 * 24, "{validity:?}");
}

#[test]
fn a_server_without_a_certificate_for_the_name_is_named_and_another_alert_is_one() {
    for alert in [80, 112, 49] {
        assert_eq!(
            Server::replies(&[21, 3, 3, 0, 2, 2, alert]).start().reason(""),
            Some(Reason::NoCertificateForName)
        );
    }
    assert_eq!(Server::replies(&[21, 3, 3, 0, 2, 2, 40]).start().reason(""), Some(Reason::TlsAlert));
    assert_eq!(Server::replies(b"").start().reason(""), Some(Reason::BadReply));
    assert_eq!(Server::replies(PAGE).start().reason(""), Some(Reason::NotTls));
}

#[test]
fn a_header_that_the_upstream_does_not_take_is_named_and_one_that_it_requires_too() {
    for version in ["v1", "v2"] {
        let server = Server::tls(certificate(NAME, 2020, 4000)).start();
        let entry = format!("proxy_protocol = \"{version}\"\n");
        assert_eq!(server.reason(&entry), Some(Reason::NoProxyListener));
    }
    let server = || Server { requires_header: true, ..Server::tls(certificate(NAME, 2020, 4000)) };
    assert_eq!(server().start().reason(""), Some(Reason::ProxyHeaderRequired));
    assert_eq!(server().start().reason("proxy_protocol = \"v2\"\n"), None);
    let plain = Server { requires_header: true, ..Server::replies(PAGE) };
    assert_eq!(
        plain.start().reason("health = { check = \"http\", name = \"a.b\" }\n"),
        Some(Reason::ProxyHeaderRequired)
    );
}

#[test]
fn a_server_that_sends_back_what_it_gets_is_no_proof_of_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        }
    });
    for proxy in ["off", "v1", "v2"] {
        let found = Running(port).found(&format!("# no names\nproxy_protocol = \"{proxy}\"\n")).unwrap();
        assert_eq!(found.result, Ok(()), "{proxy}");
    }
}

#[test]
fn without_names_an_alert_is_no_failure_and_a_missing_listener_is() {
    let found = |server: Server, entry: &str| server.start().found_at(443, &format!("# no names\n{entry}"));
    let alert = Server::replies(&[21, 3, 3, 0, 2, 2, 80]);
    assert_eq!(found(alert, "").unwrap().result, Ok(()));
    assert_eq!(found(Server::replies(b""), "").unwrap().result, Ok(()));
    let server = Server::tls(certificate(NAME, 2020, 4000));
    let missing = found(server, "proxy_protocol = \"v2\"\n").unwrap();
    assert_eq!(missing.result.unwrap_err().reason, Reason::NoProxyListener);
}

#[test]
fn a_server_that_asks_for_a_certificate_of_its_visitors_works() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = Server { asks_client: true, version, ..Server::tls(certificate(NAME, 2020, 4000)) };
        assert_eq!(server.start().reason(""), None, "{version:?}");
    }
}

#[test]
fn a_page_that_a_proxy_cannot_get_is_failing_and_a_name_that_is_closed_has_no_site() {
    let server =
        |reply: &'static [u8]| Server { reply, ..Server::tls(certificate(NAME, 2020, 4000)) }.start();
    assert_eq!(server(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").reason(""), Some(Reason::BadReply));
    assert_eq!(server(b"HTTP/1.1 421 Misdirected Request\r\n\r\n").reason(""), Some(Reason::NoSite));
    assert_eq!(server(b"HTTP/1.1 404 Not Found\r\n\r\n").reason(""), None, "a site without a first page");
    assert_eq!(server(b"").reason(""), Some(Reason::NoSite));
}

#[test]
fn a_server_that_refuses_http_in_tls_is_asked_without() {
    let server = Server { protocols: vec![b"imap".to_vec()], ..Server::tls(certificate(NAME, 2020, 4000)) };
    assert_eq!(server.start().reason(""), None);
}

#[test]
fn a_server_that_sends_on_after_it_ended_the_session_ends_the_look() {
    let server = Server { ends_early: true, ..Server::tls(certificate(NAME, 2020, 4000)) }.start();
    let (done, ended) = std::sync::mpsc::channel();
    thread::spawn(move || done.send(server.found("").is_some()));
    assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(true));
}

#[test]
fn a_name_on_port_80_is_asked_for_by_http() {
    for (reply, reason) in [
        ("308 Permanent Redirect\r\nLocation: https://emby.example.com/", None),
        ("404 Not Found\r\nServer: Caddy", Some(Reason::NoSite)),
        ("503 Service Unavailable\r\nServer: Caddy", Some(Reason::BadReply)),
    ] {
        let reply = format!("HTTP/1.1 {reply}\r\n\r\n");
        let found = Server::replies(reply.as_bytes()).start().found_at(80, "").unwrap();
        assert_eq!(found.result.err().map(|failure| failure.reason), reason, "{reply}");
    }
}

#[test]
fn where_the_port_does_not_show_it_a_name_is_tried_both_ways_and_else_not_known() {
    let found = |server: Server| server.start().found_at(8096, "");
    assert_eq!(found(Server::replies(PAGE)).unwrap().speech, Speech::Http);
    assert_eq!(found(Server::tls(certificate(NAME, 2020, 4000))).unwrap().speech, Speech::Tls);
    assert!(found(Server::replies(b"220 mail.example.com ESMTP\r\n")).is_none());
    assert!(found(Server::replies(b"")).is_none());
}

#[test]
fn every_upstream_of_a_name_must_have_it() {
    let good = Server::tls(certificate(NAME, 2020, 4000)).start();
    let bad = Server::tls(certificate(NAME, 2020, 2021)).start();
    let upstreams = format!("\"127.0.0.1:{}\", \"127.0.0.1:{}\"", good.0, bad.0);
    let found = found_of(&upstreams, 443, "").unwrap();
    assert_eq!(found.result.unwrap_err().reason, Reason::CertificateExpired);
}

#[test]
fn an_upstream_that_gets_no_flows_need_not_have_the_name_while_another_works() {
    let good = Server::tls(certificate(NAME, 2020, 4000)).start();
    let pool = pool(&format!("\"127.0.0.1:{}\", \"127.0.0.1:1\"", good.0), 443, "");
    let fail = |member: &Member| {
        for _ in 0..2 {
            member.handle_check(Verdict::refused().result);
        }
    };
    assert!(found_in(&pool).unwrap().result.is_err(), "no check has found it dead");
    fail(&pool.members()[1]);
    assert_eq!(found_in(&pool).unwrap().result, Ok(()));
    fail(&pool.members()[0]);
    assert!(found_in(&pool).unwrap().result.is_err(), "none of them works");
}

#[test]
fn names_of_one_entry_that_hang_leave_turns_for_others() {
    let pool = pool("\"127.0.0.1:1\"", 443, "names = [\"a.example.com\", \"b.example.com\"]\n");
    let (first, second) = (&pool.names()[0], &pool.names()[1]);
    let held: Vec<_> = std::iter::from_fn(|| first.turns.try_acquire().ok()).collect();
    assert!(second.turns.try_acquire().is_err(), "an entry's names share their turns");
    assert!(!held.is_empty() && held.len() < AT_A_TIME);
}

#[test]
fn a_failure_is_decided_soon_and_one_that_lasts_is_looked_at_more_often() {
    let pool = pool("\"127.0.0.1:1\"", 443, "");
    let name = &pool.names()[0];
    assert_eq!(pause(name), EVERY);
    let failed = || Found { result: Verdict::refused().result, certificate: None, speech: Speech::Tls };
    name.handle_look(at(1), failed());
    assert_eq!((pause(name), name.seen(at(9)).unwrap().state), (LEAST, Reported::Unknown));
    assert!(name.handle_look(at(6), failed()));
    let seen = name.seen(at(9)).unwrap();
    assert_eq!((pause(name), seen.state, seen.since), (WHILE_FAILING, Reported::Failing, at(6)));
    name.handle_look(at(16), Found { result: Ok(()), certificate: None, speech: Speech::Tls });
    assert_eq!((pause(name), name.seen(at(9)).unwrap().reason), (EVERY, None));
}

#[test]
fn names_of_an_entry_without_health_checks_are_not_looked_at() {
    let off = pool("\"127.0.0.1:1\"", 443, "health = \"off\"\n");
    assert_eq!(off.names()[0].seen(at(0)), None, "since when is not known");
    off.names()[0].begin(at(1));
    assert!(!off.names()[0].is_watched());
    assert_eq!(off.names()[0].seen(at(0)).unwrap().state, Reported::Unknown);
    assert!(pool("\"127.0.0.1:1\"", 8096, "# no names\n").names().is_empty());
}

impl Verdict {
    fn refused() -> Self {
        let failure = daemon::health::CheckFailure {
            reason: Reason::Refused,
            evidence: daemon::link::message::Evidence::of("refused"),
        };
        Self { result: Err(failure), certificate: None }
    }
}

/// What a server does with every connection.
pub(in crate::health) struct Server {
    /// Its certificate; `None` for one that only sends `reply`.
    certificate: Option<CertifiedKey>,
    requires_header: bool,
    asks_client: bool,
    version: &'static rustls::SupportedProtocolVersion,
    protocols: Vec<Vec<u8>>,
    /// Whether it ends the session with its part of the handshake, and goes on sending.
    ends_early: bool,
    reply: &'static [u8],
}

/// The port of a server that runs until the test ends.
pub(in crate::health) struct Running(pub(in crate::health) u16);

impl Server {
    pub(in crate::health) fn tls(certificate: CertifiedKey) -> Self {
        Self {
            certificate: Some(certificate),
            protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            ..Self::replies(PAGE)
        }
    }

    pub(in crate::health) fn replies(reply: &[u8]) -> Self {
        Self {
            certificate: None,
            requires_header: false,
            asks_client: false,
            version: &rustls::version::TLS13,
            protocols: Vec::new(),
            ends_early: false,
            reply: reply.to_vec().leak(),
        }
    }

    pub(in crate::health) fn start(self) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = self.certificate.clone().map(|certificate| Arc::new(self.config(certificate)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that closes early is a client.
                let _ = self.serve(stream.unwrap(), config.clone());
            }
        });
        Running(port)
    }

    fn config(&self, certificate: CertifiedKey) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_protocol_versions(&[self.version]).unwrap();
        let builder = if self.asks_client {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.cert[0].clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(Always(Arc::new(certificate))));
        config.alpn_protocols.clone_from(&self.protocols);
        config
    }

    fn serve(&self, mut stream: TcpStream, config: Option<Arc<ServerConfig>>) -> io::Result<()> {
        if self.requires_header {
            let mut header = [0; 16];
            stream.read_exact(&mut header)?;
            if !header.starts_with(SIGNATURE) {
                return Ok(());
            }
        }
        let mut question = [0; 2_048];
        let Some(config) = config else {
            let _ = stream.read(&mut question)?;
            return stream.write_all(self.reply);
        };
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        if self.ends_early {
            connection.read_tls(&mut stream)?;
            connection.process_new_packets().map_err(io::Error::other)?;
            connection.send_close_notify();
            while connection.wants_write() {
                connection.write_tls(&mut stream)?;
            }
            // What comes behind the end comes by itself.
            stream.set_nodelay(true)?;
            thread::sleep(Duration::from_millis(50));
            stream.write_all(self.reply)?;
            return stream.read_to_end(&mut Vec::new()).map(drop);
        }
        let mut session = StreamOwned::new(connection, stream);
        let read = session.read(&mut question)?;
        if read > 0 {
            session.write_all(self.reply)?;
        }
        session.conn.send_close_notify();
        session.flush()
    }
}

impl Running {
    fn found(&self, entry: &str) -> Option<Found> {
        self.found_at(443, entry)
    }

    fn found_at(&self, port: u16, entry: &str) -> Option<Found> {
        found_of(&format!("\"127.0.0.1:{}\"", self.0), port, entry)
    }

    fn reason(&self, entry: &str) -> Option<Reason> {
        self.found(entry).unwrap().result.err().map(|failure| failure.reason)
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

pub(in crate::health) fn certificate(name: &str, from: i32, until: i32) -> CertifiedKey {
    signed(&params(name, from, until))
}

fn params(name: &str, from: i32, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

fn signed(params: &CertificateParams) -> CertifiedKey {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    CertifiedKey::new(vec![certificate.der().clone()], key)
}

fn found_of(upstreams: &str, port: u16, entry: &str) -> Option<Found> {
    found_in(&pool(upstreams, port, entry))
}

fn found_in(pool: &Pool) -> Option<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new().unwrap();
    runtime.block_on(find(&client, &pool.names()[0]))
}

fn pool(upstreams: &str, port: u16, entry: &str) -> Pool {
    let names = if entry.contains("names") { String::new() } else { format!("names = [\"{NAME}\"]\n") };
    let text = format!(
        "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
         [[service]]\nname = \"web\"\nmatch = \"192.168.88.2:{port}\"\nupstream = [{upstreams}]\n{names}{entry}"
    );
    let source = Source { name: Path::new("forwarder.toml"), text: &text };
    Pool::new(&policy::forwarder::parse(&source).unwrap().services[0], None)
}

fn at(seconds: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(1_000 + seconds))
}
