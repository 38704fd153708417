//! Landlock: after its start the daemon changes no file but its own and runs no program, whatever it is made to parse.

use std::path::Path;

use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};

/// Writing as kernels since 6.2 know it; older ones enforce what they know of it.
const RIGHTS: ABI = ABI::V3;

/// Allows changes below `folders` and nowhere else, and the execution of nothing; reading stays free.
///
/// Holds for this thread and all that it starts, so it must run before the first thread. Whether the kernel enforces it.
///
/// # Errors
/// When the kernel has Landlock and refuses.
pub fn confine(folders: &[&Path]) -> Result<bool, RulesetError> {
    let writing = AccessFs::from_write(RIGHTS);
    let status = Ruleset::default()
        .handle_access(writing | AccessFs::Execute)?
        .create()?
        .add_rules(path_beneath_rules(folders, writing))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
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
            if !confine(&[own.path()]).unwrap() {
                println!("SKIPPED: this kernel has no Landlock");
                return;
            }
            crate::state::replace(&own.path().join("state"), b"new").unwrap();
            assert!(std::fs::write(other.path().join("file"), "new").is_err());
            assert_eq!(std::fs::read(other.path().join("file")).unwrap(), b"old");
            assert!(std::process::Command::new("/bin/true").status().is_err());
        })
        .join()
        .unwrap();
    }
}
