//! keepalived and conntrackd for one of two edges at a site.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use policy::gateway::{CONNTRACKD_PORT, Policy, Standby};
use policy::system::{Link, System};

/// The router number of the pair in VRRP, unless another pair on the same link has it.
const ROUTER: u8 = 77;

/// What the two programs must know of an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairSide {
    shared: IpAddr,
    other: IpAddr,
    /// This edge's address on the link to the other.
    own: IpAddr,
    /// The interface of that link.
    link: String,
    /// The interface that gets the shared address.
    outer: String,
    /// This machine's addresses besides the shared one.
    addresses: Vec<IpAddr>,
    /// The file by which keepalived knows how the edge is.
    health: PathBuf,
    /// The control socket, and the program that asks it.
    socket: PathBuf,
    program: PathBuf,
}

/// Why there is nothing to export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The edge is none of a pair.
    #[error(
        "the configuration has no [standby]; add it with `address` and `other` (docs/HA.md), then export again"
    )]
    NoStandby,
    /// This machine is not on the link.
    #[error(
        "no interface of this machine is in a network with the other edge {other}; give the link between the two an address \
         next to it, such as: ip address add {example} dev eth1"
    )]
    NoLink {
        /// The other edge.
        other: IpAddr,
        /// An address to give.
        example: String,
    },
    /// `other` is this machine.
    #[error(
        "{other} is an address of this machine; `other` in [standby] is the other edge's, on the link between the two"
    )]
    Own {
        /// The address.
        other: IpAddr,
    },
    /// keepalived 2.2 starts no instance without an address of its link's own family.
    #[error(
        "keepalived moves no address over a link of the other family, and the shared address is {address}; give the link \
         between the two edges addresses of that family, and write the other edge's in place of {other} as `other`"
    )]
    OtherFamily {
        /// The shared address.
        address: IpAddr,
        /// The other edge.
        other: IpAddr,
    },
    /// Nothing is where the shared address belongs.
    #[error(
        "no interface of this machine is in a network with the shared address {address}, and [wan] names none; write \
         interface = \"eth0\" in [wan]"
    )]
    NoOuter {
        /// The shared address.
        address: IpAddr,
    },
}

impl PairSide {
    /// The edge of this policy on this machine. keepalived reads how it is from the file `health`,
    /// and whether it answers by `program`, which is `gatewayctl`.
    ///
    /// # Errors
    /// [`PairError`], when the policy or the machine lacks something.
    pub fn new(
        policy: &Policy,
        system: &System,
        (health, program): (PathBuf, PathBuf),
    ) -> Result<Self, PairError> {
        let Standby { address: shared, other } = policy.standby.ok_or(PairError::NoStandby)?;
        let addresses = || system.links.iter().flat_map(|link| link.addresses.iter().map(IpNetwork::ip));
        if addresses().any(|own| own == other) {
            return Err(PairError::Own { other });
        }
        if shared.is_ipv4() != other.is_ipv4() {
            return Err(PairError::OtherFamily { address: shared, other });
        }
        let (link, own) =
            near(system, other).ok_or_else(|| PairError::NoLink { other, example: example(other) })?;
        let outer = near(system, shared).map(|(link, _)| link.name.clone());
        let outer = outer.or_else(|| policy.wan.interfaces.first().map(ToString::to_string));
        Ok(Self {
            shared,
            other,
            own,
            link: link.name.clone(),
            outer: outer.ok_or(PairError::NoOuter { address: shared })?,
            addresses: addresses().filter(|own| *own != shared && !own.is_loopback()).collect(),
            health,
            socket: policy.control.socket.clone(),
            program,
        })
    }
}

/// The interface with an own address in a network with `address`, and that own address.
fn near(system: &System, address: IpAddr) -> Option<(&Link, IpAddr)> {
    system.links.iter().find_map(|link| {
        let own = link.addresses.iter().filter(|own| own.ip() != address).find(|own| own.contains(address));
        own.map(|own| (link, own.ip()))
    })
}

/// An address next to that of the other edge.
fn example(other: IpAddr) -> String {
    match other {
        IpAddr::V4(other) => format!("{}/30", std::net::Ipv4Addr::from(other.to_bits() ^ 3)),
        IpAddr::V6(other) => format!("{}/126", std::net::Ipv6Addr::from(other.to_bits() ^ 3)),
    }
}

/// `/etc/keepalived/keepalived.conf`.
#[must_use]
pub fn keepalived(side: &PairSide) -> String {
    let PairSide { shared, other, own, link, outer, health, socket, program, .. } = side;
    let (health, socket, program) = (health.display(), socket.display(), program.display());
    let bits = if shared.is_ipv4() { 32 } else { 128 };
    // Both begin as BACKUP; the number only decides a tie.
    let priority = if own < other { 150 } else { 100 };
    format!(
        r#"# /etc/keepalived/keepalived.conf of the edge {own}, by `gatewayctl export keepalived`. Run the same on the other edge.
# Start the gateway first: an address without rules refuses every visitor.
global_defs {{
	router_id edge-{own}
	script_user root
	enable_script_security
	vrrp_version 3                  # adverts of less than a second
	vrrp_garp_master_delay 1        # gratuitous ARP at once, and again after 1 s
	vrrp_garp_master_repeat 3
	vrrp_garp_master_refresh 10     # for routers that missed it
	vrrp_priority -10               # the niceness of the process
}}

# What the gateway finds at itself: rules, device, sockets. It writes -254 when something of that fails and when it stops.
# A crash is written by systemd, with these lines in /etc/systemd/system/gateway.service.d/pair.conf:
#   [Service]
#   ExecStopPost=/bin/sh -c 'echo -254 >{health}'
vrrp_track_file gateway {{
	file "{health}"
	weight 1
}}

# A frozen daemon writes nothing and does not answer. 1 s is the shortest interval.
vrrp_script answers {{
	script "/usr/bin/timeout 0.5 {program} peers --json --socket {socket}"
	interval 1
	timeout 1
	fall 1
	rise 2
	init_fail
}}

vrrp_instance edge {{
	state BACKUP
	nopreempt                       # an edge that comes back stays the standby
	interface {link}
	dont_track_primary              # with a cable between the two, the end of one must not stop the other
	virtual_router_id {ROUTER}
	priority {priority}
	advert_int 0.2                  # the address moves within 0.8 s
	unicast_src_ip {own}
	unicast_peer {{
		{other}
	}}
	unicast_ttl 255                 # the gateway's guard lets in nothing that a router has passed on
	track_interface {{
		{outer}
	}}
	track_file {{
		gateway
	}}
	track_script {{
		answers
	}}
	virtual_ipaddress {{
		{shared}/{bits} dev {outer}
	}}
}}
"#
    )
}

/// `/etc/conntrackd/conntrackd.conf`.
#[must_use]
pub fn conntrackd(side: &PairSide) -> String {
    let PairSide { other, own, link, addresses, .. } = side;
    let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let mut ignored = String::new();
    let loopback: [IpAddr; 2] = [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    for address in loopback.iter().chain(addresses).chain([other]) {
        let _ = writeln!(ignored, "\t\t\t{}_address {address}", family(address));
    }
    let version = family(own);
    format!(
        r#"# /etc/conntrackd/conntrackd.conf of the edge {own}, by `gatewayctl export conntrackd`. Run the same on the other edge.
#
# conntrackd has no authentication: whoever sends to {own}:{CONNTRACKD_PORT} from {other} makes connections here that the
# guard takes for established. Use it on a cable between the two edges, or a tunnel between them, and nowhere else.
#
# Both edges need in /etc/sysctl.d/91-causeway-pair.conf:
#   net.netfilter.nf_conntrack_tcp_be_liberal = 1    # the edge that takes over has not seen the windows
#   net.netfilter.nf_conntrack_events = 1            # connections from before conntrackd's start are reported too
Sync {{
	Mode FTFW {{
		DisableExternalCache On         # connections go straight into the kernel: nothing is to be done at a take-over
		StartupResync Yes
	}}
	UDP {{
		{version}_address {own}
		{version}_Destination_Address {other}
		Port {CONNTRACKD_PORT}
		Interface {link}
		SndSocketBuffer 4194304
		RcvSocketBuffer 4194304
		Checksum on
	}}
	Options {{
		TCPWindowTracking Off
		ExpectationSync Off
	}}
}}
General {{
	Systemd No
	HashSize 32768
	HashLimit 131072
	LogFile Off
	Syslog On
	LockFile /var/lock/conntrackd.lock
	UNIX {{
		Path /var/run/conntrackd.ctl
	}}
	NetlinkBufferSize 2097152
	NetlinkBufferSizeMaxGrowth 8388608
	NetlinkOverrunResync 30
	EventIterationLimit 100
	Filter From Userspace {{
		Protocol Accept {{
			TCP
			UDP
		}}
		Address Ignore {{
{ignored}		}}
	}}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;
    use policy::system::LinkKind;

    use super::*;

    #[test]
    fn both_edges_of_a_pair_get_texts_that_name_each_other_and_the_trapless_settings() {
        let (one, two) = (side("10.9.9.1", "10.9.9.2").unwrap(), side("10.9.9.2", "10.9.9.1").unwrap());
        assert_eq!(keepalived(&one).matches("10.9.9.2").count(), 1);
        for (text, wanted) in [
            (keepalived(&one), "unicast_src_ip 10.9.9.1"),
            (keepalived(&one), "priority 150"),
            (keepalived(&two), "priority 100"),
            (keepalived(&two), "unicast_ttl 255"),
            (keepalived(&one), "dont_track_primary"),
            (keepalived(&one), "nopreempt"),
            (keepalived(&one), "192.0.2.2/32 dev eth0"),
            (keepalived(&one), "virtual_ipaddress {"),
            (keepalived(&one), "/state/keepalived-health"),
            (conntrackd(&one), "DisableExternalCache On"),
            (conntrackd(&one), "Interface eth1"),
            (conntrackd(&two), "IPv4_Destination_Address 10.9.9.1"),
            (conntrackd(&two), "IPv4_address 192.0.2.11"),
        ] {
            assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
        }
        assert!(!conntrackd(&one).contains("IPv4_address 192.0.2.2\n"), "flows to it are the point");
    }

    #[test]
    fn a_shared_address_of_ipv6_needs_a_link_of_ipv6() {
        let text = TEXT.replace("192.0.2.2", "2001:db8::2");
        let mut system = system("10.9.9.1");
        system.links[0].addresses.push("2001:db8::11/64".parse().unwrap());
        let error = PairSide::new(&policy(&text, "10.9.9.2"), &system, files()).unwrap_err();
        assert!(error.to_string().contains("2001:db8::2; give the link"), "{error}");
        system.links[1].addresses.push("fd00:9::1/126".parse().unwrap());
        let side = PairSide::new(&policy(&text, "fd00:9::2"), &system, files()).unwrap();
        assert!(keepalived(&side).contains("virtual_ipaddress {\n\t\t2001:db8::2/128 dev eth0"));
        assert!(conntrackd(&side).contains("IPv6_Destination_Address fd00:9::2"));
    }

    #[test]
    fn what_is_missing_is_said_with_its_fix() {
        let error = |own: &str, other: &str| side(own, other).unwrap_err();
        assert_eq!(error("10.9.9.1", "10.9.9.1"), PairError::Own { other: "10.9.9.1".parse().unwrap() });
        let none = error("10.9.9.1", "10.8.8.2");
        assert!(none.to_string().ends_with("ip address add 10.8.8.1/30 dev eth1"), "{none}");
        let alone = policy(TEXT.split("[standby]").next().unwrap(), "");
        assert_eq!(PairSide::new(&alone, &system("10.9.9.1"), files()), Err(PairError::NoStandby));
        let elsewhere = policy(&TEXT.replace("192.0.2.2", "198.51.100.2"), "10.9.9.2");
        let missing = PairSide::new(&elsewhere, &system("10.9.9.1"), files()).unwrap_err();
        assert_eq!(missing, PairError::NoOuter { address: "198.51.100.2".parse().unwrap() });
    }

    const TEXT: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"kyiv.key\"\n[wan]\naccept = [\"tcp/22\"]\n\
                        [standby]\naddress = \"192.0.2.2\"\nother = \"OTHER\"\n";

    fn side(own: &str, other: &str) -> Result<PairSide, PairError> {
        PairSide::new(&policy(TEXT, other), &system(own), files())
    }

    fn files() -> (PathBuf, PathBuf) {
        ("/state/keepalived-health".into(), "/usr/bin/gatewayctl".into())
    }

    fn policy(text: &str, other: &str) -> Policy {
        let text = text.replace("OTHER", other);
        policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text: &text }).unwrap()
    }

    fn system(own: &str) -> System {
        let link = |index, name: &str, address: String| Link {
            index,
            name: name.to_owned(),
            kind: LinkKind::Other,
            master: None,
            addresses: vec![address.parse().unwrap()],
        };
        let links = vec![link(2, "eth0", "192.0.2.11/24".to_owned()), link(3, "eth1", format!("{own}/30"))];
        System { links, ..System::default() }
    }
}
