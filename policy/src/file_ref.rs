//! Files that a configuration names.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::{ConfigError, Position, Problem};

/// A file that the configuration names, with the place that names it.
///
/// Two references are equal when they name the same file, wherever they are written.
#[derive(Clone, Debug)]
pub struct FileRef {
    /// Which file.
    pub location: FileLocation,
    /// Where the configuration says so: errors about the file's content are reported here.
    pub at: Position,
}

/// Which file a [`FileRef`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileLocation {
    /// A path; a relative one has been joined to the folder of the configuration file.
    Path(PathBuf),
    /// A systemd credential, written `${CREDENTIALS_DIRECTORY}/NAME`.
    Credential(String),
}

/// How a systemd credential is written in a configuration file.
pub(crate) const CREDENTIAL_PREFIX: &str = "${CREDENTIALS_DIRECTORY}/";

impl FileRef {
    /// The path to open, given the value of `CREDENTIALS_DIRECTORY` in the daemon's environment.
    ///
    /// # Errors
    /// [`Problem::NoCredentials`] when a credential is named and the variable is not set.
    pub fn path(&self, credentials_directory: Option<&Path>) -> Result<PathBuf, ConfigError> {
        match (&self.location, credentials_directory) {
            (FileLocation::Path(path), _) => Ok(path.clone()),
            (FileLocation::Credential(name), Some(folder)) => Ok(folder.join(name)),
            (FileLocation::Credential(name), None) => {
                Err(self.error(Problem::NoCredentials { name: name.clone() }))
            }
        }
    }

    /// An error about this file, reported where the configuration names it.
    #[must_use]
    pub fn error(&self, problem: Problem) -> ConfigError {
        ConfigError { at: self.at.clone(), problem }
    }

    /// Reads what the configuration says; `None` when it is empty or leaves the credentials folder.
    pub(crate) fn parse(written: &str, at: Position) -> Option<Self> {
        if let Some(name) = written.strip_prefix(CREDENTIAL_PREFIX) {
            let mut parts = Path::new(name).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            return plain.then(|| Self { location: FileLocation::Credential(name.to_owned()), at });
        }
        if written.is_empty() || written.contains('\0') {
            return None;
        }
        let folder = at.file.parent().unwrap_or(Path::new(""));
        Some(Self { location: FileLocation::Path(folder.join(written)), at })
    }
}

impl fmt::Display for FileLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "{CREDENTIAL_PREFIX}{name}"),
        }
    }
}

impl PartialEq for FileRef {
    fn eq(&self, other: &Self) -> bool {
        self.location == other.location
    }
}

impl Eq for FileRef {}
