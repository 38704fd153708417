//! What the edge reports: to `gatewayctl`, and to Prometheus.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tunnel::device::{Call, Device, DeviceStats};
use tunnel::io::clock;
use tunnel::node::{PeerState, PeerStatus};
use tunnel::reason::DropReason;

use super::blocking::blocking;
use super::counters::{Counters, parse_bans, parse_counters};
use super::dump::dump;
use super::room::judge_conntrack;
use super::services::service;
use super::wg::WgDevice;
use super::{Edge, KernelCounters};
use crate::control::report::{Bans, SCHEMA, Service, Services};
use crate::kernel::{Failure, FailureKind, Listing};
use daemon::metrics::{Boundary, Number, call_numbers, page};
use daemon::peers::{Interface, Peer, Peers};

/// Between two looks at the round trips: there is a probe every five seconds.
const PROBES: Duration = Duration::from_millis(4_500);
/// Between two clearings of the histogram's intake, when there is no scrape.
const SETTLES: Duration = Duration::from_secs(300);
/// Bytes between two samples that are more than what keeps an idle tunnel alive.
const QUIET: u64 = 4_096;
/// Switches that hold how many flows conntrack follows, and the most it will.
const FLOWS: [&str; 2] = ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"];

/// What our own metrics begin with.
pub(super) const ROLE: &str = "gateway";
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
        self.peers_as_sampled()
    }

    fn peers_as_sampled(&self) -> Peers {
        let (interface, now) = (self.interface(), Self::now().instant);
        let rates = self.rates.borrow();
        let peer = |status: &PeerStatus| {
            let name = self.name_of(&status.public_key);
            Peer::of(status, name, interface.clone(), now, rates.of(&status.public_key))
        };
        let peers = self.ordered().iter().map(peer).collect();
        Peers { schema: SCHEMA, interface: Some(interface), peers }
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
        page(self.all_numbers(&counters)) + &self.round_trips.borrow().page()
    }

    fn all_numbers(&self, counters: &Counters) -> Vec<Number> {
        let mut numbers = self.peers_as_sampled().numbers(ROLE);
        numbers.extend(self.service_numbers(counters));
        numbers.extend(self.drop_numbers(counters));
        numbers.extend(io_numbers(&self.device));
        numbers.extend(self.numbers());
        numbers.push(Number::counter(
            "gateway_leak_packets_total",
            "Packets of the tunnel's networks that would have left another way and were dropped.",
            self.leaked(counters),
        ));
        numbers.extend(device_numbers(self.device.stats()));
        numbers
    }

    fn service_numbers(&self, counters: &Counters) -> Vec<Number> {
        let states = self.states();
        let current = self.current.borrow();
        let services = current.blueprint.plan.ruleset.services.iter();
        let services = services.filter_map(|mark| service(&current.policy, mark, &states, counters));
        services.flat_map(|service| numbers_of(&service)).collect()
    }

    fn drop_numbers(&self, counters: &Counters) -> Vec<Number> {
        let node = self.device.node();
        let of_node =
            DropReason::ALL.iter().map(|&reason| (reason.stage(), reason.label(), node.dropped(reason)));
        let current = self.current.borrow();
        let of_kernel = current.blueprint.plan.ruleset.drops.iter().map(|drop| {
            let packets = counters.get(&drop.counter()).map_or(0, |counter| counter.1);
            (drop.stage, drop.reason, packets)
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
        let number = |(stage, reason, packets)| {
            Number::counter(
                "gateway_dropped_packets_total",
                "Packets dropped, by the stage and the reason.",
                packets,
            )
            .with("stage", stage)
            .with("reason", reason)
        };
        of_node.chain(of_kernel).chain(of_io).map(number).collect()
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
                "Times that rules, routes or switches were put back after another program changed them.",
                self.contention.borrow().total,
            ),
            Number::flag(
                "gateway_reconcile_fought",
                "Whether another program keeps changing rules, routes or switches of the edge.",
                self.contention.borrow().is_on,
            ),
            Number::counter(
                "gateway_reconcile_failures_total",
                "Checks of rules, routes and switches, or repairs of them, that failed.",
                self.failing.borrow().total,
            ),
            Number::flag(
                "gateway_reconcile_failing",
                "Whether rules, routes and switches cannot be checked or put back.",
                self.failing.borrow().is_on(),
            ),
        ]
    }

    fn numbers(&self) -> Vec<Number> {
        #[expect(clippy::cast_precision_loss, reason = "a count of switches")]
        let unwritable = self.current.borrow().unwritable.len() as f64;
        let mut numbers = vec![
            Number::gauge("gateway_build_info", "The daemon's version.", 1.0)
                .with("version", env!("CARGO_PKG_VERSION")),
            Number::flag(
                "gateway_up",
                "Whether the daemon's threads and its helper run.",
                self.fault().is_none(),
            ),
            Number::flag(
                "gateway_config_last_apply_success",
                "Whether the last configuration was applied.",
                self.last_apply_ok.get(),
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
                "Events of the data plane that were lost because the queue was full.",
                self.device.node().events_dropped(),
            ),
        ];
        numbers.extend(self.repair_numbers());
        if let Some((flows, limit)) = self.kernel_counters.borrow().flows {
            numbers.push(Number::count(
                "gateway_nat_flows",
                "Flows that the kernel's conntrack follows.",
                flows,
            ));
            numbers.push(Number::count(
                "gateway_nat_flows_limit",
                "The most flows that conntrack will follow.",
                limit,
            ));
        }
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
        let is_crowded = judge_conntrack(self.kernel_counters.borrow().is_crowded, flows);
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
            "Times the outer socket was replaced by a new one.",
            stats.rebinds.read(),
        ),
        Number::counter(
            "gateway_busy_polls_total",
            "Waits of the data thread that began by busy-polling.",
            stats.busy_polls.read(),
        ),
        Number::counter(
            "gateway_busy_poll_misses_total",
            "Busy-poll periods that ended without work.",
            stats.busy_poll_misses.read(),
        ),
        Number::counter(
            "gateway_unreachable_answers_total",
            "ICMP unreachable messages sent for packets that have no peer.",
            stats.tx_unreachable.read(),
        ),
    ]
}

fn numbers_of(service: &Service) -> Vec<Number> {
    let own = |number: Number| number.with("service", &service.name);
    let mut numbers = vec![own(Number::flag(
        "gateway_service_up",
        "Whether every peer that the service needs is up.",
        service.state == "up",
    ))];
    let directions =
        [("rx", service.bytes_in, service.packets_in), ("tx", service.bytes_out, service.packets_out)];
    for (direction, bytes, packets) in directions {
        let help = "Bytes of a service; rx goes towards its target.";
        let bytes = Number::counter("gateway_service_bytes_total", help, bytes);
        let help = "Packets of a service; rx goes towards its target.";
        let packets = Number::counter("gateway_service_packets_total", help, packets);
        numbers.extend([bytes, packets].map(|number| own(number).with("direction", direction)));
    }
    numbers
}

/// What crossed the boundaries of a running device, and how its calls end.
fn io_numbers(device: &Device) -> Vec<Number> {
    let (tun, socket) = (device.tun().stats(), device.socket());
    let udp = socket.stats();
    let boundary = |path, joined, single, fallbacks| Boundary { path, joined, single, fallbacks };
    let boundaries = [
        boundary("tun_read", tun.read_bytes_super.read(), tun.read_bytes_plain.read(), 0),
        boundary(
            "tun_write",
            tun.written_bytes_super.read(),
            tun.written_bytes_plain.read(),
            tun.write_fallbacks.read(),
        ),
        boundary(
            "udp_send",
            udp.sent_bytes_segmented.read(),
            udp.sent_bytes_plain.read(),
            udp.segment_fallbacks.read(),
        ),
        boundary("udp_receive", udp.received_bytes_joined.read(), udp.received_bytes_plain.read(), 0),
    ];
    let now = clock::instant();
    let calls = Call::ALL.into_iter().flat_map(|call| {
        let (errors, failing) = device.call(call, now);
        call_numbers(ROLE, call.label(), (errors, failing.is_some()), |number| number)
    });
    let crossed = boundaries.into_iter().flat_map(|boundary| boundary.numbers(ROLE, |number| number));
    crossed.chain(calls).collect()
}
