//! How many calls of the data threads failed, and whether they keep failing.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tunnel::device::{Call, Device};
use tunnel::io::clock;

/// One kind of call since the device or socket was opened.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// `tun_read`, `tun_write` or `udp_receive`.
    pub call: &'static str,
    /// Calls that failed.
    pub errors: u64,
    /// Whether they keep failing.
    pub is_failing: bool,
}

impl Calls {
    /// Every kind of call of a running device.
    #[must_use]
    pub fn all(device: &Device) -> [Self; Call::ALL.len()] {
        let now = clock::instant();
        Call::ALL.map(|call| {
            let (errors, failing) = device.call(call, now);
            Self { call: call.label(), errors, is_failing: failing.is_some() }
        })
    }
}

pub(super) fn record(calls: &[Calls]) {
    describe_counter!("gateway_io_errors_total", "Calls of the data threads that failed, by call.");
    describe_gauge!("gateway_io_failing", "Whether a call of the data threads keeps failing.");
    for calls in calls {
        counter!("gateway_io_errors_total", "call" => calls.call).absolute(calls.errors);
        gauge!("gateway_io_failing", "call" => calls.call).set(f64::from(u8::from(calls.is_failing)));
    }
}
