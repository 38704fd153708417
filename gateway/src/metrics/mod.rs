//! The page that Prometheus reads: a snapshot of the edge, in the names of two existing exporters and in our own.
//!
//! Every page is made from a snapshot by a recorder of its own, so that a removed peer leaves no stale series. No
//! label holds a client's address; `endpoint` is the peer's, as dashboards for the WireGuard exporter expect it.

mod calls;
mod offload;
mod round_trips;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::control::report::{Peer, Peers};
pub use calls::Calls;
pub use offload::OffloadPath;
pub use round_trips::RoundTrips;

/// Everything a page tells.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The peers, as `gatewayctl peers` shows them.
    pub peers: Option<Peers>,
    /// What each peer has counted beyond that, in the same order.
    pub counters: Vec<PeerCounters>,
    /// Published ports and private flows.
    pub services: Vec<ServiceCounters>,
    /// Dropped packets by stage and reason.
    pub drops: Vec<Drop>,
    /// Packets that would have left the wrong way and were dropped.
    pub leaked_packets: u64,
    /// What crossed the engine's boundaries.
    pub offloads: Vec<OffloadPath>,
    /// How the calls of the data threads end.
    pub calls: Vec<Calls>,
    /// Single numbers by name; see [`Number`].
    pub numbers: Vec<Number>,
}

/// A peer's counters since the start.
#[derive(Clone, Debug, Default)]
pub struct PeerCounters {
    /// UNIX time of the last handshake in seconds, 0 before the first.
    pub last_handshake_seconds: f64,
    /// Handshakes agreed.
    pub handshakes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Probes lost.
    pub probes_lost: u64,
    /// Endpoint changes.
    pub endpoint_changes: u64,
    /// Rungs of the recovery ladder climbed: handshake, rebind, resolve.
    pub recoveries: [u64; 3],
}

/// A service's counters since its rules were made.
#[derive(Clone, Debug)]
pub struct ServiceCounters {
    /// Name in the configuration.
    pub service: String,
    /// Whether every peer it needs is up.
    pub up: bool,
    /// Bytes and packets towards the target.
    pub rx: (u64, u64),
    /// Bytes and packets back.
    pub tx: (u64, u64),
}

/// Packets dropped for one reason.
#[derive(Clone, Debug)]
pub struct Drop {
    /// Where.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// One number with its name and its help.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// The metric's name.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// How much.
    pub value: Value,
}

impl Number {
    /// One that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, value: Value::Counter(value) }
    }

    /// One that comes and goes.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, value: Value::Gauge(value) }
    }
}

/// What kind of number.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Only grows.
    Counter(u64),
    /// Comes and goes.
    Gauge(f64),
}

/// The page in Prometheus' text format.
#[must_use]
pub fn page(snapshot: &Snapshot) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || record(snapshot));
    handle.render()
}

fn record(snapshot: &Snapshot) {
    describe();
    gauge!("gateway_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    if let Some(peers) = &snapshot.peers {
        record_device(peers);
        for (peer, counters) in peers.peers.iter().zip(&snapshot.counters) {
            mdlayher(&peers.interface.name, peer, counters);
            mindflavor(&peers.interface.name, peer, counters);
            native(peer, counters);
        }
    }
    for service in &snapshot.services {
        record_service(service);
    }
    for drop in &snapshot.drops {
        let labels = [("stage", drop.stage.clone()), ("reason", drop.reason.clone())];
        counter!("gateway_dropped_packets_total", &labels).absolute(drop.packets);
    }
    counter!("gateway_leak_packets_total").absolute(snapshot.leaked_packets);
    offload::record(&snapshot.offloads);
    calls::record(&snapshot.calls);
    for number in &snapshot.numbers {
        match number.value {
            Value::Counter(value) => {
                describe_counter!(number.name, number.help);
                counter!(number.name).absolute(value);
            }
            Value::Gauge(value) => {
                describe_gauge!(number.name, number.help);
                gauge!(number.name).set(value);
            }
        }
    }
    daemon::metrics::process::record();
}

fn record_device(peers: &Peers) {
    let key = peers.interface.public_key.clone().unwrap_or_default();
    let labels = [("device", peers.interface.name.clone()), ("public_key", key)];
    gauge!("wireguard_device_info", &labels).set(1.0);
}

/// The names of mdlayher/wireguard_exporter.
fn mdlayher(device: &str, peer: &Peer, counters: &PeerCounters) {
    let info = [
        ("allowed_ips", allowed_ips(peer)),
        ("device", device.to_owned()),
        ("endpoint", peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default()),
        ("name", peer.name.clone()),
        ("public_key", peer.public_key.clone()),
    ];
    gauge!("wireguard_peer_info", &info).set(1.0);
    let labels = [("device", device.to_owned()), ("public_key", peer.public_key.clone())];
    counter!("wireguard_peer_receive_bytes_total", &labels).absolute(peer.rx_bytes);
    counter!("wireguard_peer_transmit_bytes_total", &labels).absolute(peer.tx_bytes);
    gauge!("wireguard_peer_last_handshake_seconds", &labels).set(counters.last_handshake_seconds);
}

/// The names of MindFlavor/prometheus_wireguard_exporter.
fn mindflavor(device: &str, peer: &Peer, counters: &PeerCounters) {
    let labels = [
        ("interface", device.to_owned()),
        ("public_key", peer.public_key.clone()),
        ("allowed_ips", allowed_ips(peer)),
        ("friendly_name", peer.name.clone()),
    ];
    counter!("wireguard_sent_bytes_total", &labels).absolute(peer.tx_bytes);
    counter!("wireguard_received_bytes_total", &labels).absolute(peer.rx_bytes);
    gauge!("wireguard_latest_handshake_seconds", &labels).set(counters.last_handshake_seconds);
}

fn native(peer: &Peer, counters: &PeerCounters) {
    let name = || peer.name.clone();
    gauge!("gateway_peer_up", "peer" => name()).set(f64::from(u8::from(peer.state == "up")));
    counter!("gateway_peer_handshakes_total", "peer" => name()).absolute(counters.handshakes);
    gauge!("gateway_peer_last_handshake_timestamp_seconds", "peer" => name())
        .set(counters.last_handshake_seconds);
    counter!("gateway_peer_packets_lost_total", "peer" => name()).absolute(counters.probes_lost);
    counter!("gateway_peer_endpoint_changes_total", "peer" => name()).absolute(counters.endpoint_changes);
    if let Some(loss) = peer.loss_ratio {
        gauge!("gateway_peer_loss_ratio", "peer" => name()).set(loss);
    }
    if let Some(mtu) = peer.path_mtu_bytes {
        gauge!("gateway_path_mtu_bytes", "peer" => name()).set(f64::from(mtu));
    }
    for (step, count) in ["handshake", "rebind", "resolve"].into_iter().zip(counters.recoveries) {
        counter!("gateway_peer_recoveries_total", "peer" => name(), "step" => step).absolute(count);
    }
    let directions = [("rx", peer.rx_bytes, counters.rx_packets), ("tx", peer.tx_bytes, counters.tx_packets)];
    for (direction, bytes, packets) in directions {
        counter!("gateway_tunnel_bytes_total", "peer" => name(), "direction" => direction).absolute(bytes);
        counter!("gateway_tunnel_packets_total", "peer" => name(), "direction" => direction)
            .absolute(packets);
    }
}

fn record_service(service: &ServiceCounters) {
    let name = || service.service.clone();
    gauge!("gateway_service_up", "service" => name()).set(f64::from(u8::from(service.up)));
    for (direction, (bytes, packets)) in [("rx", service.rx), ("tx", service.tx)] {
        counter!("gateway_service_bytes_total", "service" => name(), "direction" => direction)
            .absolute(bytes);
        counter!("gateway_service_packets_total", "service" => name(), "direction" => direction)
            .absolute(packets);
    }
}

fn allowed_ips(peer: &Peer) -> String {
    peer.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn describe() {
    for (name, help) in [
        ("gateway_build_info", "The daemon's version."),
        ("wireguard_device_info", "Metadata about a device."),
        (
            "wireguard_peer_info",
            "Metadata about a peer. The public_key label on peer metrics refers to the peer's key.",
        ),
        ("wireguard_peer_last_handshake_seconds", "UNIX timestamp of the last handshake with a given peer."),
        ("wireguard_latest_handshake_seconds", "UNIX timestamp of the last handshake."),
        ("gateway_peer_up", "Whether the peer answered lately."),
        ("gateway_peer_last_handshake_timestamp_seconds", "UNIX time of the last handshake with the peer."),
        ("gateway_path_mtu_bytes", "Largest inner packet that the path to the peer was found to carry."),
        ("gateway_peer_loss_ratio", "Share of the last probes that were lost."),
        ("gateway_service_up", "Whether every peer that the service needs is up."),
    ] {
        describe_gauge!(name, help);
    }
    for (name, help) in [
        ("wireguard_peer_receive_bytes_total", "Number of bytes received from a given peer."),
        ("wireguard_peer_transmit_bytes_total", "Number of bytes transmitted to a given peer."),
        ("wireguard_sent_bytes_total", "Bytes sent to the peer."),
        ("wireguard_received_bytes_total", "Bytes received from the peer."),
        ("gateway_peer_handshakes_total", "Handshakes agreed with the peer."),
        ("gateway_peer_packets_lost_total", "Probes inside the tunnel that were not answered."),
        ("gateway_peer_endpoint_changes_total", "Changes of the peer's authenticated address."),
        ("gateway_peer_recoveries_total", "Steps taken to reach a silent peer again."),
        ("gateway_tunnel_bytes_total", "Bytes of authenticated messages, by peer; rx comes from it."),
        ("gateway_tunnel_packets_total", "Inner packets, by peer; rx comes from it."),
        ("gateway_service_bytes_total", "Bytes of a service; rx goes towards its target."),
        ("gateway_service_packets_total", "Packets of a service; rx goes towards its target."),
        ("gateway_dropped_packets_total", "Packets dropped, by the place and the reason."),
        (
            "gateway_leak_packets_total",
            "Packets of the tunnel's networks that would have left another way and were dropped.",
        ),
    ] {
        describe_counter!(name, help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::{Interface, SCHEMA};

    #[test]
    fn a_page_has_both_dialects_and_our_own_names() {
        let page = page(&example());
        for line in [
            "wireguard_device_info{device=\"gw0\",public_key=\"pQ1=\"} 1",
            "wireguard_peer_receive_bytes_total{device=\"gw0\",public_key=\"8kF=\"} 7",
            "wireguard_sent_bytes_total{interface=\"gw0\",public_key=\"8kF=\",allowed_ips=\"10.77.88.2/32\",friendly_name=\"wroclaw\"} 9",
            "gateway_tunnel_bytes_total{peer=\"wroclaw\",direction=\"rx\"} 7",
            "gateway_peer_up{peer=\"wroclaw\"} 1",
            "gateway_dropped_packets_total{stage=\"forward\",reason=\"leak\"} 3",
            "gateway_offload_bytes_total{path=\"udp_send\",mode=\"joined\"} 5",
            "gateway_offload_fallbacks_total{path=\"udp_send\"} 7",
            "gateway_io_errors_total{call=\"tun_read\"} 8",
            "gateway_io_failing{call=\"tun_read\"} 1",
            "gateway_config_generation 2",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn every_series_has_a_help_and_a_type() {
        let page = page(&example());
        for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
            assert!(page.contains(&format!("# TYPE {name} ")), "{name} has no type");
        }
    }

    #[test]
    fn a_removed_peer_leaves_no_series() {
        let mut snapshot = example();
        assert!(page(&snapshot).contains("wroclaw"));
        snapshot.peers.as_mut().unwrap().peers.clear();
        snapshot.counters.clear();
        assert!(!page(&snapshot).contains("wroclaw"));
    }

    fn example() -> Snapshot {
        let peer = Peer {
            name: "wroclaw".to_owned(),
            public_key: "8kF=".to_owned(),
            endpoint: None,
            allowed_ips: vec!["10.77.88.2/32".parse().unwrap()],
            state: "up".to_owned(),
            latest_handshake_age_seconds: None,
            persistent_keepalive_seconds: None,
            rx_bytes: 7,
            tx_bytes: 9,
            rx_bytes_per_second: 0.0,
            tx_bytes_per_second: 0.0,
            rtt_seconds: Some(0.02),
            loss_ratio: Some(0.0),
            path_mtu_bytes: Some(1420),
        };
        let interface = Interface {
            name: "gw0".to_owned(),
            public_key: Some("pQ1=".to_owned()),
            listen_port: 51820,
            mtu: 1420,
        };
        Snapshot {
            peers: Some(Peers { schema: SCHEMA, interface, peers: vec![peer] }),
            counters: vec![PeerCounters::default()],
            services: vec![ServiceCounters { service: "https".to_owned(), up: true, rx: (1, 2), tx: (3, 4) }],
            drops: vec![Drop { stage: "forward".to_owned(), reason: "leak".to_owned(), packets: 3 }],
            leaked_packets: 3,
            offloads: vec![OffloadPath { path: "udp_send", joined: 5, single: 6, fallbacks: 7 }],
            calls: vec![Calls { call: "tun_read", errors: 8, is_failing: true }],
            numbers: vec![Number::counter(
                "gateway_config_generation",
                "How many configurations were applied since the start.",
                2,
            )],
        }
    }
}
