//! What the daemon reports: the schema of every `--json`, shared by daemon and `gatewayctl`.

use std::net::IpAddr;

use daemon::health::{NameShown, PathShown};
use daemon::peers::{Health, Peers};
use daemon::status::{Service as ServiceShown, Side};
use serde::{Deserialize, Serialize};

/// The version of these schemas; it rises when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// `gatewayctl services --json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Published ports and private flows, in the order of the configuration.
    pub services: Vec<Service>,
}

/// One published port or private flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// `publish` or `allow`.
    pub kind: String,
    /// `tcp`, `udp`, `tcp+udp` or `icmp`.
    pub protocol: String,
    /// What is opened: `443` or `[address]:443` for a publish, the sources for an allow.
    pub from: String,
    /// Where it leads.
    pub to: String,
    /// Peers it depends on.
    pub peers: Vec<String>,
    /// State of the worst of them.
    pub state: String,
    /// Whether it works, hop by hop.
    #[serde(default)]
    pub health: PathShown,
    /// What its visitors ask for, each with a state of its own, as the origin reported it.
    #[serde(default)]
    pub names: Vec<NameShown>,
    /// Packets towards the target.
    pub packets_in: u64,
    /// Bytes towards the target.
    pub bytes_in: u64,
    /// Packets back.
    pub packets_out: u64,
    /// Bytes back.
    pub bytes_out: u64,
}

impl Service {
    fn shown(self) -> ServiceShown {
        ServiceShown {
            name: self.name,
            is_public: Some(self.kind != "allow"),
            from: self.from,
            to: self.to,
            peers: self.peers,
            seconds: self.health.seconds(),
            state: self.health.state,
            failing: self.health.failing,
            hops: self.health.hops,
            names: self.names,
            publish: Vec::new(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }
}

/// How the edge is, from its reports, in the shape of both roles.
#[must_use]
pub fn side(status: Status, peers: Peers, services: Services) -> Side {
    Side {
        role: "edge",
        version: status.version,
        peers: peers.peers,
        services: services.services.into_iter().map(Service::shown).collect(),
        problems: status.problems,
        notes: status.notes,
    }
}

/// `gatewayctl status --json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `ok`, `degraded` or `broken`.
    pub health: Health,
    /// The daemon's version.
    pub version: String,
    /// The configuration file.
    pub config: String,
    /// How many times a configuration was applied since the start.
    pub generation: u64,
    /// Whether the configuration file holds what is in force.
    pub config_in_force: bool,
    /// Seconds until an unconfirmed change goes back by itself; `None` when no change waits.
    pub confirm_within_seconds: Option<u64>,
    /// Whether the last attempt to apply one succeeded.
    pub last_apply_ok: bool,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Name of the device.
    pub interface: String,
    /// `active` or `standby`, for an edge of a pair.
    #[serde(default)]
    pub standby: Option<String>,
    /// Peers that are up.
    pub peers_up: usize,
    /// Peers there are.
    pub peers: usize,
    /// Links that are up.
    #[serde(default)]
    pub links_up: usize,
    /// Packets that would have left the wrong way and were dropped.
    pub leaked_packets: u64,
    /// Who is trusted besides the tunnel and loopback, a line for each interface; every other
    /// source is a WAN client.
    #[serde(default)]
    pub trusted: Vec<String>,
    /// What is wrong, each with its fix; empty when all is well.
    pub problems: Vec<String>,
    /// What will not work as it may be meant to; nothing is wrong.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// `gatewayctl bans --json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bans {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Banned sources.
    pub bans: Vec<Ban>,
}

/// One banned source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The address.
    pub address: IpAddr,
    /// Seconds until it is lifted; `None` when it stays.
    pub expires_in_seconds: Option<u64>,
}

/// `gatewayctl flows --json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// [`SCHEMA`].
    pub schema: u32,
    /// How many flows there are, shown here or not.
    pub total: usize,
    /// Whether there are more than are shown here.
    pub truncated: bool,
    /// The flows, those that carried most first.
    pub flows: Vec<Flow>,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Name of the publish or allow.
    pub service: String,
    /// `publish` or `allow`.
    pub kind: String,
    /// `tcp`, `udp`, `icmp`, or another's number.
    pub protocol: String,
    /// Who began it, with the port where there is one.
    pub client: String,
    /// What the client sends to.
    pub listen: String,
    /// Who answers.
    pub target: String,
    /// Whether the target sees an address of the edge instead of the client's.
    pub masqueraded: bool,
    /// The peer that it goes through; `None` when it has none any more.
    pub peer: Option<String>,
    /// State of a TCP connection, such as `established`.
    pub state: Option<String>,
    /// Packets towards the target.
    pub packets_in: u64,
    /// Bytes towards the target.
    pub bytes_in: u64,
    /// Packets back.
    pub packets_out: u64,
    /// Bytes back.
    pub bytes_out: u64,
    /// Seconds since its first packet; `None` where the kernel did not note it.
    pub age_seconds: Option<f64>,
}

/// `gatewayctl offload --json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What is in use now.
    pub offloads: Vec<Offload>,
}

/// One offload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// `tun_tcp`, `tun_udp`, `udp_gso`, `udp_gro` or `busy_poll`.
    pub name: String,
    /// Whether it is in use: switched on, and the machine has it.
    pub on: bool,
    /// Whether the configuration wants it.
    pub configured: bool,
    /// Whether the machine has it; `None` from a daemon that does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<bool>,
    /// What it needs: the first kernel that has it, or more than one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
}
