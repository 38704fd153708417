//! One TLS session with an upstream, up to the head of a page.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::http;

/// The protocol in which a page is requested.
const HTTP_1: &[u8] = b"http/1.1";

/// How a session went.
#[derive(Debug)]
pub(in crate::health) enum Session {
    /// The connection failed, or was closed.
    Broken(io::Error),
    /// What came is not TLS.
    NotTls,
    /// The server refused by an alert before it sent a certificate.
    Alert(AlertDescription),
    /// It speaks TLS, but no version or suite that this program has.
    Incompatible,
    /// The server sent this certificate.
    Certificate(CertificateDer<'static>, Page),
}

/// What came of the request for a page.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::health) enum Page {
    /// It was not requested: the server speaks no HTTP/1.1, or wants a certificate of the client.
    NotRequested,
    /// The head of the reply; empty when the server closed the connection.
    Head(Vec<u8>),
}

/// Sessions of a kind: what they offer.
#[derive(Clone)]
pub(in crate::health) struct Client {
    with_http: Arc<ClientConfig>,
    without: Arc<ClientConfig>,
}

impl Client {
    /// One that takes every certificate, as it judges them itself.
    pub(in crate::health) fn new() -> Result<Self, Error> {
        Self::with(TakesEvery { verified: None })
    }

    /// As [`new`](Self::new), but the server must hold the key of its certificate.
    pub(in crate::health) fn of_visitor() -> Result<Self, Error> {
        Self::with(TakesEvery { verified: Some(ring::default_provider().signature_verification_algorithms) })
    }

    fn with(verifier: TakesEvery) -> Result<Self, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        let verifier = Arc::new(verifier);
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.resumption = Resumption::disabled();
        let without = Arc::new(config.clone());
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        Ok(Self { with_http: Arc::new(config), without })
    }

    /// Begins a session for a name; with `offers_http` the server is offered HTTP/1.1.
    pub(in crate::health) fn session(
        &self,
        name: Option<&str>,
        offers_http: bool,
    ) -> Result<ClientConnection, Error> {
        let config = if offers_http { &self.with_http } else { &self.without };
        let no_name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
        // An address is not sent as a name.
        let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok()).unwrap_or(no_name);
        ClientConnection::new(Arc::clone(config), name)
    }
}

/// Makes a session on a connection; `header` goes out first.
pub(in crate::health) async fn handshake(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    connection: &mut ClientConnection,
    header: Vec<u8>,
) -> Result<(), Session> {
    let mut out = header;
    loop {
        send(stream, connection, &mut out).await.map_err(Session::Broken)?;
        if !connection.is_handshaking() {
            return Ok(());
        }
        if let Err(session) = receive(stream, connection).await {
            // The alert of this end.
            let _ = send(stream, connection, &mut out).await;
            return Err(session);
        }
    }
}

/// Requests the page of a name over a session, and ends it.
pub(in crate::health) async fn page(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    connection: &mut ClientConnection,
    name: Option<&str>,
) -> io::Result<Page> {
    let speaks_http = connection.alpn_protocol() == Some(HTTP_1) && name.is_some();
    let page = if speaks_http { request(stream, connection, name).await? } else { Page::NotRequested };
    connection.send_close_notify();
    // The other end may have closed the connection already.
    let _ = send(stream, connection, &mut Vec::new()).await;
    Ok(page)
}

async fn request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    connection: &mut ClientConnection,
    name: Option<&str>,
) -> io::Result<Page> {
    io::Write::write_all(&mut connection.writer(), &http::request(name))?;
    let mut head = Vec::new();
    loop {
        let is_over = match send(stream, connection, &mut Vec::new()).await {
            Err(error) => is_closed(&error),
            Ok(()) => match receive(stream, connection).await {
                Ok(()) => false,
                Err(Session::Broken(error)) if is_closed(&error) => true,
                Err(Session::Broken(error)) => return Err(error),
                // In TLS 1.3 a server asks for a client's certificate at the end.
                Err(_) => return Ok(Page::NotRequested),
            },
        };
        let is_ended = read_plaintext(connection, &mut head)?;
        if is_over || is_ended || http::is_complete(&head) {
            return Ok(Page::Head(head));
        }
    }
}

/// Takes what was decrypted; whether the server ended the session.
fn read_plaintext(connection: &mut ClientConnection, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut part = [0; 1_024];
    loop {
        match io::Read::read(&mut connection.reader(), &mut part) {
            Ok(0) => return Ok(true),
            Ok(count) => into.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if is_closed(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

pub(in crate::health) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    connection: &mut ClientConnection,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(out)?;
    }
    stream.write_all(out).await?;
    out.clear();
    Ok(())
}

async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    connection: &mut ClientConnection,
) -> Result<(), Session> {
    let mut part = [0; 4_096];
    let count = stream.read(&mut part).await.map_err(Session::Broken)?;
    if count == 0 {
        return Err(Session::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    let mut rest = part.get(..count).unwrap_or_default();
    while !rest.is_empty() {
        if connection.read_tls(&mut rest).map_err(Session::Broken)? == 0 {
            // The server has ended the session: nothing after that is taken.
            return Ok(());
        }
        connection.process_new_packets().map_err(|error| failed(error, connection))?;
    }
    Ok(())
}

fn failed(error: Error, connection: &ClientConnection) -> Session {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    match (error, certificate) {
        // What a server refuses after it has sent its certificate is the client, not the name.
        (Error::AlertReceived(_), Some(certificate)) => {
            Session::Certificate(certificate.clone(), Page::NotRequested)
        }
        (Error::AlertReceived(alert), None) => Session::Alert(alert),
        (Error::PeerIncompatible(_), _) => Session::Incompatible,
        _ => Session::NotTls,
    }
}

/// Takes every certificate: nothing is entrusted to the server, and what visitors would refuse is
/// judged afterwards.
#[derive(Debug)]
struct TakesEvery {
    /// The signatures that are verified; `None` where a server need not hold its certificate's key.
    verified: Option<WebPkiSupportedAlgorithms>,
}

impl ServerCertVerifier for TakesEvery {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.verified {
            Some(algorithms) => verify_tls12_signature(message, certificate, signature, algorithms),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.verified {
            Some(algorithms) => verify_tls13_signature(message, certificate, signature, algorithms),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        if let Some(algorithms) = &self.verified {
            return algorithms.supported_schemes();
        }
        use SignatureScheme::{
            ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, ECDSA_NISTP521_SHA512, ED25519, RSA_PKCS1_SHA256,
            RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        };
        vec![
            ECDSA_NISTP256_SHA256,
            RSA_PSS_SHA256,
            RSA_PKCS1_SHA256,
            ED25519,
            ECDSA_NISTP384_SHA384,
            ECDSA_NISTP521_SHA512,
            RSA_PSS_SHA384,
            RSA_PSS_SHA512,
            RSA_PKCS1_SHA384,
            RSA_PKCS1_SHA512,
        ]
    }
}
