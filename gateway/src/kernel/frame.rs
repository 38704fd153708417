//! Frames on the socket between daemon and helper: a length, JSON, and descriptors with the length.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{MAX_FDS, MAX_FRAME};

/// Sends one message together with `fds`.
///
/// # Errors
/// `InvalidInput` for a message over [`MAX_FRAME`] or with more than [`MAX_FDS`] descriptors; else
/// the socket's own.
pub(super) fn send(socket: &UnixStream, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_FRAME || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large for the kernel helper"));
    }
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    // Four bytes into an empty or draining stream socket go at once or not at all.
    sendmsg(socket, &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
    (&mut &*socket).write_all(&body)
}

/// Receives one message with its descriptors; `None` when the other side is gone.
///
/// # Errors
/// `InvalidData` for a frame over [`MAX_FRAME`] or one that does not parse; else the socket's own.
pub(super) fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut fds = Vec::new();
    let first = receive_start(socket, &mut length, &mut fds)?;
    if first == 0 {
        return Ok(None);
    }
    if let Some(rest) = length.get_mut(first..) {
        (&mut &*socket).read_exact(rest)?;
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too large"));
    }
    let mut body = vec![0; length];
    (&mut &*socket).read_exact(&mut body)?;
    Ok(Some((decode(&body)?, fds)))
}

/// The message in a frame's body.
///
/// # Errors
/// `InvalidData` for one that does not parse.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(io::Error::from)
}

fn receive_start(socket: &UnixStream, length: &mut [u8; 4], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(length)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(got.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (near, far) = UnixStream::pair().unwrap();
        let text = "x".repeat(1 << 16);
        let file = tempfile::tempfile().unwrap();
        let sender = std::thread::spawn(move || send(&near, &text, &[file.as_fd()]).unwrap());
        let (received, fds): (String, _) = receive(&far).unwrap().unwrap();
        sender.join().unwrap();
        assert_eq!(received.len(), 1 << 16);
        assert_eq!(fds.len(), 1);
    }

    #[test]
    fn the_end_of_the_other_side_is_no_error() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        assert!(receive::<String>(&far).unwrap().is_none());
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(receive::<String>(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
