//! The data plane as the control thread changes and reads it: the device, its outer socket and the
//! `wg` socket.

mod dump;
mod offload;
mod outer;
mod self_test;
mod standby;
mod temporary;
mod wg;

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use daemon::peers::Interface;
use ipnetwork::IpNetwork;
use policy::Mtu;
use policy::gateway::Policy;
use tokio::sync::mpsc;
use tunnel::device::{Device, DeviceEvent, Threads};
use tunnel::io::clock;
use tunnel::io::tun::{Tun, TunOffload, is_gone};
use tunnel::io::udp::UdpSocket;
use tunnel::io::watchdog::end_process_soon;
use tunnel::key::PublicKey;
use tunnel::node::{MtuRange, Node, NodeConfig, PeerId, PeerStatus};
use tunnel::progress::Fault;
use tunnel::uapi::Configure as _;
use tunnel::uapi::server::Server;

use super::blocking::blocking;
use super::peers;
use crate::config::Config;
use crate::kernel::{Failure, FailureKind};
use crate::standby::Turn;
use crate::state::{Endpoints, State};
use dump::dump;
use offload::offloads;
use wg::WgDevice;

pub(super) use outer::Outer;
pub(super) use temporary::Came;

/// Events that may wait for the control thread; what does not fit is found by the next check at the
/// peers.
const EVENTS: usize = 1024;

/// The running data threads, and the sockets that lead to them.
pub(super) struct DataPlane {
    device: Arc<Device>,
    outer: Arc<Outer>,
    wg_socket: Server,
    /// The key of the temporary peer of a pairing.
    temporary: Cell<Option<PublicKey>>,
    /// The key of the latest temporary peer.
    last_temporary: Cell<Option<PublicKey>>,
    /// Whether the node has no key, since the other edge of the pair is active.
    is_silent: Cell<bool>,
    /// The edge's own key, which a silent node does not have.
    own: Cell<PublicKey>,
}

impl DataPlane {
    /// Starts the data threads on a device of this MTU, and the `wg` socket.
    ///
    /// # Errors
    /// When the device or a thread cannot be had.
    pub(super) fn start(
        config: &Config,
        (tun, socket, outer): (OwnedFd, UdpSocket, Outer),
        mtu: u16,
        state: &State,
    ) -> Result<(Self, mpsc::Receiver<DeviceEvent>), Failure> {
        let failed =
            |error: std::io::Error| Failure::new(FailureKind::Kernel, format!("the data plane: {error}"));
        let offloads = offloads(&config.policy);
        let tun = Tun::from_fd(tun, TunOffload { tcp: offloads.tun_tcp, udp: offloads.tun_udp });
        let tun = tun.map_err(failed)?;
        self_test::run(&tun, &config.policy)?;
        let shared = config.policy.standby.map(|standby| standby.address);
        socket.set_source(shared).map_err(failed)?;
        let node = Arc::new(Node::new(node_config(config, mtu, state), clock::now()));
        let (sender, events) = mpsc::channel(EVENTS);
        // A full channel loses no information: states and endpoints are read from the node again
        // every second.
        let on_event = {
            let sender = sender.clone();
            move |event| _ = sender.try_send(event)
        };
        let device = Device::start(Arc::clone(&node), tun, socket, offloads, Threads::Auto, on_event);
        let device = Arc::new(device.map_err(failed)?);
        device.watch(move |fault| end_after(fault, &sender)).map_err(failed)?;
        add_peers(&node, config, &state.endpoints())?;
        state.totals().give_back([&*node], clock::now());
        device.wake();
        let outer = Arc::new(outer);
        let wg = WgDevice { device: Arc::clone(&device), outer: Arc::clone(&outer) };
        let wg_socket = serve_wg(config.policy.interface.name.as_str(), wg)?;
        let (temporary, last_temporary) = (Cell::new(None), Cell::new(None));
        let own = Cell::new(config.keys.private.public());
        let is_silent = Cell::new(false);
        let plane = Self { device, outer, wg_socket, temporary, last_temporary, is_silent, own };
        if shared.is_some() {
            plane.turn(Turn::End, &config.keys.private);
        }
        Ok((plane, events))
    }

    /// The running device.
    pub(super) const fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The peers as they are, in no order; a temporary one is not among them.
    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let mut peers = self.device.node().peers(clock::now());
        peers.retain(|peer| Some(peer.public_key) != self.temporary());
        peers
    }

    /// The peer of this number, while there is one, a temporary one too.
    pub(super) fn peer(&self, id: PeerId) -> Option<PeerStatus> {
        self.device.node().peers(clock::now()).into_iter().find(|peer| peer.id == id)
    }

    /// The interface as it is.
    pub(super) fn interface(&self, name: &str, mtu: u16) -> Interface {
        Interface {
            name: name.to_owned(),
            public_key: Some(self.own.get().to_string()),
            listen_port: self.device.socket().local_port().unwrap_or(0),
            mtu: mtu.into(),
        }
    }

    /// The text of `wg show all dump` for the device of this name.
    pub(super) fn dump(&self, name: &str, show_keys: bool) -> String {
        let device = WgDevice { device: Arc::clone(&self.device), outer: Arc::clone(&self.outer) };
        let mut snapshot = device.snapshot();
        snapshot.peers.retain(|peer| Some(peer.public_key) != self.temporary());
        dump(name, &snapshot, show_keys)
    }

    /// That another program removed the `wg` socket, if one did.
    pub(super) fn wg_problem(&self) -> Option<String> {
        let path = self.wg_socket.path().display();
        (!self.wg_socket.is_reachable())
            .then(|| format!("another program removed {path}; restart the daemon to have `wg` work again"))
    }

    /// The size that every searched path carries, once there is one.
    pub(super) fn found_mtu(&self) -> Option<u16> {
        self.peers().iter().filter_map(|peer| peer.path_mtu).min()
    }

    /// Brings the node in line with a policy and the MTU of its device.
    pub(super) fn search_path_mtu(&self, policy: &Policy, mtu: u16) {
        self.device.node().set_mtu(mtu);
        self.device.node().search_path_mtu(search_range(policy), clock::now());
    }

    /// Opens a socket on the wanted port, if that is another than now; changes nothing.
    pub(super) async fn prepare_socket(&self, port: u16) -> Result<Option<UdpSocket>, Failure> {
        let (outer, device) = (Arc::clone(&self.outer), Arc::clone(&self.device));
        blocking(move || outer.prepare(&device, port)).await
    }

    /// Puts a prepared socket in place, with another mark; when that is refused, both are as
    /// before.
    pub(super) async fn move_socket(
        &self,
        socket: Option<UdpSocket>,
        mark: u32,
        old_mark: u32,
    ) -> Result<(), Failure> {
        let (outer, device) = (Arc::clone(&self.outer), Arc::clone(&self.device));
        blocking(move || {
            let before = device.socket();
            if let Some(socket) = socket {
                outer.put_in_place(&device, socket)?;
            }
            outer.change_mark(&device, mark).or_else(|failure| {
                let port = before.local_port().unwrap_or(0);
                drop(before);
                outer.change_port(&device, port)?;
                outer.change_mark(&device, old_mark)?;
                Err(failure)
            })
        })
        .await
    }

    /// Puts the outer socket back where the policy in force has it; what could not be put back.
    pub(super) async fn put_socket_back(&self, policy: &Policy) -> Option<String> {
        let (outer, device) = (Arc::clone(&self.outer), Arc::clone(&self.device));
        let (mark, port) = (policy.kernel.fwmark, policy.interface.listen_port);
        let back = blocking(move || {
            outer.change_mark(&device, mark).and_then(|()| outer.change_port(&device, port))
        });
        back.await.err().map(|failure| format!("the outer socket: {failure}"))
    }

    /// Gives the node what changed from the configuration in force to another; when its peers are
    /// refused, nothing changed.
    pub(super) fn change_node(&self, next: &Config, in_force: &Config) -> Result<(), String> {
        let (node, now) = (self.device.node(), clock::now());
        let own = next.keys.private.public();
        self.own.set(own);
        if !self.is_silent.get() && node.private_key().is_none_or(|key| key.public() != own) {
            node.set_private_key(Some(next.keys.private.clone()), now);
        }
        let upsert = peers::config::at_reload(&next.policy, &in_force.policy, &next.keys);
        let temporary = self.temporary_with(&next.policy);
        let remove = peers::config::superfluous(node, &next.policy, temporary, now);
        if let Err(error) = node.update_peers(&upsert, &remove, now) {
            self.own.set(in_force.keys.private.public());
            if !self.is_silent.get() {
                node.set_private_key(Some(in_force.keys.private.clone()), now);
            }
            return Err(refused_peers(&error));
        }
        self.temporary.set(temporary);
        node.set_addresses(next.policy.interface.address.iter().map(IpNetwork::ip).collect());
        if let Err(error) = self.device.set_offloads(offloads(&next.policy)) {
            tracing::info!(%error, "the kernel does not take the offloads; going on without");
        }
        Ok(())
    }

    /// The device of the data plane is no longer the tunnel's: makes it go away when the daemon
    /// ends, so that the next start creates another. Returns the reason.
    pub(super) fn give_up_device(&self, name: &str) -> String {
        match self.device.tun().set_persistent(false) {
            Ok(()) => {}
            // The data plane finds that as well, at the same time.
            Err(error) if is_gone(&error) => return "the TUN device was deleted".to_owned(),
            Err(error) => tracing::debug!(%error, "the device stays under its new name"),
        }
        format!("the device {name} was renamed, moved or replaced by another program")
    }
}

/// Gives the node the peers of the configuration.
fn add_peers(node: &Node, config: &Config, endpoints: &Endpoints) -> Result<(), Failure> {
    let first = peers::config::at_start(&config.policy, &config.keys, endpoints);
    node.update_peers(&first, &[], clock::now())
        .map_err(|error| Failure::new(FailureKind::Refused, refused_peers(&error)))?;
    node.search_path_mtu(search_range(&config.policy), clock::now());
    Ok(())
}

fn refused_peers(error: &dyn std::fmt::Display) -> String {
    format!("the peers of the configuration: {error}")
}

/// Between which sizes to search, if the policy asks for it; else the size to check.
fn search_range(policy: &Policy) -> Option<MtuRange> {
    if let Mtu::Fixed(mtu) = policy.interface.mtu {
        return MtuRange::fixed(mtu);
    }
    let mut prefixes = policy.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let ipv6 = policy.interface.address.iter().any(IpNetwork::is_ipv6) || prefixes.any(IpNetwork::is_ipv6);
    Some(MtuRange::new(ipv6))
}

fn serve_wg(name: &str, wg: WgDevice) -> Result<Server, Failure> {
    Server::start(name, Arc::new(wg)).map_err(|error| {
        let message =
            format!("/var/run/wireguard/{name}.sock: {error}; is another WireGuard of that name running?");
        Failure::new(FailureKind::Conflict, message)
    })
}

/// Makes the control thread end the daemon in good order; ends it directly if that thread cannot,
/// since it may wait for the stuck one.
fn end_after(fault: Fault, events: &mpsc::Sender<DeviceEvent>) {
    tracing::error!(
        "{fault}; the daemon ends, so that it is started again; rules, routes and device stay, closed"
    );
    // Full only when the control thread does not take events any more.
    let _ = events.try_send(DeviceEvent::ThreadFailed(fault));
    end_process_soon();
}

fn node_config(config: &Config, mtu: u16, state: &State) -> NodeConfig {
    let interface = &config.policy.interface;
    NodeConfig {
        // An edge of a pair is silent until it has looked whether it has the shared address.
        private_key: config.policy.standby.is_none().then(|| config.keys.private.clone()),
        addresses: interface.address.iter().map(IpNetwork::ip).collect(),
        mtu,
        listen_port: interface.listen_port,
        liveness: Some(daemon::peers::LIVENESS),
        wall_watermark: state.clock_mark().read(),
    }
}
