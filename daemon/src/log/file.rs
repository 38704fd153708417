//! A log file of limited size, in place of standard error.
//!
//! launchd limits nothing that a daemon prints, and newsyslog renames a file without the daemon's
//! knowledge, which then goes on in the renamed one. So the daemon itself begins the next file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// From this size on, in bytes, a file is full; the last line may go beyond it.
const LIMIT: u64 = 5 << 20;
/// How many full files are kept. `FILE.1` is the newest.
const KEPT: u32 = 3;

/// The file that is written now.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    limit: u64,
}

impl LogFile {
    /// Opens a file to append to it; makes it (mode 0600), and its folder (0700), where they are
    /// missing.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, LIMIT)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut log = Self { path: path.to_owned(), file: opened(path)?, limit };
        log.limit()?;
        Ok(log)
    }

    /// Writes a line; whether a new file was begun after it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<bool> {
        self.file.write_all(line)?;
        self.limit()
    }

    /// Begins a new file when this one is full. What else is printed on standard error, such as a
    /// panic, counts as well.
    fn limit(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.limit {
            return Ok(false);
        }
        match self.begin_next() {
            Ok(()) => Ok(true),
            // The limit holds, whatever the folder allows.
            Err(_) => self.file.set_len(0).map(|()| false),
        }
    }

    fn begin_next(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            moved(&self.numbered(number), &self.numbered(number + 1))?;
        }
        moved(&self.path, &self.numbered(1))?;
        self.file = opened(&self.path)?;
        Ok(())
    }

    /// `FILE.1`, `FILE.2` and so on.
    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn opened(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Renames a file, if it is there.
fn moved(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_full_file_is_kept_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/forwarder.log");
        let mut log = LogFile::with_limit(&path, 8).unwrap();
        assert!(!log.write(b"first\n").unwrap(), "there is room");
        assert!(log.write(b"second\n").unwrap());
        log.write(b"third\n").unwrap();
        assert_eq!(read(&folder, "forwarder.log"), "third\n");
        assert_eq!(read(&folder, "forwarder.log.1"), "first\nsecond\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.path().join("state"))), (0o600, 0o700));
    }

    #[test]
    fn only_so_many_full_files_are_kept_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::with_limit(&folder.path().join("state/forwarder.log"), 1).unwrap();
        for line in 1..=9 {
            log.write(format!("{line}\n").as_bytes()).unwrap();
        }
        let kept: Vec<String> =
            (1..=KEPT).map(|number| read(&folder, &format!("forwarder.log.{number}"))).collect();
        assert_eq!(kept, ["9\n", "8\n", "7\n"]);
        assert_eq!(fs::read_dir(folder.path().join("state")).unwrap().count(), 4);
    }

    #[test]
    fn what_is_there_goes_on_unless_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/forwarder.log");
        for _ in 0..2 {
            LogFile::with_limit(&path, 8).unwrap().write(b"line\n").unwrap();
        }
        assert_eq!(read(&folder, "forwarder.log"), "", "it was full");
        assert_eq!(read(&folder, "forwarder.log.1"), "line\nline\n");
        fs::write(&path, "printed by another\n").unwrap();
        LogFile::with_limit(&path, 8).unwrap();
        assert_eq!(read(&folder, "forwarder.log.1"), "printed by another\n");
    }

    #[test]
    fn the_limit_holds_where_no_file_can_be_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/forwarder.log");
        let mut log = LogFile::with_limit(&path, 8).unwrap();
        fs::write(folder.path().join("state/forwarder.log.2"), "a file").unwrap();
        fs::create_dir(folder.path().join("state/forwarder.log.3")).unwrap();
        for _ in 0..4 {
            log.write(b"line\n").unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= 10);
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed_and_a_file_that_was_removed_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/forwarder.log");
        let mut log = LogFile::with_limit(&path, 8).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(log.write(b"into what is gone\n").unwrap());
        log.write(b"line\n").unwrap();
        assert_eq!(read(&folder, "forwarder.log"), "line\n");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(LogFile::open(&link).is_err());
    }

    fn read(folder: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(folder.path().join("state").join(name)).unwrap()
    }
}
