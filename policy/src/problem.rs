//! Everything that can be wrong with a configuration, with the fix.

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// More text than a configuration may have.
    #[error("the file has {bytes} bytes, more than {limit}; move prefixes into `[[list]]` files")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most it may have.
        limit: usize,
    },
    /// Not TOML.
    #[error("this is not TOML: {message}; correct the line")]
    Syntax {
        /// The parser's message.
        message: String,
    },
    /// A key or table that is defined twice.
    #[error("`{key}` is defined twice; keep one of the two")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A key that means nothing here.
    #[error("{table} has no key {key:?}; {}", or_list(nearest.as_deref(), known))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it is written.
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
    #[error("`{key}` has the type {found}; write {expected}")]
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
        /// What is written.
        written: String,
        /// What may be written, with an example.
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
        /// What is written.
        written: String,
    },
    /// A name that another entry has.
    #[error("the name {name:?} is taken by another {kind}; give each entry its own name")]
    DuplicateName {
        /// The name.
        name: String,
        /// What kind of entry.
        kind: &'static str,
    },
    /// A prefix whose address is inside the network, not its first.
    #[error("{written} has host bits set; write {network}")]
    HostBits {
        /// What is written.
        written: String,
        /// The network.
        network: String,
    },
    /// Text that is not a public key.
    #[error(
        "this is not a public key; write the 44 characters that `gatewayctl keygen` printed on the other machine (NAME.pub there)"
    )]
    MalformedKey,
    /// A public key that would make every shared secret zero.
    #[error(
        "this public key is a low-order point, which gives no secret session key; ask the peer for its real key"
    )]
    LowOrderKey,
    /// A peer with the key of this end itself.
    #[error(
        "this is this machine's own public key; write the other end's, which `gatewayctl keygen` printed there (NAME.pub)"
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
    /// The key that an edge is to have next is the one that it has.
    #[error(
        "next_public_key is the same key as public_key; write the key that the edge is to have next, or remove it"
    )]
    NextKeyIsCurrent,
    /// A public key that another peer has.
    #[error("peer {other:?} has the same public key; each peer needs a key pair of its own")]
    DuplicatePeerKey {
        /// The other peer.
        other: String,
    },
    /// A prefix that one device has twice.
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
        "{name} is the tunnel or loopback, which cannot be the WAN or the LAN; write the name that `ip route show default` prints, or remove it"
    )]
    OwnInterface {
        /// The interface.
        name: String,
    },
    /// A local network that would be everywhere.
    #[error(
        "{prefix} cannot be a local network, since such sources exist on every interface; write the LAN's own prefix, such as 192.168.1.0/24"
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
    /// Something else on the port of the link.
    #[error(
        "{what} cannot have {port}, the port of the link between the two ends; leave it out here, or change `[link] port` at \
         both ends"
    )]
    OnLinkPort {
        /// What has it.
        what: &'static str,
        /// The port.
        port: u16,
    },
    /// Both addresses of a pair are the same.
    #[error(
        "{address} is `[standby] address` as well; `address` is the one that both edges share, `other` is the other edge's own \
         on the link between the two"
    )]
    StandbySame {
        /// The address.
        address: String,
    },
    /// An address of a pair in the tunnel.
    #[error("`{key}` of [standby] is outside the tunnel, and {address} is in its {tunnel}; write {}", standby_address(.key))]
    StandbyInTunnel {
        /// The key.
        key: &'static str,
        /// The address.
        address: String,
        /// The network of the tunnel.
        tunnel: String,
    },
    /// A public service on a port that the two edges of a pair use among themselves.
    #[error("udp/{port} is used between the two edges of [standby]; publish another port")]
    PublishOnStandbyPort {
        /// The port.
        port: u16,
    },
    /// A port that no peer may publish by itself.
    #[error("{entry} has a port that belongs to {by}; leave it out of `may_publish`")]
    MayPublishReserved {
        /// What is written.
        entry: String,
        /// What has the port.
        by: &'static str,
    },
    /// A port that two peers may publish by themselves.
    #[error("{entry} shares a port with `may_publish` of peer {other:?}; leave the port to one of the two")]
    MayPublishClash {
        /// What is written.
        entry: String,
        /// The other peer.
        other: String,
    },
    /// A target that the tunnel does not route.
    #[error(
        "{address} is in no peer's allowed_ips, so it is not routed into the tunnel; add its prefix to a peer's allowed_ips"
    )]
    TargetOutsideTunnel {
        /// The target.
        address: String,
    },
    /// Clients of one family, targets of the other.
    #[error(
        "{listen} and its target {target} are of different address families; write a target of the same family"
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
    #[error(
        "the number of ports differs: {here_count} in {here}, {there_count} in {there}; write the same number on both sides"
    )]
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
        "the interface has no {family} address to masquerade as; add one to `[interface] address`, or write source = \"preserve\""
    )]
    MasqueradeWithoutAddress {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// An end of a private flow that is no peer, not the edge, and not in the LAN.
    #[error(
        "{written} is neither \"self\", nor \"peer:NAME\", nor inside `[lan] prefixes`, nor (in `to`) behind a peer; correct it, or add its prefix to `[lan]`"
    )]
    UnknownParty {
        /// What is written.
        written: String,
    },
    /// The target of a private flow that is an address of the internet.
    #[error(
        "{written} is an address of the internet; write to = [\"wan\"] with `ports` to let a peer open flows to the internet \
         by the edge's address, or correct the address"
    )]
    OutsideTarget {
        /// What is written.
        written: String,
    },
    /// The source of a private flow that is an address of the internet.
    #[error(
        "{written} is an address of the internet; what it may open is a [[publish]] entry with this address in `allow`, or \
         correct the address"
    )]
    OutsideSource {
        /// What is written.
        written: String,
    },
    /// The internet as one of several targets.
    #[error("\"wan\" is the only target of an entry; write an entry of its own for each other target")]
    WanWithOthers,
    /// The internet as a target of something that has no ports.
    #[error("flows to \"wan\" are opened by port; write `protocol` as \"tcp\" or \"udp\", with `ports`")]
    WanWithoutPorts,
    /// A flow to the internet that is to keep its source.
    #[error(
        "flows to \"wan\" leave by the edge's address; write source = \"masquerade\", or leave `source` out"
    )]
    WanKeepsSource,
    /// A private flow that does not cross the tunnel.
    #[error(
        "a flow from {from} to {to} does not pass through the tunnel; [[allow]] is only for flows to, from or between peers"
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
    /// Metrics or a status page that unauthenticated sources or peers could read.
    #[error(
        "{port} would open what `[{section}] listen` serves, which is only for the edge and its LAN; change it, or remove the port here"
    )]
    PagesExposed {
        /// The port.
        port: String,
        /// `metrics` or `page`.
        section: &'static str,
    },
    /// A page for a LAN that a forwarder does not know.
    #[error(
        "only an edge knows its LAN; write this machine's address there, such as listen = \"192.168.88.2:9591\""
    )]
    NoLanAtOrigin,
    /// Several edges, and no edge is named.
    #[error("there are several peers; name one: add peer = \"NAME\"")]
    AmbiguousPeer,
    /// Two services that claim the same flow.
    #[error("{what} is also matched by {other:?}, and neither match is more specific; make one narrower")]
    ServiceClash {
        /// Protocol, address and port.
        what: String,
        /// The other entry.
        other: String,
    },
    /// A PROXY header for datagrams.
    #[error("proxy_protocol is for TCP; set protocol = [\"tcp\"], or write a separate entry for UDP")]
    ProxyNeedsTcp,
    /// A Unix-domain socket for datagrams.
    #[error("a unix: upstream is for TCP; set protocol = [\"tcp\"], or write a separate entry for UDP")]
    UnixNeedsTcp,
    /// A health check of no single TCP port.
    #[error("`health` checks one TCP port; match a single port of protocol \"tcp\", or remove `health`")]
    HealthNeedsOnePort,
    /// Two listeners on one address.
    #[error("{listen} is already taken by {other:?}; listen on another port or address")]
    ListenClash {
        /// The address.
        listen: String,
        /// The other entry.
        other: String,
    },
    /// A target whose replies the peer's filter would drop.
    #[error(
        "{address} is not inside allowed_ips of peer {peer:?}, so replies would be dropped; add its prefix there"
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
    /// A name of the edge outside of the zone.
    #[error("{name} is not in the zone {zone}; write the zone that holds it as `zone`, or correct the name")]
    NameOutsideZone {
        /// The name.
        name: String,
        /// The zone.
        zone: String,
    },
    /// `[steer]` without two edges to choose from.
    #[error("{}", nothing_to_steer(.without_address.as_deref()))]
    NothingToSteer {
        /// The first `[[peer]]` whose public address is not known.
        without_address: Option<String>,
    },
    /// Two edges with one public address.
    #[error(
        "[[peer]] {one} and {other} have the same public address, so that [steer] cannot choose; correct `public_address`"
    )]
    SamePublicAddress {
        /// The first.
        one: String,
        /// The second.
        other: String,
    },
    /// No authority of a zone, or two.
    #[error(
        "{section} needs either `server`, the zone's primary name server, or `provider`; write one of the two"
    )]
    OneAuthority {
        /// The section.
        section: &'static str,
    },
    /// A line of a list file that is not a prefix.
    #[error("{written:?} is not a prefix; write one IPv4 or IPv6 prefix per line, comments after `#`")]
    BadListLine {
        /// What is written.
        written: String,
    },
    /// A list that allows everyone.
    #[error(
        "{prefix} contains every address of its family, which a list must not; to allow everyone, write \"{prefix}\" in `allow`"
    )]
    ListHoldsEverything {
        /// The prefix.
        prefix: String,
    },
    /// A key file that the configuration names does not exist.
    #[error(
        "{file} does not exist; create a private key with `gatewayctl keygen`, a preshared key with `wg genpsk`, \
         or correct the path"
    )]
    MissingKeyFile {
        /// The file.
        file: String,
    },
    /// The file of a `[[list]]` does not exist.
    #[error(
        "{file} does not exist; run `gatewayctl lists refresh` if the list has a `url`, else write one prefix per line \
         into it, or correct the path"
    )]
    MissingListFile {
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
        /// The system's error.
        reason: String,
    },
    /// A key file whose content is not a key.
    #[error(
        "{file} does not hold a key; it must be one line, the base64 of 32 bytes, as `gatewayctl keygen` writes it"
    )]
    MalformedKeyFile {
        /// The file.
        file: String,
    },
    /// A file with a secret of `causeway-agent` cannot be read.
    #[error(
        "{file} cannot be read: {reason}; write the secret into it, for the agent alone: \
         chown causeway-agent {file} && chmod 0600 {file}"
    )]
    UnreadableSecretFile {
        /// The file.
        file: String,
        /// The system's error.
        reason: String,
    },
    /// A file with a secret of `causeway-agent` whose content is none.
    #[error("{file}: {reason}")]
    MalformedSecretFile {
        /// The file.
        file: String,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// A systemd credential while the daemon has no credentials folder.
    #[error(
        "credential {name:?} is named but CREDENTIALS_DIRECTORY is not set; \
         start the daemon from a systemd unit with LoadCredential=, or write a path"
    )]
    NoCredentials {
        /// The credential.
        name: String,
    },
}

fn nothing_to_steer(without_address: Option<&str>) -> String {
    match without_address {
        Some(edge) => format!(
            "[[peer]] {edge} has no public address that [steer] could lead visitors to; write the IPv4 \
             address as `public_address` (one that changes cannot be steered)"
        ),
        None => "[steer] chooses between edges, and there is one [[peer]]; add the other, or remove [steer]"
            .to_owned(),
    }
}

fn or_list(nearest: Option<&str>, known: &str) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None if known.is_empty() => "none is defined".to_owned(),
        None => format!("known: {known}"),
    }
}

fn standby_address(key: &str) -> &'static str {
    match key {
        "other" => "the other edge's own address on the link between the two",
        _ => "the public address that both edges share",
    }
}
