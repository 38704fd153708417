//! What the benchmarks share.
//!
//! - [`packets`]: packets as the kernel hands them over. [`memory`]: two nodes connected in memory.
//! - [`crowd`]: a node with many peers. [`cipher`]: the cipher alone.
//! - [`hot`]: the hot loops, by name, for the micro benchmarks and the instruction counts.
//! - [`cubic`]: allows CUBIC in the lab's namespaces.
//!
//! The programs are in `src/bin`: `bench-counts` (instructions), `bench-load` (load generator),
//! `bench-peers` (side-by-side run against other tunnels).

pub mod cipher;
pub mod crowd;
pub mod cubic;
pub mod hot;
pub mod memory;
pub mod packets;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process and its children hold as many descriptors as it may at most.
pub fn raise_descriptor_limit() {
    let most = getrlimit(Resource::Nofile).maximum;
    // A refusal shows in the measurement: there are fewer connections than requested.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}
