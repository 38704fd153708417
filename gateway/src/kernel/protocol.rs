//! What the daemon may ask of its kernel helper, and how a message is framed.
//!
//! One message is a length of four bytes (big endian) and that many bytes of JSON; file descriptors
//! travel with the length as `SCM_RIGHTS`. A frame holds at most [`MAX_FRAME`] bytes, a message at
//! most [`MAX_FDS`] descriptors.

use daemon::exit::{Exit, ExitError};
use ipnetwork::IpNetwork;
use policy::plan;
use serde::{Deserialize, Serialize};

use super::scope::Scope;

/// Most bytes of JSON in one message: a ruleset of ten thousand services fits.
pub const MAX_FRAME: usize = 32 << 20;
/// Most file descriptors with one message.
pub const MAX_FDS: usize = 2;

/// One request of the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Request {
    /// What the helper may do: the first request, and only once.
    Begin {
        /// The scope that all later requests are held against.
        scope: Scope,
    },
    /// Root's own texts may ask for more than they did: reads them again, and answers what may be
    /// done now.
    Widen,
    /// Is there a TUN driver, and may we use it? Changes nothing.
    Probe,
    /// `nft -c`: would the kernel take this ruleset? Changes nothing.
    CheckRuleset {
        /// Commands for `nft -j -f -`; every one must name the table `inet causeway`.
        ruleset: String,
    },
    /// Runs the ruleset as one transaction.
    ApplyRuleset {
        /// As for [`Request::CheckRuleset`].
        ruleset: String,
    },
    /// Reads the table, or one kind of object of it.
    List {
        /// What to read.
        what: Listing,
    },
    /// Creates the device if it is missing, persistent, and hands over a queue of it.
    OpenTun,
    /// Opens the outer socket and hands it over.
    OpenUdp {
        /// UDP port.
        port: u16,
        /// Firewall mark of its packets.
        mark: u32,
    },
    /// Marks the packets of the daemon's own outer socket, which comes with the request.
    MarkUdp {
        /// Firewall mark; 0 is none.
        mark: u32,
    },
    /// Opens sockets that become readable when the network changes, and hands them over.
    Watch,
    /// Adds the addresses, routes and rules of the plan that are missing; when one is refused, none
    /// stays.
    AddRouting {
        /// The plan.
        routing: Routing,
    },
    /// Makes addresses, routes and rules what the plan says: adds what is missing, takes away what
    /// is ours and too much.
    ApplyRouting {
        /// The plan.
        routing: Routing,
    },
    /// Takes away our routes, rules and device.
    RemoveRouting,
    /// Makes the tables and rules of the way back what is listed, from the uplinks' own routes.
    FollowUplinks {
        /// A table for each uplink.
        uplinks: Vec<UplinkTable>,
    },
    /// Asks the kernel to find out the link-layer addresses of next hops.
    Resolve {
        /// Interface index and address.
        neighbours: Vec<(u32, std::net::IpAddr)>,
    },
    /// Ends the flows that carry one of these conntrack marks, none of which may be 0.
    ForgetFlows {
        /// Marks of services that are gone or have changed.
        marks: Vec<u32>,
    },
    /// Reads flows out of conntrack.
    Flows {
        /// Which.
        query: FlowQuery,
    },
    /// Reads switches under `/proc/sys/net`.
    ReadSysctls {
        /// Paths below `/proc/sys`.
        paths: Vec<String>,
    },
    /// Writes switches under `/proc/sys/net` that have another value.
    WriteSysctls {
        /// Path and value.
        values: Vec<(String, String)>,
    },
}

/// What [`Request::List`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listing {
    /// Everything.
    Table,
    /// Everything but the elements of sets and maps.
    Outline,
    /// Named counters.
    Counters,
    /// Banned IPv4 sources.
    Bans4,
    /// Banned IPv6 sources.
    Bans6,
    /// The whole ruleset, tables of others included, without what they count.
    Ruleset,
}

/// Which flows are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// What the conntrack mark must be under the mask.
    pub mark: u32,
    /// Bits of the mark that are looked at.
    pub mask: u32,
    /// Only flows with one of these whole marks; of any when empty.
    pub marks: Vec<u32>,
    /// Only flows with this address at one of their ends.
    pub address: Option<std::net::IpAddr>,
    /// Most flows that are given in full: those that carried most.
    pub limit: usize,
}

/// One flow as conntrack follows it; ports are 0 where the protocol has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Conntrack mark.
    pub mark: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Who began it.
    pub client: std::net::SocketAddr,
    /// What the client sends to.
    pub listen: std::net::SocketAddr,
    /// Who answers.
    pub target: std::net::SocketAddr,
    /// What the answers are sent to: the client, or an address it was masqueraded with.
    pub answered: std::net::SocketAddr,
    /// Packets from the client and back.
    pub packets: [u64; 2],
    /// Bytes from the client and back.
    pub bytes: [u64; 2],
    /// Start in nanoseconds since the UNIX epoch, where the kernel notes it.
    pub started_nanoseconds: Option<u64>,
    /// State of a TCP connection (`enum tcp_conntrack`).
    pub tcp_state: Option<u8>,
}

/// The helper's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; nothing to report.
    Done,
    /// Descriptors come with this message.
    Descriptors,
    /// What `nft -j list` printed; empty when there is no such table.
    Listed {
        /// JSON.
        json: String,
    },
    /// What was changed in links, addresses, routes and rules, a line each.
    Changed {
        /// `+ …` or `- …`.
        lines: Vec<String>,
    },
    /// Flows, those that carried most first.
    Flows {
        /// As many as were asked for.
        flows: Vec<Flow>,
        /// How many there are.
        matched: usize,
    },
    /// Values in the order of the request; `None` for a switch that this kernel does not have.
    Sysctls {
        /// Values without line ends.
        values: Vec<Option<String>>,
    },
    /// Switches that could not be written.
    Unwritable {
        /// Path, wanted value and the system's words.
        switches: Vec<(String, String, String)>,
    },
    /// What may be done now.
    Scope(Scope),
    /// It did not work.
    Failed(Failure),
}

/// A request or a reply with its number: a reply has that of its request, and numbers only grow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbered<T> {
    /// The number.
    pub sequence: u64,
    /// The request or the reply.
    pub body: T,
}

/// Why a request was refused; nothing of it was done unless the message says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its kind, by which a caller decides.
    pub kind: FailureKind,
    /// What happened and how to fix it, one line.
    pub message: String,
}

/// What a caller decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A capability, a device node or a program is missing.
    Permission,
    /// The request lies outside what the helper does.
    Refused,
    /// `nft` did not take the ruleset.
    Ruleset,
    /// The kernel refused.
    Kernel,
    /// Another process holds the device, the port or the table.
    Conflict,
    /// The tunnel's device is not there any more.
    Gone,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<Failure> for ExitError {
    fn from(failure: Failure) -> Self {
        let exit = match failure.kind {
            FailureKind::Permission => Exit::Permission,
            FailureKind::Conflict => Exit::Conflict,
            FailureKind::Ruleset | FailureKind::Refused | FailureKind::Kernel | FailureKind::Gone => {
                Exit::Failed
            }
        };
        Self::new(exit, failure)
    }
}

/// [`policy::plan::Routing`] as it crosses the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// Addresses of the device.
    pub addresses: Vec<IpNetwork>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Packets that may wait in it.
    pub tx_queue_length: u32,
    /// Routes.
    pub routes: Vec<Route>,
    /// Rules; what carries the protocol number of the scope and is not listed goes.
    pub rules: Vec<Rule>,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// To where.
    pub destination: IpNetwork,
    /// Whether it leads nowhere instead of into the device.
    pub unreachable: bool,
    /// In which table.
    pub table: u32,
    /// Of routes to one destination the lowest wins.
    pub metric: u32,
}

/// One routing rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whether it is for IPv6.
    pub ipv6: bool,
    /// Lower comes first.
    pub priority: u32,
    /// Only packets with this mark.
    pub fwmark: Option<u32>,
    /// Only packets to this prefix.
    pub to: Option<IpNetwork>,
    /// The table that is consulted.
    pub table: u32,
}

/// The table of one uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkTable {
    /// The index of the interface whose default routes are copied.
    pub link: u32,
    /// Into which table.
    pub table: u32,
    /// For packets with which mark.
    pub mark: u32,
    /// The priority of the rule.
    pub priority: u32,
}

impl From<&plan::UplinkTable> for UplinkTable {
    fn from(&plan::UplinkTable { link, table, mark, priority }: &plan::UplinkTable) -> Self {
        Self { link, table, mark, priority }
    }
}

impl Routing {
    /// The plan for the wire.
    #[must_use]
    pub fn new(plan: &plan::Routing) -> Self {
        Self {
            addresses: plan.device.addresses.clone(),
            mtu: plan.device.mtu.into(),
            tx_queue_length: plan.device.tx_queue_length,
            routes: plan.routes.iter().map(Route::from).collect(),
            rules: plan.rules.iter().map(Rule::from).collect(),
        }
    }
}

impl From<&plan::Route> for Route {
    fn from(route: &plan::Route) -> Self {
        Self {
            destination: route.destination,
            unreachable: route.kind == plan::RouteKind::Unreachable,
            table: route.table,
            metric: route.metric,
        }
    }
}

impl From<&plan::Rule> for Rule {
    fn from(rule: &plan::Rule) -> Self {
        let (fwmark, to) = match rule.selector {
            plan::Selector::Fwmark(mark) => (Some(mark), None),
            plan::Selector::To(prefix) => (None, Some(prefix)),
            plan::Selector::All => (None, None),
        };
        Self { ipv6: rule.ipv6, priority: rule.priority, fwmark, to, table: rule.table }
    }
}
