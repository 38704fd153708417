//! A GET over TLS, for lists: bounded in size, time and redirects, trusting the system's
//! certificates or one file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::{Exit, ExitError};
use policy::feed::MAX_BYTES;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// For one address, name lookup and redirects included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A list that moved is found; a long chain of redirects is not followed.
const REDIRECTS: u32 = 3;
/// Where systems keep the certificates they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// The HTTP client for lists.
pub(crate) struct Client {
    tls: Agent,
    own: Agent,
}

impl Client {
    /// A client that trusts the certificates in `bundle`, or the system's.
    pub(crate) fn new(bundle: Option<&Path>) -> Result<Self, ExitError> {
        let roots = match bundle {
            Some(bundle) => roots(bundle)?,
            None => BUNDLES.iter().find_map(|path| roots(Path::new(path)).ok()).ok_or_else(|| {
                ExitError::new(
                    Exit::Failed,
                    "no trusted certificates; run: apt install ca-certificates, or name a --ca FILE",
                )
            })?,
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&roots))
            .build();
        let common = || {
            Agent::config_builder()
                .timeout_global(Some(TIMEOUT))
                .max_redirects(REDIRECTS)
                .max_response_header_size(16 << 10)
                .user_agent(concat!("causeway/", env!("CARGO_PKG_VERSION")))
        };
        let tls = common().tls_config(tls).https_only(true).build().new_agent();
        // An address of this machine needs no certificate, and may not redirect.
        let own = common().proxy(None).max_redirects(0).build().new_agent();
        Ok(Self { tls, own })
    }

    /// The text at an address; anything but 200 is an error.
    pub(crate) fn text(&self, url: &str) -> Result<String, String> {
        let agent = if url.starts_with("https://") { &self.tls } else { &self.own };
        let mut response = agent.get(url).call().map_err(|error| format!("{url}: {error}"))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(format!("{url}: status {status}"));
        }
        let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        response
            .body_mut()
            .with_config()
            .limit(limit)
            .read_to_string()
            .map_err(|error| format!("{url}: {error}"))
    }
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
