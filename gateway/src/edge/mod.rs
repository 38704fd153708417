//! The running edge: the data plane, the kernel helper and the policy in force, seen from the control thread.

mod apply;
mod blocking;
pub mod blueprint;
mod changes;
mod counters;
mod dump;
mod events;
mod failing;
mod fingerprint;
mod flows;
mod lasting;
pub mod machine;
mod observe;
mod offload;
mod outer;
mod path_check;
mod path_mtu;
pub mod peers;
mod reconcile;
mod refused;
mod reload;
mod room;
mod self_test;
mod services;
mod start;
mod status;
mod undone;
mod wg;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use policy::gateway::Policy;
use tokio::sync::{Notify, Semaphore};
use tunnel::device::{CallLog, Device};
use tunnel::io::clock;
use tunnel::time::Now;
use tunnel::uapi;

use crate::config::Keys;
use crate::kernel::Helper;
use crate::state::{Endpoints, State};
use blueprint::{Blueprint, Unwritable};
use counters::Counters;
use daemon::changes::Confirmable;
use daemon::endpoint_name::EndpointName;
use daemon::metrics::RoundTrips;
use daemon::rates::Rates;
use failing::Failing;
use lasting::Lasting;
use machine::Machine;
use outer::Outer;
use reconcile::Contention;

pub use apply::resume;
pub use start::{Resources, acquire};

/// The running edge. It lives on the control thread alone; what other threads need is shared by `Arc`.
pub struct Edge {
    helper: Helper,
    state: State,
    device: Arc<Device>,
    outer: Arc<Outer>,
    wg_socket: uapi::server::Server,
    config_path: PathBuf,
    started: Instant,
    current: RefCell<Current>,
    machine: RefCell<Machine>,
    /// Ways of packets that lead elsewhere than they must, as of the last look.
    path_faults: RefCell<Lasting>,
    remarks: RefCell<Lasting>,
    rates: RefCell<Rates>,
    /// An MTU of the paths that the kernel did not take.
    refused_mtu: Cell<Option<u16>>,
    round_trips: RefCell<RoundTrips>,
    /// When round trips were last noted for the histogram, and when its intake was last cleared.
    trips_noted: Cell<Instant>,
    trips_settled: Cell<Instant>,
    contention: RefCell<Contention>,
    /// Looks at the kernel that failed.
    failing: RefCell<Failing>,
    /// Starts the next look at the kernel at once.
    wakeup: Arc<Notify>,
    /// The turn of what reads from the kernel for a report.
    reading: Arc<Semaphore>,
    /// Which calls of the data threads keep failing.
    calls: RefCell<CallLog>,
    kernel_counters: RefCell<KernelCounters>,
    /// The endpoints as they are in the state folder.
    endpoints: RefCell<Endpoints>,
    /// Endpoints that are names in the configuration, by the peer's key.
    names: RefCell<BTreeMap<policy::PublicKey, EndpointName>>,
    /// Whether they were written since the last tick.
    endpoints_noted: Cell<bool>,
    generation: Cell<u64>,
    failed_applies: Cell<u64>,
    last_apply_ok: Cell<bool>,
    /// Why the file was not taken when it was last read again.
    not_taken: RefCell<Option<String>>,
    /// Refused handshakes that were warned of.
    warned: RefCell<refused::Warned>,
    /// Changes that wait for their confirmation.
    confirmable: Confirmable,
    /// Serializes applies: two at once would judge each other's half-done work.
    applying: tokio::sync::Mutex<()>,
}

/// What the kernel counted when it was last asked.
#[derive(Clone, Debug, Default)]
struct KernelCounters {
    read: Option<Instant>,
    named: Counters,
    /// Flows that conntrack follows, and the most it will.
    flows: Option<(u64, u64)>,
    /// Whether it was nearly full then.
    is_crowded: bool,
}

/// The configuration in force.
struct Current {
    text: String,
    policy: Policy,
    keys: Keys,
    blueprint: Arc<Blueprint>,
    unwritable: Vec<Unwritable>,
    /// Of the table as we made it.
    fingerprint: Option<u64>,
}

impl Edge {
    /// Whether the configuration file is applied whenever it changes.
    #[must_use]
    pub fn is_file_watched(&self) -> bool {
        self.current.borrow().policy.watch
    }

    /// Whether something is to be looked at every second: a file, or the time of a change that waits to be confirmed.
    #[must_use]
    pub fn needs_seconds(&self) -> bool {
        self.is_file_watched() || self.confirmable.is_waiting()
    }

    /// Why the daemon is of no use any more: the helper or a data thread ended, or is stuck.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let helper = self.helper.fault().map(|fault| format!("the kernel helper is lost: {fault}"));
        helper.or_else(|| (!self.device.is_healthy()).then(|| "a data thread ended".to_owned()))
    }

    /// Says so when calls of the data threads keep failing, and when they work again.
    pub fn look_at_calls(&self) {
        self.calls.borrow_mut().check(&self.device, clock::instant());
    }

    /// The addresses that metrics are to be served on.
    #[must_use]
    pub fn metrics_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.current.borrow().policy.metrics.listen.clone()
    }

    /// The names under which metrics may be asked for.
    #[must_use]
    pub fn metrics_hosts(&self) -> Vec<policy::Host> {
        self.current.borrow().policy.metrics.hosts.clone()
    }

    fn now() -> Now {
        clock::now()
    }
}
