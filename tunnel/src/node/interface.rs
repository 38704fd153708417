//! The node's own side: addresses and MTU inside the tunnel, and the UDP port outside.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use arc_swap::ArcSwap;

/// The inner interface and the outer port as they are now; each may change at any time.
pub(super) struct Interface {
    addresses: ArcSwap<Vec<IpAddr>>,
    mtu: AtomicU16,
    listen_port: AtomicU16,
}

impl Interface {
    pub(super) fn new(addresses: Vec<IpAddr>, mtu: u16, listen_port: u16) -> Self {
        Self {
            addresses: ArcSwap::from_pointee(addresses),
            mtu: AtomicU16::new(mtu),
            listen_port: AtomicU16::new(listen_port),
        }
    }

    pub(super) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    pub(super) fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    pub(super) fn set_listen_port(&self, port: u16) {
        self.listen_port.store(port, Ordering::Relaxed);
    }

    pub(super) fn mtu(&self) -> usize {
        usize::from(self.mtu.load(Ordering::Relaxed))
    }

    pub(super) fn listen_port(&self) -> u16 {
        self.listen_port.load(Ordering::Relaxed)
    }

    /// Whether `address` is one of the node's own.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.load().contains(&address)
    }

    /// An address of the node's own of the same family as `target`.
    pub(super) fn source_towards(&self, target: IpAddr) -> Option<IpAddr> {
        self.addresses.load().iter().copied().find(|own| own.is_ipv4() == target.is_ipv4())
    }
}
