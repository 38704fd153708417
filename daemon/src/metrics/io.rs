//! What crossed the engine's boundaries, and how its calls end.

use super::Number;

/// One boundary between the engine and the kernel, and what crossed it since the device or socket
/// was opened.
#[derive(Clone, Copy, Debug)]
pub struct Boundary {
    /// `tun_read`, `tun_write`, `udp_send` or `udp_receive`.
    pub path: &'static str,
    /// Bytes in super-packets or runs of datagrams.
    pub joined: u64,
    /// Bytes one packet or datagram at a time.
    pub single: u64,
    /// Runs that the kernel refused and that were then carried one by one.
    pub fallbacks: u64,
}

impl Boundary {
    /// Its metrics; names begin with `role`, and `label` is applied to each.
    pub fn numbers(self, role: &str, label: impl Fn(Number) -> Number) -> Vec<Number> {
        let mut numbers: Vec<_> = [("joined", self.joined), ("single", self.single)]
            .into_iter()
            .map(|(mode, bytes)| {
                let help =
                    "Bytes by boundary of the engine, joined (super-packets, runs of datagrams) or single.";
                let number = Number::counter(format!("{role}_offload_bytes_total"), help, bytes);
                label(number).with("path", self.path).with("mode", mode)
            })
            .collect();
        let help = "Runs that the kernel refused and that were then carried one by one.";
        let fallbacks = Number::counter(format!("{role}_offload_fallbacks_total"), help, self.fallbacks);
        numbers.push(label(fallbacks).with("path", self.path));
        numbers
    }
}

/// How many calls of one kind failed, and whether they keep failing.
pub fn call_numbers(
    role: &str,
    call: &'static str,
    (errors, is_failing): (u64, bool),
    label: impl Fn(Number) -> Number,
) -> [Number; 2] {
    let errors = Number::counter(
        format!("{role}_io_errors_total"),
        "Calls of the data threads that failed, by call.",
        errors,
    );
    let failing = Number::flag(
        format!("{role}_io_failing"),
        "Whether a call of the data threads keeps failing.",
        is_failing,
    );
    [errors, failing].map(|number| label(number).with("call", call))
}
