//! The bodies of the fuzz targets: each takes any bytes and panics when a promise is broken.
//!
//! `tests/fuzz` puts a fuzzer behind them; the tests of this crate replay the committed corpus in
//! `tests/fuzz/corpus` with the ordinary compiler.
#![cfg(target_os = "linux")]
// A broken promise is a panic here: that is how a fuzzer learns of it.
#![allow(clippy::panic, clippy::expect_used)]

mod configuration;
mod foreign;
mod helper;
mod import;
mod link;
mod offload;
mod origin;
mod tunnelled;
mod wire;

/// A fuzz target: its name, which is that of its corpus folder, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 17] = [
    ("split", offload::split),
    ("coalesce", offload::coalesce),
    ("virtio_header", offload::virtio_header),
    ("datagram", wire::datagram),
    ("damaged_datagram", wire::damaged_datagram),
    ("inner_packet", tunnelled::inner_packet),
    ("config_toml", configuration::config_toml),
    ("endpoint", configuration::endpoint),
    ("uapi", configuration::uapi),
    ("proxy_header", configuration::proxy_header),
    ("upstream", origin::upstream),
    ("fragments", origin::fragments),
    ("helper_request", helper::helper_request),
    ("routeros", foreign::routeros),
    ("wg_quick", import::wg_quick),
    ("link_frame", link::link_frame),
    ("link_session", link::link_session),
];

/// Runs the target of that name.
///
/// # Panics
/// When a promise is broken, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).expect("a known target");
    target(input);
}
