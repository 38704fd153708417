//! UDP inside the tunnel: datagrams cut into fragments, and fragments joined, both within bounds.

pub mod packet;
pub mod reassembly;

pub use packet::Buffer;
pub use reassembly::{Joined, Reassembly};
