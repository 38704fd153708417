//! What may be wrong at an end besides the hops of its services, in one word each.

use serde::{Deserialize, Serialize};

use crate::health::HopName;

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $label:literal at $hop:ident: $what:literal, $fix:literal;)+) => {
        /// What is wrong, by its kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case", from = "String")]
        pub enum Cause {
            $($(#[$doc])* $variant,)+
            /// Another one.
            Other,
        }

        impl Cause {
            /// Those that this version knows.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)+];

            /// In one word.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                    Self::Other => "other",
                }
            }

            /// The hop that it belongs to.
            #[must_use]
            pub const fn hop(self) -> HopName {
                match self {
                    $(Self::$variant => HopName::$hop,)+
                    Self::Other => HopName::Daemon,
                }
            }

            /// In words, for an end that has nothing more than the kind.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$variant => $what,)+
                    Self::Other => "something that this version does not know is wrong there",
                }
            }

            /// What to do about it, on the machine where it is.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self {
                    $(Self::$variant => $fix,)+
                    Self::Other => "run `causeway doctor`",
                }
            }
        }
    };
}

causes! {
    /// The configuration file was read again and not taken.
    Configuration = "configuration" at Daemon:
        "the configuration file was not taken", "run `causeway doctor`, and correct the file";
    /// A new version failed, and the one before it runs again.
    Upgrade = "upgrade" at Daemon:
        "a new version failed, and the one before it runs again",
        "run `causeway doctor`, and install a version that works";
    /// The socket of `wg` was removed.
    WgSocket = "wg_socket" at Daemon:
        "`wg` cannot ask the daemon", "restart the daemon";
    /// What happened cannot be kept on the disk.
    History = "history" at Daemon:
        "the history cannot be written", "run `causeway doctor`: it names the folder";
    /// Foreign rules do not let the tunnel's port in.
    ForeignInput = "foreign_input" at WanPort:
        "another firewall does not let the tunnel's port in",
        "run `causeway doctor`: it prints the rule that lets it in";
    /// A program listens on a published port.
    PortTaken = "port_taken" at WanPort:
        "a program listens on a published port", "run `causeway doctor`: it names the port";
    /// Interfaces or addresses are not as the configuration needs them.
    Interfaces = "interfaces" at WanPort:
        "interfaces or addresses are not as the configuration needs them", "run `causeway doctor`";
    /// A public port is refused.
    PublishRefused = "publish_refused" at WanPort:
        "a public port is refused", "run `causeway status`: it names why";
    /// The edge's table is not there.
    TableMissing = "table_missing" at Ruleset:
        "the edge's table is missing", "run `causeway doctor`";
    /// Rules, routes or switches cannot be checked or put back.
    NotRepaired = "not_repaired" at Ruleset:
        "rules, routes or switches cannot be checked or put back", "run `causeway doctor`";
    /// Another program keeps changing rules, routes or switches.
    Contention = "contention" at Ruleset:
        "another program keeps changing rules, routes or switches", "find out which, and stop it";
    /// A switch of the kernel cannot be written.
    Switch = "switch" at Ruleset:
        "a switch of the kernel is not as it has to be", "run `causeway doctor`: it prints the command";
    /// Foreign rules do not let packets of the tunnel through.
    ForeignForward = "foreign_forward" at Ruleset:
        "another firewall does not let packets of the tunnel through",
        "run `causeway doctor`: it prints the rule that lets them through";
    /// A list holds no source, or is old.
    List = "list" at Ruleset:
        "a list of sources is empty or old", "run `causeway doctor`: it names the list";
    /// The table of flows is nearly full.
    FlowTable = "flow_table" at Ruleset:
        "the table of flows is nearly full", "run `causeway doctor`: it names who has most of them";
    /// Grants cannot be kept or loaded.
    Grants = "grants" at Ruleset:
        "grants cannot be kept", "run `causeway doctor`";
    /// Packets would go another way than into the tunnel.
    OtherRoute = "other_route" at Route:
        "packets for the tunnel would go another way", "run `causeway doctor`: it names the rule in the way";
    /// The clock is wrong.
    Clock = "clock" at Tunnel:
        "the clock is wrong, and peers refuse handshakes older than the last",
        "run: timedatectl set-ntp true";
    /// The device or a UDP socket does not work.
    Socket = "socket" at Tunnel:
        "the tunnel's device or socket does not work", "restart the daemon";
    /// Handshakes are refused.
    Handshakes = "handshakes" at Tunnel:
        "handshakes are refused", "run `causeway doctor`: it names the key";
    /// Two machines use one key.
    SharedKey = "shared_key" at Tunnel:
        "two machines use one key", "stop one of them, or give it a key of its own";
    /// A peer is not up.
    PeerDown = "peer_down" at Tunnel:
        "a peer is not up", "run `causeway doctor`";
    /// Many packets are lost.
    Loss = "loss" at Tunnel:
        "packets are lost on the way", "look at the connections of both ends: cable, radio, a full uplink";
    /// Large packets are lost.
    PathMtu = "path_mtu" at Tunnel:
        "large packets are lost on the way", "write mtu = \"auto\" in [interface] of gateway.toml, then apply it";
    /// The other edge of a pair is not heard.
    OtherEdge = "other_edge" at Daemon:
        "the other edge of the pair is not heard",
        "look at the other edge, and at the link between the two: gatewayctl status";
    /// The port of the link cannot be listened on.
    LinkPort = "link_port" at Link:
        "the port of the link cannot be listened on", "run `causeway doctor`: it names the program";
    /// A published port leads to no service entry.
    NoEntry = "no_entry" at ServiceEntry:
        "a port that the edge publishes leads to no [[service]] of the origin",
        "add a [[service]] that matches the target, or add the protocol to the one that has it";
    /// No descriptor is free.
    Descriptors = "descriptors" at ServiceEntry:
        "every file descriptor is in use", "raise the limit of open files (LimitNOFILE= of the unit)";
    /// Replies would leave another way.
    ReplyRoute = "reply_route" at WayBack:
        "replies would leave by another way than requests come", "run `causeway doctor`: it names the rule in the way";
}

impl From<String> for Cause {
    fn from(word: String) -> Self {
        Self::KNOWN.iter().copied().find(|cause| cause.label() == word).unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_read_as_it_is_written_and_an_unknown_word_is_another_one() {
        for cause in Cause::KNOWN {
            let text = serde_json::to_string(cause).unwrap();
            assert_eq!(text, format!("\"{}\"", cause.label()));
            assert_eq!(serde_json::from_str::<Cause>(&text).unwrap(), *cause);
        }
        assert_eq!(serde_json::from_str::<Cause>("\"moon\"").unwrap(), Cause::Other);
    }
}
