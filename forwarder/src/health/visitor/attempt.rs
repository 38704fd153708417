//! One connection of a visitor's probe: over the machine's ordinary route, bounded in time and
//! bytes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, ClientConnection};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::arrivals::{Arrivals, MARK, Mark};
use crate::health::names::http::{self, Head};
use crate::health::names::tls::{self, Client, Page, Session};
use crate::upstream::Speech;

/// How long a connection may take: a SYN and two more (RFC 6298).
const CONNECT: Duration = Duration::from_secs(4);
/// How long the handshake may take, and then the head of a page.
const REPLY: Duration = Duration::from_secs(4);
/// The most bytes that are read of one connection.
const MAX_READ: u64 = 256 << 10;
/// Where a ClientHello has its random: behind the headers of record and handshake, and a version
/// (RFC 8446 §4.1.2, §5.1).
const RANDOM_AT: usize = 11;

/// What is connected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// What visitors ask for.
    pub(super) name: &'a str,
    /// An address of it, and the published port.
    pub(super) address: SocketAddr,
    /// What visitors speak there.
    pub(super) speech: Speech,
}

/// How a connection went.
#[derive(Debug)]
pub(super) struct Attempt {
    /// What came back.
    pub(super) outcome: Outcome,
    /// Who opened the flow that came out of the tunnel with its mark, if one did.
    pub(super) client: Option<IpAddr>,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There was no connection.
    NotConnected(io::Error),
    /// A connection, but nothing that a server for the name replies.
    Nothing,
    /// TLS of a kind that this program does not have.
    Incompatible,
    /// A certificate with those that it was sent with, and whether the page shows a proxy.
    Certificate(Vec<CertificateDer<'static>>, bool),
    /// A reply without TLS, and whether it shows a proxy.
    Http(bool),
}

/// Connects once; `None` when too many marks are looked for, or there is no randomness.
pub(super) async fn attempt(client: &Client, arrivals: &Arc<Arrivals>, asked: Asked<'_>) -> Option<Attempt> {
    match asked.speech {
        Speech::Tls => secured(client, arrivals, asked).await,
        Speech::Http => plain(arrivals, asked).await,
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn secured(client: &Client, arrivals: &Arc<Arrivals>, asked: Asked<'_>) -> Option<Attempt> {
    let mut session = client.session(Some(asked.name), true).ok()?;
    let (hello, mark) = hello(&mut session)?;
    let sought = arrivals.seek(mark)?;
    let outcome = match connect(asked.address).await {
        Err(error) => Outcome::NotConnected(error),
        Ok(mut stream) => {
            let (reader, writer) = stream.split();
            let mut stream = tokio::io::join(reader.take(MAX_READ), writer);
            let shaken = timeout(REPLY, tls::handshake(&mut stream, &mut session, hello)).await;
            match shaken {
                Ok(Ok(())) => {
                    // A page is requested only where the connection led elsewhere.
                    let name = sought.client().is_none().then_some(asked.name);
                    certificate(&mut stream, &mut session, name).await
                }
                Ok(Err(ended)) => ended.into(),
                Err(_) => Outcome::Nothing,
            }
        }
    };
    Some(Attempt { outcome, client: sought.client() })
}

/// The first message of a session, which the server is sent first, and its random.
fn hello(session: &mut ClientConnection) -> Option<(Vec<u8>, Mark)> {
    let mut hello = Vec::new();
    session.write_tls(&mut hello).ok()?;
    let mark = hello.get(RANDOM_AT..RANDOM_AT + MARK)?.try_into().ok()?;
    Some((hello, mark))
}

async fn certificate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    session: &mut ClientConnection,
    name: Option<&str>,
) -> Outcome {
    let page = timeout(REPLY, tls::page(stream, session, name)).await;
    let is_proxied = match page {
        Ok(Ok(Page::Head(head))) => Head::read(&head).is_some_and(Head::is_proxied),
        Ok(Ok(Page::NotRequested) | Err(_)) | Err(_) => false,
    };
    let certificates = session.peer_certificates().unwrap_or_default().to_vec();
    if certificates.is_empty() {
        Outcome::Incompatible
    } else {
        Outcome::Certificate(certificates, is_proxied)
    }
}

impl From<Session> for Outcome {
    fn from(session: Session) -> Self {
        use AlertDescription::{
            HandshakeFailure, InsufficientSecurity, NoApplicationProtocol, ProtocolVersion,
        };
        match session {
            Session::Alert(
                HandshakeFailure | InsufficientSecurity | NoApplicationProtocol | ProtocolVersion,
            )
            | Session::Incompatible => Self::Incompatible,
            Session::Certificate(certificate, _) => Self::Certificate(vec![certificate], false),
            Session::Broken(_) | Session::NotTls | Session::Alert(_) => Self::Nothing,
        }
    }
}

async fn plain(arrivals: &Arc<Arrivals>, asked: Asked<'_>) -> Option<Attempt> {
    let mut random = [0; MARK / 2];
    getrandom::fill(&mut random).ok()?;
    let mark: Mark = random.map(|byte| format!("{byte:02x}")).concat().into_bytes().try_into().ok()?;
    let sought = arrivals.seek(mark)?;
    let outcome = match connect(asked.address).await {
        Err(error) => Outcome::NotConnected(error),
        Ok(mut stream) => {
            let request = http::marked_request(asked.name, &String::from_utf8_lossy(&mark));
            let exchange = async {
                stream.write_all(&request).await?;
                let mut head = Vec::new();
                while !http::is_complete(&head) && stream.read_buf(&mut head).await? > 0 {}
                io::Result::Ok(head)
            };
            match timeout(REPLY, exchange).await {
                Ok(Ok(head)) => {
                    Head::read(&head).map_or(Outcome::Nothing, |head| Outcome::Http(head.is_proxied()))
                }
                Ok(Err(_)) | Err(_) => Outcome::Nothing,
            }
        }
    };
    Some(Attempt { outcome, client: sought.client() })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::thread;

    use rustls::sign::CertifiedKey;

    use super::*;
    use crate::health::names::tests::{Server, certificate};

    const NAME: &str = "emby.example.com";
    const CARRIER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

    #[test]
    fn the_certificate_of_a_server_is_seen_and_without_an_arrival_there_is_no_client() {
        let server = Server::tls(certificate(NAME, 2020, 4000)).start();
        let made = attempt_at(server.0, Speech::Tls, &Arc::default());
        assert!(matches!(&made.outcome, Outcome::Certificate(chain, false) if chain.len() == 1), "{made:?}");
        assert_eq!(made.client, None);
    }

    #[test]
    fn what_is_sent_first_has_the_mark_that_is_looked_for() {
        for speech in [Speech::Tls, Speech::Http] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let arrivals = Arc::<Arrivals>::default();
            let tunnel = Arc::clone(&arrivals);
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // As the data thread does it with a flow out of the tunnel.
                let mut flow = tunnel.watch(CARRIER).unwrap();
                let mut bytes = [0; 512];
                let count = stream.read(&mut bytes).unwrap();
                flow.handle_bytes(&bytes[..count]);
            });
            let made = attempt_at(port, speech, &arrivals);
            server.join().unwrap();
            assert!(matches!(made.outcome, Outcome::Nothing), "{made:?}");
            assert_eq!(made.client, Some(CARRIER), "{speech:?}");
            assert!(arrivals.watch(CARRIER).is_none(), "nothing is looked for afterwards");
        }
    }

    #[test]
    fn a_server_that_does_not_hold_the_key_of_its_certificate_is_no_server_of_the_name() {
        let (shown, held) = (certificate(NAME, 2020, 4000), certificate(NAME, 2020, 4000));
        let forged = CertifiedKey::new(shown.cert.clone(), Arc::clone(&held.key));
        let made = attempt_at(Server::tls(forged).start().0, Speech::Tls, &Arc::default());
        assert!(matches!(made.outcome, Outcome::Nothing), "{made:?}");
    }

    #[test]
    fn a_closed_port_and_another_protocol_are_seen() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let made = attempt_at(closed, Speech::Tls, &Arc::default());
        assert!(
            matches!(&made.outcome, Outcome::NotConnected(error) if error.kind() == io::ErrorKind::ConnectionRefused)
        );
        let plain = || Server::replies(b"HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\n\r\n").start().0;
        assert!(matches!(attempt_at(plain(), Speech::Tls, &Arc::default()).outcome, Outcome::Nothing));
        assert!(matches!(attempt_at(plain(), Speech::Http, &Arc::default()).outcome, Outcome::Http(true)));
    }

    fn attempt_at(port: u16, speech: Speech, arrivals: &Arc<Arrivals>) -> Attempt {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = Asked { name: NAME, address: ([127, 0, 0, 1], port).into(), speech };
        runtime.block_on(attempt(&Client::of_visitor().unwrap(), arrivals, asked)).unwrap()
    }
}
