//! Getting a thread out of a blocking system call.
//!
//! A blocking first read costs one system call per packet, where waiting in `poll` would cost three. The price is
//! that a thread must be interrupted by a signal: one with an empty handler and without `SA_RESTART`.
#![allow(unsafe_code)]

use std::os::unix::thread::JoinHandleExt;
use std::sync::Once;
use std::thread::JoinHandle;

extern "C" fn nothing(_: libc::c_int) {}

/// Far from the numbers that threading libraries and runtimes take for themselves.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 11
}

/// Installs the empty handler, once per process.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all-zero bytes are a valid `sigaction`; its handler is an empty function, which is safe to run at
        // any point; the pointers live through the call.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal(), &raw const action, std::ptr::null_mut());
        }
    });
}

/// Lets the calling thread be kicked, whatever mask it inherited.
pub(super) fn accept() {
    // SAFETY: the set lives on this stack and is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Interrupts the system call that the thread sleeps in; harmless when it sleeps in none or has ended.
pub(super) fn kick(thread: &JoinHandle<()>) {
    // SAFETY: the handle is not joined, so its thread identifier is valid.
    unsafe {
        libc::pthread_kill(thread.as_pthread_t(), signal());
    }
}
