//! `causeway backup` and `restore`: what a machine needs to serve again on new hardware, in one
//! sealed file.
//!
//! - `contents`: what it holds, and what of it may be written where. `sealed`: the file.
//! - `gather` reads this machine, `place` writes a new one; `passphrase` and `users` as they say.

mod contents;
mod gather;
mod passphrase;
mod place;
mod sealed;
mod users;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use daemon::command_line::{print, print_to_stderr};
use daemon::exit::{Exit, ExitError};
use daemon::files::{Replacement, Target, fix_of_write};
use forwarder::places::Environment;
use zeroize::Zeroizing;

use self::contents::{Contents, End, Role};
use crate::machine::name_or;

/// Where the gateway's configuration is.
const GATEWAY: &str = "/etc/causeway/gateway.toml";

/// What is saved, and where.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Write the backup to FILE.
    file: PathBuf,
    #[command(flatten)]
    of: Of,
}

/// What is restored.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Read the backup from FILE.
    file: PathBuf,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
struct Of {
    /// Take the passphrase from the first line of this file. Default: `backup` chooses six words,
    /// `restore` asks.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Only this configuration, gateway.toml or forwarder.toml, and what it names.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Of {
    /// The named configuration, by its absolute path: what it names next to it is below its folder
    /// wherever the command is run.
    fn role(&self) -> Result<Option<(Role, PathBuf)>, ExitError> {
        let Some(config) = &self.config else { return Ok(None) };
        let unknown = || {
            let message =
                format!("{}: a configuration is named gateway.toml or forwarder.toml", config.display());
            ExitError::new(Exit::Usage, message)
        };
        let role = Role::of_file(config).ok_or_else(unknown)?;
        let config = std::path::absolute(config).map_err(|error| ExitError::new(Exit::of(&error), error))?;
        Ok(Some((role, config)))
    }
}

/// `causeway backup`
pub(crate) fn backup(arguments: &Backup) -> Result<Exit, ExitError> {
    let Backup { file, of } = arguments;
    let configs = match of.role()? {
        Some(named) => vec![named],
        None => configs_here()?,
    };
    may_overwrite(file)?;
    let (mut ends, mut is_whole) = (Vec::new(), true);
    for (role, config) in &configs {
        let (end, outside) = gather::end(*role, config)?;
        for path in outside {
            let folder = crate::join::keys::folder_of(config).display();
            print_to_stderr(&format!("not in the backup: {}, which is not below {folder}", path.display()));
            is_whole = false;
        }
        ends.push(end);
    }
    let machine = name_or("machine")?.to_string();
    let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let listed = ends.iter().map(listed).collect::<Vec<_>>().join("; ");
    let contents = Contents::new(machine, made, ends);
    let text = serde_json::to_vec(&contents).map_err(|error| ExitError::new(Exit::Failed, error))?;
    let (passphrase, is_chosen) = match &of.passphrase_file {
        Some(path) => (passphrase::of_file(path)?, false),
        None => (passphrase::choose()?, true),
    };
    let sealed = sealed::seal(&Zeroizing::new(text), &passphrase)?;
    write(file, &sealed)?;
    print(&format!("{} has {listed}\n", file.display()))?;
    if is_chosen {
        print(&format!("its passphrase, which is written nowhere else: {}\n", *passphrase))?;
    }
    Ok(if is_whole { Exit::Ok } else { Exit::Degraded })
}

/// What an end of a backup is, in one line.
fn listed(end: &End) -> String {
    let count = end.files.len() + end.sites.len();
    format!("the {} of this machine: {} and {count} files with it", end.role.label(), end.config.name)
}

/// The configurations of this machine, in the usual places.
fn configs_here() -> Result<Vec<(Role, PathBuf)>, ExitError> {
    let gateway = Some(PathBuf::from(GATEWAY)).filter(|path| cfg!(target_os = "linux") && path.exists());
    let forwarder = Environment::of_process().config();
    let edge = gateway.map(|path| (Role::Edge, path));
    let found: Vec<_> = edge.into_iter().chain(forwarder.map(|path| (Role::Origin, path))).collect();
    if found.is_empty() {
        let message =
            format!("this machine has neither {GATEWAY} nor a forwarder.toml; name one with --config FILE");
        return Err(ExitError::new(Exit::Invalid, message));
    }
    Ok(found)
}

/// An older backup may be written over; nothing else.
fn may_overwrite(file: &Path) -> Result<(), ExitError> {
    let is_backup = |mut there: &File| {
        let mut begin = [0; sealed::MARK.len()];
        there.read_exact(&mut begin).is_ok() && begin == *sealed::MARK
    };
    match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ExitError::new(Exit::of(&error), format!("{}: {error}", file.display()))),
        Ok(there) if is_backup(&there) => Ok(()),
        Ok(_) => {
            let message = format!("{} is there and is no backup: name another file", file.display());
            Err(ExitError::new(Exit::Conflict, message))
        }
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), ExitError> {
    let written = Replacement::prepare(file, Target::own(0o600), bytes).and_then(Replacement::finish);
    written.map_err(|error| {
        let fix = fix_of_write(&error, "name a file in a folder of yours");
        ExitError::new(Exit::of(&error), format!("{}: {error}; {fix}", file.display()))
    })
}

/// `causeway restore`
pub(crate) fn restore(arguments: &Restore) -> Result<Exit, ExitError> {
    let Restore { file, of } = arguments;
    let wanted = of.role()?;
    let about =
        |error: ExitError| ExitError::new(error.exit, format!("{}: {}", file.display(), error.message));
    let bytes = read(file).map_err(about)?;
    let passphrase = match &of.passphrase_file {
        Some(path) => passphrase::of_file(path)?,
        None => passphrase::ask()?,
    };
    let contents = Contents::parse(&sealed::open(&bytes, &passphrase).map_err(about)?).map_err(about)?;
    let environment = Environment::of_process();
    let mut ends = Vec::new();
    for end in &contents.ends {
        let config = match (&wanted, end.role) {
            (Some((role, config)), _) if *role == end.role => config.clone(),
            (Some(_), _) => continue,
            (None, Role::Edge) => PathBuf::from(GATEWAY),
            (None, Role::Origin) => environment.configs().swap_remove(0),
        };
        let plan = end.plan(&config).map_err(about)?;
        ends.push((end.role, config, plan));
    }
    if ends.is_empty() {
        return Err(about(ExitError::new(Exit::Invalid, "it has nothing for that configuration")));
    }
    // Everything is looked at before the first file is written.
    for (_, _, plan) in &ends {
        place::is_free(plan)?;
    }
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs())
        .saturating_sub(contents.made);
    print(&format!("a backup of {}, {} old\n", contents.machine, daemon::text::period(age)))?;
    for (role, config, plan) in &ends {
        place::end(*role, config, plan)?;
    }
    Ok(Exit::Ok)
}

fn read(file: &Path) -> Result<Vec<u8>, ExitError> {
    let failed = |error: io::Error| ExitError::new(Exit::of(&error), error);
    let mut bytes = Vec::new();
    File::open(file).map_err(failed)?.take(sealed::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > sealed::MAX_BYTES) {
        return Err(ExitError::new(Exit::Invalid, "it is too large to be a backup"));
    }
    // Before the passphrase is asked for.
    if !bytes.starts_with(sealed::MARK) {
        return Err(ExitError::new(Exit::Invalid, "it is no backup of Causeway"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const CONFIG: &str = "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"keys/forwarder.key\"\n\n\
        [[peer]]\nname = \"kyiv\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n\
        endpoint = \"192.0.2.2:51820\"\n";

    #[test]
    fn the_keys_are_in_a_backup_of_a_configuration_by_its_relative_name_and_what_lies_elsewhere_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::env::set_current_dir(folder.path()).unwrap();
        fs::create_dir("keys").unwrap();
        for (file, text) in [("keys/forwarder.key", "secret"), ("passphrase", "correct horse battery staple")]
        {
            fs::write(file, text).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::write("forwarder.toml", CONFIG).unwrap();
        let of = || Of { passphrase_file: Some("passphrase".into()), config: Some("forwarder.toml".into()) };
        let file = PathBuf::from("my.backup");
        let made =
            |file: &Path| backup(&Backup { file: file.to_owned(), of: of() }).map_err(|error| error.message);
        assert_eq!(made(&file), Ok(Exit::Ok));
        fs::remove_file("keys/forwarder.key").unwrap();
        fs::remove_file("forwarder.toml").unwrap();
        restore(&Restore { file: file.clone(), of: of() }).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(fs::read_to_string("keys/forwarder.key").unwrap(), "secret");

        fs::write("forwarder.toml", CONFIG.replace("keys/forwarder.key", "/etc/hostname")).unwrap();
        assert_eq!(made(&file), Ok(Exit::Degraded), "a key is missing");
        assert!(
            made(Path::new("passphrase")).unwrap_err().contains("is no backup"),
            "it is not written over"
        );
    }
}
