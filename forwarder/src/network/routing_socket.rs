//! macOS and the BSDs: the routing socket (route(4)). Type-checked only; it has not been run.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, socket};

use super::Word;

pub(super) fn open() -> io::Result<OwnedFd> {
    let family = AddressFamily::from_raw(libc::AF_ROUTE as _);
    let socket = socket(family, SocketType::RAW, None)?;
    fcntl_setfl(&socket, OFlags::NONBLOCK)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// The system tells of every route and address here; which of them matter, the look at the way to the edges shows.
pub(super) fn concerns(message: &[u8]) -> Option<Word> {
    // `rtm_msglen`, `rtm_version`, `rtm_type` begin every message.
    match message {
        [_, _, _, kind, ..]
            if matches!(
                i32::from(*kind),
                libc::RTM_ADD | libc::RTM_DELETE | libc::RTM_CHANGE | libc::RTM_NEWADDR | libc::RTM_DELADDR
            ) =>
        {
            Some(Word::Perhaps)
        }
        _ => None,
    }
}
