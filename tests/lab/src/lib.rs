//! Network namespaces, processes and captures for scenarios that cross a network.
//!
//! A [`Lab`] is a set of [`Node`]s joined by veth pairs. Nodes have no names outside the test that
//! made them, so any number of labs run side by side, and everything a lab started ends with it:
//! the processes live in a PID namespace whose init dies with the test, whether it returns, panics
//! or is killed.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! lab::scenario(lab::Topology::standard(), |lab| {
//!     let edge = lab.node("edge")?;
//!     lab.node("client")?.run("ping -c 1 -W 1 192.0.2.2")?;
//!     let page = lab.daemon(&edge, "gateway", ["--config", "gateway.toml"])?;
//!     drop(page);
//!     Ok(())
//! })
//! # }
//! ```
#![cfg(target_os = "linux")]

mod capture;
mod enter;
mod failure;
mod halt;
mod logs;
mod node;
mod parts;
mod process;
mod scenario;
mod spawner;
mod topology;
mod traffic;
mod wait;
mod watch;

pub use capture::Capture;
pub use enter::own_descriptors;
pub use halt::Halted;
pub use node::{Node, NodeCommand, PacketSocket, read_all};
pub use parts::{Release, Skip, binary, full_counts, has_real_root, newer, skip, workspace};
pub use process::{Process, Signal};
pub use scenario::{Lab, scenario};
pub use topology::Topology;
pub use traffic::{TcpServer, UdpEcho, UdpServer, echo, pattern, sink};
pub use wait::{time_until, until};
pub use watch::{Counter, LeakWatch};

#[cfg(test)]
mod tests;
