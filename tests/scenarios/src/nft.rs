//! A faulty `nft` that replaces the edge's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Result;
use lab::{Node, Process};

/// Where the daemon finds `nft`.
const PROGRAM: &str = "/usr/sbin/nft";

/// The edge's `nft`, and the script that replaces it for a while.
#[derive(Debug)]
pub struct OtherNft {
    edge: Node,
    real: PathBuf,
    script: PathBuf,
}

impl OtherNft {
    /// Prepares the script; the edge's own `nft` still runs.
    pub fn prepare(edge: &Node) -> Result<Self> {
        let (real, script) = (edge.directory().join("nft.real"), edge.directory().join("nft.other"));
        fs::copy(PROGRAM, &real)?;
        Ok(Self { edge: edge.clone(), real, script })
    }

    /// From now on `nft` is a shell script; in it, `$real` is the real one.
    pub fn begin(&self, script: &str) -> Result<()> {
        fs::write(&self.script, format!("#!/bin/sh\nreal={}\n{script}\n", self.real.display()))?;
        fs::set_permissions(&self.script, fs::Permissions::from_mode(0o755))?;
        self.edge.run(&format!("mount --bind {} {PROGRAM}", self.script.display())).map(drop)
    }

    /// From now on `nft` is the edge's own again.
    pub fn end(&self) -> Result<()> {
        self.edge.run(&format!("umount {PROGRAM}")).map(drop)
    }

    /// Runs the real one.
    pub fn run(&self, arguments: &str) -> Result<String> {
        self.edge.run(&format!("{} {arguments}", self.real.display()))
    }
}

/// The edge's table without what packets put in: counts, and who is in a meter.
pub fn table(edge: &Node) -> Result<String> {
    let text = edge.run("nft -s list table inet causeway")?;
    let is_metered = |line: &&str| line.contains("limit rate over") && !line.contains("counter");
    Ok(text.lines().filter(|line| !is_metered(line)).collect::<Vec<_>>().join("\n"))
}

/// Makes a table that belongs to a process, for as long as that lives, by one line of `nft`'s
/// language.
pub fn own_table(edge: &Node, line: &str) -> Result<Process> {
    let (input, text) = (edge.directory().join("nft.fifo"), edge.directory().join("nft.line"));
    let input = input.display();
    fs::write(&text, format!("{line}\n"))?;
    edge.run(&format!("mkfifo {input}"))?;
    // Opened for reading and writing, so that it has no end of file.
    edge.command("sh")
        .args(["-c", &format!("exec 3<>{input}; cat {} >&3; exec nft -i <&3", text.display())])
        .spawn("nft")
}
