//! The page that Prometheus reads, made from plain counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use daemon::metrics::{Boundary, Number, RoundTrips, Scraped, call_numbers, page as rendered};
use daemon::peers::Health;
use policy::Host;
use tunnel::io::clock;

use crate::control::report::{self, Entry, Report};
use crate::control::{EdgeView, Shared};
use crate::stats::{Dialled, EntryStats, Stats};

/// What our own metrics begin with.
pub const ROLE: &str = "forwarder";

/// The metrics of a name: whether it works, the time of its certificate, and whether its path from
/// the internet is proven.
const NAMES: [&str; 5] = [
    "forwarder_name_up",
    "forwarder_certificate_days",
    "forwarder_certificate_lifetime_days",
    "forwarder_name_path_proven",
    "forwarder_name_path_failing",
];

/// The pages for Prometheus and for readiness checks.
pub struct Page(pub Arc<Shared>);

impl Scraped for Page {
    async fn metrics(&self) -> String {
        page(&self.0)
    }

    fn readiness(&self) -> (bool, String) {
        let report = report::report(&self.0);
        match (report.health, report.problems.first()) {
            (Health::Broken, Some(problem)) => (false, format!("{problem}\n")),
            (Health::Broken, None) => (false, "no peer is up\n".to_owned()),
            (Health::Ok | Health::Degraded, _) => (true, "a peer is up\n".to_owned()),
        }
    }

    fn hosts(&self) -> Vec<Host> {
        self.0.policy.load().metrics.hosts.clone()
    }
}

/// The whole page.
#[must_use]
pub fn page(shared: &Shared) -> String {
    let report = report::report(shared);
    let mut numbers = daemon_numbers(&report);
    numbers.extend(flow_numbers(&shared.stats));
    numbers.extend(loop_numbers(&shared.stats));
    for (name, stats) in shared.stats.services.load().iter() {
        numbers.extend(SERVICE.numbers(name.as_str(), stats));
    }
    numbers.extend(report.services.iter().flat_map(upstream_numbers));
    let names = |entry: &Entry| {
        entry.names.iter().flat_map(|name| name.numbers(NAMES, &entry.name)).collect::<Vec<_>>()
    };
    numbers.extend(report.services.iter().flat_map(names));
    for (name, stats) in shared.stats.reach.load().iter() {
        numbers.extend(REACH.numbers(name.as_str(), stats));
    }
    for (reason, count) in shared.link_refusals.lock().iter() {
        let help = "Links that were refused here, by reason.";
        numbers.push(Number::counter("forwarder_link_refusals_total", help, *count).with("reason", *reason));
    }
    numbers.extend(report::dropped(shared).map(|(stage, reason, count)| {
        let help = "Packets that were not carried, by stage and reason.";
        Number::counter("forwarder_dropped_packets_total", help, count)
            .with("stage", stage)
            .with("reason", reason)
    }));
    numbers.extend(shared.page_requests.numbers("forwarder_page_requests_total"));
    numbers.extend(shared.edges.load().iter().flat_map(|edge| io_numbers(edge)));
    numbers.extend(shared.history.numbers(ROLE));
    numbers.extend(report::peers(shared).numbers(ROLE));
    let edges = shared.edges.load();
    rendered(numbers) + &RoundTrips::joined(edges.iter().map(|edge| &edge.round_trips))
}

fn daemon_numbers(report: &Report) -> Vec<Number> {
    vec![
        Number::gauge("forwarder_build_info", "The daemon's version.", 1.0).with("version", &report.version),
        Number::gauge("forwarder_uptime_seconds", "Time since the daemon started.", report.uptime_seconds),
        Number::count(
            "forwarder_open_flows",
            "TCP flows in the table, pending dials included.",
            report.flows,
        ),
        Number::count(
            "forwarder_handover_flows",
            "Flows of the process before this one, after an upgrade in place.",
            report.handover.as_ref().map_or(0, |old| old.flows),
        ),
        Number::gauge(
            "forwarder_handover_seconds",
            "Time until the last flow of the process before this one ends at the latest; 0 without one.",
            report.handover.as_ref().map_or(0.0, |old| old.seconds),
        ),
        Number::count("forwarder_open_udp_flows", "UDP flows that are open.", report.udp_flows),
        Number::count(
            "forwarder_pending_dials",
            "Flows whose upstream or client has not answered yet.",
            report.pending_dials,
        ),
        Number::count("forwarder_buffer_bytes", "Bytes of flow buffers in use.", report.buffer_bytes),
    ]
}

fn flow_numbers(stats: &Stats) -> Vec<Number> {
    vec![
        Number::count(
            "forwarder_reassembly_bytes",
            "Bytes of datagrams of which not all fragments have arrived.",
            read(&stats.reassembly_bytes),
        ),
        Number::counter(
            "forwarder_udp_flows_evicted_total",
            "UDP flows that were ended early to make room for new ones.",
            read(&stats.udp_evicted),
        ),
        Number::counter(
            "forwarder_half_open_flows_evicted_total",
            "Flows whose client never completed the handshake, ended to make room for new ones.",
            read(&stats.half_open_evicted),
        ),
        Number::counter(
            "forwarder_retransmitted_bytes_total",
            "Payload bytes that were sent into the tunnel again.",
            read(&stats.resent),
        ),
        Number::counter(
            "forwarder_scoreboard_full_total",
            "Times a flow stopped sending, or could not note an acknowledgement, because its scoreboard was full.",
            read(&stats.scoreboard_full),
        ),
        Number::counter("forwarder_echo_replies_total", "Echo requests answered.", read(&stats.echoes)),
        Number::counter(
            "forwarder_resets_sent_total",
            "Resets sent for segments that belong to no flow.",
            read(&stats.resets),
        ),
    ]
}

fn loop_numbers(stats: &Stats) -> Vec<Number> {
    vec![
        Number::counter("forwarder_loop_rounds_total", "Rounds of the data loop.", read(&stats.rounds)),
        Number::counter(
            "forwarder_busy_polls_total",
            "Waits of the data loop that began by busy-polling.",
            read(&stats.busy_polls),
        ),
        Number::counter(
            "forwarder_busy_poll_misses_total",
            "Busy-poll periods that ended without work.",
            read(&stats.busy_poll_misses),
        ),
    ]
}

/// Names and help of what one kind of entry has carried.
struct Kind {
    label: &'static str,
    flows: (&'static str, &'static str),
    bytes: (&'static str, &'static str),
    dials: (&'static str, &'static str),
}

const SERVICE: Kind = Kind {
    label: "service",
    flows: ("forwarder_flows", "Flows that are open, by service entry."),
    bytes: ("forwarder_bytes_total", "Payload bytes by service entry; rx comes out of the tunnel."),
    dials: ("forwarder_dials_total", "Dials to upstreams by service entry and result."),
};
const REACH: Kind = Kind {
    label: "reach",
    flows: ("forwarder_reach_flows", "Flows that are open, by reach entry."),
    bytes: ("forwarder_reach_bytes_total", "Payload bytes by reach entry; rx comes out of the tunnel."),
    dials: ("forwarder_reach_dials_total", "Dials into the tunnel by reach entry and result."),
};

impl Kind {
    fn numbers(&self, name: &str, stats: &EntryStats) -> Vec<Number> {
        let own = |number: Number| number.with(self.label, name);
        let mut numbers = vec![own(Number::count(self.flows.0, self.flows.1, read(&stats.flows)))];
        for (direction, count) in [("rx", &stats.received), ("tx", &stats.sent)] {
            let bytes = Number::counter(self.bytes.0, self.bytes.1, read(count));
            numbers.push(own(bytes).with("direction", direction));
        }
        for result in Dialled::ALL {
            let dials = Number::counter(self.dials.0, self.dials.1, stats.dials(*result));
            numbers.push(own(dials).with("result", result.labels().concat()));
        }
        numbers
    }
}

fn upstream_numbers(entry: &Entry) -> Vec<Number> {
    let of_upstream = |upstream: &report::UpstreamState| {
        let help = "Whether the upstream answers its health checks; 1 without any.";
        [
            Number::flag("forwarder_upstream_up", help, upstream.up),
            Number::count("forwarder_upstream_flows", "Flows of the upstream.", upstream.flows),
            Number::counter(
                "forwarder_upstream_failures_total",
                "Dials to the upstream that failed.",
                upstream.failures,
            ),
        ]
        .map(|number| number.with("service", &entry.name).with("upstream", &upstream.address))
    };
    entry.upstreams.iter().flat_map(of_upstream).collect()
}

/// What crossed an edge's socket, and how its calls end.
fn io_numbers(edge: &EdgeView) -> Vec<Number> {
    let udp = edge.udp.load();
    let own = |number: Number| number.with("peer", edge.name.as_str());
    let boundary = |path, joined, single, fallbacks| Boundary { path, joined, single, fallbacks };
    let boundaries = [
        boundary(
            "udp_send",
            udp.sent_bytes_segmented.read(),
            udp.sent_bytes_plain.read(),
            udp.segment_fallbacks.read(),
        ),
        boundary("udp_receive", udp.received_bytes_joined.read(), udp.received_bytes_plain.read(), 0),
    ];
    let is_failing = udp.receives.failing(clock::instant()).is_some();
    let calls = call_numbers(ROLE, "udp_receive", (udp.receives.errors(), is_failing), own);
    boundaries.into_iter().flat_map(|boundary| boundary.numbers(ROLE, own)).chain(calls).collect()
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
