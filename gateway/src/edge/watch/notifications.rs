//! Changes that the kernel reports wake the loop that checks it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::edge::blocking::blocking;
use crate::kernel::{Failure, FailureKind, Helper, wake_at_changes};

/// How long after a change the check begins, so that a burst of changes costs one.
pub(in crate::edge) const SETTLE: Duration = Duration::from_millis(200);

/// Starts a thread that waits on the helper's sockets and wakes the loop.
pub(in crate::edge) async fn watch_for_changes(helper: Helper, wakeup: Arc<Notify>) -> Result<(), Failure> {
    let fds = blocking(move || helper.watch()).await?;
    // Many changes cost no more than ten rounds a second.
    wake_at_changes(fds, wakeup, SETTLE / 2)
        .map_err(|error| Failure::new(FailureKind::Kernel, error.to_string()))
}
