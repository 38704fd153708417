//! Packet captures of bounded size.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::node::Node;
use crate::process::{Process, Signal};

/// How many packets one capture keeps.
const PACKETS: &str = "20000";

/// How much of each packet: the outer and inner headers, not what people sent.
const SNAP_LENGTH: &str = "128";

/// A running capture of one interface; dropped, it is flushed and ended.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    path: PathBuf,
}

impl Capture {
    /// Starts capturing `interface`, and returns once packets are seen.
    pub fn start(node: &Node, interface: &str) -> Result<Self> {
        let path = node.directory().join(format!("{interface}.pcap"));
        let command = node.command("tcpdump").args(["-Z", "root", "-U", "-n", "-i", interface]);
        let command = command.args(["-c", PACKETS, "-s", SNAP_LENGTH, "-w"]).arg(&path);
        let mut process = command.spawn(&format!("tcpdump-{interface}"))?;
        process.wait_for_log("listening on", Duration::from_secs(10))?;
        Ok(Self { process, path })
    }

    /// The pcap file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.process.signal(Signal::Interrupt);
        let _ = self.process.wait(Duration::from_secs(5));
    }
}
