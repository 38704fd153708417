//! A new key pair on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tunnel::key::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::folder::make_open_folder;

/// Who a key file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
}

impl Owner {
    /// Finds a user, by name or by number, in a text as `/etc/passwd` has it. A number that it does
    /// not list is taken for a user whose group has the same number, as in a container.
    #[must_use]
    pub fn find(user: &str, passwd: &str) -> Option<Self> {
        let number = user.parse().ok();
        let of_line = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == user || number == Some(uid)).then_some(Self { uid, gid })
        };
        passwd.lines().find_map(of_line).or(number.map(|number| Self { uid: number, gid: number }))
    }
}

/// Writes `NAME.key` (mode 0600, given to `owner`) and `NAME.pub` into `folder`.
///
/// The mode of a folder that is there stays. One that is missing is made, with the folders above
/// it, so that others may look into it: the configuration lies there too, and is no secret. As root
/// whatever the umask is.
///
/// # Errors
/// `AlreadyExists` when either file is there: a key is never overwritten. Else what the file system
/// says.
pub fn keygen(folder: &Path, name: &str, owner: Option<Owner>) -> io::Result<PublicKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(io::Error::other)?;
    let key = PrivateKey::from_bytes(*seed);
    let public = key.public();
    make_open_folder(folder)?;
    let public_path = folder.join(format!("{name}.pub"));
    if public_path.exists() {
        return Err(taken(&public_path));
    }
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD.encode(key.as_bytes()))));
    write_new(&folder.join(format!("{name}.key")), text.as_bytes(), 0o600, owner)?;
    write_new(&public_path, format!("{public}\n").as_bytes(), 0o644, None)?;
    File::open(folder)?.sync_all()?;
    Ok(public)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, owner: Option<Owner>) -> io::Result<()> {
    let opened = File::options().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => taken(path),
        _ => error,
    })?;
    let given = owner.map_or(Ok(()), |owner| fchown(&file, Some(owner.uid), Some(owner.gid)));
    let written = given.and_then(|()| file.write_all(bytes)).and_then(|()| file.sync_all());
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
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_private_key_is_private_and_the_public_one_belongs_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("new");
        let public = keygen(&inside, "kyiv", None).unwrap();
        let path = inside.join("kyiv.key");
        assert_eq!(mode(&path), 0o600);
        let private: PrivateKey = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        assert_eq!(private.public(), public);
        assert_eq!(fs::read_to_string(inside.join("kyiv.pub")).unwrap().trim(), public.to_string());
    }

    #[test]
    fn folders_that_are_made_are_open_and_those_that_are_there_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        keygen(&folder.path().join("causeway/keys"), "kyiv", None).unwrap();
        assert_eq!(mode(folder.path()), 0o711);
        for made in ["causeway", "causeway/keys"] {
            assert_eq!(mode(&folder.path().join(made)) & 0o555, 0o555, "{made}");
        }
    }

    #[test]
    fn the_private_key_is_given_to_its_owner_and_nothing_else_is() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root gives files away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("keys");
        keygen(&inside, "kyiv", Some(Owner { uid: 65_532, gid: 65_533 })).unwrap();
        let owner = |path: &Path| fs::metadata(path).map(|file| (file.uid(), file.gid())).unwrap();
        assert_eq!(owner(&inside.join("kyiv.key")), (65_532, 65_533));
        assert_eq!(mode(&inside.join("kyiv.key")), 0o600);
        assert_eq!((owner(&inside).0, owner(&inside.join("kyiv.pub")).0), (0, 0));
    }

    #[test]
    fn an_owner_is_a_name_or_a_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ncauseway:x:998:997::/:/bin/false\nbroken:x\n";
        let causeway = Some(Owner { uid: 998, gid: 997 });
        assert_eq!(Owner::find("causeway", passwd), causeway);
        assert_eq!(Owner::find("998", passwd), causeway);
        assert_eq!(Owner::find("65532", passwd), Some(Owner { uid: 65_532, gid: 65_532 }));
        assert_eq!(Owner::find("broken", passwd), None);
        assert_eq!(Owner::find("nobody", passwd), None);
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        keygen(folder.path(), "kyiv", None).unwrap();
        let before = fs::read(folder.path().join("kyiv.key")).unwrap();
        assert_eq!(keygen(folder.path(), "kyiv", None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(folder.path().join("kyiv.key")).unwrap(), before);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }
}
