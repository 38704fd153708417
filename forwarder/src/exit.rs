//! Exit codes of the program.

/// Done.
pub const OK: u8 = 0;
/// It did not work.
pub const FAILED: u8 = 1;
/// The daemon is not reachable.
pub const UNREACHABLE: u8 = 3;
/// The configuration is invalid.
pub const INVALID: u8 = 4;
/// A permission is missing, or a key file's mode is wrong.
pub const PERMISSION: u8 = 5;
/// Some peers are not up.
pub const DEGRADED: u8 = 10;
/// No peer is up.
pub const BROKEN: u8 = 11;
/// Another daemon is there already.
pub const CONFLICT: u8 = 6;
/// The command line is not understood.
pub const USAGE: u8 = 2;
