//! Whether the threads of a device are alive and make progress.

use std::io;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::worker::{FROM_SOCKET, FROM_TUN, TO_SOCKET};
use super::{Device, Shared};
use crate::io::watchdog::{Watchdog, Watched};
use crate::progress::{Fault, Heartbeat};

impl Device {
    /// Starts to watch the threads. `on_fault` is called once, on a thread of its own, when one of
    /// them is gone or stuck; from then on nothing waits for the threads, so that the process can
    /// end.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(&self, on_fault: impl FnOnce(Fault) + Send + 'static) -> io::Result<()> {
        let watched = |heartbeat: &Arc<Heartbeat>| {
            let shared = Arc::clone(&self.shared);
            let has_work = Box::new(move |flags| shared.is_ready(flags));
            Watched { heartbeat: Arc::clone(heartbeat), has_work }
        };
        let watchdog = Watchdog::start(self.shared.heartbeats.iter().map(watched).collect(), on_fault)?;
        *self.watchdog.lock() = Some(watchdog);
        Ok(())
    }

    /// Whether the threads run and none of them was found dead or stuck; the latter only with
    /// [`watch`](Self::watch).
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_running() && self.watchdog.lock().as_ref().is_none_or(Watchdog::is_healthy)
    }

    /// Whether one of the threads was found dead or stuck.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.watchdog.lock().as_ref().is_some_and(Watchdog::has_failed)
    }
}

impl Shared {
    /// Whether one of the descriptors is ready that a thread waits for.
    pub(super) fn is_ready(&self, flags: u8) -> bool {
        if flags == 0 {
            // `poll` always returns the errors of a descriptor, wanted or not.
            return false;
        }
        let wanted = |flag, events| if flags & flag == 0 { PollFlags::empty() } else { events };
        let socket = self.socket.load();
        let outer = wanted(FROM_SOCKET, PollFlags::IN) | wanted(TO_SOCKET, PollFlags::OUT);
        let mut fds =
            [PollFd::new(&self.tun, wanted(FROM_TUN, PollFlags::IN)), PollFd::new(&**socket, outer)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&none)).is_ok_and(|ready| ready > 0)
    }
}
