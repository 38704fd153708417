//! The socket between the two processes: messages in and out, never blocking.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::message::{MAX_MESSAGE, Message};

/// Bytes of messages that may wait for room in the socket.
const MAX_WAITING: usize = 1 << 20;
/// Room that a message of any kind fits in.
const ROOM: usize = MAX_MESSAGE;

/// One end of the socket. Messages of control, which are small and few, wait for as long as it
/// takes; packets beyond [`MAX_WAITING`] are refused.
#[derive(Debug)]
pub struct Exchange {
    socket: OwnedFd,
    waiting: VecDeque<Vec<u8>>,
    /// Bytes of all that wait.
    bytes: usize,
    is_stuck: bool,
    is_readable: bool,
    is_closed: bool,
    dropped: u64,
    scratch: Vec<u8>,
}

impl Exchange {
    /// Takes one end of a socket pair.
    ///
    /// # Errors
    /// From the system.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
            bytes: 0,
            is_stuck: false,
            is_readable: true,
            is_closed: false,
            dropped: 0,
            scratch: Vec::new(),
        })
    }

    /// Remembers what the poll reported, and sends what waits if there is room again.
    pub fn ready(&mut self, readable: bool, writable: bool) {
        self.is_readable |= readable;
        if writable {
            self.is_stuck = false;
            self.flush();
        }
    }

    /// Whether there may be something to receive.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.is_readable && !self.is_closed
    }

    /// Whether the other process has closed its end, and everything it sent was received.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether a packet of any size is taken.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.bytes + ROOM <= MAX_WAITING
    }

    /// Sends a packet or a run of datagrams; `false` when there is no room for it, and it is dropped.
    pub fn send_packet(&mut self, message: &Message<'_>) -> bool {
        let has_room = self.has_room();
        if has_room {
            self.send(message);
        } else {
            self.dropped += 1;
        }
        has_room
    }

    /// How many packets were dropped since the last call.
    pub const fn take_dropped(&mut self) -> u64 {
        std::mem::replace(&mut self.dropped, 0)
    }

    /// Sends a message, after those that wait.
    pub fn send(&mut self, message: &Message<'_>) {
        if self.is_closed {
            return;
        }
        self.scratch.clear();
        message.write(&mut self.scratch);
        self.flush();
        if self.waiting.is_empty() && self.try_send() {
            return;
        }
        let kept = std::mem::take(&mut self.scratch);
        self.bytes += kept.len();
        self.waiting.push_back(kept);
    }

    /// Whether the message in the scratch space is done.
    fn try_send(&mut self) -> bool {
        let result = transmit(&self.socket, &self.scratch);
        self.handle_sent(result)
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) {
        while !self.is_stuck
            && let Some(next) = self.waiting.front()
        {
            let (result, length) = (transmit(&self.socket, next), next.len());
            if !self.handle_sent(result) {
                return;
            }
            self.waiting.pop_front();
            self.bytes -= length;
        }
    }

    /// Sends what waits, and waits for room for a second at most: before the end of this process.
    pub fn finish(&mut self) {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        self.is_stuck = false;
        self.flush();
        while !self.waiting.is_empty() {
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            if !rustix::event::poll(&mut fds, Some(&second)).is_ok_and(|ready| ready > 0) {
                return;
            }
            self.is_stuck = false;
            self.flush();
        }
    }

    /// Whether a message is done: sent, or lost with the other process.
    fn handle_sent(&mut self, result: Result<(), Errno>) -> bool {
        match result {
            Ok(()) => true,
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                self.is_stuck = true;
                false
            }
            // The other process is gone; what it sent before can still be received.
            Err(_) => {
                self.waiting.clear();
                self.bytes = 0;
                true
            }
        }
    }

    /// Receives one message into `buffer`, and returns its length; `None` when there is none now.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.is_closed = true,
                Ok((length, _)) => return Some(length),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => self.is_closed = true,
            }
            self.is_readable = false;
            return None;
        }
    }
}

impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn transmit(socket: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    let flags = SendFlags::DONTWAIT;
    loop {
        match send(socket, message, flags) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use tunnel::offload::Offload;

    use super::*;
    use crate::flow::EdgeId;

    #[test]
    fn messages_come_in_order_and_whole_whatever_waits() {
        let (mut near, mut far) = pair().unwrap();
        let bytes = vec![7; 60_000];
        let packet = Message::Packet { edge: EdgeId(1), offload: Offload::None, bytes: &bytes };
        let mut sent = 0;
        while near.send_packet(&packet) {
            sent += 1;
        }
        assert!(sent * bytes.len() > MAX_WAITING - ROOM, "only {sent}");
        assert!(!near.has_room());
        assert_eq!((near.take_dropped(), near.take_dropped()), (1, 0));
        near.send(&Message::Session(EdgeId(2)));
        let (mut received, mut buffer) = (0, vec![0; MAX_MESSAGE]);
        loop {
            let Some(length) = far.receive(&mut buffer) else {
                near.ready(false, true);
                continue;
            };
            let message = Message::read(&buffer[..length]).unwrap();
            if message == Message::Session(EdgeId(2)) {
                break;
            }
            assert_eq!(message, packet);
            received += 1;
        }
        assert_eq!(received, sent);
        assert!(near.has_room());
    }

    #[test]
    fn what_was_sent_before_the_end_is_received_and_then_the_end() {
        let (mut near, mut far) = pair().unwrap();
        near.send(&Message::Ready);
        near.finish();
        drop(near);
        let mut buffer = vec![0; MAX_MESSAGE];
        far.send(&Message::Ready);
        let length = far.receive(&mut buffer).unwrap();
        assert_eq!(Message::read(&buffer[..length]), Ok(Message::Ready));
        assert!(!far.is_closed());
        assert_eq!(far.receive(&mut buffer), None);
        assert!(far.is_closed() && !far.is_readable());
    }

    fn pair() -> io::Result<(Exchange, Exchange)> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Exchange::new(near)?, Exchange::new(far)?))
    }
}
