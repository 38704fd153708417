//! The two descriptors the data plane works on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tunnel::io::tun::{Tun, TunOffload, TunOptions};
use tunnel::io::udp::{UdpOptions, UdpSocket};

use super::protocol::{Failure, FailureKind};

const TUN: &str = "/dev/net/tun";

/// Whether there is a TUN driver and we may open it.
pub(super) fn probe() -> Result<(), Failure> {
    std::fs::File::options().read(true).write(true).open(TUN).map(drop).map_err(|error| no_tun(&error))
}

/// Creates or attaches the persistent device.
pub(super) fn open_tun(name: &str) -> Result<OwnedFd, Failure> {
    probe()?;
    let options = TunOptions { name, persistent: true, offload: TunOffload { tcp: false, udp: false } };
    let tun = Tun::open(&options).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Failure::new(
            FailureKind::Conflict,
            format!("{name} is in use by another process; is a second gateway running?"),
        ),
        // What TUNSETIFF says to a name that another driver has, or a TUN made with other flags.
        Some(libc::EINVAL) => Failure::new(
            FailureKind::Conflict,
            format!("{name} exists and is no TUN device of ours; choose another [interface] name"),
        ),
        Some(libc::EPERM | libc::EACCES) => no_tun(&error),
        _ => Failure::new(FailureKind::Kernel, format!("creating the device {name}: {error}")),
    })?;
    duplicate(tun.as_fd())
}

/// Opens the outer socket.
pub(super) fn open_udp(port: u16, mark: u32) -> Result<OwnedFd, Failure> {
    let socket = UdpSocket::open(&UdpOptions { port, mark, ..UdpOptions::default() });
    let socket = socket.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::new(
            FailureKind::Conflict,
            format!(
                "UDP port {port} is in use; another WireGuard or a second gateway? ss -ulpn 'sport = :{port}'"
            ),
        ),
        _ => Failure::new(FailureKind::Kernel, format!("opening UDP port {port}: {error}")),
    })?;
    duplicate(socket.as_fd())
}

/// Marks the packets of the daemon's own outer socket.
pub(super) fn mark_udp(socket: OwnedFd, mark: u32) -> Result<(), Failure> {
    let socket = socket2::Socket::from(socket);
    if socket.protocol().ok().flatten() != Some(socket2::Protocol::UDP) {
        return Err(Failure::new(FailureKind::Refused, "only a UDP socket is marked"));
    }
    let marked = socket.set_mark(mark);
    marked.map_err(|error| Failure::new(FailureKind::Kernel, format!("marking the outer socket: {error}")))
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let duplicated = fd.try_clone_to_owned();
    duplicated
        .map_err(|error| Failure::new(FailureKind::Kernel, format!("duplicating a descriptor: {error}")))
}

fn no_tun(error: &io::Error) -> Failure {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "load the driver: modprobe tun; in a container pass --device /dev/net/tun",
        io::ErrorKind::PermissionDenied => {
            "give the daemon's user access: DeviceAllow=/dev/net/tun rw in its unit, or chmod 0666 /dev/net/tun"
        }
        _ => "load the driver: modprobe tun",
    };
    Failure::new(FailureKind::Permission, format!("{TUN} cannot be opened: {error}; {fix}"))
}
