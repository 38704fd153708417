//! What git knows of a file; without git, or outside a work tree, it knows nothing.

use std::path::Path;

use super::process::Call;

/// The work tree that holds a folder.
pub struct Git<'g> {
    dir: &'g Path,
    environment: &'g [(String, String)],
}

impl<'g> Git<'g> {
    /// The work tree of `dir`, when it lies in one.
    #[must_use]
    pub fn of(dir: &'g Path, environment: &'g [(String, String)]) -> Option<Self> {
        let git = Self { dir, environment };
        git.says(&["rev-parse", "--is-inside-work-tree"])
            .is_some_and(|text| text.trim() == "true")
            .then_some(git)
    }

    /// Those of `paths` (below the folder) that are in the index or in HEAD.
    #[must_use]
    pub fn tracked(&self, paths: &[&str]) -> Vec<String> {
        let mut tracked = Vec::new();
        for listing in [&["ls-files", "-z", "--"][..], &["ls-tree", "-r", "-z", "--name-only", "HEAD", "--"]]
        {
            let arguments: Vec<&str> = listing.iter().chain(paths).copied().collect();
            let names = self.says(&arguments).unwrap_or_default();
            tracked.extend(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned));
        }
        tracked.sort();
        tracked.dedup();
        tracked
    }

    /// Whether git ignores a path already.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        self.says(&["check-ignore", "-q", "--no-index", path]).is_some()
    }

    fn says(&self, arguments: &[&str]) -> Option<String> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let call =
            Call { program: "git", arguments: &arguments, environment: self.environment, workdir: self.dir };
        let output = call.capture().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_and_head_are_both_looked_at() {
        let dir = tempfile::tempdir().expect("a folder");
        let environment = [("PATH".to_owned(), std::env::var("PATH").unwrap_or_default())];
        assert!(Git::of(dir.path(), &environment).is_none());
        std::fs::write(dir.path().join("a"), "x").expect("written");
        std::fs::write(dir.path().join(".gitignore"), "b\n").expect("written");
        let git = Git { dir: dir.path(), environment: &environment };
        for arguments in [
            &["init", "-q"][..],
            &["add", "a"],
            &["-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", "x"],
            &["rm", "-q", "--cached", "a"],
        ] {
            assert!(git.says(arguments).is_some(), "{arguments:?}");
        }
        let git = Git::of(dir.path(), &environment).expect("a work tree");
        assert_eq!(git.tracked(&["a", "b"]), ["a"], "HEAD still has it");
        assert!(git.ignores("b") && !git.ignores("a"));
    }
}
