//! What TLS connections to servers trust: the system's certificates, or those of one file.

use std::path::Path;
use std::sync::Arc;

use daemon::exit::{Exit, ExitError};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// TLS by rustls that trusts the certificates in `bundle`, or the system's.
///
/// # Errors
/// Where there are none.
pub fn trusted(bundle: Option<&Path>) -> Result<TlsConfig, ExitError> {
    let roots = match bundle {
        Some(bundle) => roots(bundle)?,
        None => of_system().ok_or_else(|| {
            ExitError::new(
                Exit::Failed,
                "no trusted certificates; run: apt install ca-certificates, or name a --ca FILE",
            )
        })?,
    };
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .build())
}

fn of_system() -> Option<Vec<Certificate<'static>>> {
    let trusted = rustls_native_certs::load_native_certs().certs;
    let certificates: Vec<_> = trusted.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    (!certificates.is_empty()).then_some(certificates)
}

fn roots(bundle: &Path) -> Result<Vec<Certificate<'static>>, ExitError> {
    let stop =
        |why: &dyn std::fmt::Display| ExitError::new(Exit::Failed, format!("{}: {why}", bundle.display()));
    let pem = std::fs::read(bundle).map_err(|error| stop(&error))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() { Err(stop(&"holds no certificate")) } else { Ok(certificates) }
}
