//! A tree with one service and a stand-in for docker.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::support::{self, Completed, Tree, alone, executable};

pub(crate) const COMPOSE: &str = "services:\n  caddy:\n    image: caddy:2\n    environment: [\"MAIL={{MAIL_ADDRESS}}\", \"OWN={{PORTS}}\"]\n";

/// Answers as Compose 2.40 does, refuses a project that says REFUSED, and has no engine behind it.
pub(crate) const FAKE_DOCKER: &str = r#"#!/bin/sh
case "$*" in
  "compose version --short") echo 2.40.3 ;;
  compose*config*json*)
    for word in "$@"; do case $word in *.yaml) grep -qs REFUSED "$word" && { echo "services.caddy is refused" >&2; exit 1; } ;; esac; done
    echo '{"services":{"caddy":{"image":"caddy:2"}}}' ;;
  *) echo "Cannot connect to the Docker daemon at unix:///nowhere/docker.sock" >&2; exit 1 ;;
esac
"#;

/// A tree with one service and a stand-in for docker.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) tree: Tree,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(dir.path().join("bin")).expect("made");
        executable(&dir.path().join("bin/docker"), FAKE_DOCKER);
        let tree = Tree::of(
            &dir.path().canonicalize().expect("there").join("tree"),
            &[
                ("_base/caddy.yaml", COMPOSE),
                ("wroclaw/caddy.yaml", "services: {}\n"),
                ("wroclaw/.env.user", "MAIL_ADDRESS=me@example.com\n"),
            ],
        );
        Self { dir, tree }
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.tree.root.join(below)
    }

    pub(crate) fn run(&self, words: &[&str]) -> Completed {
        alone(&self.tree, "wroclaw", Some(&self.bin()), words)
    }

    pub(crate) fn run_unprivileged(&self, words: &[&str]) -> Completed {
        let copy = self.dir.path().join("bin/stackctl");
        fs::copy(support::STACKCTL, &copy).expect("copied");
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(copy)
            .args(words)
            .current_dir(self.path("wroclaw"))
            .output();
        Completed::of(&output.expect("setpriv runs"))
    }

    pub(crate) fn git(&self, words: &[&str]) {
        let status = Command::new("git").args(words).current_dir(&self.tree.root).status();
        assert!(status.expect("git runs").success(), "{words:?}");
    }

    /// Nothing but the lock and the hash key may have come.
    pub(crate) fn unchanged_since(&self, before: &std::collections::BTreeMap<PathBuf, (u32, Vec<u8>)>) {
        let mut now = self.tree.fingerprint();
        now.retain(|path, _| !path.ends_with(".stack/lock") && !path.ends_with(".stack/hash.key"));
        let names = |map: &std::collections::BTreeMap<PathBuf, (u32, Vec<u8>)>| {
            map.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&now), names(before));
        assert!(now == *before, "a file changed");
    }
}
