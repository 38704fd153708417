//! One attempt at a name: a connection as a flow has it, and what the upstream replies.

use std::io;
use std::time::Duration;

use policy::forwarder::ProxyProtocol;
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::http::{self, Head};
use super::tls::{self, Client, Page, Session};
use crate::health::{Connection, connect};
use crate::proxy_protocol;
use crate::upstream::{Member, Speech};

/// How long connection and handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(4);
/// How long the head of a page may take.
const REPLY: Duration = Duration::from_secs(10);

/// What is asked for, and how.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The upstream.
    pub(super) member: &'a Member,
    /// What visitors ask for.
    pub(super) name: Option<&'a str>,
    /// What they speak.
    pub(super) speech: Speech,
    /// The header that the upstream is sent.
    pub(super) proxy: ProxyProtocol,
    /// Whether a TLS session offers HTTP: some servers refuse what they do not have.
    pub(super) offers_http: bool,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Attempt {
    /// There was no connection.
    NotConnected(io::Error),
    /// The connection was closed, or nothing came in time.
    NoReply(io::Error),
    /// The reply is not TLS.
    NotTls,
    /// The reply is not HTTP.
    NotHttp,
    /// An alert came before a certificate.
    Alert(AlertDescription),
    /// The upstream speaks TLS in another way.
    Incompatible,
    /// A certificate came, and this of the page.
    Certificate(CertificateDer<'static>, io::Result<Page>),
    /// A reply without TLS.
    Http(Head),
}

impl Attempt {
    /// Whether the upstream understood what it was sent, whatever it replied. A server that took a
    /// PROXY header for something else closes the connection, reports a bad request, or sends
    /// another alert.
    pub(super) const fn is_understood(&self) -> bool {
        match self {
            Self::Certificate(..) => true,
            Self::Alert(alert) => matches!(
                alert,
                AlertDescription::UnrecognisedName
                    | AlertDescription::AccessDenied
                    | AlertDescription::InternalError
                    | AlertDescription::HandshakeFailure
            ),
            Self::Http(head) => head.status != 400,
            Self::NotConnected(_) | Self::NoReply(_) | Self::NotTls | Self::NotHttp | Self::Incompatible => {
                false
            }
        }
    }
}

/// Tries it.
pub(super) async fn attempt(client: &Client, asked: Asked<'_>) -> Attempt {
    let connected = timeout(HANDSHAKE, connect(asked.member)).await;
    let connection = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(connection) => connection,
        Err(error) => return Attempt::NotConnected(error),
    };
    match (connection, asked.speech) {
        (Connection::Tcp(stream), Speech::Tls) => secured(client, stream, asked).await,
        (Connection::Unix(stream), Speech::Tls) => secured(client, stream, asked).await,
        (Connection::Tcp(stream), Speech::Http) => plain(stream, asked).await,
        (Connection::Unix(stream), Speech::Http) => plain(stream, asked).await,
    }
}

async fn secured(
    client: &Client,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    asked: Asked<'_>,
) -> Attempt {
    let Ok(mut session) = client.session(asked.name, asked.offers_http) else {
        return Attempt::Incompatible;
    };
    let header = proxy_protocol::own(asked.proxy);
    let shaken = timeout(HANDSHAKE, tls::handshake(&mut stream, &mut session, header)).await;
    match shaken {
        Err(_) => return Attempt::NoReply(io::ErrorKind::TimedOut.into()),
        Ok(Err(ended)) => return ended.into(),
        Ok(Ok(())) => {}
    }
    let Some(certificate) = session.peer_certificates().and_then(<[_]>::first).cloned() else {
        return Attempt::Incompatible;
    };
    let page = timeout(REPLY, tls::page(&mut stream, &mut session, asked.name)).await;
    Attempt::Certificate(certificate, page.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
}

impl From<Session> for Attempt {
    fn from(session: Session) -> Self {
        match session {
            Session::Broken(error) => Self::NoReply(error),
            Session::NotTls => Self::NotTls,
            Session::Alert(alert) => Self::Alert(alert),
            Session::Incompatible => Self::Incompatible,
            Session::Certificate(certificate, page) => Self::Certificate(certificate, Ok(page)),
        }
    }
}

async fn plain(mut stream: impl AsyncRead + AsyncWrite + Unpin, asked: Asked<'_>) -> Attempt {
    let mut request = proxy_protocol::own(asked.proxy);
    request.extend(http::request(asked.name));
    let exchange = async {
        stream.write_all(&request).await?;
        let mut head = Vec::new();
        while !http::is_complete(&head) && stream.read_buf(&mut head).await? > 0 {}
        Ok(head)
    };
    match timeout(REPLY, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Err(error) => Attempt::NoReply(error),
        Ok(head) if head.is_empty() => Attempt::NoReply(io::ErrorKind::UnexpectedEof.into()),
        Ok(head) => Head::read(&head).map_or(Attempt::NotHttp, Attempt::Http),
    }
}
