//! The TUN device with a virtio header: packets of up to 64 KiB cross the kernel once.
//!
//! The descriptor is non-blocking, which every kernel honours in a plain `read`;
//! `preadv2(RWF_NOWAIT)` on a TUN device fails with `EOPNOTSUPP` before Linux 6.4. Threads wait in
//! `poll`.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::counters::counters;
use super::outcomes::Outcomes;
use crate::offload::virtio::{self, HEADER_LEN};
use crate::offload::{Segments, SuperPacket};

/// Bytes that hold any read: header, packet of 64 KiB, and the splitter's slack.
pub const BUFFER_LEN: usize = HEADER_LEN + 65_536;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// How the device is opened.
#[derive(Clone, Copy, Debug)]
pub struct TunOptions<'a> {
    /// Its name, at most 15 bytes; created when there is none of that name.
    pub name: &'a str,
    /// Whether it outlives this process.
    pub persistent: bool,
    /// What the kernel may hand over unfinished.
    pub offload: TunOffload,
}

/// What the kernel may leave unfinished in packets that are read, and accepts in packets that are
/// written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunOffload {
    /// TCP super-packets and partial checksums.
    pub tcp: bool,
    /// UDP super-packets, where the kernel has them (6.2).
    pub udp: bool,
}

/// The first kernel that segments UDP for a TUN device.
pub const UDP_SINCE: &str = "Linux 6.2";

counters! {
    /// What a TUN device has done since it was opened.
    TunStats {
        /// Bytes read as super-packets.
        read_bytes_super,
        /// Bytes read as single packets.
        read_bytes_plain,
        /// Bytes written as super-packets.
        written_bytes_super,
        /// Bytes written as single packets.
        written_bytes_plain,
        /// Packets the kernel refused; dropped.
        write_errors,
        /// Super-packets the kernel refused, which were then written packet by packet.
        write_fallbacks,
        /// Reads whose virtio header was refused; dropped.
        bad_headers,
    }
}

/// A TUN device. Every method takes `&self`: one thread reads while another writes.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    /// Off once the kernel refused a super-packet.
    writes_super: AtomicBool,
    udp: AtomicBool,
    /// Whether the kernel supports UDP super-packets, whatever is switched on.
    supports_udp: bool,
    reads: Outcomes,
    writes: Outcomes,
    stats: TunStats,
}

impl Tun {
    /// Creates the device, or attaches to a persistent one of that name.
    ///
    /// # Errors
    /// From the system: no `/dev/net/tun`, no CAP_NET_ADMIN, another process holds it, a bad name.
    pub fn open(options: &TunOptions<'_>) -> io::Result<Self> {
        let mut request = request(options.name)?;
        // SAFETY: opens a path given as a C string.
        let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        ioctl(&fd, libc::TUNSETIFF as _, &raw mut request as usize)?;
        let tun = Self::from_fd(fd, options.offload)?;
        tun.set_persistent(options.persistent)?;
        Ok(tun)
    }

    /// Takes an attached descriptor that another process opened with a virtio header of 10 bytes,
    /// and makes it non-blocking.
    ///
    /// The offloads are set again, since a mask outlives the process that set it.
    ///
    /// # Errors
    /// When it is no such TUN device, or the system refuses even the empty offload.
    pub fn from_fd(fd: OwnedFd, offload: TunOffload) -> io::Result<Self> {
        let mut request = request("")?;
        ioctl(&fd, libc::TUNGETIFF as _, &raw mut request as usize)?;
        // SAFETY: the call above filled in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if i32::from(flags) & libc::IFF_VNET_HDR == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the tun device has no virtio header"));
        }
        let name = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect();
        let flags = rustix::fs::fcntl_getfl(&fd)? | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&fd, flags)?;
        let all = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6;
        let supports_udp = ioctl(&fd, libc::TUNSETOFFLOAD as _, all as usize).is_ok();
        let tun = Self {
            fd,
            name,
            writes_super: AtomicBool::new(true),
            udp: AtomicBool::new(false),
            supports_udp,
            reads: Outcomes::default(),
            writes: Outcomes::default(),
            stats: TunStats::default(),
        };
        tun.set_offload(offload)?;
        Ok(tun)
    }

    /// The name the device has.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has done; readable at any time.
    #[must_use]
    pub const fn stats(&self) -> &TunStats {
        &self.stats
    }

    /// How the last reads have ended.
    #[must_use]
    pub const fn reads(&self) -> &Outcomes {
        &self.reads
    }

    /// How the last writes have ended.
    #[must_use]
    pub const fn writes(&self) -> &Outcomes {
        &self.writes
    }

    /// Whether the kernel supports UDP super-packets ([`UDP_SINCE`]), whatever is switched on.
    #[must_use]
    pub const fn supports_udp(&self) -> bool {
        self.supports_udp
    }

    /// Whether UDP super-packets may be written: the option is on.
    #[must_use]
    pub fn has_udp(&self) -> bool {
        self.udp.load(Ordering::Relaxed)
    }

    /// Changes at run time what the kernel may hand over; UDP stays off where the kernel does not
    /// support it.
    ///
    /// # Errors
    /// From the system.
    pub fn set_offload(&self, offload: TunOffload) -> io::Result<()> {
        let tcp = if offload.tcp { TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN } else { 0 };
        let udp = TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6;
        let set = |mask: u32| ioctl(&self.fd, libc::TUNSETOFFLOAD as _, mask as usize);
        let took_udp = offload.udp && set(tcp | udp).is_ok();
        if !took_udp {
            set(tcp)?;
        }
        self.udp.store(took_udp, Ordering::Relaxed);
        self.writes_super.store(offload.tcp || took_udp, Ordering::Relaxed);
        Ok(())
    }

    /// Sets how many packets (of any size, up to 64 KiB each) may wait to be read.
    ///
    /// # Errors
    /// From the system.
    pub fn set_queue_length(&self, packets: u16) -> io::Result<()> {
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_metric = i32::from(packets);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        ioctl(&socket, libc::SIOCSIFTXQLEN as _, &raw mut request as usize)
    }

    /// Whether the device outlives its last descriptor.
    ///
    /// # Errors
    /// From the system, as when the device was deleted.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        ioctl(&self.fd, libc::TUNSETPERSIST as _, usize::from(persistent))
    }

    /// The device's MTU in bytes.
    ///
    /// # Errors
    /// From the system.
    pub fn mtu(&self) -> io::Result<u16> {
        let mut request = request(&self.name)?;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        ioctl(&socket, libc::SIOCGIFMTU as _, &raw mut request as usize)?;
        // SAFETY: the call filled in the MTU.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        u16::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Sets the device's MTU in bytes.
    ///
    /// # Errors
    /// From the system.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_mtu = i32::from(mtu);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        ioctl(&socket, libc::SIOCSIFMTU as _, &raw mut request as usize)
    }

    /// Reads one packet or super-packet with its virtio header into `buffer` ([`BUFFER_LEN`]
    /// bytes), without waiting.
    ///
    /// `None` when the header was refused (counted).
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; [`is_gone`] is true for it when the device was deleted.
    /// Any other but `Interrupted` is counted ([`reads`](Self::reads)).
    #[inline]
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<SuperPacket<'b>>> {
        // SAFETY: the buffer is writable for its length and outlives the call.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            self.reads.record_error(&error);
            return Err(error);
        };
        self.reads.record_success();
        let packet = buffer.get_mut(..read).and_then(|read| read.split_at_mut_checked(HEADER_LEN));
        let decoded = packet.map(|(header, bytes)| (virtio::decode(header, bytes), bytes));
        let Some((Ok(offload), bytes)) = decoded else {
            self.stats.bad_headers.add(1);
            return Ok(None);
        };
        let counter =
            if offload.is_super() { &self.stats.read_bytes_super } else { &self.stats.read_bytes_plain };
        counter.add(bytes.len());
        Ok(Some(SuperPacket { bytes, offload }))
    }

    /// Writes one packet or super-packet; one the kernel refuses is written packet by packet, or
    /// dropped and counted.
    ///
    /// # Errors
    /// Only when the device is gone ([`is_gone`]).
    #[inline]
    pub fn send(&self, packet: SuperPacket<'_>) -> io::Result<()> {
        let is_super = packet.offload.is_super();
        if is_super && !self.writes_super.load(Ordering::Relaxed) {
            return self.send_split(packet);
        }
        match self.write(&packet) {
            Ok(()) => {
                self.writes.record_success();
                let counter =
                    if is_super { &self.stats.written_bytes_super } else { &self.stats.written_bytes_plain };
                counter.add(packet.bytes.len());
                Ok(())
            }
            Err(error) if is_super && error.raw_os_error() == Some(libc::EINVAL) => {
                self.stats.write_fallbacks.add(1);
                if self.writes_super.swap(false, Ordering::Relaxed) {
                    tracing::info!(%error, name = self.name, "the tun device takes no super-packets");
                }
                self.send_split(packet)
            }
            Err(error) => self.refused(error),
        }
    }

    #[cold]
    fn send_split(&self, packet: SuperPacket<'_>) -> io::Result<()> {
        let Ok(mut segments) = Segments::new(packet) else {
            self.stats.write_errors.add(1);
            return Ok(());
        };
        while let Some(bytes) = segments.next_segment() {
            let len = bytes.len();
            let segment = SuperPacket { bytes, offload: crate::offload::Offload::None };
            match self.write(&segment) {
                Ok(()) => {
                    self.writes.record_success();
                    self.stats.written_bytes_plain.add(len);
                }
                Err(error) => self.refused(error)?,
            }
        }
        Ok(())
    }

    /// A write that failed because of the packet is counted; one that failed because of the device
    /// is an error.
    fn refused(&self, error: io::Error) -> io::Result<()> {
        self.writes.record_error(&error);
        if is_gone(&error) {
            return Err(error);
        }
        // EIO: the interface is down, and the packet lost as on an unplugged cable.
        tracing::trace!(%error, "packet refused by the tun device");
        self.stats.write_errors.add(1);
        Ok(())
    }

    #[inline]
    fn write(&self, packet: &SuperPacket<'_>) -> io::Result<()> {
        let header = virtio::encode(packet);
        let vectors = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() },
            libc::iovec { iov_base: packet.bytes.as_ptr().cast_mut().cast(), iov_len: packet.bytes.len() },
        ];
        loop {
            // SAFETY: both vectors name live bytes, which the call only reads.
            let written = unsafe { libc::writev(self.fd.as_raw_fd(), vectors.as_ptr(), 2) };
            if written >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an error means that the device was deleted.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EFAULT | libc::ENODEV | libc::EBADF))
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are valid for this plain C structure.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() || name.bytes().any(|byte| matches!(byte, 0 | b'/' | b'%')) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an interface name has at most 15 bytes, without '/' and '%'",
        ));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    Ok(request)
}

/// An `ioctl` whose argument is a number, or the address of a live structure of the size the
/// request expects.
fn ioctl(fd: &impl AsFd, request: libc::Ioctl, argument: usize) -> io::Result<()> {
    const { assert!(size_of::<usize>() == size_of::<*const libc::ifreq>()) };
    // SAFETY: the callers in this file pass a number where the request takes one, and otherwise the
    // address of an `ifreq` that outlives the call.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
