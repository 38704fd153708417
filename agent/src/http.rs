//! Requests over HTTP: bounded in size and time, never redirected, by no proxy.

use std::time::Duration;

use daemon::exit::ExitError;
use ureq::Agent;
use ureq::http::{HeaderMap, Request, header};
use zeroize::Zeroizing;

/// For one request, name lookup included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer that is read; those of one name take less than 10 KiB.
const MAX_BYTES: u64 = 256 << 10;

/// A client; where it may not, nothing leaves this machine in the clear.
pub struct Http {
    agent: Agent,
    token: Option<Zeroizing<String>>,
}

/// An answer, whatever its status.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// How long the server asks to be left alone (`Retry-After` in seconds).
    pub retry_after: Option<Duration>,
    /// Its text.
    pub text: String,
}

impl Http {
    /// A client for addresses that begin as `base` does; it sends `token` with each request.
    ///
    /// # Errors
    /// Where TLS is needed, and this machine trusts no certificate.
    pub fn new(base: &str, token: Option<Zeroizing<String>>) -> Result<Self, ExitError> {
        let is_tls = base.starts_with("https://");
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .http_status_as_error(false)
            .https_only(is_tls)
            .max_response_header_size(16 << 10)
            .user_agent(concat!("causeway-agent/", env!("CARGO_PKG_VERSION")));
        let config = if is_tls { config.tls_config(gateway::https::trusted(None)?) } else { config };
        Ok(Self { agent: config.build().new_agent(), token })
    }

    /// Sends a request, with JSON when there is a body.
    ///
    /// # Errors
    /// Why there is no answer, or not all of it.
    pub fn send(&self, method: &str, url: &str, body: Option<String>) -> Result<Answer, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", host_of(url));
        let mut request = Request::builder().method(method).uri(url);
        if let Some(token) = &self.token {
            let value = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = header::HeaderValue::from_str(&value).map_err(|error| failed(&error))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let answer = match body {
            Some(body) => {
                let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
                self.agent.run(request.map_err(|error| failed(&error))?)
            }
            None => self.agent.run(request.body(()).map_err(|error| failed(&error))?),
        };
        let mut answer = answer.map_err(|error| failed(&error))?;
        let (status, retry_after) = (answer.status().as_u16(), retry_after(answer.headers()));
        let text = answer.body_mut().with_config().limit(MAX_BYTES).read_to_string();
        Ok(Answer { status, retry_after, text: text.map_err(|error| failed(&error))? })
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Of an address only the host is logged, since a path may have a secret in it.
fn host_of(url: &str) -> &str {
    url.split('/').nth(2).unwrap_or(url)
}
