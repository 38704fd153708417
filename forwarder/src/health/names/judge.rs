//! What an attempt says of a name.

use std::io;
use std::time::Duration;

use daemon::health::CheckFailure;
use daemon::link::message::{Evidence, Reason};
use daemon::link::names::Validity;
use policy::forwarder::{ProxyProtocol, Upstream};
use rustls::AlertDescription;

use super::attempt::Attempt;
use super::certificate;
use super::http::Head;
use super::tls::{Page, is_closed};
use crate::link::check_failure;

/// What is known of a name after an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether it works.
    pub(super) result: Result<(), CheckFailure>,
    /// The time of its certificate.
    pub(super) certificate: Option<Validity>,
}

impl Verdict {
    fn failed(reason: Reason, evidence: &str) -> Self {
        Self { result: Err(failure(reason, evidence)), certificate: None }
    }

    const fn works() -> Self {
        Self { result: Ok(()), certificate: None }
    }
}

fn failure(reason: Reason, evidence: &str) -> CheckFailure {
    CheckFailure { reason, evidence: Evidence::of(evidence) }
}

/// The verdict when the upstream understood nothing with the header of its entry, and understood
/// what came with another.
pub(super) fn other_header(written: ProxyProtocol) -> Verdict {
    match written {
        ProxyProtocol::Off => {
            Verdict::failed(Reason::ProxyHeaderRequired, "it replies only after a PROXY header")
        }
        ProxyProtocol::V1 | ProxyProtocol::V2 => {
            Verdict::failed(Reason::NoProxyListener, "it replies only without a PROXY header")
        }
    }
}

/// The verdict on a name after an attempt, at this wall-clock time.
pub(super) fn judge(attempt: &Attempt, name: &str, upstream: &Upstream, now: Duration) -> Verdict {
    match attempt {
        Attempt::NotConnected(error) => {
            Verdict { result: Err(check_failure(upstream, error)), certificate: None }
        }
        Attempt::NoReply(error) => Verdict { result: Err(no_reply(error)), certificate: None },
        Attempt::NotTls => Verdict::failed(Reason::NotTls, "it replied without TLS"),
        Attempt::NotHttp => Verdict::failed(Reason::BadReply, "it replied, but not with HTTP"),
        Attempt::Alert(alert) => Verdict::failed(alert_reason(*alert), &format!("TLS alert {alert:?}")),
        // Visitors may speak what this program does not.
        Attempt::Incompatible => Verdict::works(),
        Attempt::Certificate(certificate, page) => {
            let judged = certificate::judge(certificate, name, now);
            let result = match judged.reason {
                Some(reason) => Err(failure(reason, certificate_text(reason))),
                None => page_result(page),
            };
            Verdict { result, certificate: judged.validity }
        }
        Attempt::Http(head) if head.is_without_site() => without_site(*head),
        Attempt::Http(head) => Verdict { result: served(*head), certificate: None },
    }
}

fn no_reply(error: &io::Error) -> CheckFailure {
    if error.kind() == io::ErrorKind::TimedOut {
        return failure(Reason::TimedOut, "no reply in time");
    }
    let what = if is_closed(error) { "it closed the connection".to_owned() } else { error.to_string() };
    failure(Reason::BadReply, &what)
}

fn alert_reason(alert: AlertDescription) -> Reason {
    use AlertDescription::{AccessDenied, InternalError, UnrecognisedName};
    // Go's servers, Caddy among them, send the second one, rustls' the first.
    if matches!(alert, AccessDenied | InternalError | UnrecognisedName) {
        Reason::NoCertificateForName
    } else {
        Reason::TlsAlert
    }
}

fn certificate_text(reason: Reason) -> &'static str {
    if reason == Reason::CertificateExpired {
        "its certificate has expired"
    } else if reason == Reason::CertificateNotYetValid {
        "its certificate is not valid yet"
    } else {
        "its certificate is for other names"
    }
}

/// What the page says where the certificate is right: a site that has none is still a site.
fn page_result(page: &io::Result<Page>) -> Result<(), CheckFailure> {
    let head = match page {
        Ok(Page::NotRequested) => return Ok(()),
        Ok(Page::Head(head)) if head.is_empty() => {
            return Err(failure(Reason::NoSite, "it closed the connection instead of a reply to HEAD /"));
        }
        Ok(Page::Head(head)) => Head::read(head),
        Err(error) => return Err(no_reply(error)),
    };
    match head {
        Some(head) if head.status == 421 => without_site(head).result,
        Some(head) => served(head),
        None => Ok(()),
    }
}

fn without_site(head: Head) -> Verdict {
    Verdict::failed(Reason::NoSite, &format!("HTTP status {} of a server without this site", head.status))
}

fn served(head: Head) -> Result<(), CheckFailure> {
    if head.status == 400 || head.is_without_application() {
        return Err(failure(Reason::BadReply, &format!("HTTP status {}", head.status)));
    }
    Ok(())
}
