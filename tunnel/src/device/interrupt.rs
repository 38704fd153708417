//! Interrupting a thread in a blocking system call.
//!
//! A blocking first read costs one system call per packet, where waiting in `poll` would cost
//! three. The price is that a thread must be interrupted by a signal: one with an empty handler and
//! without `SA_RESTART`.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Once;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::PollFd;

extern "C" fn nothing(_: libc::c_int) {}

/// Far from the numbers that threading libraries and runtimes use.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 11
}

/// Installs the empty handler, once per process.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all-zero bytes are a valid `sigaction`; its handler is an empty function, which
        // is safe to run at any point; the pointers live through the call.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal(), &raw const action, std::ptr::null_mut());
        }
    });
}

/// Lets the calling thread be interrupted at any time, whatever mask it inherited.
pub(super) fn allow() {
    mask(libc::SIG_UNBLOCK);
}

/// The signals that interrupt a thread while it waits in [`poll`].
pub(super) struct Mask(libc::sigset_t);

/// Lets the calling thread be interrupted in [`poll`] alone: an interruption at another time ends
/// the next one.
pub(super) fn allow_in_poll() -> Mask {
    let mut before = mask(libc::SIG_BLOCK);
    // SAFETY: the set is initialised and lives on this stack.
    unsafe {
        libc::sigdelset(&raw mut before, signal());
    }
    Mask(before)
}

/// Changes how the calling thread takes the signal; returns its mask before.
fn mask(how: libc::c_int) -> libc::sigset_t {
    // SAFETY: both sets live on this stack; all-zero bytes are valid for one, and the first is
    // initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        libc::pthread_sigmask(how, &raw const set, &raw mut before);
        before
    }
}

/// Waits until one of the descriptors is ready, the time is over, or the thread is or was
/// interrupted.
///
/// # Errors
/// `Interrupted` after an interruption or another signal.
pub(super) fn poll(fds: &mut [PollFd<'_>], timeout: Duration, mask: &Mask) -> io::Result<()> {
    let timeout = libc::timespec {
        tv_sec: i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX).into(),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // SAFETY: `PollFd` documents that it has the layout of `pollfd`, and its descriptors are open
    // while it lives; the time and the mask outlive the call, which only reads them.
    let done = unsafe { libc::ppoll(fds.as_mut_ptr().cast(), count, &raw const timeout, &raw const mask.0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Interrupts the system call that the thread sleeps in; harmless when it sleeps in none or has
/// ended.
pub(super) fn interrupt(thread: &JoinHandle<()>) {
    // SAFETY: the handle is not joined, so its thread identifier is valid.
    unsafe {
        // An integer for the standard library, and a pointer for musl.
        libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, signal());
    }
}
