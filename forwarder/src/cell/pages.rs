//! The socket of a cell, its rings in memory straight from the kernel: zeroed, and taken page by
//! page as it is used.
//!
//! An allocator would hand out recycled memory that it has to clear first, megabytes for a flow
//! that needs one page.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, SocketBuffer};

use super::ring::{Ring, Storage};

/// A socket set of one TCP socket that receives, the ring of what is sent, and the memory of both.
pub(super) struct Endpoint {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    transmit: Ring,
    /// After the socket and the ring, so that they are dropped first; `None` when both are on the
    /// heap.
    pages: Option<Pages>,
    /// Offset of the transmit ring in the pages.
    split: usize,
}

impl Endpoint {
    /// A closed socket and a ring of these sizes in bytes; on the heap where the system gives no
    /// mapping.
    ///
    /// The socket has no room to send: what is sent is in [`transmit`](Self::transmit).
    pub(super) fn new(receive: usize, transmit: usize) -> Self {
        let split = receive;
        let (receive, transmit, pages) = match Pages::new(receive + transmit) {
            Ok(mut pages) => {
                // SAFETY: called once for these pages. The socket and the ring that take the slices
                // are dropped before them, by the order of the fields, and never leave this value:
                // they are handed out by reference only.
                let (receive, transmit) = unsafe { pages.split(receive) };
                (SocketBuffer::new(receive), Storage::Pages(transmit), Some(pages))
            }
            Err(_) => (SocketBuffer::new(vec![0; receive]), Storage::Heap(vec![0; transmit]), None),
        };
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(tcp::Socket::new(receive, SocketBuffer::new(Vec::new())));
        Self { sockets, handle, transmit: Ring::new(transmit), pages, split }
    }

    /// What is sent and not acknowledged.
    pub(super) fn transmit(&mut self) -> &mut Ring {
        &mut self.transmit
    }

    /// The socket.
    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Gives the memory of the rings back; what they hold is lost, so they must hold nothing.
    pub(super) fn release(&mut self) {
        if let Some(pages) = &mut self.pages {
            pages.release(0);
            self.transmit.untouch();
        }
    }

    /// Gives back what the transmit ring took when it held more than it does now. To be called
    /// about once per second.
    pub(super) fn trim(&mut self) {
        if let Some(from) = self.transmit.trim()
            && let Some(pages) = &mut self.pages
        {
            pages.release(self.split + from);
        }
    }

    /// The set, for polls only.
    pub(super) fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }
}

/// Linux drops the pages at once; elsewhere the system may take its time.
#[cfg(target_os = "linux")]
const GIVE_BACK: Advice = Advice::LinuxDontNeed;
#[cfg(not(target_os = "linux"))]
const GIVE_BACK: Advice = Advice::DontNeed;

/// One anonymous mapping, unmapped when dropped.
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Pages {}

impl Pages {
    /// Maps `len` bytes, at least one.
    ///
    /// # Errors
    /// From the system: the address space or the number of mappings is used up.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len.max(1), protection, flags)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len: len.max(1) })
    }

    /// The mapping in two parts, the first of `at` bytes; clamped to its length.
    ///
    /// # Safety
    /// To be called once, and what it gives must not be used after this value is dropped.
    pub(super) unsafe fn split(&mut self, at: usize) -> (&'static mut [u8], &'static mut [u8]) {
        // SAFETY: the mapping is `len` bytes of initialised (zeroed) memory; the caller promises
        // that this is the only reference to it and that it ends before the mapping does.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) };
        bytes.split_at_mut(at.min(self.len))
    }
}

impl Pages {
    /// Returns the contents from `at` on to the system; they may read as zero afterwards.
    ///
    /// Nothing happens where `at` is no page's beginning.
    fn release(&mut self, at: usize) {
        let Some(len) = self.len.checked_sub(at).filter(|len| *len > 0) else { return };
        // SAFETY: `at` is inside the mapping, as was just checked.
        let start = unsafe { self.start.add(at) };
        // SAFETY: the end of a mapping that exists. Its bytes are plain memory, valid whatever they
        // become.
        let advised = unsafe { madvise(start.as_ptr().cast(), len, GIVE_BACK) };
        if let Err(error) = advised {
            tracing::debug!(%error, "ring pages could not be returned to the system");
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, which nothing refers to any more. It cannot
        // fail for one that exists.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_and_writable_up_to_their_end() {
        let mut pages = Pages::new(10_000).unwrap();
        // SAFETY: called once, and the slices end before `pages` does.
        let (first, second) = unsafe { pages.split(4_000) };
        assert_eq!((first.len(), second.len()), (4_000, 6_000));
        assert!(first.iter().chain(&*second).all(|byte| *byte == 0));
        first.fill(1);
        second.fill(2);
        assert_eq!((first[3_999], second[0], second[5_999]), (1, 2, 2));
    }

    #[test]
    fn what_is_given_back_reads_as_zero_and_the_rest_stays() {
        let mut pages = Pages::new(256 << 10).unwrap();
        // SAFETY: called once, and the slices end before `pages` does.
        let (first, second) = unsafe { pages.split(128 << 10) };
        first.fill(1);
        second.fill(2);
        pages.release(128 << 10);
        assert!(first.iter().all(|byte| *byte == 1));
        #[cfg(target_os = "linux")]
        assert!(second.iter().all(|byte| *byte == 0));
        pages.release(256 << 10);
        assert!(first.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn a_thousand_large_mappings_take_no_memory_until_they_are_used() {
        let pages: Vec<Pages> = (0..1_000).map(|_| Pages::new(8 << 20).unwrap()).collect();
        assert_eq!(pages.len(), 1_000);
    }
}
