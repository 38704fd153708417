//! What a socket has done.

use crate::io::counters::counters;

counters! {
    /// What an outer socket has done since it was opened.
    UdpStats {
        /// Datagrams received.
        received_datagrams,
        /// Bytes received one datagram at a time.
        received_bytes_plain,
        /// Bytes received as joined datagrams.
        received_bytes_joined,
        /// Receive calls that brought something.
        receive_calls,
        /// How the last receive calls have ended.
        receives: crate::io::outcomes::Outcomes,
        /// Datagrams the kernel dropped because the receive buffer was full, when that was last
        /// read ([`sample_queue_drops`](super::UdpSocket::sample_queue_drops)).
        receive_queue_drops,
        /// Messages longer than a slot; dropped.
        receive_truncated,
        /// Bytes sent one datagram at a time.
        sent_bytes_plain,
        /// Bytes sent by segmented calls.
        sent_bytes_segmented,
        /// Send calls.
        send_calls,
        /// Times a send had to wait for room.
        send_waits,
        /// Runs that were not sent, since this machine does not have the address to send from.
        withheld,
        /// Runs or datagrams the network refused; dropped.
        send_errors,
        /// Runs a segmented send refused, which then went out one datagram at a time.
        segment_fallbacks,
        /// Times a local side was no longer usable and the kernel chose another.
        source_cleared,
    }
}
