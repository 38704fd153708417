//! What TLS connections to servers trust: the system's certificates, or those of one file.

use std::path::Path;
use std::sync::Arc;

use daemon::exit::{Exit, ExitError};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// Where systems keep the certificates they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// TLS by rustls that trusts the certificates in `bundle`, or the system's.
///
/// # Errors
/// Where there are none.
pub fn trusted(bundle: Option<&Path>) -> Result<TlsConfig, ExitError> {
    let roots = match bundle {
        Some(bundle) => roots(bundle)?,
        None => BUNDLES.iter().find_map(|path| roots(Path::new(path)).ok()).ok_or_else(|| {
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
