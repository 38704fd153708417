//! Who may write what Caddy's command reads. Root must not run it on another user's text: `caddy
//! validate` writes the log files that a configuration names, and `import` reads any file.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use daemon::files::read_text;
use policy::forwarder::Caddy;

/// The users who may own what root's Caddy reads: root, which in a user namespace may be another
/// number for whoever owns the root folder.
pub(super) fn owners() -> Vec<u32> {
    fs::metadata("/").map(|root| root.uid()).into_iter().chain([0]).collect()
}

/// A file or folder that others than these owners may write, of all that Caddy's configuration
/// shows that it reads; a file that does not exist is not one.
pub(super) fn first_of_others(caddy: &Caddy, owners: &[u32]) -> Option<PathBuf> {
    if let Some(found) = of_others(&caddy.sites, owners) {
        return Some(found);
    }
    let mut unread = vec![caddy.config.clone()];
    unread.extend(entries(&caddy.sites));
    let mut read = BTreeSet::new();
    while let Some(file) = unread.pop() {
        // No text of others decides what root looks at.
        if let Some(found) = of_others(&file, owners) {
            return Some(found);
        }
        if read.insert(file.clone()) {
            let folder = file.parent().unwrap_or(Path::new("/"));
            for imported in imports(&read_text(&file).unwrap_or_default()) {
                let Found { files, listed } = find(&folder.join(imported));
                if let Some(found) = listed.iter().find_map(|folder| of_others(folder, owners)) {
                    return Some(found);
                }
                unread.extend(files);
            }
        }
    }
    None
}

/// What others may write of a path itself, and of the folders that lead to it, where they could
/// put something else in its place.
fn of_others(path: &Path, owners: &[u32]) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    let is_others = |part: &&Path| {
        fs::metadata(part).is_ok_and(|found| !is_only(&found, owners, **part == *path || **part == *real))
    };
    path.ancestors()
        .filter(|part| part.is_absolute())
        .chain(real.ancestors())
        .find(is_others)
        .map(Path::to_owned)
}

fn is_only(found: &Metadata, owners: &[u32], is_last: bool) -> bool {
    // In a folder such as /tmp others cannot replace what is not theirs.
    let is_kept = !is_last && found.is_dir() && found.mode() & 0o1000 != 0;
    owners.contains(&found.uid()) && (found.mode() & 0o022 == 0 || is_kept)
}

/// What a Caddyfile imports: snippets, files and patterns of files.
fn imports(text: &str) -> Vec<String> {
    let imported = |line: &str| {
        let mut words = line.split_whitespace();
        let is_import = words.next() == Some("import");
        words.next().filter(|_| is_import).map(|word| word.trim_matches(['"', '`']).to_owned())
    };
    text.lines().filter_map(imported).collect()
}

/// What a pattern finds.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    /// The folders of which every entry counts.
    listed: Vec<PathBuf>,
}

/// Finds the files of a pattern. A part with a wildcard finds every entry of its folder: a few
/// files more are looked at than Caddy reads.
fn find(pattern: &Path) -> Found {
    let mut found = Found { files: vec![PathBuf::new()], listed: Vec::new() };
    for part in pattern.components() {
        let part = part.as_os_str();
        if part.to_string_lossy().contains(['*', '?', '[']) {
            let folders = std::mem::take(&mut found.files);
            found.files = folders.iter().flat_map(|folder| entries(folder)).collect();
            found.listed.extend(folders);
        } else {
            found.files.iter_mut().for_each(|file| file.push(part));
        }
    }
    found.files.retain(|file| file.exists());
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_configuration_of_roots_alone_may_be_run() {
        let place = Place::new();
        assert_eq!(place.first_of_others(), None);
        // One that is only in a container.
        fs::remove_file(place.path("etc/Caddyfile")).unwrap();
        assert_eq!(place.first_of_others(), None);
    }

    #[test]
    fn everything_that_is_read_must_be_roots_and_so_must_the_folders_that_lead_there() {
        for changed in [
            "etc/Caddyfile",
            "etc/sites",
            "etc/sites/emby.example.com.caddy",
            "etc",
            "etc/snippets.conf",
            "srv/web",
            "srv/web/a.caddy",
        ] {
            let place = Place::new();
            let path = place.path(changed);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            fs::set_permissions(&path, Permissions::from_mode(mode | 0o020)).unwrap();
            assert_eq!(place.first_of_others(), Some(path));
        }
    }

    #[test]
    fn a_link_that_others_may_change_is_found_although_it_leads_to_roots_file() {
        let place = Place::new();
        let folder = place.path("linked");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        symlink(place.path("etc/Caddyfile"), folder.join("Caddyfile")).unwrap();
        let caddy = Caddy { config: folder.join("Caddyfile"), ..place.caddy() };
        assert_eq!(first_of_others(&caddy, &place.owners()), Some(folder));
    }

    #[test]
    fn another_owner_is_found() {
        let place = Place::new();
        assert_eq!(first_of_others(&place.caddy(), &[u32::MAX]), Some(place.path("etc/sites")));
    }

    #[test]
    fn files_that_import_each_other_are_read_once() {
        let place = Place::new();
        fs::write(place.path("etc/snippets.conf"), "import Caddyfile\nimport snippets.conf\n").unwrap();
        assert_eq!(place.first_of_others(), None);
    }

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let place = Self { folder: tempfile::tempdir().unwrap() };
            for folder in ["etc", "etc/sites", "srv", "srv/web"] {
                fs::create_dir(place.path(folder)).unwrap();
                fs::set_permissions(place.path(folder), Permissions::from_mode(0o755)).unwrap();
            }
            let web = place.path("srv/*/*.caddy");
            let config = format!(
                "import sites/*.caddy\n\timport \"snippets.conf\" a\nimport {}\nimport login\n",
                web.display()
            );
            for (name, text) in [
                ("etc/Caddyfile", config.as_str()),
                ("etc/sites/emby.example.com.caddy", "emby.example.com {\n}\n"),
                ("etc/snippets.conf", "(login) {\n}\n"),
                ("srv/web/a.caddy", ""),
            ] {
                fs::write(place.path(name), text).unwrap();
                fs::set_permissions(place.path(name), Permissions::from_mode(0o644)).unwrap();
            }
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().canonicalize().unwrap().join(name)
        }

        fn caddy(&self) -> Caddy {
            let (sites, config) = (self.path("etc/sites"), self.path("etc/Caddyfile"));
            Caddy { sites, config, command: vec!["caddy".to_owned()] }
        }

        /// This user's files are taken for root's.
        fn owners(&self) -> Vec<u32> {
            let own = fs::metadata(self.folder.path()).unwrap().uid();
            owners().into_iter().chain([own]).collect()
        }

        fn first_of_others(&self) -> Option<PathBuf> {
            first_of_others(&self.caddy(), &self.owners())
        }
    }
}
