//! Whether a certificate is valid for a name, and for how long.
//!
//! Who signed it is not judged: behind a proxy that ends TLS any authority may have.

use std::time::Duration;

use daemon::link::message::Reason;
use daemon::link::names::Validity;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

/// After every time that a certificate can have (RFC 5280 §4.1.2.5): the year 10000.
const AFTER_ALL: Duration = Duration::from_secs(253_402_300_800);

/// What a certificate is for a name at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::health) struct Judged {
    /// Why visitors refuse it.
    pub(in crate::health) reason: Option<Reason>,
    /// Its time.
    pub(in crate::health) validity: Option<Validity>,
}

/// Judges the certificate of a server. One that cannot be read is not judged.
pub(in crate::health) fn judge(certificate: &CertificateDer<'_>, name: &str, now: Duration) -> Judged {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return Judged::default() };
    let reason = match error_at(&parsed, now) {
        // Also for one that ends before it begins.
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Some(Reason::CertificateExpired)
        }
        Some(CertificateError::NotValidYetContext { .. }) => Some(Reason::CertificateNotYetValid),
        Some(_) | None => (!is_for(&parsed, name)).then_some(Reason::WrongCertificate),
    };
    Judged { reason, validity: validity(&parsed, now) }
}

fn validity(certificate: &ParsedCertificate<'_>, now: Duration) -> Option<Validity> {
    let (before, after) = (error_at(certificate, Duration::ZERO), error_at(certificate, AFTER_ALL));
    let Some(CertificateError::ExpiredContext { not_after, .. }) = after else { return None };
    let first = match before {
        Some(CertificateError::NotValidYetContext { not_before, .. }) => not_before.as_secs(),
        Some(_) | None => 0,
    };
    let last = not_after.as_secs();
    Some(Validity { hours: hours(now.as_secs(), last), lifetime: hours(first, last) })
}

/// What is wrong with it at this time. Without a trust anchor its validity is checked all the same,
/// and before its chain.
fn error_at(certificate: &ParsedCertificate<'_>, time: Duration) -> Option<CertificateError> {
    let (roots, time) = (RootCertStore::empty(), UnixTime::since_unix_epoch(time));
    match verify_server_cert_signed_by_trust_anchor(certificate, &roots, &[], time, &[]) {
        Err(Error::InvalidCertificate(error)) => Some(error),
        Err(_) | Ok(()) => None,
    }
}

fn is_for(certificate: &ParsedCertificate<'_>, name: &str) -> bool {
    ServerName::try_from(name).is_ok_and(|name| verify_server_name(certificate, &name).is_ok())
}

/// Whole hours from one time to another.
fn hours(from: u64, to: u64) -> i32 {
    let seconds = i128::from(to) - i128::from(from);
    i32::try_from(seconds.div_euclid(3_600)).unwrap_or(i32::MAX)
}
