//! From a configuration to a running edge.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, mpsc};
use tunnel::device::{Device, DeviceEvent, Offloads, Threads};
use tunnel::io::tun::{Tun, TunOffload};
use tunnel::io::udp::UdpSocket;
use tunnel::io::watchdog::end_process_soon;
use tunnel::node::{Node, NodeConfig};
use tunnel::progress::Fault;
use tunnel::uapi::server::Server;

use daemon::metrics::RoundTrips;

use super::blueprint::{Blueprint, Unwritable};
use super::lasting::Lasting;
use super::machine::{self, Machine};
use super::observe::ROLE;
use super::outer::Outer;
use super::wg::WgDevice;
use super::{Current, Edge, path_check, path_mtu, peers, self_test};
use crate::config::Config;
use crate::kernel::{Failure, FailureKind, Helper, Listing, Request, Scope};
use crate::state::{Endpoints, State};
use daemon::changes::Confirmable;
use policy::Switch;
use policy::gateway::Policy;
use policy::ruleset::marks_in_force;

/// Events that may wait for the control thread; what does not fit is found by the next look at the peers.
const EVENTS: usize = 1024;

/// What the data plane works with, acquired before anything in the kernel but the device is
/// changed.
pub struct Resources {
    tun: OwnedFd,
    socket: UdpSocket,
    outer: Outer,
    blueprint: Blueprint,
    machine: Machine,
    unwritable: Vec<Unwritable>,
    fingerprint: Option<u64>,
}

/// Opens socket and device and puts the policy into the kernel, closed first and open last.
///
/// Everything that can refuse without a change is asked first: the port, the ruleset, the device.
///
/// # Errors
/// [`FailureKind::Conflict`] when the port or the device is taken, [`FailureKind::Ruleset`] when `nft` refuses.
pub fn acquire(config: &Config, helper: &Helper, state: &State) -> Result<Resources, Failure> {
    let policy = &config.policy;
    // An unconfirmed change may ask for more than the file did when the helper got its scope.
    helper.cover(&Scope::of(policy, &config.path))?;
    let outer = Outer::new(helper.clone(), policy.kernel.fwmark);
    let socket = outer.open(policy.interface.listen_port)?;
    let mut machine = Machine::at_apply(policy, Machine::read(policy)?, &state.pins());
    machine.resolve(policy, helper);
    let marks = marks_in_force(&helper.list(Listing::Table)?);
    let blueprint = Blueprint::new(policy, machine.conditions(policy, None, (&marks, &[])));
    blueprint.check(helper)?;
    let tun = helper.open(&Request::OpenTun)?;
    let unwritable = blueprint.apply(helper, state)?;
    let fingerprint = Blueprint::fingerprint(helper)?;
    Ok(Resources { tun, socket, outer, blueprint, machine, unwritable, fingerprint })
}

impl Edge {
    /// Starts the data threads and the `wg` socket.
    ///
    /// # Errors
    /// When the device or a thread cannot be had.
    pub fn start(
        config: Config,
        resources: Resources,
        helper: Helper,
        state: State,
        confirmable: Confirmable,
    ) -> Result<(Self, mpsc::Receiver<DeviceEvent>), Failure> {
        let failed =
            |error: std::io::Error| Failure::new(FailureKind::Kernel, format!("the data plane: {error}"));
        let offloads = offloads(&config.policy);
        let tun = Tun::from_fd(resources.tun, TunOffload { tcp: offloads.tun_tcp, udp: offloads.tun_udp });
        let tun = tun.map_err(failed)?;
        self_test::run(&tun, &config.policy)?;
        let node = Arc::new(Node::new(node_config(&config, &resources.blueprint, &state), Self::now()));
        let (sender, events) = mpsc::channel(EVENTS);
        // A full channel loses no fact: states and endpoints are read from the node again every second.
        let on_event = {
            let sender = sender.clone();
            move |event| _ = sender.try_send(event)
        };
        let device =
            Device::start(Arc::clone(&node), tun, resources.socket, offloads, Threads::Auto, on_event);
        let device = Arc::new(device.map_err(failed)?);
        device.watch(move |fault| end_after(fault, &sender)).map_err(failed)?;
        let endpoints = state.endpoints();
        add_peers(&node, &config, &endpoints)?;
        device.wake();
        let outer = Arc::new(resources.outer);
        let wg = WgDevice { device: Arc::clone(&device), outer: Arc::clone(&outer) };
        let wg_socket = serve_wg(config.policy.interface.name.as_str(), wg)?;
        let edge = Self {
            helper,
            state,
            device,
            outer,
            wg_socket,
            config_path: config.path,
            started: Instant::now(),
            current: RefCell::new(Current {
                text: config.text,
                policy: config.policy,
                keys: config.keys,
                blueprint: Arc::new(resources.blueprint),
                unwritable: resources.unwritable,
                fingerprint: resources.fingerprint,
            }),
            machine: RefCell::default(),
            path_faults: RefCell::new(Lasting::new(path_check::LEAST)),
            remarks: RefCell::new(Lasting::new(machine::SETTLED)),
            rates: RefCell::default(),
            refused_mtu: Cell::new(None),
            round_trips: RefCell::new(RoundTrips::new(ROLE)),
            trips_noted: Cell::new(Instant::now()),
            trips_settled: Cell::new(Instant::now()),
            contention: RefCell::default(),
            failing: RefCell::default(),
            wakeup: Arc::new(Notify::new()),
            reading: Arc::new(Semaphore::new(1)),
            calls: RefCell::default(),
            kernel_counters: RefCell::default(),
            endpoints: RefCell::new(endpoints),
            names: RefCell::default(),
            endpoints_noted: Cell::new(false),
            generation: Cell::new(1),
            failed_applies: Cell::new(0),
            last_apply_ok: Cell::new(true),
            not_taken: RefCell::default(),
            warned: RefCell::default(),
            confirmable,
            applying: tokio::sync::Mutex::new(()),
        };
        edge.adopt_machine(resources.machine);
        edge.warn_of_unwritable();
        edge.log_kernel_features();
        Ok((edge, events))
    }
}

/// Gives the node the peers of the configuration.
fn add_peers(node: &Node, config: &Config, endpoints: &Endpoints) -> Result<(), Failure> {
    let first = peers::at_start(&config.policy, &config.keys, endpoints);
    node.update_peers(&first, &[], Edge::now()).map_err(|error| {
        Failure::new(FailureKind::Refused, format!("the peers of the configuration: {error}"))
    })?;
    node.search_path_mtu(path_mtu::range(&config.policy), Edge::now());
    Ok(())
}

fn serve_wg(name: &str, wg: WgDevice) -> Result<Server, Failure> {
    Server::start(name, Arc::new(wg)).map_err(|error| {
        let message =
            format!("/var/run/wireguard/{name}.sock: {error}; is another WireGuard of that name running?");
        Failure::new(FailureKind::Conflict, message)
    })
}

/// Has the control thread end the daemon in good order, or ends it when that thread cannot: it may wait for the stuck one.
fn end_after(fault: Fault, events: &mpsc::Sender<DeviceEvent>) {
    tracing::error!(
        "{fault}; the daemon ends, so that it is started again; rules, routes and device stay, closed"
    );
    // Full only when the control thread does not take events any more.
    let _ = events.try_send(DeviceEvent::ThreadFailed(fault));
    end_process_soon();
}

fn node_config(config: &Config, blueprint: &Blueprint, state: &State) -> NodeConfig {
    let interface = &config.policy.interface;
    NodeConfig {
        private_key: Some(config.keys.private.clone()),
        addresses: interface.address.iter().map(ipnetwork::IpNetwork::ip).collect(),
        mtu: blueprint.plan.routing.device.mtu,
        listen_port: interface.listen_port,
        liveness: Some(daemon::peers::LIVENESS),
        wall_watermark: state.clock_mark().read(),
    }
}

pub(super) fn offloads(policy: &Policy) -> Offloads {
    let on = |switch: Switch| switch == Switch::Auto;
    let offload = &policy.offload;
    Offloads {
        tun_tcp: on(offload.tun_gso),
        tun_udp: on(offload.tun_gso) && on(offload.tun_gro),
        udp_gso: on(offload.udp_gso),
        udp_gro: on(offload.udp_gro),
        busy_poll: on(offload.busy_poll),
    }
}
