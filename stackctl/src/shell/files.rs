//! Reading and writing files: whole or not at all, and in place where a mount needs the inode.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::manifest::Style;

/// Templates, env files and Compose files larger than this are refused.
pub const SIZE_LIMIT: u64 = 4 << 20;

/// A file as it was read.
pub struct OnDisk {
    /// Its bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

/// Reads a file of up to [`SIZE_LIMIT`] bytes; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<OnDisk>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if meta.len() > SIZE_LIMIT {
        return Err(io::Error::other(format!("larger than {SIZE_LIMIT} bytes")));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default()));
    file.read_to_end(&mut bytes)?;
    Ok(Some(OnDisk { bytes, mode: meta.mode() & 0o777, owner: (meta.uid(), meta.gid()) }))
}

/// Reads a text file; `None` when there is none.
pub fn read_text(path: &Path) -> io::Result<Option<String>> {
    let Some(on_disk) = read(path)? else { return Ok(None) };
    String::from_utf8(on_disk.bytes.to_vec()).map(Some).map_err(|_| io::Error::other("not UTF-8"))
}

/// What a write leaves behind.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// User and group, when they must differ from ours.
    pub owner: Option<(u32, u32)>,
}

/// Writes a file's new content, whole or not at all.
///
/// In place, the new bytes are first written completely to a file next to the target
/// (`NAME.stackctl-new`), so that [`finish_interrupted`] finishes an interrupted write and a full
/// disk is noticed before the old bytes go.
pub fn write(path: &Path, bytes: &[u8], attributes: Attributes, style: Style) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("no parent folder"))?;
    fs::create_dir_all(parent)?;
    let staged = staged_path(path);
    let made = new_file(&staged, bytes, attributes);
    if let Err(error) = made {
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    if style == Style::InPlace && path.is_file() {
        copy_into(&staged, path, bytes, attributes)?;
    } else {
        fs::rename(&staged, path)?;
    }
    File::open(parent)?.sync_all()
}

/// Finishes a write in place that a crash interrupted; true when there was one.
pub fn finish_interrupted(path: &Path) -> io::Result<bool> {
    let staged = staged_path(path);
    let Some(whole) = read(&staged)? else { return Ok(false) };
    // The marker follows the bytes: without it the crash came before the staged file was complete.
    let marked = staged.with_extension("stackctl-ready");
    if !marked.exists() {
        fs::remove_file(&staged)?;
        return Ok(false);
    }
    copy_into(&staged, path, &whole.bytes, Attributes { mode: whole.mode, owner: None })?;
    Ok(true)
}

/// Sets mode and owner where they differ.
pub fn set_attributes(path: &Path, attributes: Attributes) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if let Some((user, group)) = attributes.owner.filter(|owner| *owner != (meta.uid(), meta.gid())) {
        chown(path, Some(user), Some(group))?;
    }
    if meta.mode() & 0o777 != attributes.mode {
        fs::set_permissions(path, Permissions::from_mode(attributes.mode))?;
    }
    Ok(())
}

/// Makes a folder of our own, closed to others.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    set_attributes(path, Attributes { mode: 0o700, owner: None })
}

fn staged_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".stackctl-new");
    path.with_file_name(name)
}

fn new_file(path: &Path, bytes: &[u8], attributes: Attributes) -> io::Result<()> {
    // The mode is the final one from the first byte on, so a secret is never open to others.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    set_attributes(path, attributes)?;
    file.sync_all()
}

fn copy_into(staged: &Path, path: &Path, bytes: &[u8], attributes: Attributes) -> io::Result<()> {
    let marked = staged.with_extension("stackctl-ready");
    File::create(&marked)?.sync_all()?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // Ask for the room first: a full disk must not cost the old bytes.
    let length = bytes.len() as u64;
    if length > file.metadata()?.len() {
        reserve(&file, length)?;
    }
    file.write_all(bytes)?;
    file.set_len(length)?;
    set_attributes(path, attributes)?;
    file.sync_all()?;
    fs::remove_file(staged)?;
    fs::remove_file(marked)
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, length: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: Attributes = Attributes { mode: 0o600, owner: None };

    #[test]
    fn replacing_makes_a_new_inode_and_writing_in_place_keeps_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sub/file");
        write(&path, b"one", CLOSED, Style::Replace).expect("written");
        let first = inode(&path);
        write(&path, b"longer than one", CLOSED, Style::InPlace).expect("written");
        assert_eq!((inode(&path), text(&path).as_str()), (first, "longer than one"));
        write(&path, b"two", CLOSED, Style::InPlace).expect("written");
        assert_eq!((inode(&path), text(&path).as_str()), (first, "two"));
        write(&path, b"three", Attributes { mode: 0o640, owner: None }, Style::Replace).expect("written");
        assert_ne!(inode(&path), first);
        assert_eq!(fs::metadata(&path).map(|m| m.mode() & 0o777).ok(), Some(0o640));
        assert_eq!(fs::read_dir(dir.path().join("sub")).map(Iterator::count).ok(), Some(1));
    }

    #[test]
    fn an_interrupted_write_in_place_is_finished_or_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        fs::write(&path, "half of the n").expect("written");
        fs::write(staged_path(&path), "the new bytes").expect("written");
        assert!(
            !finish_interrupted(&path).expect("looked at"),
            "no marker: the old bytes were never touched"
        );
        fs::write(staged_path(&path), "the new bytes").expect("written");
        fs::write(staged_path(&path).with_extension("stackctl-ready"), "").expect("written");
        assert!(finish_interrupted(&path).expect("finished"));
        assert_eq!(text(&path), "the new bytes");
        assert_eq!(fs::read_dir(dir.path()).map(Iterator::count).ok(), Some(1));
    }

    #[test]
    fn a_full_disk_leaves_the_old_bytes() {
        // Not even the superuser can write more than this device takes.
        assert!(write(Path::new("/dev/full/x"), b"x", CLOSED, Style::Replace).is_err());
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        fs::write(&path, "old").expect("written");
        std::os::unix::fs::symlink("/dev/full", staged_path(&path)).expect("linked");
        assert!(write(&path, b"new", CLOSED, Style::InPlace).is_err());
        assert_eq!(text(&path), "old");
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("big");
        File::create(&path).and_then(|file| file.set_len(SIZE_LIMIT + 1)).expect("made");
        assert!(read(&path).is_err());
        assert!(read(&dir.path().join("none")).is_ok_and(|found| found.is_none()));
    }

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).map(|meta| meta.ino()).expect("there")
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("readable")
    }
}
