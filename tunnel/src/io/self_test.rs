//! Whether packets cross a TUN device both ways, on the descriptor and by the calls that will carry
//! the traffic.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::tun::{BUFFER_LEN, Tun};
use crate::offload::{Offload, SuperPacket};
use crate::self_test::SelfTest;

/// How often it is tried, and how long each time.
const ATTEMPTS: u32 = 2;
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);

/// Why no packet crosses the device.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// Nothing could be written.
    #[error("nothing can be written to {name}: {error}")]
    Write {
        /// The device.
        name: String,
        /// The system's error.
        error: io::Error,
    },
    /// Nothing could be read.
    #[error("nothing can be read from {name}: {error}")]
    Read {
        /// The device.
        name: String,
        /// The system's error.
        error: io::Error,
    },
    /// No answer came.
    #[error(
        "packets were written to {name} and none of the answers came out of it; another firewall may drop all ICMP that \
         this machine sends"
    )]
    Silent {
        /// The device.
        name: String,
    },
}

/// Writes two requests from `other`, an address that is routed to the device, to the kernel, and
/// reads until one of the replies comes; other packets that come meanwhile are dropped. To be
/// called before the threads of the data plane begin.
///
/// # Errors
/// Which half failed, after two attempts of a second at most.
pub fn test(tun: &Tun, own: IpAddr, other: IpAddr) -> Result<(), SelfTestError> {
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = attempt(tun, own, other);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn attempt(tun: &Tun, own: IpAddr, other: IpAddr) -> Result<(), SelfTestError> {
    let name = || tun.name().to_owned();
    let mut token = [0; 16];
    getrandom::fill(&mut token).map_err(|error| {
        let error = io::Error::other(error.to_string());
        SelfTestError::Write { name: name(), error }
    })?;
    let test = SelfTest::new(own, other, token);
    for mut request in test.requests() {
        let before = tun.writes().errors();
        let sent = tun.send(SuperPacket { bytes: &mut request, offload: Offload::None });
        // What the kernel refuses is counted only, since once traffic flows just that packet is
        // lost.
        let refused = || io::Error::from_raw_os_error(tun.writes().last_error());
        let sent = if sent.is_ok() && tun.writes().errors() > before { Err(refused()) } else { sent };
        sent.map_err(|error| SelfTestError::Write { name: name(), error })?;
    }
    let mut buffer = vec![0; BUFFER_LEN];
    let end = Instant::now() + ATTEMPT_LIMIT;
    loop {
        match tun.receive(&mut buffer) {
            Ok(Some(packet)) if test.is_reply(packet.bytes) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(tun, end).map_err(|error| SelfTestError::Read { name: name(), error })?;
            }
            Err(error) => return Err(SelfTestError::Read { name: name(), error }),
        }
        if Instant::now() >= end {
            return Err(SelfTestError::Silent { name: name() });
        }
    }
}

fn wait(tun: &Tun, end: Instant) -> io::Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    match rustix::event::poll(&mut [PollFd::new(tun, PollFlags::IN)], Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
