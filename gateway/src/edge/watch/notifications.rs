//! Changes that the kernel reports wake the loop that checks it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::sync::Notify;

use crate::edge::blocking::blocking;
use crate::kernel::{Failure, FailureKind, Helper};

/// How long after a change the check begins, so that a burst of changes costs one.
pub(in crate::edge) const SETTLE: Duration = Duration::from_millis(200);

/// Starts a thread that waits on the helper's sockets and wakes the loop.
pub(in crate::edge) async fn watch_for_changes(helper: Helper, wakeup: Arc<Notify>) -> Result<(), Failure> {
    let fds = blocking(move || helper.watch()).await?;
    let thread = std::thread::Builder::new().name("cw-watch".to_owned()).spawn(move || listen(&fds, &wakeup));
    thread.map(drop).map_err(|error| Failure::new(FailureKind::Kernel, error.to_string()))
}

/// Wakes the loop at every message of the sockets, for as long as the process lives.
fn listen(fds: &[OwnedFd], wakeup: &Notify) {
    loop {
        let mut waiting: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        fds.iter().for_each(drain);
        wakeup.notify_one();
        // Many changes cost no more than ten rounds a second.
        std::thread::sleep(SETTLE / 2);
    }
}

/// Empties a socket; what it says does not matter, and an overflow is a notification too.
fn drain(fd: &OwnedFd) {
    let mut buffer = [0; 8192];
    for _ in 0..1024 {
        match rustix::net::recv(fd, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
