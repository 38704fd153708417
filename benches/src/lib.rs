//! What the benches share: packets as the kernel hands them over, two nodes in memory, and the cipher alone.

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
