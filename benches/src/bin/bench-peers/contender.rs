//! The contenders that are measured.

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;
use lab::Process;

use super::daemons::Watched;
use super::measure::Group;
use super::path::Path;
use super::wireguard::Engine;
use super::{daemons, forwards, wireguard};

/// A way from the client to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contender {
    /// Our engine at both ends.
    CausewayWg,
    /// Our engine at both ends, without what kernels before 6.2 lack: UDP super-packets at the TUN.
    CausewayWgOldKernel,
    /// Our engine at the edge, wireguard-go at the origin.
    CausewayWgEdge,
    /// wireguard-go at the edge, our engine at the origin.
    CausewayWgOrigin,
    /// Our daemons: gateway at the edge, forwarder at the origin.
    Gateway,
    /// The same with everything on that shows what is wrong.
    GatewayWatched,
    /// The same with none of it.
    GatewayUnwatched,
    /// wireguard-go at both ends.
    WireguardGo,
    /// gotatun at both ends.
    Gotatun,
    /// boringtun at both ends.
    Boringtun,
    /// onetun at the edge, wireguard-go at the origin.
    Onetun,
    /// rathole with noise: a TCP tunnel.
    RatholeNoise,
    /// The kernel's DNAT and no tunnel.
    Direct,
}

/// The programs that carry the traffic, by the side that they run on; dropped, they end.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) edge: Vec<Process>,
    pub(crate) origin: Vec<Process>,
    /// What looks at them meanwhile, at either side.
    pub(crate) watchers: Vec<Process>,
}

impl Contender {
    /// Whether a group is measured of it. The mixed pairs are there for the throughput alone, the
    /// watched daemons for their idle CPU as well;
    /// onetun stops permanently under several streams or a burst of datagrams.
    pub(crate) fn is_asked(self, group: Group) -> bool {
        match self {
            Self::CausewayWgEdge | Self::CausewayWgOrigin => group == Group::Bulk,
            Self::CausewayWgOldKernel => matches!(group, Group::Bulk | Group::OneCore | Group::Datagrams),
            Self::GatewayWatched | Self::GatewayUnwatched => matches!(group, Group::Bulk | Group::Idle),
            Self::Onetun => !matches!(group, Group::Datagrams | Group::Loaded),
            Self::Direct => !matches!(group, Group::Idle | Group::Many | Group::OneCore),
            Self::CausewayWg
            | Self::Gateway
            | Self::WireguardGo
            | Self::Gotatun
            | Self::Boringtun
            | Self::RatholeNoise => true,
        }
    }

    /// Starts it on a path where nothing runs yet.
    pub(crate) fn start(self, path: &Path) -> Result<Running> {
        match self {
            Self::CausewayWg => wireguard::start(path, Engine::Causeway, Engine::Causeway),
            Self::CausewayWgOldKernel => {
                wireguard::start(path, Engine::CausewayOldKernel, Engine::CausewayOldKernel)
            }
            Self::CausewayWgEdge => wireguard::start(path, Engine::Causeway, Engine::Go),
            Self::CausewayWgOrigin => wireguard::start(path, Engine::Go, Engine::Causeway),
            Self::WireguardGo => wireguard::start(path, Engine::Go, Engine::Go),
            Self::Gotatun => wireguard::start(path, Engine::Gotatun, Engine::Gotatun),
            Self::Boringtun => wireguard::start(path, Engine::Boringtun, Engine::Boringtun),
            Self::Gateway => daemons::start(path, Watched::AsUsual),
            Self::GatewayWatched => daemons::start(path, Watched::Fully),
            Self::GatewayUnwatched => daemons::start(path, Watched::Not),
            Self::Onetun => forwards::start_onetun(path),
            Self::RatholeNoise => forwards::start_rathole(path),
            Self::Direct => path.route_without_tunnel().map(|()| Running::default()),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::CausewayWg => "causeway-wg",
            Self::CausewayWgOldKernel => "causeway-wg, before Linux 6.2",
            Self::CausewayWgEdge => "causeway-wg + wireguard-go",
            Self::CausewayWgOrigin => "wireguard-go + causeway-wg",
            Self::Gateway => "gateway + forwarder",
            Self::GatewayWatched => "gateway + forwarder, watched",
            Self::GatewayUnwatched => "gateway + forwarder, not watched",
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
            Self::Onetun => "onetun",
            Self::RatholeNoise => "rathole noise",
            Self::Direct => "direct",
        })
    }
}
