//! A GET over TLS, for lists: bounded in size, time and redirects, trusting the system's
//! certificates or one file.

use std::path::Path;
use std::time::Duration;

use daemon::exit::ExitError;
use policy::feed::MAX_BYTES;
use ureq::Agent;

use crate::https::trusted;

/// For one address, name lookup and redirects included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A list that moved is found; a long chain of redirects is not followed.
const REDIRECTS: u32 = 3;

/// The HTTP client for lists.
pub struct Client {
    tls: Agent,
    own: Agent,
}

impl Client {
    /// A client that trusts the certificates in `bundle`, or the system's.
    ///
    /// # Errors
    /// Where there are none.
    pub fn new(bundle: Option<&Path>) -> Result<Self, ExitError> {
        let tls = trusted(bundle)?;
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

    /// The text at an address.
    ///
    /// # Errors
    /// Why there is none; anything but status 200 is an error.
    pub fn text(&self, url: &str) -> Result<String, String> {
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
