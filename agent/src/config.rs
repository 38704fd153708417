//! The configuration of either end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::agent::{EDGE_FOLDER, ORIGIN_FOLDER, SOCKET};
use daemon::files::{LoadError, text_of};
use policy::sections::{Log, Notify};
use policy::{Source, forwarder, gateway};

use crate::notify::daemon::Socket;
use crate::notify::task::Places;

/// What the daemon of this machine is configured to do.
#[derive(Clone)]
pub enum Config {
    /// The gateway's.
    Edge(Arc<gateway::Policy>),
    /// The forwarder's.
    Origin(Arc<forwarder::Policy>),
}

impl Config {
    /// Reads a configuration; which one it is shows in its name and its keys. No secret and no list
    /// is read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let text = text_of(path)?;
        let source = Source { name: path, text: &text };
        let edge = gateway::parse(&source).map(|policy| Self::Edge(Arc::new(policy)));
        let origin = forwarder::parse(&source).map(|policy| Self::Origin(Arc::new(policy)));
        let is_origins = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("forwarder"));
        let read = match (edge, origin) {
            (Ok(edge), Ok(origin)) => Ok(if is_origins { origin } else { edge }),
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(only),
            // The text is meant for the end for which less is wrong with it.
            (Err(edge), Err(origin)) if origin.len() < edge.len() + usize::from(is_origins) => Err(origin),
            (Err(edge), Err(_)) => Err(edge),
        };
        read.map_err(LoadError::Invalid)
    }

    /// What is logged.
    #[must_use]
    pub fn log(&self) -> Log {
        match self {
            Self::Edge(policy) => policy.log,
            Self::Origin(policy) => policy.log,
        }
    }

    /// To whom is reported.
    #[must_use]
    pub fn receivers(&self) -> &[Notify] {
        match self {
            Self::Edge(policy) => &policy.notify,
            Self::Origin(policy) => &policy.notify,
        }
    }

    /// The control socket of the daemon.
    #[must_use]
    pub fn socket(&self) -> Socket {
        match self {
            Self::Edge(policy) => Socket::of_edge(policy),
            Self::Origin(policy) => Socket::of_origin(policy),
        }
    }

    /// Where the agent has its own socket and state: in the folders that systemd gives it, else at
    /// the same places.
    #[must_use]
    pub fn places(&self) -> Places {
        let folder = match self {
            Self::Edge(_) => EDGE_FOLDER,
            Self::Origin(_) => ORIGIN_FOLDER,
        };
        let of = |variable: &str, base: &str| {
            let given = std::env::var_os(variable).and_then(|given| std::env::split_paths(&given).next());
            let given: Option<PathBuf> = given.filter(|path| path.is_absolute());
            given.unwrap_or_else(|| Path::new(base).join(folder))
        };
        Places {
            socket: of("RUNTIME_DIRECTORY", "/run").join(SOCKET),
            state: of("STATE_DIRECTORY", "/var/lib"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn either_configuration_is_known_by_its_keys_and_an_error_is_the_right_ones() {
        let folder = tempfile::tempdir().unwrap();
        let load = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Config::load(&path)
        };
        let edge = include_str!("../../configs/gateway.toml");
        let origin = include_str!("../../configs/forwarder.toml");
        for name in ["gateway.toml", "forwarder.toml", "other.toml"] {
            assert!(matches!(load(name, edge), Ok(Config::Edge(_))), "{name}");
            assert!(matches!(load(name, origin), Ok(Config::Origin(_))), "{name}");
        }
        let wrong = format!("{origin}\n[[notify]]\nname = \"a\"\nkind = \"pager\"\n");
        for name in ["gateway.toml", "forwarder.toml", "other.toml"] {
            let error = load(name, &wrong).err().unwrap().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
