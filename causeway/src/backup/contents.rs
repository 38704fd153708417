//! What a backup holds, as JSON inside the sealed file; and what of it may be written, and where.

use std::path::{Component, Path, PathBuf};

use daemon::exit::{Exit, ExitError};
use policy::sections::Notify;
use policy::{FileLocation, FileRef, Source};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

/// What the first field says.
const FORMAT: &str = "causeway backup";
/// The newest form that this program knows.
const SCHEMA: u32 = 1;

/// A whole backup.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    format: String,
    schema: u32,
    /// The version that made it.
    pub(super) version: String,
    /// The machine's name.
    pub(super) machine: String,
    /// When it was made, in Unix seconds.
    pub(super) made: u64,
    /// The daemons of the machine.
    pub(super) ends: Vec<End>,
}

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// The gateway.
    Edge,
    /// The forwarder.
    Origin,
}

/// What one daemon needs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) role: Role,
    /// Its configuration; the name has no folder.
    pub(super) config: Kept,
    /// Keys, lists and secrets that it names, relative to its folder.
    pub(super) files: Vec<Kept>,
    /// Caddy's sites that `publish` wrote, by the names of their files.
    pub(super) sites: Vec<Kept>,
}

/// A file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Relative, with `/`.
    pub(super) name: String,
    /// Its permissions.
    pub(super) mode: u32,
    /// The user that it belongs to, if that is one of Causeway's own.
    pub(super) owner: Option<String>,
    /// What it holds.
    pub(super) text: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

impl Role {
    /// As people say it.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Origin => "origin",
        }
    }

    /// The daemon whose configuration has this name.
    pub(super) fn of_file(config: &Path) -> Option<Self> {
        match config.file_name()?.to_str()? {
            "gateway.toml" => Some(Self::Edge),
            "forwarder.toml" => Some(Self::Origin),
            _ => None,
        }
    }

    /// Every file that a configuration names: keys, lists, and the secrets of `causeway-agent`.
    ///
    /// # Errors
    /// [`Exit::Invalid`] with everything that is wrong in it.
    pub(super) fn named(self, config: &Path, text: &str) -> Result<Named, ExitError> {
        let source = Source { name: config, text };
        let invalid = |errors: Vec<policy::ConfigError>| {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            ExitError::new(Exit::Invalid, lines.join("\n"))
        };
        match self {
            #[cfg(target_os = "linux")]
            Self::Edge => {
                let policy = policy::gateway::parse(&source).map_err(invalid)?;
                let of_dns = policy.dns.iter().map(|dns| &dns.key_file);
                let of_notify = policy.notify.iter().filter_map(Notify::secret);
                let files = policy.files().chain(of_dns).chain(of_notify);
                Ok(Named { files: files.filter_map(path).collect(), sites: None })
            }
            #[cfg(not(target_os = "linux"))]
            Self::Edge => Err(ExitError::new(Exit::Usage, "an edge runs on Linux only")),
            Self::Origin => {
                let policy = policy::forwarder::parse(&source).map_err(invalid)?;
                let own = forwarder::config::files(&policy);
                let files = own.iter().chain(policy.notify.iter().filter_map(Notify::secret));
                Ok(Named {
                    files: files.filter_map(path).collect(),
                    sites: policy.caddy.map(|caddy| caddy.sites),
                })
            }
        }
    }
}

/// What a configuration names.
pub(super) struct Named {
    /// Files, by absolute paths or relative ones below the configuration's folder.
    pub(super) files: Vec<PathBuf>,
    /// The folder of Caddy's sites.
    pub(super) sites: Option<PathBuf>,
}

/// A credential is the unit's own, and no file of this machine's configuration.
fn path(file: &FileRef) -> Option<PathBuf> {
    match &file.location {
        FileLocation::Path(path) => Some(path.clone()),
        FileLocation::Credential(_) => None,
    }
}

impl Contents {
    /// A backup of this machine, made now.
    pub(super) fn new(machine: String, made: u64, ends: Vec<End>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT.to_owned(), schema: SCHEMA, version, machine, made, ends }
    }

    /// Reads what was sealed.
    ///
    /// # Errors
    /// [`Exit::Invalid`] for what is no backup, or one of a newer form.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ExitError> {
        #[derive(Deserialize)]
        struct Begin {
            format: String,
            schema: u32,
        }
        let no_backup = |what: &dyn std::fmt::Display| {
            ExitError::new(Exit::Invalid, format!("it holds no backup of Causeway: {what}"))
        };
        let begin: Begin = serde_json::from_slice(bytes).map_err(|error| no_backup(&error))?;
        if begin.format != FORMAT {
            return Err(no_backup(&"it has another format"));
        }
        if begin.schema > SCHEMA {
            let message = "a newer version of Causeway made it: install that version here, then restore";
            return Err(ExitError::new(Exit::Invalid, message));
        }
        serde_json::from_slice(bytes).map_err(|error| no_backup(&error))
    }
}

/// A file and where it belongs.
pub(super) struct Planned<'a> {
    pub(super) path: PathBuf,
    pub(super) kept: &'a Kept,
}

/// Where the files of an end belong.
pub(super) struct Plan<'a> {
    /// In the order in which they are written: the configuration is the last, then come sites.
    pub(super) files: Vec<Planned<'a>>,
    /// The folder of Caddy's sites, and what belongs into it.
    pub(super) sites: Vec<Planned<'a>>,
    /// Files that the configuration names and the backup does not have.
    pub(super) missing: Vec<PathBuf>,
}

impl End {
    /// Where everything belongs when the configuration is `config`. Only what that names is written,
    /// and only below its folder.
    ///
    /// # Errors
    /// [`Exit::Invalid`] for any other file, and for an invalid configuration.
    pub(super) fn plan(&self, config: &Path) -> Result<Plan<'_>, ExitError> {
        let named = self.role.named(config, &self.config.text)?;
        let folder = crate::join::keys::folder_of(config);
        let mut files = Vec::new();
        for kept in &self.files {
            let path = below(folder, &kept.name).filter(|path| is_named(&named.files, path));
            let path = path.ok_or_else(|| stray(&kept.name))?;
            files.push(Planned { path, kept });
        }
        let has = |path: &PathBuf| files.iter().any(|planned| planned.path == *path);
        let missing = named.files.iter().filter(|path| !has(path)).cloned().collect();
        files.push(Planned { path: config.to_owned(), kept: &self.config });
        let mut sites = Vec::new();
        for kept in &self.sites {
            let path = named.sites.as_deref().and_then(|sites| site_path(sites, kept));
            sites.push(Planned { path: path.ok_or_else(|| stray(&kept.name))?, kept });
        }
        Ok(Plan { files, sites, missing })
    }
}

/// A path below a folder; `None` for any other way out of it.
pub(super) fn below(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && name.components().next().is_some()).then(|| folder.join(name))
}

/// Whether a configuration names a file, or the private half of a public key.
fn is_named(named: &[PathBuf], path: &Path) -> bool {
    named.iter().any(|named| named == path || named.with_extension("pub") == path)
}

/// Where a site belongs that `publish` wrote.
fn site_path(sites: &Path, kept: &Kept) -> Option<PathBuf> {
    let is_site = kept.name.ends_with(".caddy") && !kept.name.contains('/');
    (is_site && crate::publish::is_site(&kept.text)).then(|| below(sites, &kept.name)).flatten()
}

fn stray(name: &str) -> ExitError {
    let message =
        format!("it has the file {name:?}, which its configuration does not name; nothing is restored");
    ExitError::new(Exit::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"keys/forwarder.key\"\n\n[[peer]]\n\
        name = \"kyiv\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
        [caddy]\nsites = \"/etc/caddy/sites\"\n";
    const PLACE: &str = "/etc/causeway/forwarder.toml";

    #[test]
    fn only_what_the_configuration_names_is_written_and_only_below_its_folder() {
        let end = end(&["keys/forwarder.key", "keys/forwarder.pub"]);
        let plan = end.plan(Path::new(PLACE)).ok().unwrap();
        let paths: Vec<_> = plan.files.iter().map(|file| file.path.display().to_string()).collect();
        assert_eq!(paths, ["/etc/causeway/keys/forwarder.key", "/etc/causeway/keys/forwarder.pub", PLACE]);
        assert!(plan.missing.is_empty());
        for name in ["../x", "/etc/shadow", "keys/../../x", "other.key", "", ".", "forwarder.toml"] {
            let error = self::end(&[name]).plan(Path::new(PLACE)).err().unwrap();
            assert!(error.exit == Exit::Invalid && error.message.contains("nothing is restored"), "{name}");
        }
        let without = self::end(&[]);
        let plan = without.plan(Path::new(PLACE)).ok().unwrap();
        assert_eq!(plan.missing, [Path::new("/etc/causeway/keys/forwarder.key")]);
    }

    #[test]
    fn a_site_is_one_that_publish_wrote_and_in_the_folder_of_sites() {
        let ours = "# Written by `causeway publish`; `causeway unpublish emby.example.com` removes it.\n";
        for (name, text, is_taken) in [
            ("emby.example.com.caddy", ours, true),
            ("emby.example.com.caddy", "emby.example.com {\n}\n", false),
            ("../emby.example.com.caddy", ours, false),
            ("emby.example.com", ours, false),
        ] {
            let mut end = end(&["keys/forwarder.key"]);
            end.sites.push(kept(name, text));
            assert_eq!(end.plan(Path::new(PLACE)).is_ok(), is_taken, "{name}");
        }
    }

    #[test]
    fn what_is_no_backup_or_a_newer_one_is_named() {
        let contents = Contents::new("mac".to_owned(), 1, vec![end(&[])]);
        let bytes = serde_json::to_vec(&contents).unwrap();
        assert_eq!(Contents::parse(&bytes).ok().unwrap().machine, "mac");
        let text = String::from_utf8(bytes).unwrap();
        for (altered, says) in [
            (text.replace("\"schema\":1", "\"schema\":2"), "a newer version"),
            (text.replace("causeway backup", "other"), "another format"),
            (text.replace("\"machine\"", "\"machines\""), "no backup"),
            ("{}".to_owned(), "no backup"),
        ] {
            let error = Contents::parse(altered.as_bytes()).err().unwrap();
            assert!(error.message.contains(says), "{error}");
        }
    }

    fn end(names: &[&str]) -> End {
        let files = names.iter().map(|name| kept(name, "secret")).collect();
        End { role: Role::Origin, config: kept("forwarder.toml", CONFIG), files, sites: Vec::new() }
    }

    fn kept(name: &str, text: &str) -> Kept {
        Kept { name: name.to_owned(), mode: 0o600, owner: None, text: text.to_owned() }
    }
}
