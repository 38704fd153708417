//! Copies of the sample tree, and small trees of a test's own.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project;

/// The names whose container was replaced.
pub fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    after.iter().filter(|(name, id)| before.get(*name) != Some(*id)).map(|(name, _)| name.clone()).collect()
}

/// A copy of the sample tree, with its env files filled in.
pub struct Tree {
    /// Its folder.
    pub root: PathBuf,
}

impl Tree {
    /// Copies the sample tree below a folder.
    pub fn sample(dir: &Path, name: &str) -> Self {
        let root = dir.join(name);
        let sample = project().join("configs/stack");
        let copied = Command::new("cp").arg("-rL").arg(&sample).arg(&root).status().expect("cp runs");
        assert!(copied.success());
        let media = dir.join("media");
        fs::create_dir_all(&media).expect("made");
        let changes = [
            ("EMBY_MEDIA_TYPE", "none".to_owned()),
            ("EMBY_MEDIA_OPTIONS", "bind".to_owned()),
            ("EMBY_MEDIA_DEVICE", media.display().to_string()),
            ("CADDY_LISTEN", "127.0.0.2".to_owned()),
            ("STORE_LISTEN", "127.0.0.2".to_owned()),
            ("TRANSMISSION_LISTEN", "127.0.0.2".to_owned()),
        ];
        for location in ["wroclaw", "kyiv"] {
            let example =
                fs::read_to_string(root.join(location).join(".env.user.example")).expect("an example");
            let mut lines: Vec<String> = example.lines().map(str::to_owned).collect();
            for (name, value) in &changes {
                for line in lines.iter_mut().filter(|line| line.starts_with(&format!("{name}="))) {
                    *line = format!("{name}={value}");
                }
            }
            let path = root.join(location).join(".env.user");
            fs::write(&path, lines.join("\n") + "\n").expect("written");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("closed");
        }
        Self { root }
    }

    /// A tree made of the given files.
    pub fn of(dir: &Path, files: &[(&str, &str)]) -> Self {
        let root = dir.to_path_buf();
        let tree = Self { root };
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    /// Writes a file; env files are closed to others.
    pub fn write(&self, path: &str, text: &str) {
        let full = self.root.join(path);
        fs::create_dir_all(full.parent().expect("a folder")).expect("made");
        fs::write(&full, text).expect("written");
        if path.contains(".env.") {
            fs::set_permissions(&full, Permissions::from_mode(0o600)).expect("closed");
        }
    }

    /// A file's text.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Replaces text in a file of the tree.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no {from}");
        fs::write(self.root.join(path), text.replacen(from, to, 1)).expect("written");
    }

    /// Every file with its mode and bytes.
    pub fn fingerprint(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut all = BTreeMap::new();
        collect(&self.root, &mut all);
        all
    }
}

fn collect(dir: &Path, all: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        if kind.is_dir() {
            collect(&path, all);
        } else if kind.is_file() {
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            all.insert(path.clone(), (mode, fs::read(&path).expect("readable")));
        }
    }
}
