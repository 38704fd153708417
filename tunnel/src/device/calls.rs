//! The calls the threads make again and again, and what is wrong with one that keeps failing.

use super::Device;
use crate::io::outcomes::{Failing, Outcomes};
use crate::time::Instant;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reading from the TUN device.
    TunRead,
    /// Writing to it.
    TunWrite,
    /// Receiving from the outer socket.
    UdpReceive,
}

impl Call {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::TunRead, Self::TunWrite, Self::UdpReceive];

    /// Its metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TunRead => "tun_read",
            Self::TunWrite => "tun_write",
            Self::UdpReceive => "udp_receive",
        }
    }

    /// What is wrong when it keeps failing, and how to fix it.
    fn problem(self, device: &str, failing: Failing) -> String {
        let times = failing.in_a_row;
        let what = match self {
            Self::TunRead => format!("packets cannot be read from {device}"),
            Self::TunWrite => format!("packets cannot be written to {device}"),
            Self::UdpReceive => format!("the UDP socket of {device} cannot be received from"),
        };
        let so = match self {
            Self::TunRead => "so nothing enters the tunnel",
            Self::TunWrite | Self::UdpReceive => "so nothing comes out of the tunnel",
        };
        let fix = match (self, failing.code) {
            (Self::TunWrite, libc::EIO) => format!("the interface is down; run: ip link set {device} up"),
            _ => "restart the daemon, and if it comes back report it with the output of: uname -a".to_owned(),
        };
        format!("{what} ({failing}, {times} times in a row), {so}; {fix}")
    }
}

impl Device {
    /// How many calls of this kind have failed, and whether they keep failing.
    #[must_use]
    pub fn call(&self, call: Call, now: Instant) -> (u64, Option<Failing>) {
        let of = |outcomes: &Outcomes| (outcomes.errors(), outcomes.failing(now));
        match call {
            Call::TunRead => of(self.tun().reads()),
            Call::TunWrite => of(self.tun().writes()),
            Call::UdpReceive => of(&self.socket().stats().receives),
        }
    }

    /// What is wrong with the calls that keep failing, each with the fix.
    #[must_use]
    pub fn problems(&self, now: Instant) -> Vec<String> {
        Call::ALL.into_iter().filter_map(|call| self.problem(call, now)).collect()
    }

    fn problem(&self, call: Call, now: Instant) -> Option<String> {
        let (_, failing) = self.call(call, now);
        failing.map(|failing| call.problem(self.tun().name(), failing))
    }
}

/// Logs once when a kind of call keeps failing, and once when it works again.
#[derive(Debug, Default)]
pub struct CallLog {
    failing: [bool; Call::ALL.len()],
}

impl CallLog {
    /// To be called every few seconds.
    pub fn check(&mut self, device: &Device, now: Instant) {
        for (call, failed) in Call::ALL.into_iter().zip(&mut self.failing) {
            let problem = device.problem(call, now);
            match (&problem, *failed) {
                (Some(problem), false) => tracing::warn!("{problem}"),
                (None, true) => {
                    tracing::info!(device = device.tun().name(), call = call.label(), "the call works again");
                }
                _ => {}
            }
            *failed = problem.is_some();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_the_device_the_error_and_the_fix() {
        let down = Call::TunWrite.problem("gw0", Failing { code: libc::EIO, in_a_row: 20 });
        assert_eq!(
            down,
            "packets cannot be written to gw0 (Input/output error (os error 5), 20 times in a row), so nothing comes out \
             of the tunnel; the interface is down; run: ip link set gw0 up"
        );
        let read = Call::TunRead.problem("gw0", Failing { code: libc::EOPNOTSUPP, in_a_row: 20 });
        assert!(
            read.contains("read from gw0 (Operation not supported") && read.contains("uname -a"),
            "{read}"
        );
    }
}
