//! Whether this system trusts who signed a certificate.

use std::time::Duration;

use daemon::link::message::Reason;
use daemon::link::visitor::Cause;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use tokio::sync::OnceCell;

use crate::health::names::certificate;

/// The authorities that this system trusts, read when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Trust(OnceCell<Option<RootCertStore>>);

impl Trust {
    /// Whether the system trusts who signed the first of these certificates, by way of the others;
    /// `None` where it has no authorities.
    pub(super) async fn trusts(&self, chain: &[CertificateDer<'static>], now: Duration) -> Option<bool> {
        let read = || async { tokio::task::spawn_blocking(authorities).await.ok().flatten() };
        let roots = self.0.get_or_init(read).await.as_ref()?;
        let (leaf, others) = chain.split_first()?;
        Some(is_signed(leaf, others, roots, now))
    }
}

fn authorities() -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!roots.is_empty()).then_some(roots)
}

fn is_signed(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: Duration,
) -> bool {
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else { return false };
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(now);
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, algorithms).is_ok()
}

/// What is wrong with a certificate for a name, whoever signed it.
pub(super) fn fault(leaf: &CertificateDer<'_>, name: &str, now: Duration) -> Option<Cause> {
    let reason = certificate::judge(leaf, name, now).reason?;
    Some(if reason == Reason::CertificateExpired {
        Cause::CertificateExpired
    } else if reason == Reason::CertificateNotYetValid {
        Cause::CertificateNotYetValid
    } else {
        Cause::WrongCertificate
    })
}
