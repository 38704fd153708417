//! Changes of the machine's interfaces, addresses and routes, as the kernel reports them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gateway::kernel::{wake_at_changes, watch_addresses};
use tokio::sync::Notify;

/// The shortest time between two reports.
const PAUSE: Duration = Duration::from_millis(100);

/// Reports of the kernel.
#[derive(Debug)]
pub struct Network(Arc<Notify>);

impl Network {
    /// Reports from now on.
    ///
    /// # Errors
    /// From the kernel.
    pub fn watch() -> io::Result<Self> {
        let wakeup = Arc::new(Notify::new());
        wake_at_changes(vec![watch_addresses()?], Arc::clone(&wakeup), PAUSE)?;
        Ok(Self(wakeup))
    }

    /// The next change; none is lost between two calls.
    pub async fn changed(&self) {
        self.0.notified().await;
    }
}
