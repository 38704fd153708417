//! Work that waits for the kernel helper, outside the control thread.

use tokio::task::spawn_blocking;

use crate::kernel::{Failure, FailureKind};

/// Runs what blocks on the helper outside the control thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(FailureKind::Kernel, error.to_string())),
    }
}
