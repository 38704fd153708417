//! Why a packet was dropped: flat reasons, which are also the metric labels.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $stage:literal / $label:literal,)+) => {
        /// Why a packet or datagram was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $name,)+ }

        impl DropReason {
            /// Every reason, in declaration order: the index of a reason is its counter's.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The value of the metric label `reason`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The value of the metric label `stage`.
            #[must_use]
            pub const fn stage(self) -> &'static str {
                match self { $(Self::$name => $stage,)+ }
            }
        }
    };
}

reasons! {
    /// An inner packet that is no IP packet, or whose lengths contradict each other.
    MalformedInner = "encrypt" / "malformed",
    /// No peer's allowed-ips hold the destination.
    NoPeer = "encrypt" / "no_peer",
    /// The peer has no endpoint and has never been heard.
    NoEndpoint = "encrypt" / "no_endpoint",
    /// The packet is one of our own outer datagrams: a routing loop.
    RoutingLoop = "encrypt" / "routing_loop",
    /// The send arena is full.
    SendQueueFull = "encrypt" / "queue_full",
    /// The peer is being removed, or its keys are.
    NoSession = "encrypt" / "no_session",
    /// A datagram that is no WireGuard message.
    NotWireGuard = "receive" / "not_wireguard",
    /// A handshake message whose mac1 does not verify.
    BadMac = "receive" / "bad_mac",
    /// A handshake message over its source's rate.
    RateLimited = "receive" / "rate_limited",
    /// A handshake from an unknown key.
    UnknownPeer = "receive" / "unknown_peer",
    /// An unknown receiver index.
    UnknownIndex = "receive" / "unknown_index",
    /// A handshake message that does not authenticate.
    BadHandshake = "receive" / "bad_handshake",
    /// An initiation with a timestamp not newer than the last: a replay, or a peer whose clock went
    /// back.
    OldTimestamp = "receive" / "old_stamp",
    /// A data message that does not authenticate, or whose session is gone.
    BadTag = "decrypt" / "bad_tag",
    /// A counter already seen, or too old for the window.
    Replayed = "decrypt" / "replayed",
    /// A counter at or above 2^64 - 2^13 (WireGuard paper §6.1, reject-after-messages).
    CounterExhausted = "decrypt" / "counter_exhausted",
    /// A decrypted packet that is no IP packet, or whose lengths contradict each other.
    MalformedDecrypted = "decrypt" / "malformed",
    /// A decrypted packet whose source lies outside the sending peer's allowed-ips.
    SpoofedSource = "decrypt" / "spoofed_source",
    /// The sink for inner packets is full.
    SinkFull = "decrypt" / "sink_full",
}
