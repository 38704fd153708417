//! Landlock: after its start the daemon can change only its own files and run no program, even if
//! it is compromised.

use std::path::Path;

use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};

use crate::privilege;

/// Writing as kernels since 6.2 know it; older ones enforce what they know of it.
const RIGHTS: ABI = ABI::V3;

/// What became of [`confine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// The kernel enforces it.
    Enforced,
    /// The kernel was built without Landlock (ENOSYS).
    NotBuilt,
    /// The kernel has Landlock, and it is off since boot (EOPNOTSUPP): `lsm=` on the kernel's
    /// command line.
    TurnedOff,
    /// A seccomp filter refuses its system calls (any other error, such as EPERM).
    Filtered,
}

/// Allows changes below `folders` and nowhere else, and the execution of nothing; reading stays
/// free.
///
/// Holds for this thread and all that it starts, so it must run before the first thread.
///
/// # Errors
/// When the kernel has Landlock and refuses.
pub fn confine(folders: &[&Path]) -> Result<Confinement, RulesetError> {
    let writing = AccessFs::from_write(RIGHTS);
    let status = Ruleset::default()
        .handle_access(writing | AccessFs::Execute)?
        .create()?
        .add_rules(path_beneath_rules(folders, writing))?
        .restrict_self()?;
    if status.ruleset != RulesetStatus::NotEnforced {
        return Ok(Confinement::Enforced);
    }
    // The crate takes every error for an old kernel.
    let error = privilege::landlock_error();
    Ok(match error.and_then(|error| error.raw_os_error()) {
        Some(libc::ENOSYS) => Confinement::NotBuilt,
        Some(libc::EOPNOTSUPP) => Confinement::TurnedOff,
        _ => Confinement::Filtered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_writes_in_its_folder_only_and_runs_nothing() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("file"), "old").unwrap();
        // Landlock holds for the thread that asks, so the other tests are not confined.
        std::thread::spawn(move || {
            if confine(&[own.path()]).unwrap() != Confinement::Enforced {
                println!("SKIPPED: this kernel has no Landlock");
                return;
            }
            daemon::files::replace(&own.path().join("state"), b"new").unwrap();
            assert!(std::fs::write(other.path().join("file"), "new").is_err());
            assert_eq!(std::fs::read(other.path().join("file")).unwrap(), b"old");
            assert!(std::process::Command::new("/bin/true").status().is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_filter_that_forbids_landlock_is_not_taken_for_a_kernel_without_it() {
        for (errno, expected) in [
            (libc::EPERM, Confinement::Filtered),
            (libc::EACCES, Confinement::Filtered),
            (libc::ENOSYS, Confinement::NotBuilt),
            (libc::EOPNOTSUPP, Confinement::TurnedOff),
        ] {
            let own = tempfile::tempdir().unwrap();
            // The filter holds for the thread that sets it.
            let confined = std::thread::spawn(move || {
                privilege::tests::refuse_landlock(errno);
                confine(&[own.path()]).unwrap()
            });
            assert_eq!(confined.join().unwrap(), expected, "errno {errno}");
        }
    }
}
