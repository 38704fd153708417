//! One change at a time per location.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::now;
use crate::fault::Fault;

/// A lock may be broken by `--break-lock` once it is this old, in seconds.
pub const BREAKABLE_AFTER: u64 = 600;

/// A held lock; dropping it lets the next one in, and so does the end of the process.
pub struct Lock(File);

/// Takes the lock of a location's state folder, or says who holds it (exit 6).
pub fn take(state: &Path, break_lock: bool) -> Result<Lock, Fault> {
    let path = state.join("lock");
    let fail = |error: io::Error| Fault::Failed(format!("{}: {error}", path.display()));
    let mut file = open(&path).map_err(fail)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder).map_err(fail)?;
        let since =
            holder.split_whitespace().last().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        let age = now().saturating_sub(since);
        if !break_lock || age < BREAKABLE_AFTER {
            let who = holder.rsplit_once(' ').map_or("another operator", |(who, _)| who);
            let hint = if break_lock {
                format!("; it can be broken once it is {BREAKABLE_AFTER} s old")
            } else {
                String::new()
            };
            return Err(Fault::Conflict(format!("{who} has been working here for {age} s{hint}")));
        }
        fs::remove_file(&path).map_err(fail)?;
        file = open(&path).map_err(fail)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    file.set_len(0).map_err(fail)?;
    write!(file, "pid {} on {host} {}", std::process::id(), now()).map_err(fail)?;
    Ok(Lock(file))
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty file means that the lock is free, and two runs leave the same bytes.
        let _ = self.0.rewind();
        let _ = self.0.set_len(0);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_operator_learns_who_holds_the_lock() {
        let dir = tempfile::tempdir().expect("a folder");
        let held = take(dir.path(), false).expect("free");
        let refused = take(dir.path(), false).err().expect("held");
        assert_eq!(refused.exit_code(), 6);
        assert!(refused.to_string().contains(&format!("pid {}", std::process::id())));
        assert!(take(dir.path(), true).is_err_and(|fault| fault.to_string().contains("600 s")));
        drop(held);
        assert!(take(dir.path(), false).is_ok());
    }

    #[test]
    fn an_old_lock_can_be_broken() {
        let dir = tempfile::tempdir().expect("a folder");
        let held = take(dir.path(), false).expect("free");
        fs::write(dir.path().join("lock"), "pid 1 on elsewhere 1000").expect("written");
        assert!(take(dir.path(), true).is_ok());
        drop(held);
    }
}
