//! What the stack scenarios share: the engine and the trees, and stackctl itself.
// Each scenario is a program of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

pub(crate) mod alloy;

use std::path::Path;
use std::process::Command;

pub(crate) use engine::{Completed, Engine, Tree, changed, executable, link, packages, privileged, project};

/// The stackctl under test.
pub(crate) const STACKCTL: &str = env!("CARGO_BIN_EXE_stackctl");

/// Runs stackctl in a folder of a tree, against an engine.
pub(crate) fn stackctl(engine: &Engine, tree: &Tree, location: &str, words: &[&str]) -> Completed {
    let mut command = engine.command("timeout");
    // A scenario that hangs must say where.
    let output = command
        .args(["300", STACKCTL])
        .args(words)
        .current_dir(tree.root.join(location))
        .output()
        .expect("stackctl runs");
    Completed::of(&output)
}

/// Runs stackctl where no Docker is needed, with programs from `bin` first on the `PATH`.
pub(crate) fn alone(tree: &Tree, location: &str, bin: Option<&Path>, words: &[&str]) -> Completed {
    let path = bin.map(|bin| format!("{}:", bin.display())).unwrap_or_default();
    let output = Command::new(STACKCTL)
        .args(words)
        .env_clear()
        .env("PATH", format!("{path}/usr/local/bin:/usr/bin:/bin"))
        .env("HOME", &tree.root)
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .current_dir(tree.root.join(location))
        .output()
        .expect("stackctl runs");
    Completed::of(&output)
}
