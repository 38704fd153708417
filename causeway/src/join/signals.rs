//! The signals that end the command.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use daemon::life;
use tokio::runtime;

/// Whether a signal came that ends the command.
pub(super) struct Signals(Arc<AtomicBool>);

impl Signals {
    /// Handles signals from now on.
    ///
    /// # Errors
    /// From the system.
    pub(super) fn handle() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            life::Signals::handle()?
        };
        let came = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&came);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            // SIGHUP as well: the terminal is gone.
            runtime.block_on(signals.next());
            flag.store(true, Ordering::Relaxed);
        })?;
        Ok(Self(came))
    }

    /// Whether one came.
    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
