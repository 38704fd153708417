//! Users that own files of Causeway, by name: their numbers are others on another machine.

use daemon::files::Owner;

/// Whether a name is one of Causeway's own users.
fn is_ours(name: &str) -> bool {
    ["causeway", "_causeway"].contains(&name) || name.starts_with("causeway-")
}

/// The name of a user of Causeway's.
#[cfg(target_os = "linux")]
pub(super) fn name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(uid, &passwd)
}

/// The name of a user of Causeway's.
#[cfg(not(target_os = "linux"))]
pub(super) fn name(uid: u32) -> Option<String> {
    crate::start::forwarder_user().filter(|user| user.uid == uid).map(|_| "_causeway".to_owned())
}

/// The user of this name on this machine.
#[cfg(target_os = "linux")]
pub(super) fn owner(name: &str) -> Option<Owner> {
    is_ours(name).then(|| crate::join::keys::daemon_user(name)).flatten()
}

/// The user of this name on this machine.
#[cfg(not(target_os = "linux"))]
pub(super) fn owner(name: &str) -> Option<Owner> {
    is_ours(name).then(crate::start::forwarder_user).flatten()
}

#[cfg(any(target_os = "linux", test))]
fn name_in(uid: u32, passwd: &str) -> Option<String> {
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid) && is_ours(name)).then(|| name.to_owned())
    };
    passwd.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_users_of_causeway_are_kept_by_name() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\ncauseway:x:998:997::/:/bin/false\nmallory:x:1000:1000::/:/bin/sh\n";
        assert_eq!(name_in(998, passwd).as_deref(), Some("causeway"));
        assert_eq!([name_in(0, passwd), name_in(1000, passwd), name_in(7, passwd)], [None, None, None]);
        assert_eq!(owner("root"), None);
    }
}
