//! A location's `.stack/` folder: key, manifest, staged files of each service, generations.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files::{self, Attributes, OnDisk};
use crate::fault::Fault;
use crate::generation::{Generation, Kept, MountedFile, succession};
use crate::manifest::{Manifest, Style};

const CLOSED: Attributes = Attributes { mode: 0o600, owner: None };

const DEFINITION: &str = "definition.json";
const ENV: &str = "compose.env";

/// The state folder of one location.
pub struct Store {
    dir: PathBuf,
    key: Vec<u8>,
}

/// The bytes that make a generation.
pub struct Snapshot {
    /// Rendered files.
    pub files: Vec<(Kept, Vec<u8>)>,
    /// Files that containers mount and no template makes.
    pub mounted: Vec<(MountedFile, Vec<u8>)>,
    /// The definition as Compose resolved it, whatever files it was made of.
    pub definition: Vec<u8>,
    /// The env file Compose got.
    pub env: Vec<u8>,
}

impl Store {
    /// Opens the folder; `create` makes it and its key when they are missing, else a passing key serves.
    pub fn open(dir: PathBuf, create: bool) -> Result<Self, Fault> {
        let path = dir.join("hash.key");
        let fail = |error: io::Error| Fault::Failed(format!("{}: {error}", path.display()));
        let existing = files::read(&path).map_err(fail)?.filter(|found| found.bytes.len() == 32);
        let key = match existing {
            Some(found) => found.bytes.to_vec(),
            None => {
                let mut key = vec![0; 32];
                super::random(&mut key).map_err(fail)?;
                if create {
                    files::private_dir(&dir).map_err(fail)?;
                    files::write(&path, &key, CLOSED, Style::Replace).map_err(fail)?;
                }
                key
            }
        };
        Ok(Self { dir, key })
    }

    /// The key of content hashes: without it a hash cannot be compared with guesses.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where one service's env file, Compose copies and labels lie.
    #[must_use]
    pub fn service_dir(&self, service: &str) -> PathBuf {
        self.dir.join("services").join(service)
    }

    /// What was rendered last.
    pub fn manifest(&self) -> Result<Manifest, Fault> {
        Ok(self.load(&self.dir.join("manifest.json"))?.unwrap_or_default())
    }

    /// Keeps what was rendered, when it differs.
    pub fn save_manifest(&self, manifest: &Manifest) -> Result<(), Fault> {
        self.save(&self.dir.join("manifest.json"), manifest)
    }

    /// Writes a private file when its bytes differ; true when they did.
    pub fn put(&self, path: &Path, bytes: &[u8]) -> Result<bool, Fault> {
        let fail = |error: io::Error| Fault::Failed(format!("{}: {error}", path.display()));
        if files::read(path)
            .map_err(fail)?
            .is_some_and(|found| found.bytes.as_slice() == bytes && found.mode == 0o600)
        {
            return Ok(false);
        }
        if let Some(parent) = path.parent() {
            files::private_dir(parent).map_err(fail)?;
        }
        files::write(path, bytes, CLOSED, Style::Replace).map_err(fail)?;
        Ok(true)
    }

    /// All generations of a service, oldest first.
    pub fn generations(&self, service: &str) -> Result<Vec<Generation>, Fault> {
        let mut all: Vec<Generation> = Vec::new();
        for number in self.numbers(service) {
            all.extend(self.load(&self.generation_dir(service, number).join("generation.json"))?);
        }
        all.sort_by_key(|generation| generation.number);
        Ok(all)
    }

    /// Keeps a new generation, whose number it gets, and drops those that are too old.
    pub fn keep(&self, service: &str, mut generation: Generation, snapshot: &Snapshot) -> Result<u64, Fault> {
        let (number, old) = succession(&self.numbers(service));
        generation.number = number;
        let dir = self.generation_dir(service, number);
        for (index, (_, bytes)) in snapshot.files.iter().enumerate() {
            self.put(&dir.join(index.to_string()), bytes)?;
        }
        for (index, (_, bytes)) in snapshot.mounted.iter().enumerate() {
            self.put(&dir.join(mounted_copy(index)), bytes)?;
        }
        self.put(&dir.join(DEFINITION), &snapshot.definition)?;
        self.put(&dir.join(ENV), &snapshot.env)?;
        // Last, since a generation without this file does not count.
        self.save(&dir.join("generation.json"), &generation)?;
        for number in old {
            let _ = fs::remove_dir_all(self.generation_dir(service, number));
        }
        Ok(number)
    }

    /// Reads a generation's rendered files back.
    pub fn restore(&self, service: &str, generation: &Generation) -> Result<Vec<(Kept, OnDisk)>, Fault> {
        let dir = self.generation_dir(service, generation.number);
        let copies = generation.files.iter().enumerate();
        copies.map(|(index, kept)| Ok((kept.clone(), part(&dir.join(index.to_string()))?))).collect()
    }

    /// Reads a generation's mounted files back, each with the path of its copy.
    pub fn restore_mounted(
        &self,
        service: &str,
        generation: &Generation,
    ) -> Result<Vec<(MountedFile, PathBuf, OnDisk)>, Fault> {
        let dir = self.generation_dir(service, generation.number);
        let back = |(index, mounted): (usize, &MountedFile)| {
            let copy = dir.join(mounted_copy(index));
            let found = part(&copy)?;
            Ok((mounted.clone(), copy, found))
        };
        generation.mounted.iter().enumerate().map(back).collect()
    }

    /// The generation's resolved definition and the env file that goes with it.
    pub fn definition(&self, service: &str, generation: &Generation) -> Result<(PathBuf, PathBuf), Fault> {
        let dir = self.generation_dir(service, generation.number);
        let (definition, env) = (dir.join(DEFINITION), dir.join(ENV));
        for path in [&definition, &env] {
            part(path)?;
        }
        Ok((definition, env))
    }

    /// A generation's folder.
    #[must_use]
    pub fn generation_dir(&self, service: &str, number: u64) -> PathBuf {
        self.dir.join("generations").join(service).join(number.to_string())
    }

    fn numbers(&self, service: &str) -> Vec<u64> {
        let entries =
            fs::read_dir(self.dir.join("generations").join(service)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
    }

    fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Fault> {
        let broken = |why: String| Fault::Broken(format!("{}: {why}", path.display()));
        let Some(found) = files::read(path).map_err(|error| broken(error.to_string()))? else {
            return Ok(None);
        };
        serde_json::from_slice(&found.bytes).map(Some).map_err(|error| broken(error.to_string()))
    }

    fn save<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), Fault> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Fault::Failed(error.to_string()))?;
        bytes.push(b'\n');
        self.put(path, &bytes).map(|_| ())
    }
}

fn mounted_copy(index: usize) -> String {
    format!("mounted-{index}")
}

fn part(path: &Path) -> Result<OnDisk, Fault> {
    let gone = || Fault::Broken(format!("{}: this part of the generation is gone", path.display()));
    files::read(path).ok().flatten().ok_or_else(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_generation_comes_back_as_it_was_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().join(".stack"), true).expect("open");
        for number in 1..=7u64 {
            let kept = Kept { path: "a/b".into(), mode: 0o640, owner: None };
            let files = vec![(kept.clone(), format!("text {number}").into_bytes())];
            let mounted =
                MountedFile { path: "home/a.conf".into(), mode: 0o640, owner: (0, 0), writable: false };
            let snapshot = Snapshot {
                files,
                mounted: vec![(mounted.clone(), format!("conf {number}").into_bytes())],
                definition: b"{}".to_vec(),
                env: b"A=1".to_vec(),
            };
            let generation = Generation {
                number: 0,
                made: 1,
                files: vec![kept],
                mounted: vec![mounted],
                left_out: Vec::new(),
                images: BTreeMap::new(),
                content: number.to_string(),
            };
            assert_eq!(store.keep("caddy", generation, &snapshot).ok(), Some(number));
        }
        let all = store.generations("caddy").expect("readable");
        assert_eq!(all.iter().map(|g| g.number).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
        let back = store.restore("caddy", &all[4]).expect("whole");
        assert_eq!(back[0].1.bytes.as_slice(), b"text 7");
        let mounted = store.restore_mounted("caddy", &all[4]).expect("whole");
        assert_eq!(mounted[0].2.bytes.as_slice(), b"conf 7");
        fs::remove_file(store.generation_dir("caddy", 7).join("0")).expect("removed");
        fs::remove_file(store.generation_dir("caddy", 7).join("mounted-0")).expect("removed");
        assert!(store.restore_mounted("caddy", &all[4]).is_err_and(|fault| fault.exit_code() == 11));
        assert!(store.restore("caddy", &all[4]).is_err_and(|fault| fault.exit_code() == 11));
    }

    #[test]
    fn the_key_stays_and_everything_is_closed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(".stack");
        let store = Store::open(path.clone(), true).expect("open");
        let again = Store::open(path.clone(), false).expect("open");
        assert_eq!(store.key(), again.key());
        store.save_manifest(&Manifest::default()).expect("saved");
        let mode = |path: &Path| fs::metadata(path).map(|meta| meta.mode() & 0o777).ok();
        assert_eq!((mode(&path), mode(&path.join("manifest.json"))), (Some(0o700), Some(0o600)));
        assert!(
            !store
                .put(&path.join("x"), b"1")
                .and_then(|_| store.put(&path.join("x"), b"1"))
                .expect("written")
        );
    }
}
