//! Reads what this machine needs.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use daemon::exit::{Exit, ExitError};

use super::contents::{End, Kept, Role};
use super::users;
use crate::join::keys::folder_of;

/// The largest file that is taken, in bytes: a list of a million prefixes.
const MAX_BYTES: u64 = 32 << 20;

/// A daemon's configuration with what it names; and the files that it names elsewhere, which are
/// not taken.
///
/// # Errors
/// An invalid configuration, and a file that cannot be read.
pub(super) fn end(role: Role, config: &Path) -> Result<(End, Vec<PathBuf>), ExitError> {
    let folder = folder_of(config);
    let name = config.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept_config = kept(config, name)?;
    let named = role.named(config, &kept_config.text)?;
    let (mut files, mut outside) = (Vec::new(), Vec::new());
    for path in &named.files {
        let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) else {
            outside.push(path.clone());
            continue;
        };
        if files.iter().any(|kept: &Kept| kept.name == name) {
            continue;
        }
        files.push(kept(path, name.to_owned())?);
        let public = path.with_extension("pub");
        if let Some(name) = Path::new(name).with_extension("pub").to_str().filter(|_| public.is_file()) {
            files.push(kept(&public, name.to_owned())?);
        }
    }
    let sites = named.sites.as_deref().map(sites).unwrap_or_default();
    Ok((End { role, config: kept_config, files, sites }, outside))
}

/// Caddy's sites that `publish` wrote; what is not readable is Caddy's own matter.
fn sites(folder: &Path) -> Vec<Kept> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter(|name| name.ends_with(".caddy"));
    let mut sites: Vec<_> = names.filter_map(|name| kept(&folder.join(&name), name).ok()).collect();
    sites.retain(|kept| crate::publish::is_site(&kept.text));
    sites.sort_by(|one, other| one.name.cmp(&other.name));
    sites
}

fn kept(path: &Path, name: String) -> Result<Kept, ExitError> {
    let failed = |error: io::Error| {
        let fixes = [
            (io::ErrorKind::PermissionDenied, "; run the command as root, or as the configuration's owner"),
            (io::ErrorKind::InvalidData, "; it is no text"),
        ];
        let fix = fixes.iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, fix)| *fix);
        ExitError::new(Exit::of(&error), format!("{}: {error}{fix}", path.display()))
    };
    let mut file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.len() > MAX_BYTES {
        return Err(ExitError::new(Exit::Failed, format!("{}: it is larger than 32 MiB", path.display())));
    }
    let mut text = String::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.read_to_string(&mut text).map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    Ok(Kept { name, mode, owner: users::name(metadata.uid()), text })
}
