//! Peers as both ends show them: one shape for JSON, text and metrics.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use tunnel::node::{Liveness, PeerState, PeerStatus};
use tunnel::time::Instant;

use crate::exit::Exit;
use crate::link::shown::{Link, ServiceShown, services_lines};
use crate::metrics::Number;
use crate::text::{Style, ago, bytes, period, rate};

/// How both ends watch their peers.
pub const LIVENESS: Liveness = Liveness {
    interval: Duration::from_secs(5),
    interval_lost: Duration::from_secs(1),
    tolerated: 3,
    up_within: Duration::from_secs(15),
    plain_up_within: Duration::from_secs(180),
};

/// What `peers --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// The version of the schema.
    pub schema: u32,
    /// The machine's own side; the first one where every peer has its own.
    pub interface: Option<Interface>,
    /// The peers, in the order of the configuration.
    pub peers: Vec<Peer>,
}

/// This machine's side of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name of the device; at the forwarder, of the peer that it leads to.
    pub name: String,
    /// Public key in base64; `None` when there is none.
    pub public_key: Option<String>,
    /// UDP port.
    pub listen_port: u16,
    /// Inner MTU in bytes.
    pub mtu: u32,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Name in the configuration; the key's first characters for a peer that `wg set` added.
    pub name: String,
    /// The side of this machine.
    pub interface: Interface,
    /// Public key in base64.
    pub public_key: String,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Its prefixes.
    pub allowed_ips: Vec<IpNetwork>,
    /// `up`, `stale`, `down` or `never`.
    pub state: String,
    /// Seconds since the last handshake; `None` before the first.
    pub latest_handshake_age_seconds: Option<f64>,
    /// UNIX time of the last handshake; `None` before the first.
    pub latest_handshake_timestamp_seconds: Option<f64>,
    /// Seconds between keepalives.
    pub persistent_keepalive_seconds: Option<u64>,
    /// Bytes of authenticated messages received.
    pub rx_bytes: u64,
    /// Bytes of messages sent.
    pub tx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Bytes received per second, over the last few seconds.
    pub rx_bytes_per_second: f64,
    /// Bytes sent per second, likewise.
    pub tx_bytes_per_second: f64,
    /// Round trip of the probes; `None` for a peer that is not probed or has not answered yet.
    pub rtt_seconds: Option<f64>,
    /// Share of lost probes, 0 to 1; `None` for a peer that is not probed.
    pub loss_ratio: Option<f64>,
    /// The largest inner packet that the path carries, in bytes; `None` unless `mtu = "auto"` has
    /// found it.
    #[serde(default)]
    pub path_mtu_bytes: Option<u16>,
    /// The configured MTU in bytes, while packets of that size do not come through to the peer and
    /// small ones do.
    #[serde(default)]
    pub lost_size_bytes: Option<u16>,
    /// Probes lost since the start.
    pub probes_lost: u64,
    /// Handshakes completed since the start.
    pub handshakes: u64,
    /// Attempts to agree a session that had no answer in time, since the start.
    #[serde(default)]
    pub handshake_failures: u64,
    /// Changes of its endpoint since the start.
    pub endpoint_changes: u64,
    /// Recovery attempts since the start: handshake, rebind, resolve.
    pub recoveries: [u64; 3],
    /// The link with it; `None` for a peer that never had one, as any plain WireGuard peer.
    #[serde(default)]
    pub link: Option<Link>,
    /// What the edge's own probes found behind a peer without a link.
    #[serde(default)]
    pub services: Vec<ServiceShown>,
}

/// How a daemon as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything is as configured.
    Ok,
    /// Traffic is carried, but not all of it, or something could not be set.
    Degraded,
    /// No peer is up, or nothing can be carried.
    Broken,
}

impl Health {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Broken => "broken",
        }
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Ok,
            Self::Degraded => Exit::Degraded,
            Self::Broken => Exit::Broken,
        }
    }
}

impl Peer {
    /// A peer as its node has it; `rates` are bytes per second received and sent.
    #[must_use]
    pub fn of(
        status: &PeerStatus,
        name: String,
        interface: Interface,
        now: Instant,
        rates: (f64, f64),
    ) -> Self {
        let handshake = status.latest_handshake;
        Self {
            name,
            interface,
            public_key: status.public_key.to_string(),
            endpoint: status.endpoint.map(|endpoint| endpoint.remote),
            allowed_ips: status.allowed_ips.clone(),
            state: status.state.label().to_owned(),
            latest_handshake_age_seconds: handshake.map(|at| now.since(at.instant).as_secs_f64()),
            latest_handshake_timestamp_seconds: handshake.map(|at| at.wall.as_secs_f64()),
            persistent_keepalive_seconds: status.keepalive.map(|keepalive| keepalive.as_secs()),
            rx_bytes: status.rx_bytes,
            tx_bytes: status.tx_bytes,
            rx_packets: status.rx_packets,
            tx_packets: status.tx_packets,
            rx_bytes_per_second: rates.0,
            tx_bytes_per_second: rates.1,
            rtt_seconds: status.rtt.map(|rtt| rtt.as_secs_f64()),
            loss_ratio: status.loss_ratio,
            path_mtu_bytes: status.path_mtu,
            lost_size_bytes: status.lost_size,
            probes_lost: status.counts.probes_lost,
            handshakes: status.counts.handshakes,
            handshake_failures: status.counts.handshake_failures,
            endpoint_changes: status.counts.endpoint_changes,
            recoveries: status.counts.recoveries,
            link: None,
            services: Vec::new(),
        }
    }

    /// Whether it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == PeerState::Up.label()
    }

    fn allowed_ips(&self, separator: &str) -> String {
        self.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
    }

    /// Its metrics, in the names of two existing exporters and in our own, which begin with `role`.
    fn numbers(&self, role: &str) -> Vec<Number> {
        let mut numbers = self.own_numbers(role);
        numbers.extend(self.mdlayher());
        numbers.extend(self.mindflavor());
        numbers
    }

    fn own_numbers(&self, role: &str) -> Vec<Number> {
        let own = |number: Number| number.with("peer", &self.name);
        let name = |rest: &str| format!("{role}_{rest}");
        let counter = |rest: &str, help, value| own(Number::counter(name(rest), help, value));
        let gauge = |rest: &str, help, value| own(Number::gauge(name(rest), help, value));
        let mut numbers = vec![
            own(Number::flag(name("peer_up"), "Whether the peer has answered lately.", self.is_up())),
            counter("peer_handshakes_total", "Handshakes completed with the peer.", self.handshakes),
            counter(
                "peer_handshake_failures_total",
                "Attempts to agree a session with the peer that had no answer in time.",
                self.handshake_failures,
            ),
            gauge(
                "peer_last_handshake_timestamp_seconds",
                "UNIX time of the last handshake with the peer, 0 before the first.",
                self.latest_handshake_timestamp_seconds.unwrap_or(0.0),
            ),
            counter(
                "peer_packets_lost_total",
                "Probes inside the tunnel that were not answered.",
                self.probes_lost,
            ),
            counter(
                "peer_endpoint_changes_total",
                "Changes of the peer's authenticated address.",
                self.endpoint_changes,
            ),
            gauge("peer_mtu_bytes", "Inner MTU towards the peer.", f64::from(self.interface.mtu)),
        ];
        numbers.extend(
            self.loss_ratio.map(|loss| {
                gauge("peer_loss_ratio", "Share of the last probes that were lost, 0 to 1.", loss)
            }),
        );
        let mtu =
            |mtu| gauge("path_mtu_bytes", "Largest inner packet that the path to the peer carries.", mtu);
        numbers.extend(self.path_mtu_bytes.map(f64::from).map(mtu));
        for (step, count) in ["handshake", "rebind", "resolve"].into_iter().zip(self.recoveries) {
            let help = "Recovery attempts for a silent peer, by step.";
            numbers.push(counter("peer_recoveries_total", help, count).with("step", step));
        }
        let directions = [("rx", self.rx_bytes, self.rx_packets), ("tx", self.tx_bytes, self.tx_packets)];
        for (direction, bytes, packets) in directions {
            let help = "Bytes of authenticated messages, by peer; rx is received from it.";
            numbers.push(counter("tunnel_bytes_total", help, bytes).with("direction", direction));
            let help = "Inner packets, by peer; rx is received from it.";
            numbers.push(counter("tunnel_packets_total", help, packets).with("direction", direction));
        }
        numbers.extend(self.link.iter().flat_map(|link| link.numbers(role)).map(own));
        numbers
    }

    /// The names of mdlayher/wireguard_exporter.
    fn mdlayher(&self) -> [Number; 4] {
        let own =
            |number: Number| number.with("device", &self.interface.name).with("public_key", &self.public_key);
        let info = "Metadata about a peer. The public_key label on peer metrics refers to the peer's key.";
        [
            Number::gauge("wireguard_peer_info", info, 1.0)
                .with("allowed_ips", self.allowed_ips(","))
                .with("device", &self.interface.name)
                .with("endpoint", self.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default())
                .with("name", &self.name)
                .with("public_key", &self.public_key),
            own(Number::counter(
                "wireguard_peer_receive_bytes_total",
                "Number of bytes received from a given peer.",
                self.rx_bytes,
            )),
            own(Number::counter(
                "wireguard_peer_transmit_bytes_total",
                "Number of bytes transmitted to a given peer.",
                self.tx_bytes,
            )),
            own(Number::gauge(
                "wireguard_peer_last_handshake_seconds",
                "UNIX timestamp of the last handshake with a given peer.",
                self.whole_seconds_of_handshake(),
            )),
        ]
    }

    /// The names of MindFlavor/prometheus_wireguard_exporter.
    fn mindflavor(&self) -> [Number; 3] {
        let own = |number: Number| {
            number
                .with("interface", &self.interface.name)
                .with("public_key", &self.public_key)
                .with("allowed_ips", self.allowed_ips(","))
                .with("friendly_name", &self.name)
        };
        [
            own(Number::counter("wireguard_sent_bytes_total", "Bytes sent to the peer.", self.tx_bytes)),
            own(Number::counter(
                "wireguard_received_bytes_total",
                "Bytes received from the peer.",
                self.rx_bytes,
            )),
            own(Number::gauge(
                "wireguard_latest_handshake_seconds",
                "UNIX timestamp of the last handshake.",
                self.whole_seconds_of_handshake(),
            )),
        ]
    }

    /// Both exporters give whole seconds, and 0 before the first handshake.
    fn whole_seconds_of_handshake(&self) -> f64 {
        self.latest_handshake_timestamp_seconds.unwrap_or(0.0).floor()
    }

    /// In the words and order of `wg show`; further facts come after.
    fn text(&self, style: Style) -> String {
        let mut text = String::new();
        let title = format!("{} {}", style.bold("peer:"), self.name);
        // Escapes take no room on the screen, so the column is counted from the plain name.
        let gap = " ".repeat(52_usize.saturating_sub(self.name.chars().count()).max(2));
        let endpoint = self.endpoint.map_or_else(|| "(none)".to_owned(), |endpoint| endpoint.to_string());
        let allowed = if self.allowed_ips.is_empty() { "(none)".to_owned() } else { self.allowed_ips(", ") };
        let handshake = self.latest_handshake_age_seconds.map_or_else(|| "never".to_owned(), ago);
        let keepalive = self.persistent_keepalive_seconds.map_or_else(String::new, |seconds| {
            format!("        persistent keepalive: every {}", period(seconds))
        });
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{title}{gap}{}", style.state(&self.state));
        let _ = writeln!(text, "  public key: {}", self.public_key);
        let _ = writeln!(text, "  endpoint: {endpoint}        allowed ips: {allowed}");
        let _ = writeln!(text, "  latest handshake: {handshake}{keepalive}");
        let _ = writeln!(
            text,
            "  transfer: {} received, {} sent        now: {}/s in, {}/s out",
            bytes(self.rx_bytes),
            bytes(self.tx_bytes),
            rate(self.rx_bytes_per_second),
            rate(self.tx_bytes_per_second),
        );
        if let Some(loss) = self.loss_ratio {
            let rtt =
                self.rtt_seconds.map_or_else(|| "unknown".to_owned(), |rtt| format!("{:.1} ms", rtt * 1e3));
            let mtu = self.path_mtu_bytes.map_or_else(String::new, |mtu| format!(", mtu {mtu}"));
            let lost =
                self.lost_size_bytes.map_or_else(String::new, |size| format!(", {size} bytes are lost"));
            let _ = writeln!(text, "  path: rtt {rtt}, loss {:.1} %{mtu}{lost}", loss * 100.0);
        }
        let services = services_lines(&self.services);
        for line in self.link.iter().flat_map(Link::lines).chain(services) {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

impl Peers {
    /// How many are up.
    #[must_use]
    pub fn up(&self) -> usize {
        self.peers.iter().filter(|peer| peer.is_up()).count()
    }

    /// For people: this machine's side above the peers that share it.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        let mut text = String::new();
        let mut last = None;
        if self.peers.is_empty() {
            text.extend(self.interface.iter().map(|interface| interface.text(style)));
        }
        for peer in &self.peers {
            if last != Some(&peer.interface) {
                if last.is_some() {
                    text.push('\n');
                }
                text.push_str(&peer.interface.text(style));
                last = Some(&peer.interface);
            }
            text.push_str(&peer.text(style));
        }
        text
    }

    /// Their metrics; our own names begin with `role`.
    #[must_use]
    pub fn numbers(&self, role: &str) -> Vec<Number> {
        let mut interfaces: Vec<&Interface> = self.interface.iter().collect();
        interfaces.extend(self.peers.iter().map(|peer| &peer.interface));
        interfaces.dedup();
        let info = |interface: &Interface| {
            Number::gauge("wireguard_device_info", "Metadata about a device.", 1.0)
                .with("device", &interface.name)
                .with("public_key", interface.public_key.clone().unwrap_or_default())
        };
        let devices = interfaces.into_iter().map(info);
        devices.chain(self.peers.iter().flat_map(|peer| peer.numbers(role))).collect()
    }
}

impl Interface {
    fn text(&self, style: Style) -> String {
        format!(
            "{} {}\n  public key: {}        listening port: {}        mtu: {}\n",
            style.bold("interface:"),
            self.name,
            self.public_key.as_deref().unwrap_or("(none)"),
            self.listen_port,
            self.mtu,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::page;

    #[test]
    fn peers_read_like_wg_show_with_more() {
        let expected = "\
interface: gw0
  public key: pQ1=        listening port: 51820        mtu: 1420
peer: wroclaw                                             UP
  public key: 8kF=
  endpoint: 198.51.100.7:40213        allowed ips: 10.77.88.2/32, 192.168.88.0/24
  latest handshake: 41 seconds ago
  transfer: 3.42 GiB received, 18.10 GiB sent        now: 1.20 MB/s in, 9.80 MB/s out
  path: rtt 23.4 ms, loss 0.0 %
";
        assert_eq!(example().text(Style::Plain), expected);
        assert!(example().text(Style::Colour).contains("\x1b[32mUP"));
    }

    #[test]
    fn each_interface_of_its_own_is_above_its_peer() {
        let mut peers = example();
        let mut other = peers.peers[0].clone();
        other.interface.name = "oracle".to_owned();
        peers.peers.push(other);
        let text = peers.text(Style::Plain);
        assert_eq!(text.matches("interface: ").count(), 2, "{text}");
        let shared = Peers { peers: vec![peers.peers[0].clone(), peers.peers[0].clone()], ..example() };
        assert_eq!(shared.text(Style::Plain).matches("interface: ").count(), 1);
    }

    #[test]
    fn the_page_has_two_exporters_names_and_our_own() {
        let shown = page(example().numbers("gateway"));
        for line in [
            "wireguard_device_info{device=\"gw0\",public_key=\"pQ1=\"} 1",
            "wireguard_peer_receive_bytes_total{device=\"gw0\",public_key=\"8kF=\"} 3672197038",
            "wireguard_sent_bytes_total{interface=\"gw0\",public_key=\"8kF=\",allowed_ips=\"10.77.88.2/32,192.168.88.0/24\",friendly_name=\"wroclaw\"} 19434727014",
            "wireguard_peer_last_handshake_seconds{device=\"gw0\",public_key=\"8kF=\"} 1790000000",
            "gateway_tunnel_bytes_total{peer=\"wroclaw\",direction=\"rx\"} 3672197038",
            "gateway_peer_up{peer=\"wroclaw\"} 1",
            "gateway_peer_handshake_failures_total{peer=\"wroclaw\"} 2",
        ] {
            assert!(shown.lines().any(|have| have == line), "{line}\n{shown}");
        }
        let none = Peers { peers: Vec::new(), ..example() };
        assert!(!page(none.numbers("gateway")).contains("wroclaw"), "a removed peer leaves no series");
    }

    fn example() -> Peers {
        let interface = Interface {
            name: "gw0".to_owned(),
            public_key: Some("pQ1=".to_owned()),
            listen_port: 51820,
            mtu: 1420,
        };
        let peer = Peer {
            name: "wroclaw".to_owned(),
            interface: interface.clone(),
            public_key: "8kF=".to_owned(),
            endpoint: Some("198.51.100.7:40213".parse().unwrap()),
            allowed_ips: vec!["10.77.88.2/32".parse().unwrap(), "192.168.88.0/24".parse().unwrap()],
            state: "up".to_owned(),
            latest_handshake_age_seconds: Some(41.2),
            latest_handshake_timestamp_seconds: Some(1_790_000_000.7),
            persistent_keepalive_seconds: None,
            rx_bytes: 3_672_197_038,
            tx_bytes: 19_434_727_014,
            rx_packets: 1,
            tx_packets: 2,
            rx_bytes_per_second: 1.2e6,
            tx_bytes_per_second: 9.8e6,
            rtt_seconds: Some(0.0234),
            loss_ratio: Some(0.0),
            path_mtu_bytes: None,
            lost_size_bytes: None,
            probes_lost: 0,
            handshakes: 3,
            handshake_failures: 2,
            endpoint_changes: 0,
            recoveries: [0; 3],
            link: None,
            services: Vec::new(),
        };
        Peers { schema: 1, interface: Some(interface), peers: vec![peer] }
    }
}
