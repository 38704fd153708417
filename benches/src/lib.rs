//! What the benchmarks share.
//!
//! - [`packets`]: packets as the kernel hands them over. [`memory`]: two nodes connected in memory.
//! - [`crowd`]: a node with many peers. [`cipher`]: the cipher alone.
//! - [`hot`]: the hot loops, by name, for the micro benchmarks and the instruction counts.
//! - [`callgrind`] and [`emulated`] count instructions.
//! - [`cubic`]: allows CUBIC in the lab's namespaces. [`progress`]: what runs, and how long it takes.
//! - [`picture`]: what was measured, drawn.
//!
//! The programs are in `src/bin`: `bench-counts` (instructions), `bench-load` (load generator),
//! `bench-peers` (side-by-side run against other tunnels). `growth` is a package of its own, how
//! cost grows, since it needs the forwarder; `paths` a workspace of its own, downloads over bad paths.

pub mod callgrind;
pub mod cipher;
pub mod crowd;
pub mod cubic;
pub mod emulated;
pub mod hot;
pub mod memory;
pub mod packets;
pub mod picture;
pub mod progress;

use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process and its children hold as many descriptors as it may at most.
pub fn raise_descriptor_limit() {
    let most = getrlimit(Resource::Nofile).maximum;
    // A refusal shows in the measurement: there are fewer connections than requested.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}

/// The value in the middle, or between the two in the middle; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Where a bench keeps what it has while it runs, and what is not to be recorded: a folder next to
/// that of its program.
///
/// # Errors
/// It cannot be made.
pub fn unfinished(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("a program in no folder")?.join(program);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
