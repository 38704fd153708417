//! What the `wg` program may see and change.

use std::sync::Arc;

use tunnel::device::Device;
use tunnel::io::clock;
use tunnel::uapi::{Configure, Errno, Set, Snapshot, apply_to_node};

use super::outer::Outer;
use crate::kernel::{Failure, FailureKind};

/// The device as `wg` finds it behind its socket. What is set here lives until the next apply.
pub(super) struct WgDevice {
    pub(super) device: Arc<Device>,
    pub(super) outer: Arc<Outer>,
}

impl Configure for WgDevice {
    fn snapshot(&self) -> Snapshot {
        let port = self.device.socket().local_port().unwrap_or(0);
        Snapshot::of_node(self.device.node(), port, self.outer.mark(), clock::now())
    }

    fn apply(&self, set: Set) -> Result<(), Errno> {
        let port = self.device.socket().local_port().unwrap_or(0);
        let mark = self.outer.mark();
        if let Some(port) = set.listen_port {
            self.outer.change_port(&self.device, port).map_err(errno)?;
        }
        if let Some(mark) = set.fwmark {
            self.outer
                .change_mark(&self.device, mark)
                .map_err(errno)
                .inspect_err(|_| self.put_back(port, None))?;
        }
        let applied = apply_to_node(self.device.node(), &set, clock::now());
        if applied.is_err() {
            self.put_back(port, Some(mark));
        }
        self.device.wake();
        applied
    }
}

impl WgDevice {
    /// Undoes the first part of a request whose second part failed.
    fn put_back(&self, port: u16, mark: Option<u32>) {
        let port = self.outer.change_port(&self.device, port);
        let mark = mark.map_or(Ok(()), |mark| self.outer.change_mark(&self.device, mark));
        if let Err(failure) = port.and(mark) {
            tracing::warn!(
                "a refused `wg set` could not be undone completely ({failure}); apply the configuration again"
            );
        }
    }
}

fn errno(failure: Failure) -> Errno {
    tracing::debug!(%failure, "a `wg set` was refused");
    match failure.kind {
        FailureKind::Conflict => Errno::AddressInUse,
        FailureKind::Permission | FailureKind::Refused => Errno::NotPermitted,
        FailureKind::Ruleset | FailureKind::Kernel | FailureKind::Gone => Errno::Io,
    }
}
