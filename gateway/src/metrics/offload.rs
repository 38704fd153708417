//! How many bytes crossed each boundary of the engine joined, and how many one packet at a time.

use metrics::{counter, describe_counter};
use tunnel::device::Device;

/// One boundary of the engine and what crossed it since the device or socket was opened.
#[derive(Clone, Copy, Debug)]
pub struct OffloadPath {
    /// `tun_read`, `tun_write`, `udp_send` or `udp_receive`.
    pub path: &'static str,
    /// Bytes in super-packets or runs of datagrams.
    pub joined: u64,
    /// Bytes one packet or datagram at a time.
    pub single: u64,
    /// Runs that the kernel refused and that were then carried one by one.
    pub fallbacks: u64,
}

impl OffloadPath {
    /// Reads the four boundaries of a running device.
    #[must_use]
    pub fn all(device: &Device) -> [Self; 4] {
        let (tun, socket) = (device.tun().stats(), device.socket());
        let udp = socket.stats();
        let path = |path, joined, single, fallbacks| Self { path, joined, single, fallbacks };
        [
            path("tun_read", tun.read_bytes_super.read(), tun.read_bytes_plain.read(), 0),
            path(
                "tun_write",
                tun.written_bytes_super.read(),
                tun.written_bytes_plain.read(),
                tun.write_fallbacks.read(),
            ),
            path(
                "udp_send",
                udp.sent_bytes_segmented.read(),
                udp.sent_bytes_plain.read(),
                udp.segment_fallbacks.read(),
            ),
            path("udp_receive", udp.received_bytes_joined.read(), udp.received_bytes_plain.read(), 0),
        ]
    }
}

pub(super) fn record(paths: &[OffloadPath]) {
    describe_counter!("gateway_offload_bytes_total", "Bytes by boundary of the engine, joined or single.");
    describe_counter!(
        "gateway_offload_fallbacks_total",
        "Runs that the kernel refused and that were then carried one by one."
    );
    for path in paths {
        for (mode, bytes) in [("joined", path.joined), ("single", path.single)] {
            counter!("gateway_offload_bytes_total", "path" => path.path, "mode" => mode).absolute(bytes);
        }
        counter!("gateway_offload_fallbacks_total", "path" => path.path).absolute(path.fallbacks);
    }
}
