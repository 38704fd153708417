//! Notifications of changed addresses.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::kernel::{wake_at_changes, watch_own_addresses};

/// Changes within this time are one notification: a take-over waits no longer for it.
const PAUSE: Duration = Duration::from_millis(5);

/// The kernel's notifications, from the first time that there is a pair.
#[derive(Default)]
pub(super) struct AddressWatch {
    wakeup: Arc<Notify>,
    has_begun: bool,
}

impl AddressWatch {
    /// Begins; without notifications the address is looked for once a second.
    pub(super) fn begin(&mut self) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let watched = watch_own_addresses();
        let begun = watched.and_then(|fd| wake_at_changes(vec![fd], Arc::clone(&self.wakeup), PAUSE));
        if let Err(error) = begun {
            tracing::info!(%error, "changed addresses are found once a second only");
        }
    }

    /// Waits for a change.
    pub(super) async fn changed(&self) {
        self.wakeup.notified().await;
    }
}
