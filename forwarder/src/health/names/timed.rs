//! One try of a service entry now, with the times that it takes, for an edge that asks.

use std::io;
use std::time::{Duration, Instant};

use daemon::diagnosis::Probed;
use daemon::health::CheckFailure;
use daemon::link::message::Reason;
use daemon::link::names::HostName;
use policy::Name;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::http;
use super::tls::{self, Client, Session};
use crate::health::{Connection, connect};
use crate::link::check_failure;
use crate::proxy_protocol;
use crate::upstream::{Member, Pool, Speech};

/// How long each step may take.
const STEP: Duration = Duration::from_secs(3);

/// What tries services.
pub(crate) struct Prober {
    client: Client,
}

impl Prober {
    /// One that is ready.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        Ok(Self { client: Client::new()? })
    }

    /// Tries the first upstream of an entry as a flow reaches it, with the first name that its
    /// visitors ask for.
    pub(crate) async fn probe(&self, service: &Name, pool: &Pool) -> Probed {
        let mut probed = Probed {
            service: service.clone(),
            connect: None,
            tls: None,
            first_byte: None,
            reason: None,
            evidence: None,
        };
        let Some(member) = pool.members().first() else { return probed };
        let tried = self.try_it(member, pool, &mut probed).await;
        let failure = match tried.map_err(|error| check_failure(&member.upstream, &error)) {
            // What does not connect or reply is not asked again.
            Err(failure) if probed.connect.is_none() || failure.reason == Reason::TimedOut => Some(failure),
            Err(failure) => Some(self.judge(member, pool).await.unwrap_or(failure)),
            Ok(()) => self.judge(member, pool).await,
        };
        if let Some(failure) = failure {
            (probed.reason, probed.evidence) = (Some(failure.reason), Some(failure.evidence));
        }
        probed
    }

    /// What is wrong with the PROXY header or the certificate, as the checks of names judge it.
    async fn judge(&self, member: &Member, pool: &Pool) -> Option<CheckFailure> {
        let watched = pool.names().first()?;
        let (name, speech) = (watched.name.as_ref().map(HostName::as_str), watched.speech()?);
        let proxy = member.proxy_protocol;
        let asked = super::Asked { member, name, speech, proxy, offers_http: true };
        super::ask(&self.client, asked).await.0.result.err()
    }

    async fn try_it(&self, member: &Member, pool: &Pool, probed: &mut Probed) -> io::Result<()> {
        let begun = Instant::now();
        let connection = within(connect(member)).await?;
        probed.connect = Some(micros(begun));
        let watched = pool.names().first();
        let name = watched.and_then(|watched| watched.name.as_ref()).map(|name| name.as_str().to_owned());
        let speech = watched.and_then(|watched| watched.speech());
        let asked = Asked { header: proxy_protocol::own(member.proxy_protocol), name, speech };
        match connection {
            Connection::Tcp(stream) => self.exchange(stream, asked, probed).await,
            Connection::Unix(stream) => self.exchange(stream, asked, probed).await,
        }
    }

    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        asked: Asked,
        probed: &mut Probed,
    ) -> io::Result<()> {
        let (begun, name) = (Instant::now(), asked.name.as_deref());
        match asked.speech {
            // Nothing is known of what it speaks: the header alone goes out.
            None => within(stream.write_all(&asked.header)).await,
            Some(Speech::Http) => {
                let mut request = asked.header;
                request.extend(http::request(name));
                within(stream.write_all(&request)).await?;
                if within(stream.read(&mut [0; 1])).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                probed.first_byte = Some(micros(begun));
                Ok(())
            }
            Some(Speech::Tls) => {
                let mut session = self.client.session(name, true).map_err(io::Error::other)?;
                let shaken = timeout(STEP, tls::handshake(&mut stream, &mut session, asked.header)).await;
                match shaken {
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(Err(ended)) => return ended_by(ended),
                    Ok(Ok(())) => probed.tls = Some(micros(begun)),
                }
                let begun = Instant::now();
                within(tls::page(&mut stream, &mut session, name)).await?;
                probed.first_byte = Some(micros(begun));
                Ok(())
            }
        }
    }
}

/// What is sent to an upstream.
struct Asked {
    header: Vec<u8>,
    name: Option<String>,
    speech: Option<Speech>,
}

/// How a session ended that did not begin: names and certificates have checks of their own.
fn ended_by(ended: Session) -> io::Result<()> {
    let refused =
        |reply: String| Err(io::Error::new(io::ErrorKind::InvalidData, format!("it replied: {reply}")));
    match ended {
        Session::Broken(error) => Err(error),
        Session::NotTls => refused("no TLS".to_owned()),
        Session::Alert(alert) => refused(format!("TLS alert {alert:?}")),
        Session::Incompatible | Session::Certificate(..) => Ok(()),
    }
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STEP, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn micros(begun: Instant) -> u32 {
    u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX)
}
