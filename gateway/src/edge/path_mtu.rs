//! `mtu = "auto"`: the device and the rules follow the narrowest path to a peer.

use std::rc::Rc;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use policy::Mtu;
use policy::gateway::Policy;
use tokio::task::spawn_local;
use tunnel::node::MtuRange;

use super::Edge;
use super::blueprint::Blueprint;

/// Between which sizes to search, if the policy asks for it.
pub(super) fn range(policy: &Policy) -> Option<MtuRange> {
    let mut prefixes = policy.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let ipv6 = policy.interface.address.iter().any(IpNetwork::is_ipv6) || prefixes.any(IpNetwork::is_ipv6);
    (policy.interface.mtu == Mtu::Auto).then(|| MtuRange::new(ipv6))
}

impl Edge {
    /// The size that every searched path carries, once there is one.
    pub(super) fn found_mtu(&self) -> Option<u16> {
        self.device.node().peers(Self::now()).iter().filter_map(|peer| peer.path_mtu).min()
    }

    /// Brings the node in line with the policy in force.
    pub(super) fn search_path_mtu(&self) {
        let (range, mtu) = {
            let current = self.current.borrow();
            (range(&current.policy), current.blueprint.plan.routing.device.mtu)
        };
        self.device.node().set_mtu(mtu);
        self.device.node().search_path_mtu(range, Self::now());
    }

    /// Changes device and rules in the background when the paths carry another size than these are made for.
    pub fn follow_path_mtu(self: &Rc<Self>) {
        if self.due_mtu().is_some_and(|mtu| self.refused_mtu.get() != Some(mtu)) {
            let edge = Rc::clone(self);
            drop(spawn_local(async move { edge.change_mtu().await }));
        }
    }

    fn due_mtu(&self) -> Option<u16> {
        let current = self.current.borrow();
        let found = self.found_mtu().filter(|_| current.policy.interface.mtu == Mtu::Auto)?;
        (found != current.blueprint.plan.routing.device.mtu).then_some(found)
    }

    async fn change_mtu(&self) {
        let _turn = self.applying.lock().await;
        let Some(mtu) = self.due_mtu() else { return };
        let (old, new) = {
            let current = self.current.borrow();
            let conditions = {
                let in_force = current.blueprint.in_force();
                self.machine.borrow().conditions(&current.policy, Some(mtu), in_force)
            };
            let new = Blueprint::new(&current.policy, conditions);
            (Arc::clone(&current.blueprint), Arc::new(new))
        };
        match self.change_kernel(&new, &old).await {
            Ok((unwritable, fingerprint)) => {
                let mut current = self.current.borrow_mut();
                current.blueprint = new;
                (current.unwritable, current.fingerprint) = (unwritable, fingerprint);
                drop(current);
                self.refused_mtu.set(None);
                self.device.node().set_mtu(mtu);
                tracing::info!(mtu, "the tunnel's MTU follows its paths");
            }
            Err(stop) => {
                self.refused_mtu.set(Some(mtu));
                tracing::warn!(
                    "the device keeps its MTU though the paths carry {mtu} bytes: {}",
                    stop.message
                );
            }
        }
    }
}
