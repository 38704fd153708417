//! `gatewayctl import` and `export`: other products' configurations, in and out.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use migrate::export::{self, EdgeSide, ExportError, PairSide};
use migrate::import::{self, Exports, FindingKind, Import, ImportError, Role, WgQuickOptions};
use policy::gateway::Policy;
use policy::sections::parse_list;
use policy::{InterfaceName, Name, PublicKey, Source, forwarder};
use tunnel::key::PrivateKey;
use zeroize::Zeroizing;

use crate::config::{load, load_policy};
use crate::edge::health_file;
use crate::kernel::read_system;
use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::files::read_text;

/// What is imported.
#[derive(Subcommand)]
pub enum Imported {
    /// Convert a wg-quick file of either end, or the edge's and the origin's together.
    WgQuick {
        /// Convert this file, the edge's if there are two; its name is that of the tunnel's interface.
        file: PathBuf,
        /// Read the origin's rules from this file, and carry what passes both.
        origin: Option<PathBuf>,
        /// Take the file for this end's, if its lines do not say which.
        #[arg(long, visible_alias = "as", value_name = "END", conflicts_with = "origin")]
        role: Option<End>,
        /// Take this interface of the edge for the one towards the internet.
        #[arg(long, value_name = "INTERFACE", value_parser = interface)]
        wan: Option<String>,
        /// Take this interface for the tunnel's, if it is not the file's name.
        #[arg(long, value_name = "INTERFACE", value_parser = interface)]
        interface: Option<String>,
        /// Give the peers these names, in the order of the file.
        #[arg(long = "name", value_name = "NAME", value_parser = peer_name)]
        names: Vec<String>,
        /// Write the configurations to this folder; existing files stay.
        #[arg(long, value_name = "DIR", default_value = ".")]
        into: PathBuf,
        /// Report every line, not only what is missing, assumed or lost.
        #[arg(long)]
        all: bool,
    },
    /// Convert the RouterOS 7 /export of the edge's router, of the origin's, or of both.
    Mikrotik {
        /// Read the edge's export from this file; with --origin-only, the origin's.
        edge: PathBuf,
        /// Read the origin's export from this file; without it, only what the edge's says is known.
        origin: Option<PathBuf>,
        /// Take the only file as the origin's.
        #[arg(long, conflicts_with = "origin")]
        origin_only: bool,
        /// Write the configurations to this folder; existing files stay.
        #[arg(long, value_name = "DIR", default_value = ".")]
        into: PathBuf,
        /// Report every line, not only what is missing, assumed or lost.
        #[arg(long)]
        all: bool,
    },
}

/// Whose wg-quick file it is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum End {
    /// The machine with the public address.
    Edge,
    /// The machine with the services.
    Origin,
}

/// What is exported, to standard output.
#[derive(Subcommand)]
pub enum Exported {
    /// Print the wg-quick file for a Linux router at the far end.
    WgQuick {
        /// Write it for this peer.
        peer: String,
        /// What the far end must know about the edge.
        #[command(flatten)]
        edge: EdgeArguments,
    },
    /// Print the RouterOS 7 script for a router at the far end.
    Mikrotik {
        /// Write it for this peer.
        peer: String,
        /// What the far end must know about the edge.
        #[command(flatten)]
        edge: EdgeArguments,
    },
    /// Print the RouterOS 7 script by which the edge's router takes over when the edge is gone.
    MikrotikEdge {
        /// Read this configuration of the edge.
        #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
        config: PathBuf,
    },
    /// Print keepalived.conf for this edge of a pair: it moves the shared address.
    Keepalived {
        /// Read this configuration of the edge.
        #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
        config: PathBuf,
    },
    /// Print conntrackd.conf for this edge of a pair: it reports connections to the other edge.
    Conntrackd {
        /// Read this configuration of the edge.
        #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
        config: PathBuf,
    },
    /// Print the Caddy listener for connections from the forwarder.
    Caddy {
        /// Read this configuration of the forwarder.
        forwarder: PathBuf,
        /// Trust the proxies in front of the edge that this list names, such as
        /// lists/cloudflare.list.
        #[arg(long, value_name = "FILE")]
        proxies: Option<PathBuf>,
        /// Expect the forwarder at this address on the network it shares with Caddy, if not
        /// loopback.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<std::net::IpAddr>,
    },
}

/// Where the edge's configuration is by default.
pub const CONFIGURATION: &str = "/etc/causeway/gateway.toml";

/// What a far end must know about the edge.
#[derive(clap::Args)]
pub struct EdgeArguments {
    /// Read this configuration of the edge; the public key comes from its private key.
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    config: PathBuf,
    /// Reach the edge's WireGuard at this public name or address and port.
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: String,
    /// Call the edge this at the far end.
    #[arg(long, default_value = "edge")]
    name: String,
}

/// Imports, writes the files, and prints the findings on standard error.
///
/// # Errors
/// [`ExitError`], when nothing could be imported or a file is in the way.
pub fn import(what: &Imported) -> Result<Exit, ExitError> {
    let (imported, into, all) = match what {
        Imported::WgQuick { file, origin, role, wan, interface, names, into, all } => {
            let text = foreign_text(file)?;
            let source = Source { name: file, text: &text };
            let role = role.map(|end| match end {
                End::Edge => Role::Edge,
                End::Origin => Role::Origin,
            });
            let (wan, names, interface) = (wan.clone(), names.clone(), interface.clone());
            let options = WgQuickOptions { role, wan, names, interface };
            let imported = match origin {
                None => import::wg_quick(&source, &options, &public_key),
                Some(origin) => {
                    let text = foreign_text(origin)?;
                    let origin = Source { name: origin, text: &text };
                    import::wg_quick_both(&source, &origin, &options, &public_key)
                }
            };
            (imported, into, *all)
        }
        Imported::Mikrotik { edge, origin, origin_only, into, all } => {
            (mikrotik(edge, origin.as_deref(), *origin_only)?, into, *all)
        }
    };
    let imported = imported.map_err(|error: ImportError| ExitError::new(Exit::Invalid, error))?;
    write_all(&imported, into).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ExitError::new(Exit::Conflict, error),
        io::ErrorKind::PermissionDenied => ExitError::new(Exit::Permission, error),
        _ => ExitError::new(Exit::Failed, error),
    })?;
    for finding in &imported.findings {
        let quiet = matches!(finding.kind, FindingKind::Replaced | FindingKind::Stays | FindingKind::Carried);
        if all || !quiet {
            print_to_stderr(&finding.to_string());
        }
    }
    Ok(Exit::Ok)
}

fn mikrotik(
    first: &Path,
    origin: Option<&Path>,
    origin_only: bool,
) -> Result<Result<Import, ImportError>, ExitError> {
    let first_text = foreign_text(first)?;
    let first = Source { name: first, text: &first_text };
    Ok(match origin {
        None if origin_only => import::mikrotik(&Exports::Origin(&first), &public_key),
        None => import::mikrotik(&Exports::Edge(&first), &public_key),
        Some(origin) => {
            let text = foreign_text(origin)?;
            let origin = Source { name: origin, text: &text };
            import::mikrotik(&Exports::Both { edge: &first, origin: &origin }, &public_key)
        }
    })
}

/// The text of another product, in the encoding that it has.
fn foreign_text(file: &Path) -> Result<Zeroizing<String>, ExitError> {
    let bytes = std::fs::read(file).map(Zeroizing::new);
    let bytes =
        bytes.map_err(|error| ExitError::new(Exit::Invalid, format!("{}: {error}", file.display())))?;
    import::decode(file, &bytes).map_err(|error| ExitError::new(Exit::Invalid, error))
}

/// The text of an export for the other side.
///
/// # Errors
/// [`ExitError`], when a configuration is invalid or there is nothing to export.
pub fn export(what: &Exported) -> Result<String, ExitError> {
    match what {
        Exported::WgQuick { peer, edge } => far_end(peer, edge, export::wg_quick),
        Exported::Mikrotik { peer, edge } => far_end(peer, edge, export::mikrotik),
        Exported::MikrotikEdge { config } => Ok(export::mikrotik_edge(&load_policy(config)?)),
        Exported::Keepalived { config } => pair_side(config).map(|side| export::keepalived(&side)),
        Exported::Conntrackd { config } => pair_side(config).map(|side| export::conntrackd(&side)),
        Exported::Caddy { forwarder, proxies, from } => {
            let text = text_of(forwarder)?;
            let policy = forwarder::parse(&Source { name: forwarder, text: &text }).map_err(invalid)?;
            let proxies = proxies.as_deref().map(list_of).transpose()?.unwrap_or_default();
            export::caddy(&policy, &proxies, *from).map_err(|error| ExitError::new(Exit::Usage, error))
        }
    }
}

/// This machine as one of a pair.
fn pair_side(config: &Path) -> Result<PairSide, ExitError> {
    let policy = load_policy(config)?;
    let system = read_system(&[]).map_err(|failure| ExitError::new(Exit::Failed, failure))?;
    let program = std::env::current_exe().map_err(|error| ExitError::new(Exit::Failed, error))?;
    let files = (health_file(&policy), program);
    PairSide::new(&policy, &system, files).map_err(|error| ExitError::new(Exit::Usage, error))
}

fn interface(text: &str) -> Result<String, String> {
    let expected = "the name of an interface, such as eth0";
    InterfaceName::new(text).map(|name| name.to_string()).ok_or_else(|| expected.to_owned())
}

fn peer_name(text: &str) -> Result<String, String> {
    let expected = "a name of 1 to 32 letters, digits, `-`, `_` and `.`";
    Name::new(text).map(|name| name.to_string()).ok_or_else(|| expected.to_owned())
}

type FarEnd = fn(&Policy, &str, &EdgeSide) -> Result<String, ExportError>;

fn far_end(peer: &str, edge: &EdgeArguments, write: FarEnd) -> Result<String, ExitError> {
    let config = load(&edge.config)?;
    let usage = |error: ExportError| ExitError::new(Exit::Usage, error);
    let public = PublicKey::new(*config.keys.private.public().as_bytes()).ok_or_else(|| {
        ExitError::new(Exit::Invalid, "the edge's private key has no public key that may be used")
    })?;
    let side = EdgeSide::new(&edge.name, &edge.endpoint, public).map_err(usage)?;
    write(&config.policy, peer, &side).map_err(usage)
}

fn public_key(private: &str) -> Option<PublicKey> {
    let private: PrivateKey = private.trim().parse().ok()?;
    PublicKey::new(*private.public().as_bytes())
}

/// A text that may hold keys.
fn text_of(file: &Path) -> Result<Zeroizing<String>, ExitError> {
    let text = read_text(file)
        .map_err(|error| ExitError::new(Exit::Invalid, format!("{}: {error}", file.display())))?;
    Ok(Zeroizing::new(text))
}

fn list_of(file: &Path) -> Result<Vec<ipnetwork::IpNetwork>, ExitError> {
    parse_list(&Source { name: file, text: &text_of(file)? }).map_err(invalid)
}

fn invalid(errors: Vec<policy::ConfigError>) -> ExitError {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    ExitError::new(Exit::Invalid, lines.join("\n"))
}

/// Writes every file, or none when one of them is in the way.
fn write_all(imported: &Import, into: &Path) -> io::Result<()> {
    let texts = [("gateway.toml", &imported.gateway), ("forwarder.toml", &imported.forwarder)];
    let texts = texts.into_iter().map(|(name, text)| (name, text.as_str(), 0o644));
    let lists = imported.lists.iter().map(|list| (list.name.as_str(), list.text.as_str(), 0o644));
    let keys = imported.keys.iter().map(|key| (key.name.as_str(), key.text.as_str(), 0o600));
    let files: Vec<(PathBuf, &str, u32)> =
        texts.chain(lists).chain(keys).map(|(name, text, mode)| (into.join(name), text, mode)).collect();
    if let Some((path, _, _)) = files.iter().find(|(path, _, _)| path.exists()) {
        let message =
            format!("{} exists and is not overwritten; choose another folder with --into", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    for (path, text, mode) in &files {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        let mut file = File::options().write(true).create_new(true).mode(*mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn two_routers_become_files_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let import_into = || {
            import(&Imported::Mikrotik {
                edge: fixture("KYIV.rsc"),
                origin: Some(fixture("WROCLAW.rsc")),
                origin_only: false,
                into: folder.path().join("new"),
                all: false,
            })
        };

        assert_eq!(import_into().unwrap(), Exit::Ok);
        for name in ["gateway.toml", "forwarder.toml", "lists/partners.list"] {
            assert!(folder.path().join("new").join(name).exists(), "{name}");
        }
        assert_eq!(import_into().unwrap_err().exit, Exit::Conflict);
        assert!(load_policy(&folder.path().join("new/gateway.toml")).is_ok());
    }

    #[test]
    fn a_wg_quick_file_gives_up_its_keys_to_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().to_owned();
        import(&Imported::WgQuick {
            file: fixture("kyiv.conf"),
            origin: None,
            role: None,
            wan: None,
            interface: None,
            names: Vec::new(),
            into: into.clone(),
            all: true,
        })
        .unwrap();

        let mode = fs::metadata(into.join("kyiv.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let edge = EdgeArguments {
            config: into.join("gateway.toml"),
            endpoint: "kyiv.example.com:51820".to_owned(),
            name: "kyiv".to_owned(),
        };
        let text = export(&Exported::WgQuick { peer: "wroclaw".to_owned(), edge }).unwrap();
        let public = public_key(&fs::read_to_string(into.join("kyiv.key")).unwrap()).unwrap();
        assert!(text.contains(&format!("PublicKey = {public}")));
        assert!(fs::read_to_string(into.join("forwarder.toml")).unwrap().contains(&public.to_string()));
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrate/tests/golden").join(name)
    }
}
