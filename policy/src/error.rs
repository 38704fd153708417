//! What can be wrong with a configuration, and how to mend it.

use std::fmt;

use crate::Position;

/// One error in a configuration; prints as `file:line:column: what is wrong; how to mend it`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct ConfigError {
    /// Where.
    pub at: Position,
    /// What, and the mend.
    pub problem: Problem,
}

impl ConfigError {
    /// The exit code of a daemon or tool that stops because of this error: 5 for a file's mode or permission,
    /// else 4.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if matches!(self.problem, Problem::KeyFileMode { .. } | Problem::UnreadableFile { .. }) {
            5
        } else {
            4
        }
    }
}

/// Something that is allowed but probably not meant; prints like an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub at: Position,
    /// What, and why it is probably not meant.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: warning: {}", self.at, self.message)
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// More text than a configuration may have.
    #[error("the file has {bytes} bytes; the most is {limit}, so move prefixes into `[[list]]` files")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most it may have.
        limit: usize,
    },
    /// Not TOML.
    #[error("this is not TOML: {message}; correct the line")]
    Syntax {
        /// The parser's words.
        message: String,
    },
    /// A key or table that stands twice.
    #[error("`{key}` stands here a second time; keep one of the two")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A key that means nothing here.
    #[error("{table} has no key {key:?}; {}", or_list(nearest.as_deref(), known))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        table: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// Every key that there is.
        known: String,
    },
    /// A key that must be there.
    #[error("{table} has no `{key}`; add it")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// Where it belongs.
        table: String,
    },
    /// A value of another type.
    #[error("`{key}` must be {expected}, but this is of type {found}; write {expected}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value that cannot be read.
    #[error("`{key}` cannot be {written:?}; write {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What stands there.
        written: String,
        /// What should stand there, with an example.
        expected: &'static str,
    },
    /// A number outside its range.
    #[error("`{key}` is out of range; write a number from {low} to {high}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// The least.
        low: u64,
        /// The most.
        high: u64,
    },
    /// More entries than are supported.
    #[error("there are too many entries in `{what}`; the most is {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The most.
        limit: usize,
    },
    /// An empty array where nothing would match.
    #[error(
        "`{key}` is empty, so nothing would ever match; write at least one entry, or remove the whole entry"
    )]
    Empty {
        /// The key.
        key: &'static str,
    },
    /// A name with characters that are not safe everywhere.
    #[error("{written:?} cannot be a name; use 1 to 32 letters, digits, `-`, `_` and `.`")]
    BadName {
        /// What stands there.
        written: String,
    },
    /// A name that another entry has.
    #[error("the name {name:?} is taken by another {kind}; give each its own")]
    DuplicateName {
        /// The name.
        name: String,
        /// What kind of entry.
        kind: &'static str,
    },
    /// A prefix whose address is inside the network, not its first.
    #[error("{written} has host bits set; write {network}")]
    HostBits {
        /// What stands there.
        written: String,
        /// The network.
        network: String,
    },
    /// Text that is not a public key.
    #[error(
        "this is not a public key; write the 44 characters that `gatewayctl keygen` printed at the other end, where they are in NAME.pub"
    )]
    MalformedKey,
    /// A public key that would make every shared secret zero.
    #[error(
        "this public key is a low-order point, with which no secret can be agreed; ask the peer for its real key"
    )]
    LowOrderKey,
    /// A peer with the key of this end itself.
    #[error(
        "this is this end's own public key; write the other end's, which `gatewayctl keygen` printed there (NAME.pub)"
    )]
    OwnPublicKey,
    /// A private or preshared key in the place of a public one.
    #[error(
        "this is the secret key that {file} holds, not a public key; remove it here, make a new key with `gatewayctl keygen`, and write the public key that it prints (NAME.pub)"
    )]
    SecretAsPublicKey {
        /// The file that holds the same key.
        file: String,
    },
    /// An address that no host can have.
    #[error("{address} is {what}, which no host can have; write a host's address, such as {example}")]
    UnusableAddress {
        /// What is written.
        address: String,
        /// What kind of address that is.
        what: String,
        /// What may be written instead.
        example: String,
    },
    /// A public key that another peer has.
    #[error("peer {other:?} has the same public key; each peer needs a key pair of its own")]
    DuplicatePeerKey {
        /// The other peer.
        other: String,
    },
    /// A prefix that stands twice in one device.
    #[error(
        "{prefix} already belongs to peer {other:?}; a prefix can belong to one peer only, so remove it from one"
    )]
    IdenticalPrefix {
        /// The prefix.
        prefix: String,
        /// The peer that has it.
        other: String,
    },
    /// A peer's prefix inside the local network.
    #[error(
        "{prefix} lies inside {lan} of [lan]; the LAN would lose those addresses, so remove it from one of the two"
    )]
    PrefixInLan {
        /// The peer's prefix.
        prefix: String,
        /// The local one.
        lan: String,
    },
    /// The tunnel's or the loopback interface as WAN or LAN.
    #[error(
        "{name} is the edge's own, and neither the WAN nor the LAN is behind it; write the name that `ip route show default` gives, or remove it"
    )]
    OwnInterface {
        /// The interface.
        name: String,
    },
    /// A local network that would be everywhere.
    #[error(
        "{prefix} cannot be a local network, since every interface has such sources; write the LAN's own prefix, such as 192.168.1.0/24"
    )]
    NoLanPrefix {
        /// The prefix.
        prefix: String,
    },
    /// IPv6 through an interface too narrow for it.
    #[error(
        "mtu {mtu} is below the 1280 that IPv6 needs (RFC 8200 §5); raise it, or remove the IPv6 prefixes"
    )]
    MtuBelowIpv6 {
        /// The MTU.
        mtu: u16,
    },
    /// A peer that does not exist.
    #[error("there is no peer {name:?}; {}", or_list(nearest.as_deref(), known))]
    UnknownPeer {
        /// The name.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// Every peer.
        known: String,
    },
    /// A list that does not exist.
    #[error("there is no list {name:?}; {}", or_list(nearest.as_deref(), known))]
    UnknownList {
        /// The name.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// Every list.
        known: String,
    },
    /// Two public services on one port.
    #[error("{port} is already published by {other:?}; give one of them another port or its own address")]
    PublishClash {
        /// Protocol and port.
        port: String,
        /// The other service.
        other: String,
    },
    /// A public service on the port of WireGuard itself.
    #[error("udp/{port} is WireGuard's own port; publish another, or change `listen_port`")]
    PublishOnTunnelPort {
        /// The port.
        port: u16,
    },
    /// A public service that would take a port of the edge itself away.
    #[error(
        "{port} is in `[wan] accept`, so it belongs to the edge itself; remove it there, or publish another port"
    )]
    PublishOnAcceptedPort {
        /// Protocol and port.
        port: String,
    },
    /// A target that the tunnel does not route.
    #[error(
        "{address} is in no peer's allowed_ips, so the tunnel does not lead there; add its prefix to the peer"
    )]
    TargetOutsideTunnel {
        /// The target.
        address: String,
    },
    /// Clients of one family, targets of the other.
    #[error(
        "{listen} takes clients of another address family than its target {target}; publish it to a target of the same family"
    )]
    FamilyMismatch {
        /// What listens.
        listen: String,
        /// Where it leads.
        target: String,
    },
    /// Two targets of one family.
    #[error("there are several targets of one address family; write one, or one IPv4 and one IPv6 target")]
    SeveralTargets,
    /// As many ports here as there.
    #[error("{here} are {here_count} ports, but {there} are {there_count}; both sides need as many")]
    RangeMismatch {
        /// One side.
        here: String,
        /// How many.
        here_count: u32,
        /// The other side.
        there: String,
        /// How many.
        there_count: u32,
    },
    /// Masquerading without an address to put there.
    #[error(
        "the interface has no {family} address to masquerade as; add one to `[interface] address`, or preserve the source"
    )]
    MasqueradeWithoutAddress {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Someone who is neither a peer, nor the edge, nor in the LAN.
    #[error(
        "{written} is neither \"self\", nor a peer's, nor inside [lan] prefixes; correct it, or add its prefix there"
    )]
    UnknownParty {
        /// What stands there.
        written: String,
    },
    /// Someone of the internet, where no private flow leads.
    #[error(
        "{written} is neither \"self\", nor a peer's, nor inside [lan] prefixes, and no private flow leads into the internet; let a program on the \
         edge pass it on (a mail relay, a proxy) and write \"self\" here, or correct it"
    )]
    OutsideParty {
        /// What stands there.
        written: String,
    },
    /// A private flow that does not cross the tunnel.
    #[error(
        "a flow from {from} to {to} does not pass through the tunnel; only flows to, from or between peers are listed here"
    )]
    NotThroughTunnel {
        /// One end.
        from: String,
        /// The other.
        to: String,
    },
    /// A private flow whose ends share no address family.
    #[error("no source and target here share an address family; write both as IPv4 or both as IPv6")]
    NoCommonFamily,
    /// Metrics that strangers or peers could read.
    #[error(
        "{port} serves metrics, which never leave the edge and its LAN; serve them elsewhere, or remove the port here"
    )]
    MetricsExposed {
        /// The port.
        port: String,
    },
    /// Several edges, and none is named.
    #[error("there are several peers, so `peer` must say which; add peer = \"NAME\"")]
    AmbiguousPeer,
    /// Two injects that claim the same flow.
    #[error("{what} is also matched by {other:?}, and neither is the more specific; make one narrower")]
    InjectClash {
        /// Protocol, address and port.
        what: String,
        /// The other entry.
        other: String,
    },
    /// A PROXY header for datagrams.
    #[error("proxy_protocol is for TCP; set protocol = [\"tcp\"], or make an entry of its own for UDP")]
    ProxyNeedsTcp,
    /// A Unix-domain socket for datagrams.
    #[error("a unix: upstream is for TCP; set protocol = [\"tcp\"], or make an entry of its own for UDP")]
    UnixNeedsTcp,
    /// A health check that cannot know which port to ask.
    #[error("health asks one TCP port; match a single port of protocol \"tcp\", or remove `health`")]
    HealthNeedsOnePort,
    /// Two listeners on one address.
    #[error("{listen} is already taken by {other:?}; listen on another port or address")]
    ListenClash {
        /// The address.
        listen: String,
        /// The other entry.
        other: String,
    },
    /// A target that the peer's filter does not let answer.
    #[error(
        "{address} is not inside allowed_ips of peer {peer:?}, so no answer could come back; add its prefix there"
    )]
    TargetNotAllowed {
        /// The target.
        address: String,
        /// The peer.
        peer: String,
    },
    /// Numbers in `[kernel]` that would collide.
    #[error("`{key}` collides with {with}; choose another number")]
    KernelNumberClash {
        /// The key.
        key: &'static str,
        /// What has the number.
        with: &'static str,
    },
    /// A line of a list file that is not a prefix.
    #[error("{written:?} is not a prefix; write one IPv4 or IPv6 prefix per line, comments after `#`")]
    BadListLine {
        /// What stands there.
        written: String,
    },
    /// A list that lets everyone in.
    #[error(
        "{prefix} holds a whole address family; a list must be narrower, so write \"{prefix}\" in `allow` if it is meant"
    )]
    ListHoldsEverything {
        /// The prefix.
        prefix: String,
    },
    /// A key file that the configuration names does not exist.
    #[error("{file} does not exist; create it with `gatewayctl keygen`, or correct the path")]
    MissingFile {
        /// The file.
        file: String,
    },
    /// A key file that others than its owner may read.
    #[error("{file} has mode {mode:04o}, which lets others read the key; run: chmod 0600 {file}")]
    KeyFileMode {
        /// The file.
        file: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that could not be read.
    #[error("{file} cannot be read: {reason}; give the daemon's user permission, or correct the path")]
    UnreadableFile {
        /// The file.
        file: String,
        /// The system's words.
        reason: String,
    },
    /// A key file whose content is not a key.
    #[error(
        "{file} does not hold a key; it must be one line of base64 of 32 bytes, as `gatewayctl keygen` writes"
    )]
    MalformedKeyFile {
        /// The file.
        file: String,
    },
    /// A systemd credential while the daemon has no credentials folder.
    #[error(
        "credential {name:?} is named but CREDENTIALS_DIRECTORY is not set; \
         start the daemon by systemd with LoadCredential=, or name a path"
    )]
    NoCredentials {
        /// The credential.
        name: String,
    },
}

fn or_list(nearest: Option<&str>, known: &str) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None if known.is_empty() => "there is none at all".to_owned(),
        None => format!("there are: {known}"),
    }
}
