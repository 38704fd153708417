//! The two descriptors the data plane works on.

use std::io;
use std::os::fd::OwnedFd;

use super::protocol::{Failure, FailureKind};

const TUN: &str = "/dev/net/tun";

/// Whether there is a TUN driver and we may open it.
pub(super) fn probe() -> Result<(), Failure> {
    std::fs::File::options().read(true).write(true).open(TUN).map(drop).map_err(|error| no_tun(&error))
}

/// Creates or attaches the persistent device.
pub(super) fn open_tun(name: &str, offload: bool) -> Result<OwnedFd, Failure> {
    probe()?;
    super::tun::open(name, offload).map_err(|error| match error.raw_os_error() {
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
    })
}

/// Opens the outer socket.
pub(super) fn open_udp(port: u16, mark: u32, gro: bool, gso: bool) -> Result<OwnedFd, Failure> {
    let _ = (port, mark, gro, gso);
    Err(Failure::new(FailureKind::Kernel, "x"))
}

fn no_tun(error: &io::Error) -> Failure {
    let mend = match error.kind() {
        io::ErrorKind::NotFound => "load the driver: modprobe tun",
        io::ErrorKind::PermissionDenied => {
            "give the daemon's user access: DeviceAllow=/dev/net/tun rw in its unit, or chmod 0666 /dev/net/tun"
        }
        _ => "load the driver: modprobe tun; in a container pass --device /dev/net/tun",
    };
    Failure::new(FailureKind::Permission, format!("{TUN} cannot be opened: {error}; {mend}"))
}
