//! The outer socket's privileged side: port and mark are set through the helper.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use tunnel::device::Device;
use tunnel::io::udp::{UdpOptions, UdpSocket};

use crate::kernel::{Failure, FailureKind, Helper, Request};

/// Opens outer sockets and remembers their mark.
pub(in crate::edge) struct Outer {
    helper: Helper,
    mark: AtomicU32,
}

impl Outer {
    /// Sockets of this mark, opened by `helper`.
    #[must_use]
    pub(in crate::edge) const fn new(helper: Helper, mark: u32) -> Self {
        Self { helper, mark: AtomicU32::new(mark) }
    }

    /// The mark of the outer packets.
    #[must_use]
    pub(super) fn mark(&self) -> u32 {
        self.mark.load(Ordering::Relaxed)
    }

    /// Opens a socket on `port`.
    ///
    /// # Errors
    /// [`FailureKind::Conflict`] when the port is taken.
    pub(in crate::edge) fn open(&self, port: u16) -> Result<UdpSocket, Failure> {
        let fd = self.helper.open(&Request::OpenUdp { port, mark: self.mark() })?;
        // Without a mark here: the helper has set it, and this process may not. Its larger buffers
        // stay.
        let options = UdpOptions { port, mark: 0, ..UdpOptions::default() };
        UdpSocket::from_fd(fd, &options)
            .map_err(|error| Failure::new(FailureKind::Kernel, format!("the outer socket: {error}")))
    }

    /// Opens a socket on `port` that can take the place of the device's; `None` when the device has
    /// that port.
    ///
    /// # Errors
    /// [`FailureKind::Conflict`] when the port is taken; nothing has changed then, nor otherwise.
    pub(super) fn prepare(&self, device: &Device, port: u16) -> Result<Option<UdpSocket>, Failure> {
        if port != 0 && device.socket().local_port().is_ok_and(|now| now == port) {
            return Ok(None);
        }
        self.open(port).map(Some)
    }

    /// Puts a prepared socket in place.
    ///
    /// # Errors
    /// What the kernel said; then nothing changed.
    pub(super) fn put_in_place(&self, device: &Device, socket: UdpSocket) -> Result<(), Failure> {
        device.rebind(socket).map_err(|error| Failure::new(FailureKind::Kernel, error.to_string()))
    }

    /// Moves the device to another port.
    ///
    /// # Errors
    /// [`FailureKind::Conflict`] when the port is taken; then nothing changed.
    pub(super) fn change_port(&self, device: &Device, port: u16) -> Result<(), Failure> {
        match self.prepare(device, port)? {
            Some(socket) => self.put_in_place(device, socket),
            None => Ok(()),
        }
    }

    /// Gives the device's packets another mark.
    ///
    /// # Errors
    /// What the kernel said; then nothing changed.
    pub(super) fn change_mark(&self, device: &Device, mark: u32) -> Result<(), Failure> {
        if mark != self.mark() {
            let socket = device.socket();
            self.helper.call_with(&Request::MarkUdp { mark }, &[socket.as_fd()])?;
            self.mark.store(mark, Ordering::Relaxed);
        }
        Ok(())
    }
}
