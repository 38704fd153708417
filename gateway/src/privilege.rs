//! Which process holds which capability, and how it loses the rest.
//!
//! | process | CapEff, CapPrm | CapBnd |
//! |---|---|---|
//! | daemon | none | none (started as root), or what its unit allows |
//! | kernel helper | `NET_ADMIN` | `NET_ADMIN` |
//!
//! The committed list is `gateway/capabilities.txt`. Only a process with `CAP_SETPCAP` can narrow
//! its bounding set: root has it, a unit with `AmbientCapabilities=CAP_NET_ADMIN` does not need it,
//! since its bounding set is narrow already.
#![allow(unsafe_code)]

use caps::{CapSet, Capability, CapsHashSet};

/// What is missing for the work, and the fix.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The process may not change the network.
    #[error(
        "CAP_NET_ADMIN is missing; start the daemon by its systemd unit, as root, or with: \
         setpriv --ambient-caps +net_admin --inh-caps +net_admin"
    )]
    NoNetAdmin,
    /// The kernel refused to take capabilities away.
    #[error("capabilities could not be dropped: {0}")]
    NotDropped(String),
}

/// Whether this process may change the network.
///
/// # Errors
/// [`PrivilegeError::NoNetAdmin`].
pub fn require() -> Result<(), PrivilegeError> {
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(true) => Ok(()),
        _ => Err(PrivilegeError::NoNetAdmin),
    }
}

/// Lets the program executed next keep `CAP_NET_ADMIN` when this process is not root.
///
/// # Errors
/// [`PrivilegeError::NotDropped`] when the kernel refuses.
pub fn keep_across_exec() -> Result<(), PrivilegeError> {
    let only = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    caps::set(None, CapSet::Inheritable, &only).map_err(refused)?;
    caps::raise(None, CapSet::Ambient, Capability::CAP_NET_ADMIN).map_err(refused)
}

/// Keeps `CAP_NET_ADMIN`, for itself and the `nft` it runs, and drops everything else.
///
/// # Errors
/// [`PrivilegeError::NotDropped`] when the kernel refuses.
pub fn become_helper() -> Result<(), PrivilegeError> {
    narrow_bounding_set(&[Capability::CAP_NET_ADMIN])?;
    let only = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    keep_across_exec()?;
    caps::set(None, CapSet::Effective, &only).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &only).map_err(refused)?;
    harden()?;
    end_with_parent()
}

/// Drops every capability permanently. Must run before the first thread: each thread has its own
/// set.
///
/// # Errors
/// [`PrivilegeError::NotDropped`] when the kernel refuses.
pub fn drop_all() -> Result<(), PrivilegeError> {
    caps::clear(None, CapSet::Ambient).map_err(refused)?;
    narrow_bounding_set(&[])?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(refused)?;
    }
    harden()
}

fn narrow_bounding_set(keep: &[Capability]) -> Result<(), PrivilegeError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        return Ok(());
    }
    for capability in caps::read(None, CapSet::Bounding).map_err(refused)? {
        if !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(refused)?;
        }
    }
    Ok(())
}

/// No new privileges through any program, no core file and no tracer that reads keys from memory.
fn harden() -> Result<(), PrivilegeError> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    control(libc::PR_SET_DUMPABLE, 0)
}

/// Has the kernel end the helper when the daemon ends, however it ends.
fn end_with_parent() -> Result<(), PrivilegeError> {
    control(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into())
}

fn control(option: libc::c_int, value: libc::c_ulong) -> Result<(), PrivilegeError> {
    // SAFETY: these options take plain numbers and touch no memory of ours.
    let result = unsafe { libc::prctl(option, value, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(refused(std::io::Error::last_os_error())) }
}

fn refused(error: impl std::fmt::Display) -> PrivilegeError {
    PrivilegeError::NotDropped(error.to_string())
}

/// Why the kernel offers this process no Landlock; `None` when it does.
#[must_use]
pub fn landlock_error() -> Option<std::io::Error> {
    /// `LANDLOCK_CREATE_RULESET_VERSION`, of linux/landlock.h: only asks for the version.
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no memory, makes no descriptor and returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    (version < 0).then(std::io::Error::last_os_error)
}

#[cfg(test)]
pub(crate) mod tests {
    /// Makes the kernel refuse `landlock_create_ruleset` of this thread with `errno`, as a unit's
    /// filter does.
    pub(crate) fn refuse_landlock(errno: i32) {
        let number = u32::try_from(libc::SYS_landlock_create_ruleset).unwrap();
        let statement = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
        // Load the number of the system call; errno for this one, else allow (seccomp(2),
        // <linux/bpf_common.h>).
        let mut program = [
            statement(0x20, 0, 0, 0),
            statement(0x15, number, 0, 1),
            statement(0x06, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(), 0, 0),
            statement(0x06, libc::SECCOMP_RET_ALLOW, 0, 0),
        ];
        let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        super::control(libc::PR_SET_NO_NEW_PRIVS, 1).unwrap();
        // SAFETY: the kernel copies the program, which lives until the call returns.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}
