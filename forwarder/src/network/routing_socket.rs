//! macOS and the BSDs: the routing socket (route(4)). Type-checked only; it has not been run.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, socket};

use super::change::NetworkChange;

pub(super) fn open() -> io::Result<OwnedFd> {
    let family = AddressFamily::from_raw(libc::AF_ROUTE as _);
    let socket = socket(family, SocketType::RAW, None)?;
    fcntl_setfl(&socket, OFlags::NONBLOCK)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// The system reports every route and address here; which of them matter, the check of the paths to
/// the edges shows.
pub(super) fn concerns(message: &[u8]) -> Option<NetworkChange> {
    // `rtm_msglen`, `rtm_version`, `rtm_type` begin every message.
    match message {
        [_, _, _, kind, ..]
            if matches!(
                i32::from(*kind),
                libc::RTM_ADD | libc::RTM_DELETE | libc::RTM_CHANGE | libc::RTM_NEWADDR | libc::RTM_DELADDR
            ) =>
        {
            Some(NetworkChange::Possible)
        }
        _ => None,
    }
}
