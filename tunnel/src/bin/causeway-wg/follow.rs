//! What changes around the interface: its own MTU, and the routes to peers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tunnel::io::clock;
use tunnel::io::routes::RouteWatch;

use crate::run::Interface;

/// After a change the routes to peers are checked once a second for this long: a peer that has not
/// noticed yet still sends to our old address, and its packets would make us keep it.
const SETTLING: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);

/// Follows changes on a thread of its own, for as long as the process lives.
pub(super) fn start(interface: Arc<Interface>) -> anyhow::Result<()> {
    let watch = RouteWatch::open().context("cannot watch routes")?;
    std::thread::Builder::new().name("cw-routes".to_owned()).spawn(move || {
        if let Err(error) = follow(&interface, &watch) {
            tracing::warn!(%error, "changed routes are not noticed any more; restart the interface");
        }
    })?;
    Ok(())
}

fn follow(interface: &Interface, watch: &RouteWatch) -> std::io::Result<()> {
    let mut changed = None;
    loop {
        if watch.wait(TICK)? {
            changed = Some(Instant::now());
            // The link may be about to be deleted; then the MTU does not matter.
            if let Ok(mtu) = interface.device.tun().mtu() {
                interface.device.node().set_mtu(mtu);
            }
        }
        if changed.is_some_and(|at| at.elapsed() < SETTLING) {
            forget_old_routes(interface, watch)?;
        }
    }
}

/// Where a packet from the address that a peer knows would leave by another interface than that
/// peer's packets come in by, or not at all, the kernel chooses the address again.
fn forget_old_routes(interface: &Interface, watch: &RouteWatch) -> std::io::Result<()> {
    let mark = *interface.fwmark.lock();
    for peer in interface.device.node().peers(clock::now()) {
        let Some((remote, local)) = peer.endpoint.and_then(|at| Some((at.remote.ip(), at.local?))) else {
            continue;
        };
        if local.interface != 0
            && watch.interface_towards(remote, local.address, mark)? != Some(local.interface)
        {
            interface.device.node().forget_local(peer.id, local);
            tracing::debug!(peer = ?peer.id, "the route to the peer has changed");
        }
    }
    Ok(())
}
