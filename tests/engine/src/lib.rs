//! A Docker engine of a test's own, with stand-in images, and the sample tree of Compose stacks.
//!
//! An [`Engine`] has a socket, a data folder and namespaces of its own, so a user's Docker is never
//! touched; it ends with the test. No registry is needed: images are made of what the distribution
//! packages, which `scripts/stack-packages` unpacks into the project's cache.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stderr)] // A scenario that cannot go on stops.

mod completed;
mod docker;
mod images;
mod tree;

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use completed::Completed;
pub use docker::{Engine, Network};
pub use images::Source;
pub use tree::{Tree, changed};

/// The project's root.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace").to_path_buf()
}

/// The folder that the project's script unpacks a set of packages into.
pub fn packages(set: &str) -> PathBuf {
    let script = project().join("scripts/stack-packages");
    let output = Command::new(script).arg(set).output().expect("stack-packages runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Whether this process may make namespaces and run a Docker engine. When it may not, that is
/// reported on standard error and in `target/lab-skipped`, which `.ci/run` refuses.
pub fn privileged() -> bool {
    let whole = fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    let root = whole && rustix::process::geteuid().is_root();
    if !root {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("scenario");
        let line = format!("SKIPPED {name}: a Docker engine of its own needs the machine's root\n");
        eprint!("{line}");
        fs::create_dir_all(project().join("target")).expect("a folder");
        let list = project().join("target/lab-skipped");
        let mut list =
            File::options().create(true).append(true).open(list).expect("the list of skipped scenarios");
        list.write_all(line.as_bytes()).expect("written");
    }
    root
}

/// Writes a program.
pub fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("executable");
}

/// Makes `path` a symbolic link to `target`.
pub fn link(target: &Path, path: &Path) {
    std::os::unix::fs::symlink(target, path).expect("linked");
}
