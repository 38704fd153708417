//! Names in the DNS that `causeway-agent` keeps, and who takes changes of them: `[dns]` of an edge,
//! `[steer]` of an origin.

use crate::reader::{Table, Value};
use crate::{Host, HostPort, Problem, text};

/// The port of name servers.
const PORT: u16 = 53;

/// Who holds a zone, and takes changes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// A name server that takes dynamic updates (RFC 2136) signed by TSIG (RFC 8945).
    Server(HostPort),
    /// Cloudflare's API.
    Cloudflare,
}

impl Authority {
    /// Its key in the file, and its value.
    pub(crate) fn written(&self) -> (&'static str, String) {
        match self {
            Self::Server(server) => ("server", server.to_string()),
            Self::Cloudflare => ("provider", "cloudflare".to_owned()),
        }
    }
}

/// The one of `server` and `provider` that this section has.
pub(crate) fn authority(table: &Table<'_>, section: &'static str) -> Option<Authority> {
    let server = table.optional("server").map(server);
    let provider = table.optional("provider").map(|value| {
        value.parse("\"cloudflare\"", |name| (name == "cloudflare").then_some(Authority::Cloudflare))
    });
    match (server, provider) {
        (Some(server), None) => server.map(Authority::Server),
        (None, Some(provider)) => provider,
        (None, None) if ["server", "provider"].iter().any(|key| table.is_misspelt(key, &[])) => None,
        (Some(_), Some(_)) | (None, None) => {
            table.report(Problem::OneAuthority { section });
            None
        }
    }
}

/// A name server, at port 53 unless it says otherwise.
pub(crate) fn server(value: Value<'_>) -> Option<HostPort> {
    value.parse("a name server, such as \"ns1.example.com\" or \"192.0.2.53:5353\"", server_of)
}

pub(crate) fn server_of(written: &str) -> Option<HostPort> {
    text::host_port(written).or_else(|| Some(HostPort { host: text::host(written)?, port: PORT }))
}

/// `zone`, as it is written.
pub(crate) fn zone(value: Value<'_>) -> Option<String> {
    value.parse("a zone, such as \"example.com\"", domain)
}

/// A name of at least two labels.
pub(crate) fn absolute(written: &str) -> Option<String> {
    domain(written).filter(|name| name.contains('.'))
}

/// A name in lower case and without a final dot.
fn domain(written: &str) -> Option<String> {
    match text::host(written)? {
        Host::Name(name) => Some(name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase()),
        Host::Address(_) => None,
    }
}

/// The zone of a name: the one that is written, else its parent.
pub(crate) fn zone_of(written: Option<Option<String>>, name: &str) -> Option<String> {
    match written {
        Some(zone) => zone,
        None => Some(name.split_once('.')?.1.to_owned()),
    }
}

/// Reports the first of these names that is not in the zone, at the value that has them.
pub(crate) fn all_within(names: &[String], zone: &str, table: &Table<'_>, written: Option<Value<'_>>) {
    let is_within =
        |name: &str| name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    let Some(name) = names.iter().find(|name| !is_within(name)) else { return };
    let problem = Problem::NameOutsideZone { name: name.clone(), zone: zone.to_owned() };
    match written {
        Some(value) => value.report(problem),
        None => table.report(problem),
    }
}
