//! A machine that was suspended, simulated by a library that a program is started with: the clock
//! that counts on meanwhile is ahead.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lab::Node;

/// The library, in C.
const SOURCE: &str = include_str!("boot_clock.c");

/// The clock of programs that were started with its [`environment`](Self::environment).
#[derive(Debug)]
pub struct BootClock {
    library: PathBuf,
    ahead: PathBuf,
}

impl BootClock {
    /// A clock that is right so far.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn new(node: &Node) -> Result<Self> {
        let folder = node.directory();
        let (source, library, ahead) =
            (folder.join("boot_clock.c"), folder.join("boot_clock.so"), folder.join("ahead"));
        fs::write(&source, SOURCE)?;
        fs::write(&ahead, 0_i64.to_ne_bytes())?;
        let compiler = node.command("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]);
        compiler.arg(&library).arg(&source).run()?;
        Ok(Self { library, ahead })
    }

    /// What a program is started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("CLOCK_OFFSET_FILE".to_owned(), text(&self.ahead)),
        ]
    }

    /// Suspends the machine for so long, which takes no time.
    ///
    /// # Errors
    /// From the file system.
    pub fn suspend(&self, time: Duration) -> Result<()> {
        // Written into the file that the programs have mapped.
        let seconds = i64::try_from(time.as_secs())?;
        Ok(File::options().write(true).open(&self.ahead)?.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}
