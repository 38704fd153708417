//! What outlives the daemon, in its state folder.
//!
//! | file | holds |
//! |---|---|
//! | `endpoints.json` | each peer's last authenticated endpoint, dialled at the next start |
//! | `clock.json` | the highest wall clock a handshake was stamped with |
//! | `sysctls.json` | the values switches had before us, for `gateway down` |
//! | `guard.json` | the drop table of the last good configuration, for a boot with a bad one |
//! | `applied.json` | what `gateway down` must take away although the configuration has changed since |
//! | `trial.json` | what became of the change that waits, or waited, for `gatewayctl confirm` |
//! | `lock` | held by the running daemon |

mod files;
mod pending;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use files::{read, replace};
pub use pending::{Moment, Outcome, Pending, Trial};

/// The state folder.
#[derive(Clone, Debug)]
pub struct State {
    folder: PathBuf,
}

/// Held while the daemon runs; a second one over the same state would fight with it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Last authenticated endpoints by public key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Base64 key to address and port.
    pub peers: BTreeMap<String, SocketAddr>,
}

/// What was put into the kernel, for the command that takes it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Name of the TUN device.
    pub device: String,
    /// Protocol number of our routes and rules.
    pub protocol: u8,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Clock {
    highest_seconds: u64,
    highest_nanoseconds: u32,
}

impl State {
    /// The state in `folder`, which is made (mode 0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The state in `folder` as it is; nothing is made.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Claims the state for one daemon; `None` when another holds it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        let path = self.folder.join("lock");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether a daemon holds this state now.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        // A pipe in its place is not waited for.
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(self.folder.join("lock"));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// The endpoints kept; none when the file is missing or unreadable, since they are only a hint.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        self.load("endpoints.json").unwrap_or_default()
    }

    /// Keeps the endpoints.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_endpoints(&self, endpoints: &Endpoints) -> io::Result<()> {
        self.keep("endpoints.json", endpoints)
    }

    /// The highest wall clock a handshake was stamped with; zero when none is known.
    #[must_use]
    pub fn watermark(&self) -> Duration {
        let clock: Clock = self.load("clock.json").unwrap_or_default();
        Duration::from_secs(clock.highest_seconds) + Duration::from_nanos(clock.highest_nanoseconds.into())
    }

    /// Keeps the highest wall clock.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_watermark(&self, wall: Duration) -> io::Result<()> {
        let clock = Clock { highest_seconds: wall.as_secs(), highest_nanoseconds: wall.subsec_nanos() };
        self.keep("clock.json", &clock)
    }

    /// The values that switches had before we first changed them.
    #[must_use]
    pub fn sysctls(&self) -> BTreeMap<String, String> {
        self.load("sysctls.json").unwrap_or_default()
    }

    /// Keeps the values of switches; one already kept stays as it is, since what we see now may be our own.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_sysctls(&self, before: &[(String, String)]) -> io::Result<()> {
        let mut kept = self.sysctls();
        let known = kept.len();
        for (path, value) in before {
            kept.entry(path.clone()).or_insert_with(|| value.clone());
        }
        if kept.len() == known { Ok(()) } else { self.keep("sysctls.json", &kept) }
    }

    /// Makes the kept values what they were before a change that was refused.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn put_back_sysctls(&self, kept: &BTreeMap<String, String>) -> io::Result<()> {
        if self.sysctls() == *kept { Ok(()) } else { self.keep("sysctls.json", kept) }
    }

    /// What became of the last change that waited for its confirmation.
    #[must_use]
    pub fn trial(&self) -> Option<Trial> {
        self.load("trial.json")
    }

    /// Notes what became of it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_trial(&self, trial: &Trial) -> io::Result<()> {
        if self.trial().as_ref() == Some(trial) { Ok(()) } else { self.keep("trial.json", trial) }
    }

    /// Forgets a change that never began.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn forget_trial(&self) -> io::Result<()> {
        self.forget("trial.json")
    }

    /// The drop table of the last configuration that was good.
    #[must_use]
    pub fn guard(&self) -> Option<String> {
        let bytes = read(&self.folder.join("guard.json")).ok()??;
        String::from_utf8(bytes).ok()
    }

    /// Keeps the drop table.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_guard(&self, ruleset: &str) -> io::Result<()> {
        if self.guard().as_deref() == Some(ruleset) {
            return Ok(());
        }
        replace(&self.folder.join("guard.json"), ruleset.as_bytes())
    }

    /// What the daemon last put into the kernel.
    #[must_use]
    pub fn applied(&self) -> Option<Applied> {
        self.load("applied.json")
    }

    /// Keeps what is being put into the kernel.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn keep_applied(&self, applied: &Applied) -> io::Result<()> {
        if self.applied().as_ref() == Some(applied) { Ok(()) } else { self.keep("applied.json", applied) }
    }

    /// Forgets what `gateway down` has taken back; endpoints and the clock stay.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn forget_applied(&self) -> io::Result<()> {
        ["sysctls.json", "applied.json", "guard.json"].into_iter().try_for_each(|name| self.forget(name))
    }

    fn forget(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.folder)?.sync_all(),
        }
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let bytes = read(&self.folder.join(name)).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    fn keep(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        replace(&self.folder.join(name), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("a/b")).unwrap();
        let mut endpoints = Endpoints::default();
        endpoints.peers.insert("key".to_owned(), "198.51.100.7:40213".parse().unwrap());
        state.keep_endpoints(&endpoints).unwrap();
        state.keep_watermark(Duration::new(7, 9)).unwrap();
        assert_eq!(state.endpoints(), endpoints);
        assert_eq!(state.watermark(), Duration::new(7, 9));
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("endpoints.json"), "{\"peers\":").unwrap();
        assert_eq!(State::at(folder.path()).endpoints(), Endpoints::default());
    }

    #[test]
    fn the_first_value_of_a_switch_is_the_one_restored() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let switch = |value: &str| [("net/ipv4/ip_forward".to_owned(), value.to_owned())];
        state.keep_sysctls(&switch("0")).unwrap();
        state.keep_sysctls(&switch("1")).unwrap();
        assert_eq!(state.sysctls().values().collect::<Vec<_>>(), ["0"]);
    }

    #[test]
    fn a_state_has_one_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let lock = state.lock().unwrap().unwrap();
        assert!(state.lock().unwrap().is_none());
        assert!(state.is_locked());
        drop(lock);
        assert!(!state.is_locked());
    }
}
