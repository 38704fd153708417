//! SIGTERM and SIGINT, taken by a thread that waits for them.
#![allow(unsafe_code)]

use std::io;
use std::sync::mpsc::Sender;

/// The signals that end the program, blocked in every thread.
pub(super) struct Terminating(libc::sigset_t);

impl Terminating {
    /// Blocks them; to be called before any thread is started, since threads inherit it.
    pub(super) fn block() -> Self {
        // SAFETY: the set lives on this stack and is initialised before it is used.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// Notifies `ended` when one of them arrives.
    pub(super) fn forward(self, ended: Sender<()>) -> io::Result<()> {
        std::thread::Builder::new().name("cw-signals".to_owned()).spawn(move || {
            let mut signal = 0;
            // SAFETY: both pointers name live values of this thread.
            unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
            // The receiver is gone when the interface has ended by itself.
            let _ = ended.send(());
        })?;
        Ok(())
    }
}
