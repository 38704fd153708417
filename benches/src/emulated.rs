//! Instructions of a program for another processor, counted under user-mode emulation.
//!
//! qemu lists each block of instructions that it translates, and reports each one that it executes:
//! the count is that of the blocks' instructions. It is exact but for blocks that a signal cuts
//! short.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Where Debian has the libraries of that processor.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// What a program for 64-bit ARM executes from its start to its end.
///
/// # Errors
/// There is no emulator, or the program failed.
pub fn instructions(program: &Path, arguments: &[&str]) -> Result<u64> {
    let mut emulator = Command::new("qemu-aarch64-static")
        .args(["-L", LIBRARIES, "-d", "in_asm,exec,nochain"])
        .arg(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("qemu-aarch64-static: run scripts/packages portable")?;
    let mut blocks = Blocks::default();
    let mut reader = BufReader::new(emulator.stderr.take().context("no standard error")?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        blocks.handle_line(&line);
        line.clear();
    }
    ensure!(emulator.wait()?.success(), "{} {} failed", program.display(), arguments.join(" "));
    ensure!(blocks.executed > 0, "the emulator reported nothing that was executed");
    Ok(blocks.executed)
}

/// The blocks that were translated, and how many instructions were executed.
#[derive(Debug, Default)]
struct Blocks {
    /// Instructions of a block, by the address of the first.
    sizes: HashMap<u64, u64>,
    listed: Listed,
    executed: u64,
}

/// What the last lines listed.
#[derive(Debug, Default, Clone, Copy)]
enum Listed {
    #[default]
    Nothing,
    /// A block begins.
    Begin,
    /// The block that begins at this address.
    Block(u64),
}

impl Blocks {
    fn handle_line(&mut self, line: &[u8]) {
        if line.starts_with(b"Trace ") {
            let size = executed(line).and_then(|address| self.sizes.get(&address));
            self.executed += size.copied().unwrap_or_default();
        } else if line.starts_with(b"IN:") {
            self.listed = Listed::Begin;
        } else if let Some(digits) = line.strip_prefix(b"0x") {
            self.handle_listed(digits);
        } else {
            self.listed = Listed::Nothing;
        }
    }

    fn handle_listed(&mut self, digits: &[u8]) {
        let first = match self.listed {
            Listed::Nothing => return,
            Listed::Block(first) => first,
            Listed::Begin => {
                let Some(first) = hexadecimal(digits) else { return };
                self.sizes.insert(first, 0);
                self.listed = Listed::Block(first);
                first
            }
        };
        *self.sizes.entry(first).or_default() += 1;
    }
}

/// The address of an executed block: the second of the numbers in brackets.
fn executed(line: &[u8]) -> Option<u64> {
    hexadecimal(line.split(|byte| *byte == b'/').nth(1)?)
}

/// The number that the text begins with.
fn hexadecimal(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(text.len());
    u64::from_str_radix(std::str::from_utf8(text.get(..end)?).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_counts_as_often_as_it_is_executed() {
        let said = "----------------\nIN: \n\
            0x5502838700:  a9b27bfd  stp      x29, x30, [sp, #-0xe0]!\n\
            0x5502838704:  b0000144  adrp     x4, #0x5502861000\n\n\
            Trace 0: 0x7f410da00240 [0000000001009331/0000005502838700/00000001/00000200] \n\
            Trace 0: 0x7f410da00240 [0000000001009331/0000005502838700/00000001/00000200] \n\
            ----------------\nIN: \n\
            0x550283cc40:  d503201f  nop      \n\n\
            Trace 0: 0x7f410da005c0 [0000000001009331/000000550283cc40/00000001/00000200] \n";
        let mut blocks = Blocks::default();
        for line in said.lines() {
            blocks.handle_line(line.as_bytes());
        }
        assert_eq!(blocks.executed, 2 + 2 + 1);
    }
}
