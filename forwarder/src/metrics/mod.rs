//! Metrics in Prometheus' text format, made anew for each scrape from plain counters.
//!
//! A recorder lives for one scrape only, so that a series whose labels changed (an endpoint that roamed) is gone from
//! the next one. No client address is ever a label.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use tunnel::io::clock;

use crate::control::report::{self, Peer};
use crate::control::{EdgeView, Shared};
use crate::stats::{Dialled, EntryStats};

/// The whole page.
#[must_use]
pub fn page(shared: &Shared) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        describe();
        record(shared);
    });
    recorder.handle().render()
}

fn record(shared: &Shared) {
    let report = report::report(shared);
    gauge!("forwarder_build_info", "version" => report.version.clone()).set(1.0);
    gauge!("forwarder_uptime_seconds").set(report.uptime_seconds);
    gauge!("forwarder_open_flows").set(report.flows as f64);
    gauge!("forwarder_open_udp_flows").set(report.udp_flows as f64);
    let reassembling = shared.stats.reassembly_bytes.load(Ordering::Relaxed);
    gauge!("forwarder_reassembly_bytes").set(reassembling as f64);
    counter!("forwarder_udp_flows_evicted_total").absolute(shared.stats.udp_evicted.load(Ordering::Relaxed));
    let evicted = shared.stats.half_open_evicted.load(Ordering::Relaxed);
    counter!("forwarder_half_open_flows_evicted_total").absolute(evicted);
    gauge!("forwarder_pending_dials").set(report.pending_dials as f64);
    gauge!("forwarder_buffer_bytes").set(report.buffer_bytes as f64);
    let resent = shared.stats.resent.load(Ordering::Relaxed);
    counter!("forwarder_retransmitted_bytes_total").absolute(resent);
    let full = shared.stats.scoreboard_full.load(Ordering::Relaxed);
    counter!("forwarder_scoreboard_full_total").absolute(full);
    counter!("forwarder_echo_replies_total").absolute(shared.stats.echoes.load(Ordering::Relaxed));
    counter!("forwarder_resets_sent_total").absolute(shared.stats.resets.load(Ordering::Relaxed));
    counter!("forwarder_loop_rounds_total").absolute(shared.stats.rounds.load(Ordering::Relaxed));
    counter!("forwarder_busy_polls_total").absolute(shared.stats.busy_polls.load(Ordering::Relaxed));
    counter!("forwarder_busy_poll_misses_total")
        .absolute(shared.stats.busy_poll_misses.load(Ordering::Relaxed));
    for (name, stats) in shared.stats.inject.load().iter() {
        entry(
            ["forwarder_flows", "forwarder_bytes_total", "forwarder_dials_total"],
            "inject",
            name.as_str(),
            stats,
        );
    }
    for entry in &report.inject {
        for upstream in &entry.upstreams {
            let labels = [("inject", entry.name.clone()), ("upstream", upstream.address.clone())];
            gauge!("forwarder_upstream_up", &labels).set(f64::from(u8::from(upstream.up)));
            gauge!("forwarder_upstream_flows", &labels).set(upstream.flows as f64);
            counter!("forwarder_upstream_failures_total", &labels).absolute(upstream.failures);
        }
    }
    let names = ["forwarder_reach_flows", "forwarder_reach_bytes_total", "forwarder_reach_dials_total"];
    for (name, stats) in shared.stats.reach.load().iter() {
        entry(names, "reach", name.as_str(), stats);
    }
    for (stage, reason, count) in report::dropped(shared) {
        counter!("forwarder_dropped_packets_total", "stage" => stage, "reason" => reason).absolute(count);
    }
    for edge in &shared.edges {
        offloads(edge);
    }
    for peer in &report.peers {
        own_dialect(peer);
        mdlayher_dialect(peer);
        mindflavor_dialect(peer);
    }
}

fn entry(names: [&'static str; 3], kind: &'static str, name: &str, stats: &EntryStats) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let [flows, bytes, dials] = names;
    gauge!(flows, kind => name.to_owned()).set(read(&stats.flows) as f64);
    for (direction, count) in [("rx", &stats.received), ("tx", &stats.sent)] {
        counter!(bytes, kind => name.to_owned(), "direction" => direction).absolute(read(count));
    }
    for result in Dialled::ALL {
        let label = result.labels().concat();
        counter!(dials, kind => name.to_owned(), "result" => label).absolute(stats.dials(*result));
    }
}

/// How much crossed an edge's socket joined, and how much one datagram at a time; and how its calls end.
fn offloads(edge: &EdgeView) {
    let (peer, udp) = (edge.name.to_string(), edge.udp.load());
    let paths = [
        ("udp_send", &udp.sent_bytes_segmented, &udp.sent_bytes_plain),
        ("udp_receive", &udp.received_bytes_joined, &udp.received_bytes_plain),
    ];
    for (path, joined, single) in paths {
        for (mode, bytes) in [("joined", joined), ("single", single)] {
            let labels = [("peer", peer.clone()), ("path", path.to_owned()), ("mode", mode.to_owned())];
            counter!("forwarder_offload_bytes_total", &labels).absolute(bytes.read());
        }
    }
    counter!("forwarder_offload_fallbacks_total", "peer" => peer.clone())
        .absolute(udp.segment_fallbacks.read());
    let labels = [("peer", peer), ("call", "udp_receive".to_owned())];
    counter!("forwarder_io_errors_total", &labels).absolute(udp.receives.errors());
    let failing = udp.receives.failing(clock::instant()).is_some();
    gauge!("forwarder_io_failing", &labels).set(f64::from(u8::from(failing)));
}

fn own_dialect(peer: &Peer) {
    let name = || peer.name.clone();
    gauge!("forwarder_peer_up", "peer" => name()).set(f64::from(u8::from(peer.state == "up")));
    counter!("forwarder_peer_handshakes_total", "peer" => name()).absolute(peer.handshakes);
    counter!("forwarder_peer_packets_lost_total", "peer" => name()).absolute(peer.probes_lost);
    counter!("forwarder_peer_endpoint_changes_total", "peer" => name()).absolute(peer.endpoint_changes);
    gauge!("forwarder_peer_mtu_bytes", "peer" => name()).set(f64::from(peer.interface.mtu));
    if let Some(mtu) = peer.path_mtu_bytes {
        gauge!("forwarder_path_mtu_bytes", "peer" => name()).set(f64::from(mtu));
    }
    if let Some(at) = peer.latest_handshake_timestamp_seconds {
        gauge!("forwarder_peer_last_handshake_timestamp_seconds", "peer" => name()).set(at);
    }
    if let Some(rtt) = peer.rtt_seconds {
        gauge!("forwarder_peer_rtt_seconds", "peer" => name()).set(rtt);
    }
    if let Some(loss) = peer.loss_ratio {
        gauge!("forwarder_peer_loss_ratio", "peer" => name()).set(loss);
    }
    for (step, count) in ["handshake", "rebind", "resolve"].into_iter().zip(peer.recoveries) {
        counter!("forwarder_peer_recoveries_total", "peer" => name(), "step" => step).absolute(count);
    }
    let directions = [("rx", peer.rx_bytes, peer.rx_packets), ("tx", peer.tx_bytes, peer.tx_packets)];
    for (direction, bytes, packets) in directions {
        counter!("forwarder_tunnel_bytes_total", "peer" => name(), "direction" => direction).absolute(bytes);
        counter!("forwarder_tunnel_packets_total", "peer" => name(), "direction" => direction)
            .absolute(packets);
    }
}

/// The names of mdlayher's wireguard_exporter.
fn mdlayher_dialect(peer: &Peer) {
    let device = || peer.interface.name.clone();
    let key = || peer.public_key.clone();
    gauge!("wireguard_device_info", "device" => device(), "public_key" => peer.interface.public_key.clone())
        .set(1.0);
    gauge!(
        "wireguard_peer_info", "allowed_ips" => peer.allowed_ips.join(","), "device" => device(),
        "endpoint" => peer.endpoint.clone().unwrap_or_default(), "name" => peer.name.clone(), "public_key" => key()
    )
    .set(1.0);
    let labels = [("device", device()), ("public_key", key())];
    counter!("wireguard_peer_receive_bytes_total", &labels).absolute(peer.rx_bytes);
    counter!("wireguard_peer_transmit_bytes_total", &labels).absolute(peer.tx_bytes);
    let at = peer.latest_handshake_timestamp_seconds.unwrap_or(0.0).floor();
    gauge!("wireguard_peer_last_handshake_seconds", &labels).set(at);
}

/// The names of MindFlavor's prometheus_wireguard_exporter.
fn mindflavor_dialect(peer: &Peer) {
    let labels = [
        ("interface", peer.interface.name.clone()),
        ("public_key", peer.public_key.clone()),
        ("allowed_ips", peer.allowed_ips.join(",")),
        ("friendly_name", peer.name.clone()),
    ];
    counter!("wireguard_sent_bytes_total", &labels).absolute(peer.tx_bytes);
    counter!("wireguard_received_bytes_total", &labels).absolute(peer.rx_bytes);
    let at = peer.latest_handshake_timestamp_seconds.unwrap_or(0.0).floor();
    gauge!("wireguard_latest_handshake_seconds", &labels).set(at);
}

fn describe() {
    for (name, words) in GAUGES {
        describe_gauge!(*name, *words);
    }
    for (name, words) in COUNTERS {
        describe_counter!(*name, *words);
    }
}

const GAUGES: &[(&str, &str)] = &[
    ("forwarder_build_info", "The version that runs."),
    ("forwarder_uptime_seconds", "Time since the daemon started."),
    ("forwarder_open_flows", "TCP flows in the table, unanswered dials included."),
    ("forwarder_open_udp_flows", "UDP flows open now."),
    ("forwarder_reassembly_bytes", "Bytes of datagrams whose fragments have not all come."),
    ("forwarder_pending_dials", "Flows that their upstream or their client has not answered."),
    ("forwarder_buffer_bytes", "Bytes of flow buffers in use."),
    ("forwarder_flows", "Flows open now, by inject entry."),
    ("forwarder_upstream_up", "Whether the upstream's health checks are answered; 1 without any."),
    ("forwarder_upstream_flows", "Flows that the upstream has now."),
    ("forwarder_reach_flows", "Flows open now, by reach entry."),
    ("forwarder_io_failing", "Whether a call of the data thread keeps failing."),
    ("forwarder_peer_up", "Whether the peer answered lately."),
    ("forwarder_peer_mtu_bytes", "Inner MTU towards the peer."),
    ("forwarder_path_mtu_bytes", "Largest inner packet that the path to the peer was found to carry."),
    ("forwarder_peer_last_handshake_timestamp_seconds", "UNIX time of the last handshake with the peer."),
    ("forwarder_peer_rtt_seconds", "Smoothed round trip of the probes inside the tunnel."),
    ("forwarder_peer_loss_ratio", "Share of the last probes that were lost."),
    ("wireguard_device_info", "Metadata about a device."),
    ("wireguard_peer_info", "Metadata about a peer. The public_key label is unique among peers."),
    ("wireguard_peer_last_handshake_seconds", "UNIX timestamp of the last handshake with a given peer."),
    ("wireguard_latest_handshake_seconds", "UNIX timestamp of the last handshake."),
];

const COUNTERS: &[(&str, &str)] = &[
    ("forwarder_retransmitted_bytes_total", "Payload bytes that flows sent into the tunnel again."),
    (
        "forwarder_scoreboard_full_total",
        "Times a flow had so much of unknown fate that it sent nothing new, or could not note what arrived.",
    ),
    ("forwarder_echo_replies_total", "Echo requests answered."),
    (
        "forwarder_udp_flows_evicted_total",
        "UDP flows that made room for others before they had proven themselves.",
    ),
    (
        "forwarder_half_open_flows_evicted_total",
        "Flows whose client never answered and that made room for others.",
    ),
    ("forwarder_resets_sent_total", "Resets sent to those whose segments belong to no flow."),
    ("forwarder_loop_rounds_total", "Rounds of the data loop."),
    ("forwarder_busy_polls_total", "Waits of the data loop that began by looking on."),
    ("forwarder_busy_poll_misses_total", "Those of them that found nothing and slept."),
    ("forwarder_bytes_total", "Payload bytes by inject entry; rx comes out of the tunnel."),
    ("forwarder_dials_total", "Dials to upstreams by inject entry and result."),
    ("forwarder_upstream_failures_total", "Dials to the upstream that failed."),
    ("forwarder_reach_bytes_total", "Payload bytes by reach entry; rx comes out of the tunnel."),
    ("forwarder_reach_dials_total", "Dials into the tunnel by reach entry and result."),
    ("forwarder_dropped_packets_total", "Packets that were not carried, by stage and reason."),
    ("forwarder_peer_handshakes_total", "Handshakes agreed with the peer."),
    ("forwarder_peer_packets_lost_total", "Probes inside the tunnel that were not answered."),
    ("forwarder_peer_endpoint_changes_total", "Changes of the peer's authenticated address."),
    ("forwarder_peer_recoveries_total", "Steps taken to reach a silent peer again."),
    ("forwarder_tunnel_bytes_total", "Bytes of authenticated messages, by peer; rx comes from it."),
    ("forwarder_offload_bytes_total", "Bytes by boundary of the edge's socket, joined or single."),
    (
        "forwarder_offload_fallbacks_total",
        "Runs of datagrams that the kernel refused and that were then sent one by one.",
    ),
    ("forwarder_io_errors_total", "Calls of the data thread that failed, by edge and call."),
    ("forwarder_tunnel_packets_total", "Inner packets, by peer; rx comes from it."),
    ("wireguard_peer_receive_bytes_total", "Number of bytes received from a given peer."),
    ("wireguard_peer_transmit_bytes_total", "Number of bytes transmitted to a given peer."),
    ("wireguard_sent_bytes_total", "Bytes sent to the peer."),
    ("wireguard_received_bytes_total", "Bytes received from the peer."),
];
