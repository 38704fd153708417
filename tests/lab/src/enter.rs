//! The few system calls that make, enter and leave namespaces.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// Which user a process becomes once it is in its namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Where a process runs: the descriptors of a node's namespaces, and the user that it becomes
/// there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) net: RawFd,
    pub(crate) mount: RawFd,
    pub(crate) user: Option<User>,
    /// The only processor that it may run on.
    pub(crate) processor: Option<usize>,
}

/// Puts every later child of the calling thread into one new PID namespace: its first child is the
/// init whose death ends all the others.
pub(crate) fn unshare_children() -> io::Result<()> {
    // SAFETY: no pointers are passed; CLONE_NEWPID changes only which PID namespace children of
    // this thread get.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) })
}

/// Gives the calling thread a table of descriptors of its own, with a copy of each that is open:
/// the limit on descriptors counts for each table.
///
/// # Errors
/// When the kernel has no memory for it.
pub fn own_descriptors() -> io::Result<()> {
    // SAFETY: no pointers are passed; every descriptor this thread knows stays open under its
    // number.
    check(unsafe { libc::unshare(libc::CLONE_FILES) })
}

/// Lets the kernel kill the command's process when the thread that spawns it ends.
pub(crate) fn die_with_spawner(command: &mut Command) {
    // SAFETY: the closure makes one system call and allocates nothing, so it may run between fork
    // and exec.
    unsafe { command.pre_exec(set_death_signal) };
}

/// Makes the command's process the holder of new network and mount namespaces with a `/run` of its
/// own.
pub(crate) fn hold_new_namespaces(command: &mut Command) {
    // SAFETY: the closure makes system calls on constant strings only and allocates nothing, so it
    // may run between fork and exec.
    unsafe {
        command.pre_exec(|| {
            check(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS))?;
            mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
            mount(Some(c"tmpfs"), c"/run", Some(c"tmpfs"), libc::MS_NOSUID | libc::MS_NODEV)?;
            // A sysfs of this namespace shows its links; without the right to mount one, the outer
            // one stays.
            let _ = mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), libc::MS_RDONLY);
            set_death_signal()
        });
    }
}

/// Makes the command's process enter a node, and become `entry.user` there.
pub(crate) fn enter_before_exec(command: &mut Command, entry: Entry, directory: std::ffi::CString) {
    let processors = entry.processor.map(only);
    // SAFETY: the closure makes system calls on values it owns and allocates nothing, so it may run
    // between fork and exec. The descriptors belong to the node, which outlives the spawn.
    unsafe {
        command.pre_exec(move || {
            check(libc::setns(entry.net, libc::CLONE_NEWNET))?;
            check(libc::setns(entry.mount, libc::CLONE_NEWNS))?;
            check(libc::chdir(directory.as_ptr()))?;
            if let Some(processors) = &processors {
                check(libc::sched_setaffinity(0, size_of_val(processors), processors))?;
            }
            if let Some(user) = entry.user {
                check(libc::setgroups(0, ptr::null()))?;
                check(libc::setresgid(user.gid, user.gid, user.gid))?;
                check(libc::setresuid(user.uid, user.uid, user.uid))?;
            }
            // Last: a change of user clears it.
            set_death_signal()
        });
    }
}

/// The set of one processor.
fn only(processor: usize) -> libc::cpu_set_t {
    // SAFETY: a set is an array of integers, for which zeros are valid; CPU_SET writes only within it,
    // and panics outside.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        set
    }
}

/// A socket that sends whole IP packets, unchanged, out of one interface.
#[derive(Debug)]
pub(crate) struct RawPackets {
    socket: OwnedFd,
    interface: i32,
    mac: Option<[u8; 6]>,
}

impl RawPackets {
    /// Opens one on the interface of that name in this thread's network; packets go to `mac` where
    /// links have such.
    pub(crate) fn open(interface: &CStr, mac: Option<[u8; 6]>) -> io::Result<Self> {
        // SAFETY: the name is a C string that lives for the call.
        let index = unsafe { libc::if_nametoindex(interface.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no pointers are passed; protocol 0 receives nothing.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the descriptor is new and ours.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, interface: i32::try_from(index).map_err(io::Error::other)?, mac })
    }

    /// Sends one packet, as IPv6 if its first nibble says so, else as IPv4.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        let ipv6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        let mac = self.mac.unwrap_or_default();
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
            sll_protocol: if ipv6 { 0x86dd_u16.to_be() } else { 0x0800_u16.to_be() },
            sll_ifindex: self.interface,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: if self.mac.is_some() { 6 } else { 0 },
            sll_addr: [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0],
        };
        let length = u32::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: packet and address are given with their own lengths and live for the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                length,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter_network(net: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call; setns changes this thread only.
    check(unsafe { libc::setns(net.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: no pointers are passed; the pid is that of a child not yet waited for.
    check(unsafe { libc::kill(pid, signal) })
}

/// Whether this process may make namespaces: real root, or root of its own user namespace.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and takes nothing.
    unsafe { libc::geteuid() == 0 }
}

fn set_death_signal() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes one integer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

fn mount(source: Option<&CStr>, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: all pointers are null or come from C strings that live for the call.
    check(unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, ptr::null()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
