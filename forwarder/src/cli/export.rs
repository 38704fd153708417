//! `forwarder export`: parts of other programs' configuration that follow from this one.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ipnetwork::IpNetwork;
use policy::Source;
use policy::forwarder::Policy;
use policy::sections::parse_list;

use daemon::exit::{Exit, ExitError};
use daemon::files::read_text;

use crate::config;

/// What is written, to standard output.
#[derive(Subcommand)]
pub(super) enum Exported {
    /// Print the Caddy listener for connections from the forwarder, the only one that trusts PROXY
    /// headers.
    Caddy(Caddy),
}

#[derive(Args)]
pub(super) struct Caddy {
    /// Trust what the proxies in front of the edge report about their visitors: a file of prefixes
    /// such as lists/cloudflare.list, or "@NAME" for a list of the configuration.
    #[arg(long, value_name = "FILE")]
    proxies: Option<PathBuf>,
    /// Expect the forwarder at this address on the network it shares with Caddy, if not loopback.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
}

/// The text.
///
/// # Errors
/// What is wrong with the configuration or the list.
pub(super) fn export(exported: &Exported, config: &Path) -> Result<String, ExitError> {
    let Exported::Caddy(caddy) = exported;
    let policy = config::read(config)?;
    let proxies = match &caddy.proxies {
        Some(from) => proxies(&policy, from)?,
        None => Vec::new(),
    };
    migrate::export::caddy(&policy, &proxies, caddy.from).map_err(|error| ExitError::new(Exit::Usage, error))
}

fn proxies(policy: &Policy, from: &Path) -> Result<Vec<IpNetwork>, ExitError> {
    let invalid = |error: String| ExitError::new(Exit::Invalid, error);
    let file = match from.to_str().and_then(|text| text.strip_prefix('@')) {
        Some(name) => {
            let list = policy.lists.iter().find(|list| list.name.as_str() == name);
            let list = list
                .ok_or_else(|| ExitError::new(Exit::Usage, format!("there is no [[list]] named {name}")))?;
            list.file.path(None).map_err(|error| invalid(error.to_string()))?
        }
        None => from.to_owned(),
    };
    let unreadable = |error: io::Error| invalid(format!("{}: {error}", file.display()));
    let text = read_text(&file).map_err(unreadable)?;
    parse_list(&Source { name: &file, text: &text })
        .map_err(|errors| invalid(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}
