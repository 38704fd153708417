//! Configurations and lists.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use policy::sections::List;
use policy::{ConfigError, FileRef, Problem, Source};

use crate::exit::{Exit, ExitError};

/// Longest configuration or list file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration file itself cannot be read.
    #[error("{path}: {error}{}", fix_of(path, error))]
    Unreadable {
        /// The file.
        path: String,
        /// The system's error.
        error: io::Error,
    },
    /// Everything that is wrong, in the order of the file; never empty.
    #[error("{}", lines(.0))]
    Invalid(Vec<ConfigError>),
}

impl LoadError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            Self::Unreadable { .. } => Exit::Invalid,
            // An invalid text is the first thing to fix; a file's mode matters once the text is
            // right.
            Self::Invalid(errors) if errors.iter().all(is_permission) => Exit::Permission,
            Self::Invalid(_) => Exit::Invalid,
        }
    }
}

impl LoadError {
    /// The same, with the errors in the file `path` reported as errors in `shown`, in which the
    /// operator wrote the text.
    #[must_use]
    pub fn shown_as(self, path: &Path, shown: &Path) -> Self {
        match self {
            Self::Invalid(mut errors) => {
                for error in errors.iter_mut().filter(|error| *error.at.file == *path) {
                    error.at.file = shown.into();
                }
                Self::Invalid(errors)
            }
            unreadable @ Self::Unreadable { .. } => unreadable,
        }
    }
}

fn is_permission(error: &ConfigError) -> bool {
    error.exit_code() == Exit::Permission as u8
}

impl From<LoadError> for ExitError {
    fn from(error: LoadError) -> Self {
        Self::new(error.exit(), error)
    }
}

/// The text of a configuration file.
///
/// # Errors
/// [`LoadError::Unreadable`]
pub fn text_of(path: &Path) -> Result<String, LoadError> {
    read_text(path).map_err(|error| LoadError::Unreadable { path: path.display().to_string(), error })
}

/// The text of a configuration or list file.
///
/// # Errors
/// The system's, and `InvalidData` for a file that is too long or no text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_BYTES) {
        return Ok(text);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the file is larger than {} MiB", MAX_BYTES >> 20),
    ))
}

/// Fills lists from their files; what is wrong with the files or in them.
pub fn load_lists(lists: &mut [List]) -> Vec<ConfigError> {
    lists.iter_mut().filter_map(|list| load_list(list).err()).flatten().collect()
}

fn load_list(list: &mut List) -> Result<(), Vec<ConfigError>> {
    let path = list.file.path(credentials_folder().as_deref()).map_err(|error| vec![error])?;
    let text = read_text(&path).map_err(|error| vec![unreadable(&list.file, &error, Kind::List)])?;
    list.load(&Source { name: &path, text: &text })
}

/// What a file that a configuration names should hold.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Key,
    List,
    Secret,
}

pub(super) fn unreadable(file: &FileRef, error: &io::Error, kind: Kind) -> ConfigError {
    let name = file.location.to_string();
    file.error(match (error.kind(), kind) {
        (io::ErrorKind::NotFound, Kind::Key) => Problem::MissingKeyFile { file: name },
        (io::ErrorKind::NotFound, Kind::List) => Problem::MissingListFile { file: name },
        (_, Kind::Secret) => Problem::UnreadableSecretFile { file: name, reason: error.to_string() },
        _ => Problem::UnreadableFile { file: name, reason: error.to_string() },
    })
}

/// Where systemd puts the credentials of a unit.
pub(super) fn credentials_folder() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// How to fix a configuration file that cannot be read, as the end of a sentence; empty where the
/// error says enough.
#[must_use]
pub fn fix_of(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "; this user must be able to read it: chmod 0644 {path} (it holds no secret), and 0755 for its folder"
        ),
        io::ErrorKind::NotFound => "; name another file with --config".to_owned(),
        _ => String::new(),
    }
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_the_limit_is_refused_and_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_BYTES).unwrap();
        assert_eq!(read_text(&path).unwrap().len() as u64, MAX_BYTES);
        file.set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_missing_list_is_an_error_that_says_how_to_get_a_list() {
        let text = "[[list]]\nname = \"friends\"\nfile = \"/nonexistent/friends.list\"\n[interface]\n\
                    address = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n";
        let source = Source { name: Path::new("gateway.toml"), text };
        let mut lists = policy::gateway::parse(&source).unwrap().lists;
        let errors = load_lists(&mut lists);
        let message = errors.first().unwrap().to_string();
        assert!(message.contains("gatewayctl lists refresh") && !message.contains("keygen"), "{message}");
    }

    #[test]
    fn a_missing_configuration_is_invalid() {
        let error = text_of(Path::new("/nonexistent/gateway.toml")).unwrap_err();
        assert_eq!(error.exit(), Exit::Invalid);
    }
}
