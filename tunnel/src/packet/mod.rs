//! Views of IP, TCP, UDP and ICMP over byte slices, and the internet checksum.
//!
//! A view is parsed once and holds plain values, so every later use is bounds-proven; nothing here
//! allocates on the data path, panics, or trusts a length that it did not check against the bytes
//! it was given.

mod checksum;
mod flow;
pub mod icmp;
pub mod icmp_error;
mod ip;
mod segment;
mod transport;

pub use checksum::{Sum, incremental};
pub use flow::FiveTuple;
pub use ip::{Fragment, Ip, Malformed, protocol};
pub use segment::Bare;
pub use transport::{Tcp, Udp, tcp_flags};

#[cfg(test)]
mod tests;
