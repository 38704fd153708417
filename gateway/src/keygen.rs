//! A new key pair on disk.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tunnel::key::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// Writes `NAME.key` (mode 0600) and `NAME.pub` into `folder`, which is made (mode 0700) when missing.
///
/// # Errors
/// `AlreadyExists` when either file is there: a key is never overwritten. Else what the file system says.
pub fn keygen(folder: &Path, name: &str) -> io::Result<PublicKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(io::Error::other)?;
    let key = PrivateKey::from_bytes(*seed);
    let public = key.public();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let public_path = folder.join(format!("{name}.pub"));
    if public_path.exists() {
        return Err(taken(&public_path));
    }
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD.encode(key.as_bytes()))));
    write_new(&folder.join(format!("{name}.key")), text.as_bytes(), 0o600)?;
    write_new(&public_path, format!("{public}\n").as_bytes(), 0o644)?;
    File::open(folder)?.sync_all()?;
    Ok(public)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let opened = File::options().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => taken(path),
        _ => error,
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        drop(fs::remove_file(path));
    }
    written
}

fn taken(path: &Path) -> io::Error {
    let message = format!("{} exists and is not overwritten; move it away first", path.display());
    io::Error::new(io::ErrorKind::AlreadyExists, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_private_key_is_private_and_the_public_one_belongs_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("new");
        let public = keygen(&inside, "kyiv").unwrap();
        let path = inside.join("kyiv.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let private: PrivateKey = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        assert_eq!(private.public(), public);
        assert_eq!(fs::read_to_string(inside.join("kyiv.pub")).unwrap().trim(), public.to_string());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        keygen(folder.path(), "kyiv").unwrap();
        let before = fs::read(folder.path().join("kyiv.key")).unwrap();
        assert_eq!(keygen(folder.path(), "kyiv").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(folder.path().join("kyiv.key")).unwrap(), before);
    }
}
