//! A wall clock that is wrong.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::Lab;

/// A wall clock that is wrong by the seconds in `CLOCK_OFFSET`; every other clock is the kernel's.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, id, at);
    const char *offset = getenv("CLOCK_OFFSET");
    if (result == 0 && id == CLOCK_REALTIME && offset) at->tv_sec += atol(offset);
    return result;
}
"#;

/// The library that shifts a program's wall clock, in a place where every user may read it.
///
/// # Errors
/// When it cannot be compiled.
pub fn shifted_clock(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.node("origin")?.directory().to_owned();
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    fs::write(&source, SOURCE)?;
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
    ensure!(compiled.context("cc, which links Rust programs as well")?.success(), "cc refused the library");
    Ok(library)
}

/// The environment of a program whose clock is so many seconds ahead by that library, or behind.
#[must_use]
pub fn ahead_by(library: &std::path::Path, seconds: impl Into<i128>) -> Vec<(String, String)> {
    let library = library.to_string_lossy().into_owned();
    vec![("LD_PRELOAD".to_owned(), library), ("CLOCK_OFFSET".to_owned(), seconds.into().to_string())]
}
