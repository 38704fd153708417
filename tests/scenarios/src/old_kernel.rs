//! A kernel without the optional features, simulated by a library that the daemon is started with.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::site::Site;

/// The library, in C.
const SOURCE: &str = include_str!("old_kernel.c");

/// The switch by which plain reads of the device begin to fail.
#[derive(Debug)]
pub struct BrokenReads(PathBuf);

impl Site<'_> {
    /// Makes the edge's daemon, not started yet, see a kernel without the optional features.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn with_old_kernel(&mut self) -> Result<BrokenReads> {
        let folder = self.edge.directory();
        let (source, library, switch) =
            (folder.join("old_kernel.c"), folder.join("old_kernel.so"), folder.join("broken-reads"));
        fs::write(&source, SOURCE)?;
        let broken = format!("-DBROKEN_READS={:?}", switch.display().to_string());
        let compiler = self.edge.command("cc").args(["-shared", "-fPIC", "-O1", "-Wall", &broken, "-o"]);
        compiler.arg(&library).arg(&source).run()?;
        let [edge, _] = &mut self.environment;
        edge.push(("LD_PRELOAD".to_owned(), library.display().to_string()));
        Ok(BrokenReads(switch))
    }
}

impl BrokenReads {
    /// From now on every read of the device fails.
    pub fn begin(&self) -> Result<()> {
        Ok(fs::write(&self.0, "")?)
    }

    /// From now on reads work again.
    pub fn end(&self) -> Result<()> {
        Ok(fs::remove_file(&self.0)?)
    }
}
