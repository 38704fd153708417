//! `mtu = "auto"`: the device and the rules follow the narrowest path to a peer.

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;

use super::Edge;

/// Changes device and rules in the background when the paths carry another size than these are made
/// for.
pub(super) fn follow(edge: &Rc<Edge>) {
    if edge.in_force.borrow().due_mtu(edge.plane.found_mtu()).is_some() {
        let edge = Rc::clone(edge);
        drop(spawn_local(async move { change_mtu(&edge).await }));
    }
}

async fn change_mtu(edge: &Edge) {
    let _turn = edge.applying.lock().await;
    let (mtu, new) = {
        let in_force = edge.in_force.borrow();
        let Some(mtu) = in_force.due_mtu(edge.plane.found_mtu()) else { return };
        (mtu, Arc::new(in_force.next(in_force.policy(), edge.watch.borrow().machine(), Some(mtu))))
    };
    match edge.change_kernel(&new).await {
        Ok(installed) => {
            let mut in_force = edge.in_force.borrow_mut();
            in_force.follow(new, installed);
            in_force.refused_mtu = None;
            edge.plane.device().node().set_mtu(mtu);
            tracing::info!(mtu, "the tunnel's MTU follows its paths");
        }
        Err(stop) => {
            edge.in_force.borrow_mut().refused_mtu = Some(mtu);
            tracing::warn!("the device keeps its MTU though the paths carry {mtu} bytes: {}", stop.message);
        }
    }
}
