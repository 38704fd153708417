//! From a configuration to a running edge.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use daemon::changes::Confirmable;
use daemon::http::Requests;
use policy::gateway::Policy;
use policy::plan::Conditions;
use policy::ruleset::{ServiceMark, marks_in_force};
use tokio::sync::mpsc;
use tunnel::device::DeviceEvent;
use tunnel::io::udp::UdpSocket;

use super::Edge;
use super::data_plane::{DataPlane, Outer};
use super::health::Health;
use super::in_force::{Blueprint, Granting, InForce, Installed, Installer};
use super::links::{EdgeLinks, Listening};
use super::machine::Machine;
use super::meter::{Meter, Reader};
use super::past::Past;
use super::peers::Peers;
use super::probes::Probing;
use super::standby::Standby;
use super::status::{warn_of_problems, went_back};
use super::watch::Watch;
use crate::config::Config;
use crate::foreign;
use crate::kernel::{Failure, FailureKind, Helper, Listing, Request, Scope};
use crate::listening::listeners;
use crate::state::State;

/// What the data plane works with, acquired before anything in the kernel but the device is
/// changed.
pub struct Resources {
    tun: OwnedFd,
    socket: UdpSocket,
    outer: Outer,
    blueprint: Blueprint,
    machine: Machine,
    installed: Installed,
    listening: Listening,
    grants: Granting,
}

/// Opens socket and device and puts the policy into the kernel, closed first and open last.
///
/// Everything that can refuse without a change is asked first: the port, the ruleset, the device.
///
/// # Errors
/// [`Conflict`](crate::kernel::FailureKind::Conflict) when the port or the device is taken,
/// [`Ruleset`](crate::kernel::FailureKind::Ruleset) when `nft` refuses.
pub fn acquire(config: &Config, helper: &Helper, state: &State) -> Result<Resources, Failure> {
    let policy = &config.policy;
    // An unconfirmed change may ask for more than the file did when the helper got its scope.
    helper.cover(&Scope::of(policy, &config.path))?;
    let outer = Outer::new(helper.clone(), policy.kernel.fwmark);
    let socket = outer.open(policy.interface.listen_port)?;
    let mut machine = Machine::at_apply(policy, Machine::read(policy)?, &state.pins());
    machine.resolve(policy, helper);
    let (grants, mut marks) = kept_grants(policy, helper, state);
    marks.extend(marks_in_force(&helper.list(Listing::Table)?));
    // Before the rules: they open the link's port exactly where the daemon has the socket.
    let listening = Listening::bind(policy);
    let conditions = machine.conditions(policy, None, (&marks, &[]));
    let conditions = Conditions { link: listening.sockets(), ..conditions };
    let (grants, blueprint) = checked(policy, helper, grants, conditions)?;
    let tun = helper.open(&Request::OpenTun)?;
    let unwritable = blueprint.apply(helper, state)?;
    let installed = Installed { unwritable, fingerprint: Blueprint::fingerprint(helper)? };
    Ok(Resources { tun, socket, outer, blueprint, machine, installed, listening, grants })
}

/// What peers had requested before this start, and the marks of what they were granted.
fn kept_grants(policy: &Policy, helper: &Helper, state: &State) -> (Granting, Vec<ServiceMark>) {
    let (requests, marks) = state.grants(policy.kernel.ct_mark);
    let mut grants = Granting::new(requests);
    if grants.is_needed() {
        let redirected = helper.list(Listing::Ruleset).map(|listing| foreign::redirected_ports(&listing));
        grants.handle_look(listeners(), redirected.ok());
    }
    (grants, marks)
}

/// The first blueprint, which the kernel would take; without what peers publish when it is refused
/// with it.
fn checked(
    policy: &Policy,
    helper: &Helper,
    mut grants: Granting,
    conditions: Conditions,
) -> Result<(Granting, Blueprint), Failure> {
    let whole = Blueprint::new(grants.judge(policy), conditions.clone());
    match whole.check(helper) {
        Ok(()) => Ok((grants, whole)),
        Err(refused) if whole.has_grants() => {
            grants.leave_out(true);
            let bare = Blueprint::new(grants.judge(policy), conditions);
            bare.check(helper)?;
            tracing::warn!("the ports that peers publish by themselves are closed: {refused}");
            Ok((grants, bare))
        }
        Err(refused) => Err(refused),
    }
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
        let Resources { tun, socket, outer, blueprint, machine, installed, listening, mut grants } =
            resources;
        grants.handle_in_force(&blueprint.judged);
        let endpoints = state.endpoints();
        let failed = went_back(&config.policy).map(|noted| noted.failed);
        let random = |error: std::io::Error| Failure::new(FailureKind::Kernel, error.to_string());
        let history = state.history();
        let links = Rc::new(EdgeLinks::new(&config, listening, history.clone()).map_err(random)?);
        let mut in_force = InForce::new(Arc::new(config), Arc::new(blueprint), installed, grants);
        in_force.link = links.sockets();
        let parts = (tun, socket, outer);
        let (plane, events) = DataPlane::start(in_force.config(), parts, in_force.mtu(), &state)?;
        machine.keep_pins(&state);
        let standby = Standby::at_start(in_force.policy().standby);
        let edge = Self {
            config_path: in_force.config().path.clone(),
            installer: Installer::new(helper.clone(), state.clone()),
            reader: Reader::new(helper.clone()),
            helper,
            state,
            plane,
            links,
            pairing: Rc::default(),
            probing: Probing::default(),
            health: Health::new(),
            peers: Rc::new(RefCell::new(Peers::new(in_force.policy(), endpoints))),
            in_force: RefCell::new(in_force),
            watch: RefCell::new(Watch::new(machine)),
            meter: RefCell::new(Meter::new(Instant::now())),
            confirmable: confirmable.noted_in(history.clone()),
            past: Past::new(history, failed),
            standby,
            page_requests: Requests::default(),
            applying: tokio::sync::Mutex::new(()),
        };
        warn_of_problems(&edge.in_force.borrow(), &edge.watch.borrow(), &edge.plane);
        edge.plane.log_kernel_features(&edge.config().policy);
        Ok((edge, events))
    }
}
