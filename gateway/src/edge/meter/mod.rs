//! What is measured for reports: rates, round trips, and what the kernel counted.

mod conntrack;
mod counters;
mod numbers;
mod reader;
mod services;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use daemon::metrics::{Number, RoundTrips};
use daemon::peers::{Peer, Peers};
use daemon::rates::Rates;
use tunnel::io::clock;
use tunnel::key::PublicKey;
use tunnel::node::{PeerState, PeerStatus};

use super::data_plane::DataPlane;
use super::in_force::InForce;
use crate::control::report::{SCHEMA, Service};

pub(super) use conntrack::conntrack_problem;
use conntrack::judge_conntrack;
pub(super) use counters::{Counters, parse_bans};
pub(super) use numbers::{ROLE, device_numbers, drop_numbers, io_numbers, leaked, service_numbers};
pub(super) use reader::{ConntrackFlows, Reader};
pub(super) use services::peers_of;

/// Between two readings of the round trips: there is a probe every five seconds.
const PROBES: Duration = Duration::from_millis(4_500);
/// Between two clearings of the histogram's intake, when there is no scrape.
const SETTLES: Duration = Duration::from_secs(300);
/// Bytes between two samples that are more than what keeps an idle tunnel alive.
const QUIET: u64 = 4_096;
/// How old the kernel's counters may be before they are read again.
const COUNTERS_MAX_AGE: Duration = Duration::from_secs(2);

/// The last measurements.
pub(super) struct Meter {
    started: Instant,
    rates: Rates,
    round_trips: RoundTrips,
    /// When round trips were last noted for the histogram, and when its intake was last cleared.
    trips_noted: Instant,
    trips_settled: Instant,
    kernel: KernelCounters,
}

/// What the kernel counted when it was last asked.
#[derive(Debug, Default)]
struct KernelCounters {
    read: Option<Instant>,
    named: Counters,
    flows: Option<ConntrackFlows>,
    /// Whether conntrack was nearly full then.
    is_nearly_full: bool,
}

impl Meter {
    /// Nothing is measured yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            rates: Rates::default(),
            round_trips: RoundTrips::new(ROLE),
            trips_noted: now,
            trips_settled: now,
            kernel: KernelCounters::default(),
        }
    }

    /// Seconds since the start.
    pub(super) fn uptime_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Takes a sample of every peer's counters, for the rates; every few seconds of its round trip
    /// too. Returns whether there was traffic since the last.
    pub(super) fn sample(&mut self, in_force: &InForce, plane: &DataPlane) -> bool {
        let peers = plane.peers();
        let bytes = peers.iter().map(|peer| (peer.public_key, (peer.rx_bytes, peer.tx_bytes)));
        let moved = self.rates.handle_sample(clock::instant(), bytes.collect());
        let now = Instant::now();
        if is_time(&mut self.trips_noted, now, PROBES) {
            for peer in peers.iter().filter(|peer| peer.state == PeerState::Up) {
                if let Some(rtt) = peer.rtt {
                    self.round_trips.record(&in_force.name_of(&peer.public_key), rtt.as_secs_f64());
                }
            }
        }
        if is_time(&mut self.trips_settled, now, SETTLES) {
            self.round_trips.settle();
        }
        moved > QUIET
    }

    /// Forgets the round trips so far: a peer that went must leave no series behind.
    pub(super) fn forget_round_trips(&mut self) {
        self.round_trips = RoundTrips::new(ROLE);
    }

    /// The part of the page for Prometheus that holds the round trips.
    pub(super) fn round_trips_page(&self) -> String {
        self.round_trips.page()
    }

    /// The peers with rates that are at most as old as a second.
    pub(super) fn peers(&mut self, in_force: &InForce, plane: &DataPlane) -> Peers {
        if self.rates.are_stale(clock::instant()) {
            self.sample(in_force, plane);
        }
        self.peers_as_sampled(in_force, plane)
    }

    /// The peers in the order of the configuration, then those that `wg set` added.
    pub(super) fn peers_as_sampled(&self, in_force: &InForce, plane: &DataPlane) -> Peers {
        let interface = plane.interface(in_force.policy().interface.name.as_str(), in_force.mtu());
        let now = clock::instant();
        let peer = |status: &PeerStatus| {
            let (name, rates) = (in_force.name_of(&status.public_key), self.rates.of(&status.public_key));
            Peer::of(status, name, interface.clone(), now, rates)
        };
        let peers = in_order(in_force, plane.peers()).iter().map(peer).collect();
        Peers { schema: SCHEMA, interface: Some(interface), peers }
    }

    /// The kernel's named counters while they are fresh, so that many scrapes cost one reading.
    pub(super) fn fresh_counters(&self, now: Instant) -> Option<&Counters> {
        let read = self.kernel.read.filter(|read| now.duration_since(*read) < COUNTERS_MAX_AGE);
        read.map(|_| &self.kernel.named)
    }

    /// The kernel's named counters as they were last read.
    pub(super) const fn last_counters(&self) -> &Counters {
        &self.kernel.named
    }

    /// Takes what the kernel counted, and how full conntrack is.
    pub(super) fn handle_counters(&mut self, now: Instant, named: Counters, flows: Option<ConntrackFlows>) {
        (self.kernel.read, self.kernel.named) = (Some(now), named);
        self.handle_flows(flows);
    }

    /// Takes how full conntrack is, and judges again whether it is nearly full.
    pub(super) fn handle_flows(&mut self, flows: Option<ConntrackFlows>) {
        self.kernel.is_nearly_full = judge_conntrack(self.kernel.is_nearly_full, flows);
        self.kernel.flows = flows;
    }

    /// The flows of a conntrack that is nearly full.
    pub(super) fn flows_if_nearly_full(&self) -> Option<ConntrackFlows> {
        self.kernel.flows.filter(|_| self.kernel.is_nearly_full)
    }

    /// What conntrack holds, for Prometheus.
    pub(super) fn numbers(&self) -> Vec<Number> {
        let Some(ConntrackFlows { held, most }) = self.kernel.flows else { return Vec::new() };
        vec![
            Number::count("gateway_nat_flows", "Flows that the kernel's conntrack follows.", held),
            Number::count("gateway_nat_flows_limit", "The most flows that conntrack will follow.", most),
        ]
    }
}

/// Whether so long has passed since this was last the case.
fn is_time(last: &mut Instant, now: Instant, after: Duration) -> bool {
    let is_time = now.duration_since(*last) >= after;
    if is_time {
        *last = now;
    }
    is_time
}

fn in_order(in_force: &InForce, mut statuses: Vec<PeerStatus>) -> Vec<PeerStatus> {
    let peers = in_force.policy().peers.iter().enumerate();
    let places: BTreeMap<_, _> = peers.map(|(place, peer)| (*peer.public_key.as_bytes(), place)).collect();
    let place = |key: &PublicKey| places.get(key.as_bytes()).copied().unwrap_or(usize::MAX);
    statuses.sort_by_key(|status| place(&status.public_key));
    statuses
}

/// Published ports and private flows with what they carried.
pub(super) fn services(in_force: &InForce, peers: &[PeerStatus], counters: &Counters) -> Vec<Service> {
    let state = |peer: &PeerStatus| (in_force.name_of(&peer.public_key), peer.state.label());
    let states = peers.iter().map(state).collect();
    let marks = in_force.ruleset().services.iter();
    marks.filter_map(|mark| services::service(in_force.served(), mark, &states, counters)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_again_when_they_are_two_seconds_old_and_the_last_ones_stay_until_then() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        assert_eq!(meter.fresh_counters(start), None);
        let named = Counters::from([("drop_input_wan".to_owned(), (180, 3))]);
        meter.handle_counters(start, named.clone(), None);
        assert_eq!(meter.fresh_counters(start + COUNTERS_MAX_AGE / 2), Some(&named));
        assert_eq!(meter.fresh_counters(start + COUNTERS_MAX_AGE), None);
        assert_eq!(meter.last_counters(), &named);
    }

    #[test]
    fn conntrack_is_nearly_full_until_a_reading_has_room_again_and_one_without_numbers_changes_nothing() {
        let mut meter = Meter::new(Instant::now());
        let mut nearly_full = |flows| {
            meter.handle_flows(flows);
            (meter.flows_if_nearly_full().is_some(), meter.numbers().len())
        };
        let held = |held| Some(ConntrackFlows { held, most: 1_000 });
        assert_eq!(nearly_full(held(100)), (false, 2));
        assert_eq!(nearly_full(held(900)), (true, 2));
        assert_eq!(nearly_full(None), (false, 0), "how full it is is not known");
        assert_eq!(nearly_full(held(750)), (true, 2), "it was nearly full when it was last known");
        assert_eq!(nearly_full(held(100)), (false, 2));
    }

    #[test]
    fn what_is_due_is_due_once_after_its_time() {
        let start = Instant::now();
        let mut last = start;
        assert!(!is_time(&mut last, start + PROBES / 2, PROBES));
        assert!(is_time(&mut last, start + PROBES, PROBES));
        assert!(!is_time(&mut last, start + PROBES, PROBES));
    }
}
