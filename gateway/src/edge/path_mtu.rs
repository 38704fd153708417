//! `mtu = "auto"`: the device and the rules follow the narrowest path to a peer.

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;

use super::Edge;

impl Edge {
    /// Changes device and rules in the background when the paths carry another size than these are
    /// made for.
    pub(super) fn follow_path_mtu(self: &Rc<Self>) {
        if self.in_force.borrow().due_mtu(self.plane.found_mtu()).is_some() {
            let edge = Rc::clone(self);
            drop(spawn_local(async move { edge.change_mtu().await }));
        }
    }

    async fn change_mtu(&self) {
        let _turn = self.applying.lock().await;
        let (mtu, new) = {
            let in_force = self.in_force.borrow();
            let Some(mtu) = in_force.due_mtu(self.plane.found_mtu()) else { return };
            (mtu, Arc::new(in_force.next(in_force.policy(), self.watch.borrow().machine(), Some(mtu))))
        };
        match self.change_kernel(&new).await {
            Ok(installed) => {
                let mut in_force = self.in_force.borrow_mut();
                in_force.follow(new, installed);
                in_force.refused_mtu = None;
                self.plane.device().node().set_mtu(mtu);
                tracing::info!(mtu, "the tunnel's MTU follows its paths");
            }
            Err(stop) => {
                self.in_force.borrow_mut().refused_mtu = Some(mtu);
                tracing::warn!(
                    "the device keeps its MTU though the paths carry {mtu} bytes: {}",
                    stop.message
                );
            }
        }
    }
}
