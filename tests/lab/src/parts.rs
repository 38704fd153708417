//! Where a scenario's programs are, and what to do when one is missing.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::enter;

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// A program of this workspace: from the folder `CAUSEWAY_BINARIES` names, else built with the
/// running test's profile.
pub fn binary(name: &str) -> Result<PathBuf> {
    let exe = env::current_exe()?;
    let chosen = env::var_os("CAUSEWAY_BINARIES").map(PathBuf::from);
    let built = exe.ancestors().skip(1).take(2).map(Path::to_owned);
    let found = chosen.into_iter().chain(built).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built next to {}: cargo build --profile lab --workspace --bins", exe.display())
    })
}

/// Which build of this product's programs a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// This tree.
    This,
    /// The earlier commit that `scripts/previous` built.
    Previous,
}

impl Release {
    /// A program of this release; of the earlier one from the folder `CAUSEWAY_PREVIOUS_BINARIES`
    /// names.
    pub fn binary(self, name: &str) -> Result<PathBuf> {
        if self == Self::This {
            return binary(name);
        }
        let folder = env::var_os("CAUSEWAY_PREVIOUS_BINARIES").map(PathBuf::from);
        let folder = folder.context(
            "no earlier release: run scripts/previous, and set CAUSEWAY_PREVIOUS_BINARIES to the folder that it prints",
        )?;
        let path = folder.join(name);
        ensure!(path.is_file(), "the earlier release has no {}", path.display());
        Ok(path)
    }
}

/// A program newer than the distribution's, from the cache that `scripts/packages` fills, else from
/// the PATH.
pub fn newer(name: &str) -> Result<PathBuf> {
    let cache = env::var_os("CAUSEWAY_CACHE").map_or_else(|| workspace().join(".cache"), PathBuf::from);
    let unpacked = ["usr/bin", "usr/sbin"].map(|folder| cache.join("newer").join(folder).join(name));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all = unpacked.into_iter().chain(env::split_paths(&path).map(|folder| folder.join(name)));
    all.find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run scripts/packages test"))
}

/// Whether scenarios run with the full counts (`make soak`) rather than the reduced ones.
pub fn full_counts() -> bool {
    env::var_os("CAUSEWAY_SOAK").is_some_and(|value| value == "1")
}

/// Whether this is root of the machine, who may become other users, and not only of a user
/// namespace.
pub fn has_real_root() -> bool {
    let whole = fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    whole && enter::is_root()
}

/// Proof that a skipped scenario was recorded: what a test returns instead of having run.
#[derive(Debug)]
pub struct Skip(());

/// Skips the calling scenario and reports it on standard error and in `target/lab-skipped`, which
/// `.ci/run` refuses.
pub fn skip(scenario: &str, reason: &str) -> Result<Skip> {
    let line = format!("SKIPPED {scenario}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes())?;
    let folder = workspace().join("target");
    fs::create_dir_all(&folder)?;
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("lab-skipped"))?;
    file.write_all(line.as_bytes())?;
    Ok(Skip(()))
}

/// Fails unless a scenario may make namespaces here.
pub(crate) fn check_privilege() -> Result<()> {
    ensure!(
        enter::is_root(),
        "namespaces need root, or root of a user namespace: run it through `make test`"
    );
    Ok(())
}
