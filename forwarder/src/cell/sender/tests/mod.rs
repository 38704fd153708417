//! The sender against a path with faults.

mod goodput;
mod losses;
mod outages;
mod path;
mod path_mtu;
mod random;
mod window;

use super::*;
use path::{Faults, Flow};

const SEGMENT: u64 = 1_380;
const FIRST: u32 = u32::MAX - 100_000;
