//! What the edge reports: to `gatewayctl`, and to Prometheus.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tunnel::device::DeviceStats;
use tunnel::io::clock;
use tunnel::node::{PeerState, PeerStatus};
use tunnel::reason::DropReason;

use super::counters::{Counters, parse_bans, parse_counters};
use super::dump::dump;
use super::room::judge_room;
use super::services::{service, service_counters};
use super::wg::WgDevice;
use super::{Edge, KernelCounters};
use crate::control::report::{Bans, Interface, Peer, Peers, SCHEMA, Services};
use crate::kernel::{Failure, FailureKind, Listing};
use crate::metrics::{self, Number, PeerCounters, Snapshot};

/// Between two looks at the round trips: there is a probe every five seconds.
const PROBES: Duration = Duration::from_millis(4_500);
/// Between two clearings of the histogram's intake, when nobody scrapes.
const SETTLES: Duration = Duration::from_secs(300);
/// Bytes between two samples that are more than what keeps an idle tunnel alive.
const QUIET: u64 = 4_096;
/// Switches that tell how many flows conntrack follows, and the most it will.
const FLOWS: [&str; 2] = ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"];

/// How long a report waits for what it reads from the kernel.
const READING: Duration = Duration::from_secs(5);
/// How old the kernel's counters may be before they are read again.
const COUNTERS_LIFE: Duration = Duration::from_secs(2);

/// Whether so long has passed since this was last said.
fn is_time(last: &Cell<Instant>, after: Duration) -> bool {
    let is_time = last.get().elapsed() >= after;
    if is_time {
        last.set(Instant::now());
    }
    is_time
}

impl Edge {
    /// Takes a sample of every peer's counters, for the rates; every few seconds of its round trip too. Returns whether
    /// there was traffic since the last.
    pub fn sample(&self) -> bool {
        let now = Self::now();
        let peers = self.device.node().peers(now);
        let bytes = peers.iter().map(|peer| (peer.public_key, (peer.rx_bytes, peer.tx_bytes)));
        let moved = self.rates.borrow_mut().handle_sample(now.instant, bytes.collect());
        let trips = self.round_trips.borrow();
        if is_time(&self.trips_noted, PROBES) {
            for peer in peers.iter().filter(|peer| peer.state == PeerState::Up) {
                if let Some(rtt) = peer.rtt {
                    trips.record(&self.name_of(&peer.public_key), rtt.as_secs_f64());
                }
            }
        }
        if is_time(&self.trips_settled, SETTLES) {
            trips.settle();
        }
        moved > QUIET
    }

    /// The peers in the order of the configuration, then those that `wg set` added.
    #[must_use]
    pub fn peers(&self) -> Peers {
        if self.rates.borrow().are_stale(clock::instant()) {
            self.sample();
        }
        let ordered = self.ordered();
        Peers {
            schema: SCHEMA,
            interface: self.interface(),
            peers: ordered.iter().map(|status| self.peer(status)).collect(),
        }
    }

    fn ordered(&self) -> Vec<PeerStatus> {
        let mut statuses = self.device.node().peers(Self::now());
        let current = self.current.borrow();
        let places: BTreeMap<_, _> = current
            .policy
            .peers
            .iter()
            .enumerate()
            .map(|(place, peer)| (*peer.public_key.as_bytes(), place))
            .collect();
        statuses
            .sort_by_key(|status| places.get(status.public_key.as_bytes()).copied().unwrap_or(usize::MAX));
        statuses
    }

    fn interface(&self) -> Interface {
        let current = self.current.borrow();
        Interface {
            name: current.policy.interface.name.to_string(),
            public_key: self.device.node().private_key().map(|key| key.public().to_string()),
            listen_port: self.device.socket().local_port().unwrap_or(0),
            mtu: current.blueprint.plan.routing.device.mtu.into(),
        }
    }

    fn peer(&self, status: &PeerStatus) -> Peer {
        let now = Self::now().instant;
        let (rx, tx) = self.rates.borrow().of(&status.public_key);
        Peer {
            name: self.name_of(&status.public_key),
            public_key: status.public_key.to_string(),
            endpoint: status.endpoint.map(|endpoint| endpoint.remote),
            allowed_ips: status.allowed_ips.clone(),
            state: status.state.label().to_owned(),
            latest_handshake_age_seconds: status
                .latest_handshake
                .map(|handshake| now.since(handshake.instant).as_secs_f64()),
            persistent_keepalive_seconds: status.keepalive.map(|keepalive| keepalive.as_secs()),
            rx_bytes: status.rx_bytes,
            tx_bytes: status.tx_bytes,
            rx_bytes_per_second: rx,
            tx_bytes_per_second: tx,
            rtt_seconds: status.rtt.map(|rtt| rtt.as_secs_f64()),
            loss_ratio: status.loss_ratio,
            path_mtu_bytes: status.path_mtu,
        }
    }

    /// The text of `wg show all dump`.
    #[must_use]
    pub fn dump(&self, show_keys: bool) -> String {
        use tunnel::uapi::Configure as _;
        let device = WgDevice { device: self.device.clone(), outer: self.outer.clone() };
        dump(self.current.borrow().policy.interface.name.as_str(), &device.snapshot(), show_keys)
    }

    /// Published ports and private flows with what they carried.
    pub async fn services(&self) -> Result<Services, Failure> {
        let counters = self.read_counters().await?.unwrap_or_default();
        let states = self.states();
        let current = self.current.borrow();
        let services = current.blueprint.plan.ruleset.services.iter();
        let services =
            services.filter_map(|mark| service(&current.policy, mark, &states, &counters)).collect();
        Ok(Services { schema: SCHEMA, services })
    }

    /// Banned sources.
    pub async fn bans(&self) -> Result<Bans, Failure> {
        let mut bans = Vec::new();
        for what in [Listing::Bans4, Listing::Bans6] {
            let helper = self.helper.clone();
            bans.extend(parse_bans(&blocking(move || helper.list(what)).await?));
        }
        Ok(Bans { schema: SCHEMA, bans })
    }

    /// The page that Prometheus reads.
    pub async fn metrics_page(&self) -> String {
        let read = self.read_counters().await.unwrap_or_else(|failure| {
            tracing::debug!(%failure, "the kernel's counters cannot be read; the last ones are shown");
            None
        });
        let counters = read.unwrap_or_else(|| self.kernel_counters.borrow().named.clone());
        metrics::page(&self.snapshot(&counters)) + &self.round_trips.borrow().page()
    }

    fn snapshot(&self, counters: &Counters) -> Snapshot {
        let ordered = self.ordered();
        let peers = Peers {
            schema: SCHEMA,
            interface: self.interface(),
            peers: ordered.iter().map(|status| self.peer(status)).collect(),
        };
        let states = self.states();
        let current = self.current.borrow();
        let services = current.blueprint.plan.ruleset.services.iter();
        let services = services.filter_map(|mark| service(&current.policy, mark, &states, counters));
        Snapshot {
            peers: Some(peers),
            counters: ordered.iter().map(peer_counters).collect(),
            services: services.map(service_counters).collect(),
            drops: self.drops(counters),
            offloads: metrics::OffloadPath::all(&self.device).to_vec(),
            calls: metrics::Calls::all(&self.device).to_vec(),
            leaked_packets: self.leaked(counters),
            numbers: self.numbers(),
        }
    }

    fn drops(&self, counters: &Counters) -> Vec<metrics::Drop> {
        let node = self.device.node();
        let of_node = DropReason::ALL.iter().map(|&reason| metrics::Drop {
            stage: reason.stage().to_owned(),
            reason: reason.label().to_owned(),
            packets: node.dropped(reason),
        });
        let current = self.current.borrow();
        let of_kernel = current.blueprint.plan.ruleset.drops.iter().map(|drop| metrics::Drop {
            stage: drop.stage.to_owned(),
            reason: drop.reason.to_owned(),
            packets: counters.get(&drop.counter()).map_or(0, |counter| counter.1),
        });
        let (tun, socket) = (self.device.tun().stats(), self.device.socket());
        socket.sample_queue_drops();
        let of_io = [
            ("tun", "write_refused", tun.write_errors.read()),
            ("tun", "bad_header", tun.bad_headers.read()),
            ("receive", "too_long", socket.stats().receive_truncated.read()),
            ("send", "refused", socket.stats().send_errors.read()),
            ("receive", "socket_buffer_full", socket.stats().receive_queue_drops.read()),
        ];
        let of_io = of_io.into_iter().map(|(stage, reason, packets)| metrics::Drop {
            stage: stage.to_owned(),
            reason: reason.to_owned(),
            packets,
        });
        of_node.chain(of_kernel).chain(of_io).collect()
    }

    pub(super) fn leaked(&self, counters: &Counters) -> u64 {
        let current = self.current.borrow();
        let leaks = current.blueprint.plan.ruleset.drops.iter().filter(|drop| drop.reason == "leak");
        leaks.filter_map(|drop| counters.get(&drop.counter())).map(|counter| counter.1).sum()
    }

    /// What looks at the kernel found and did.
    fn repair_numbers(&self) -> [Number; 4] {
        [
            Number::counter(
                "gateway_reconcile_repairs_total",
                "Times that rules, routes or switches changed by somebody else were put back.",
                self.fight.borrow().total,
            ),
            Number::gauge(
                "gateway_reconcile_fought",
                "Whether somebody keeps changing what the edge needs.",
                f64::from(u8::from(self.fight.borrow().is_on)),
            ),
            Number::counter(
                "gateway_reconcile_failures_total",
                "Looks at rules, routes and switches, or repairs of them, that failed.",
                self.failing.borrow().total,
            ),
            Number::gauge(
                "gateway_reconcile_failing",
                "Whether rules, routes and switches cannot be looked at or put back.",
                f64::from(u8::from(self.failing.borrow().is_on())),
            ),
        ]
    }

    fn numbers(&self) -> Vec<Number> {
        let ok = f64::from(u8::from(self.last_apply_ok.get()));
        #[expect(clippy::cast_precision_loss, reason = "a count of switches")]
        let unwritable = self.current.borrow().unwritable.len() as f64;
        let mut numbers = vec![
            Number::gauge(
                "gateway_up",
                "Whether the daemon's threads and its helper run.",
                f64::from(u8::from(self.fault().is_none())),
            ),
            Number::gauge(
                "gateway_config_last_apply_success",
                "Whether the last configuration was applied.",
                ok,
            ),
            Number::counter(
                "gateway_config_applies_total",
                "Configurations applied since the start.",
                self.generation.get(),
            ),
            Number::counter(
                "gateway_config_failed_applies_total",
                "Configurations refused or taken back since the start.",
                self.failed_applies.get(),
            ),
            Number::gauge(
                "gateway_kernel_unwritable_switches",
                "Switches under /proc/sys that could not be set.",
                unwritable,
            ),
            Number::counter(
                "gateway_events_lost_total",
                "Events of the data plane that nobody took in time.",
                self.device.node().events_dropped(),
            ),
        ];
        numbers.extend(self.repair_numbers());
        if let Some((flows, limit)) = self.kernel_counters.borrow().flows {
            #[expect(clippy::cast_precision_loss, reason = "conntrack holds far fewer than 2^53")]
            let (flows, limit) = (flows as f64, limit as f64);
            numbers.push(Number::gauge(
                "gateway_nat_flows",
                "Flows that the kernel's conntrack follows.",
                flows,
            ));
            numbers.push(Number::gauge(
                "gateway_nat_flows_limit",
                "The most flows that conntrack will follow.",
                limit,
            ));
        }
        numbers.extend(device_numbers(self.device.stats()));
        numbers
    }

    fn states(&self) -> BTreeMap<String, &'static str> {
        let peers = self.device.node().peers(Self::now());
        peers.iter().map(|peer| (self.name_of(&peer.public_key), peer.state.label())).collect()
    }

    /// The kernel's named counters, at most [`COUNTERS_LIFE`] old: many scrapes cost one reading. `None` when there is no
    /// table.
    pub(super) async fn read_counters(&self) -> Result<Option<Counters>, Failure> {
        {
            let last = self.kernel_counters.borrow();
            if last.read.is_some_and(|read| read.elapsed() < COUNTERS_LIFE) {
                return Ok(Some(last.named.clone()));
            }
        }
        let helper = self.helper.clone();
        let read = self.read_kernel(move || {
            let flows = helper.read_sysctls(FLOWS.map(str::to_owned).to_vec())?;
            Ok((helper.list(Listing::Counters)?, flows))
        });
        let (listing, flows) = read.await?;
        if listing.is_empty() {
            return Ok(None);
        }
        let mut flows = flows.into_iter().map(|value| value?.parse().ok());
        let flows = flows.next().flatten().zip(flows.next().flatten());
        let named = parse_counters(&listing);
        let is_crowded = judge_room(self.kernel_counters.borrow().is_crowded, flows);
        *self.kernel_counters.borrow_mut() =
            KernelCounters { read: Some(Instant::now()), named: named.clone(), flows, is_crowded };
        Ok(Some(named))
    }

    /// Reads from the kernel for a report, which does not wait long for it: one reading at a time, so that those that hang
    /// hold up nothing but each other.
    pub(super) async fn read_kernel<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = Arc::clone(&self.reading);
        let reading = async {
            let turn = turn.acquire_owned().await;
            let read = move || {
                let _turn = turn;
                read()
            };
            blocking(read).await
        };
        timeout(READING, reading).await.unwrap_or_else(|_| {
            let message =
                format!("nft has not answered for {} s; does `nft list tables` end?", READING.as_secs());
            Err(Failure::new(FailureKind::Kernel, message))
        })
    }
}

/// What the threads of the device count.
fn device_numbers(stats: &DeviceStats) -> [Number; 4] {
    [
        Number::counter(
            "gateway_socket_rebinds_total",
            "Outer sockets put in place of another.",
            stats.rebinds.read(),
        ),
        Number::counter(
            "gateway_busy_polls_total",
            "Waits of the data thread that began by looking on.",
            stats.busy_polls.read(),
        ),
        Number::counter(
            "gateway_busy_poll_misses_total",
            "Those of them that found nothing and slept.",
            stats.busy_poll_misses.read(),
        ),
        Number::counter(
            "gateway_unreachable_answers_total",
            "Senders told by ICMP that their packet for the tunnel has nowhere to go.",
            stats.tx_unreachable.read(),
        ),
    ]
}

/// Runs what blocks on the helper beside the control thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(FailureKind::Kernel, error.to_string())),
    }
}

fn peer_counters(status: &PeerStatus) -> PeerCounters {
    PeerCounters {
        last_handshake_seconds: status.latest_handshake.map_or(0.0, |now| now.wall.as_secs_f64()),
        handshakes: status.handshakes,
        rx_packets: status.rx_packets,
        tx_packets: status.tx_packets,
        probes_lost: status.probes_lost,
        endpoint_changes: status.endpoint_changes,
        recoveries: status.recoveries,
    }
}
