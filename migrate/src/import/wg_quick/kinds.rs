//! Interfaces and addresses by what they are for.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Interfaces that only this machine, its containers and its tunnels have.
pub(super) fn is_virtual(name: &str) -> bool {
    let stems = [
        "lo",
        "docker",
        "br-",
        "veth",
        "virbr",
        "cni",
        "podman",
        "lxc",
        "lxd",
        "wg",
        "tun",
        "tap",
        "tailscale",
        "zt",
        "dummy",
        "vmbr",
        "cali",
        "flannel",
    ];
    stems.iter().any(|stem| name.starts_with(stem))
}

/// Whether the internet has no route to an address.
pub(super) fn is_internal(address: IpAddr) -> bool {
    policy::prefix::is_private(IpNetwork::from(address))
        || match address {
            IpAddr::V4(v4) => {
                let [first, second, ..] = v4.octets();
                let is_carrier = first == 100 && (64..128).contains(&second);
                v4.is_loopback()
                    || v4.is_link_local()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || is_carrier
                    || first == 0
                    || first >= 240
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
            }
        }
}

/// Whether an address is one that no host of the network can have.
pub(super) fn is_end(network: IpNetwork, address: IpAddr) -> bool {
    let bits: u8 = if network.is_ipv4() { 32 } else { 128 };
    let has_ends = network.is_ipv4() == address.is_ipv4() && bits - network.prefix() >= 2;
    has_ends && (address == network.network() || (address.is_ipv4() && address == network.broadcast()))
}
