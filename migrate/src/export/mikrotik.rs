//! RouterOS 7 scripts for either end.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::far_end::{EdgeSide, ExportError, FarEnd, join, left_out, mtu, prefixes, to_wan};
use policy::gateway::{Allow, Party, Policy, Publish, Service, SourceHandling, Target};
use policy::{AllowList, Name, PortRange, prefix};

/// The name of everything that is created on the router.
const OURS: &str = "causeway";

/// The RouterOS script of a router that is the edge's `peer`, for `/import`.
///
/// Replies of what came through the tunnel go back into it by connection and routing marks; behind
/// the tunnel's route lies a blackhole. Filters accept what the edge's policy lists for this peer
/// and drop the rest of the tunnel.
///
/// # Errors
/// [`ExportError`], when there is no such peer or it has no address in the tunnel.
pub fn mikrotik(policy: &Policy, peer: &str, edge: &EdgeSide) -> Result<String, ExportError> {
    let far = FarEnd::new(policy, peer, edge)?;
    let mut text = format!(
        "# {}: the far end of the tunnel to {}, for RouterOS 7. Written by `gatewayctl export mikrotik`.\n\
         # The router generates a private key: write its public key (/interface wireguard print) into gateway.toml, or set the\n\
         # old private key. Move the filter rules above your final drop, and the NAT rule above masquerade.\n",
        far.peer.name, edge.name
    );
    text.push_str(&far.left_out());
    menu("interface wireguard", &mut text);
    let _ =
        writeln!(text, "add comment=\"to {}\" listen-port=13231 mtu={} name={OURS}", edge.name, far.mtu());
    menu("interface wireguard peers", &mut text);
    let _ = writeln!(
        text,
        "add allowed-address={} endpoint-address={} endpoint-port={} interface={OURS} name={} persistent-keepalive=25s \
         public-key=\"{}\"",
        join(far.everyone(), ","),
        edge.endpoint.host,
        edge.endpoint.port,
        edge.name,
        edge.public_key
    );
    addresses(&far.address, &mut text);
    menu("routing table", &mut text);
    let _ = writeln!(text, "add disabled=no fib name={OURS}");
    far.routes(&mut text);
    far.marks(&mut text);
    far.filters(&mut text);
    Ok(text)
}

/// The RouterOS script by which the edge's router does the edge's work again, for `/import`: the
/// fallback when the edge is broken.
///
/// Bans, limits, metrics and the WAN guard have no counterpart there; entries about the edge itself
/// are left out, since a router is another edge.
#[must_use]
pub fn mikrotik_edge(policy: &Policy) -> String {
    let mut text = String::from(
        "# The edge's part for RouterOS 7. Written by `gatewayctl export mikrotik-edge`.\n\
         # Remove the tunnel's address from the edge first, and set the edge's private key by hand. Move the filter rules above\n\
         # your final drop, and the NAT exemption above masquerade. The interface list WAN must contain the public interface.\n",
    );
    let why =
        "a router has no limit of flows and new flows for a peer, and without it the entry would be wider";
    to_wan(policy).for_each(|allow| text.push_str(&left_out(allow, why)));
    menu("interface wireguard", &mut text);
    let port = policy.interface.listen_port;
    let _ = writeln!(text, "add listen-port={port} mtu={} name={OURS}", mtu(policy));
    menu("interface wireguard peers", &mut text);
    for peer in &policy.peers {
        let endpoint = peer.endpoint.as_ref();
        let endpoint = endpoint.map(|to| format!(" endpoint-address={} endpoint-port={}", to.host, to.port));
        let _ = writeln!(
            text,
            "add allowed-address={}{} interface={OURS} name={} public-key=\"{}\"",
            join(&peer.allowed_ips, ","),
            endpoint.unwrap_or_default(),
            peer.name,
            peer.public_key
        );
    }
    addresses(&policy.interface.address, &mut text);
    edge_routes(policy, &mut text);
    edge_lists(policy, &mut text);
    edge_nat(policy, &mut text);
    edge_filters(policy, &mut text);
    text
}

fn menu(path: &str, text: &mut String) {
    let _ = writeln!(text, "/{path}");
}

fn addresses(own: &[IpNetwork], text: &mut String) {
    for (path, v4) in [("ip address", true), ("ipv6 address", false)] {
        let mut own = own.iter().filter(|own| own.is_ipv4() == v4).peekable();
        if own.peek().is_some() {
            menu(path, text);
        }
        for own in own {
            let rest = if v4 { "" } else { " advertise=no" };
            let _ = writeln!(text, "add address={own}{rest} interface={OURS}");
        }
    }
}

impl FarEnd<'_> {
    fn routes(&self, text: &mut String) {
        for (path, v4, everyone) in [("ip route", true, "0.0.0.0/0"), ("ipv6 route", false, "::/0")] {
            if !self.has_family(v4) {
                continue;
            }
            menu(path, text);
            for prefix in self.behind_edge().filter(|prefix| prefix.is_ipv4() == v4) {
                let _ = writeln!(text, "add dst-address={prefix} gateway={OURS}");
            }
            let _ = writeln!(text, "add dst-address={everyone} gateway={OURS} routing-table={OURS}");
            let _ = writeln!(text, "add blackhole distance=250 dst-address={everyone} routing-table={OURS}");
        }
    }

    fn marks(&self, text: &mut String) {
        for (family, v4) in [("ip", true), ("ipv6", false)] {
            if !self.has_family(v4) {
                continue;
            }
            menu(&format!("{family} firewall mangle"), text);
            let _ = writeln!(
                text,
                "add action=mark-connection chain=prerouting connection-state=new in-interface={OURS} new-connection-mark={OURS} \
                 passthrough=yes"
            );
            for (chain, arrives) in
                [("prerouting", format!(" in-interface=!{OURS}")), ("output", String::new())]
            {
                let _ = writeln!(
                    text,
                    "add action=mark-routing chain={chain} connection-mark={OURS}{arrives} new-routing-mark={OURS} passthrough=no"
                );
            }
            for direction in ["in", "out"] {
                let _ = writeln!(
                    text,
                    "add action=change-mss chain=forward new-mss=clamp-to-pmtu {direction}-interface={OURS} passthrough=yes \
                     protocol=tcp tcp-flags=syn"
                );
            }
        }
    }

    fn filters(&self, text: &mut String) {
        let lan: Vec<IpNetwork> = self.behind_edge().filter(IpNetwork::is_ipv4).collect();
        let own = self.peer.allowed_ips.iter().filter(|prefix| prefix.is_ipv4() && prefix.prefix() > 0);
        if !lan.is_empty() {
            menu("ip firewall nat", text);
        }
        for (own, lan) in own.flat_map(|own| lan.iter().map(move |lan| (own, lan))) {
            let _ = writeln!(text, "add action=accept chain=srcnat dst-address={lan} src-address={own}");
        }
        for (family, v4) in [("ip", true), ("ipv6", false)] {
            if !self.has_family(v4) {
                continue;
            }
            menu(&format!("{family} firewall filter"), text);
            text.push_str("add action=accept chain=forward connection-state=established,related\n");
            for publish in &self.policy.publish {
                let targets = publish.targets.iter().filter(|target| target.peer == self.peer.name);
                for target in targets.filter(|target| target.address.is_ipv4() == v4) {
                    into(publish, target, text);
                }
            }
            for allow in &self.policy.allow {
                self.private(allow, v4, text);
            }
            let _ = writeln!(
                text,
                "add action=drop chain=forward comment=\"the rest of the tunnel\" in-interface={OURS}"
            );
        }
    }

    /// What this peer is sent, and what it may open.
    fn private(&self, allow: &Allow, v4: bool, text: &mut String) {
        let here = |party: &&Party| match party {
            Party::Behind { peer, .. } | Party::Peer(peer) => *peer == self.peer.name,
            Party::Edge | Party::Lan(_) | Party::Wan => false,
        };
        let family = |prefix: &IpNetwork| prefix.is_ipv4() == v4;
        for to in allow.to.iter().filter(here).flat_map(|to| prefixes(to, self.policy)).filter(family) {
            rule(&allow.name, &format!("in-interface={OURS}"), None, Some(to), &allow.service, text);
        }
        if allow.from.iter().any(|from| here(&from)) {
            for to in allow.to.iter().flat_map(|to| prefixes(to, self.policy)).filter(family) {
                rule(&allow.name, &format!("out-interface={OURS}"), None, Some(to), &allow.service, text);
            }
        }
    }
}

fn into(publish: &Publish, target: &Target, text: &mut String) {
    let service = Service::Ports { protocols: publish.protocols, ports: vec![target.ports] };
    rule(&publish.name, &format!("in-interface={OURS}"), None, Some(target.address.into()), &service, text);
}

/// Accept rules for one service, one for each protocol.
fn rule(
    name: &Name,
    sides: &str,
    from: Option<&str>,
    to: Option<IpNetwork>,
    service: &Service,
    text: &mut String,
) {
    let from = from.map(|from| format!(" {from}")).unwrap_or_default();
    let echo = if to.is_none_or(|to| to.is_ipv4()) { "protocol=icmp" } else { "protocol=icmpv6" };
    let to = to.map(|to| format!(" dst-address={}", shortest(to))).unwrap_or_default();
    let transports = match service {
        Service::Echo => vec![echo.to_owned()],
        Service::Ports { protocols, ports } => protocols
            .iter()
            .map(|protocol| format!("dst-port={} protocol={protocol}", join(ports, ",")))
            .collect(),
    };
    for transport in transports {
        let _ =
            writeln!(text, "add action=accept chain=forward comment={name}{to}{from} {sides} {transport}");
    }
}

fn shortest(prefix: IpNetwork) -> String {
    prefix::host(prefix).map_or_else(|| prefix.to_string(), |address| address.to_string())
}

fn edge_routes(policy: &Policy, text: &mut String) {
    for (path, v4) in [("ip route", true), ("ipv6 route", false)] {
        let routed = policy.peers.iter().flat_map(|peer| &peer.allowed_ips).filter(|prefix| {
            prefix.is_ipv4() == v4
                && prefix.prefix() > 0
                && !policy.interface.address.iter().any(|own| own.contains(prefix.network()))
        });
        let mut routed = routed.peekable();
        if routed.peek().is_some() {
            menu(path, text);
        }
        for prefix in routed {
            let _ = writeln!(text, "add dst-address={prefix} gateway={OURS}");
            let _ = writeln!(text, "add blackhole distance=250 dst-address={prefix}");
        }
    }
}

/// One list for each peer's addresses, and one for each published port that is not open to
/// everyone.
fn edge_lists(policy: &Policy, text: &mut String) {
    let peers = policy.peers.iter().map(|peer| (format!("peer-{}", peer.name), peer.allowed_ips.clone()));
    let services = policy.publish.iter().filter_map(|publish| match &publish.allow {
        AllowList::Any => None,
        AllowList::Only { prefixes, lists } => {
            let named = policy.lists.iter().filter(|list| lists.contains(&list.name));
            let all = prefixes.iter().chain(named.flat_map(|list| &list.prefixes)).copied().collect();
            Some((allow_list(&publish.name), all))
        }
    });
    let lists: Vec<(String, Vec<IpNetwork>)> = peers.chain(services).collect();
    for (path, v4) in [("ip firewall address-list", true), ("ipv6 firewall address-list", false)] {
        let mut lines = lists
            .iter()
            .flat_map(|(list, prefixes)| prefixes.iter().map(move |prefix| (list, prefix)))
            .filter(|(_, prefix)| prefix.is_ipv4() == v4 && prefix.prefix() > 0)
            .peekable();
        if lines.peek().is_some() {
            menu(path, text);
        }
        for (list, prefix) in lines {
            let _ = writeln!(text, "add address={} list={list}", shortest(*prefix));
        }
    }
}

fn allow_list(publish: &Name) -> String {
    format!("allow-{publish}")
}

fn edge_nat(policy: &Policy, text: &mut String) {
    for (family, v4) in [("ip", true), ("ipv6", false)] {
        // What is masqueraded comes before the exemptions, which would take its LAN sources.
        let (mut rules, mut later) = (String::new(), String::new());
        for publish in &policy.publish {
            for target in publish.targets.iter().filter(|target| target.address.is_ipv4() == v4) {
                dst_nat(publish, target.address, target.ports, &mut later);
                if publish.source == SourceHandling::Masquerade {
                    let service = Service::Ports { protocols: publish.protocols, ports: vec![target.ports] };
                    masquerade(&publish.name, target.address.into(), &service, &mut rules);
                }
            }
        }
        for allow in policy.allow.iter().filter(|allow| allow.source == SourceHandling::Masquerade) {
            for to in allow.to.iter().filter(|to| matches!(to, Party::Behind { .. } | Party::Peer(_))) {
                let to = prefixes(to, policy).into_iter().filter(|prefix| prefix.is_ipv4() == v4);
                to.for_each(|to| masquerade(&allow.name, to, &allow.service, &mut rules));
            }
        }
        exemptions(policy, v4, &mut rules);
        rules.push_str(&later);
        if !rules.is_empty() {
            menu(&format!("{family} firewall nat"), text);
            text.push_str(&rules);
        }
    }
}

/// What the LAN's masquerade must leave alone; IPv6 is not masqueraded.
fn exemptions(policy: &Policy, v4: bool, text: &mut String) {
    for lan in policy.lan.iter().filter(|lan| lan.is_ipv4() && v4) {
        for peer in policy.peers.iter().flat_map(|peer| &peer.allowed_ips) {
            if peer.is_ipv4() && peer.prefix() > 0 {
                let _ = writeln!(text, "add action=accept chain=srcnat dst-address={peer} src-address={lan}");
            }
        }
    }
}

fn dst_nat(publish: &Publish, target: IpAddr, target_ports: PortRange, text: &mut String) {
    let bound = publish.address.map(|address| format!(" dst-address={address}")).unwrap_or_default();
    let from = match publish.allow {
        AllowList::Any => String::new(),
        AllowList::Only { .. } => format!(" src-address-list={}", allow_list(&publish.name)),
    };
    // IPv6 NAT has a prefix where IPv4 has a range.
    let to = match target {
        IpAddr::V4(target) => format!("to-addresses={target}"),
        IpAddr::V6(target) => format!("to-address={target}/128"),
    };
    for protocol in publish.protocols.iter() {
        let _ = writeln!(
            text,
            "add action=dst-nat chain=dstnat comment={}{bound} dst-port={} in-interface-list=WAN protocol={protocol}{from} \
             {to} to-ports={target_ports}",
            publish.name, publish.ports
        );
    }
}

/// The edge's own address instead of the source, for what a masquerading entry sends into the
/// tunnel.
fn masquerade(name: &Name, to: IpNetwork, service: &Service, text: &mut String) {
    let transports: Vec<String> = match service {
        Service::Echo if to.is_ipv4() => vec!["protocol=icmp".to_owned()],
        Service::Echo => vec!["protocol=icmpv6".to_owned()],
        Service::Ports { protocols, ports } => protocols
            .iter()
            .map(|protocol| format!("dst-port={} protocol={protocol}", join(ports, ",")))
            .collect(),
    };
    for transport in transports {
        let _ = writeln!(
            text,
            "add action=masquerade chain=srcnat comment={name} dst-address={} out-interface={OURS} {transport}",
            shortest(to)
        );
    }
}

fn edge_filters(policy: &Policy, text: &mut String) {
    let has_v6 = policy.tunnel_prefixes().any(|prefix| prefix.is_ipv6());
    for (family, v4) in [("ip", true), ("ipv6", false)].into_iter().filter(|(_, v4)| *v4 || has_v6) {
        menu(&format!("{family} firewall filter"), text);
        edge_filter(policy, v4, text);
    }
}

fn edge_filter(policy: &Policy, v4: bool, text: &mut String) {
    text.push_str("add action=accept chain=forward connection-state=established,related\n");
    let _ =
        writeln!(text, "add action=accept chain=forward connection-nat-state=dstnat in-interface-list=WAN");
    for allow in &policy.allow {
        let of_family = |party: &Party| {
            let all = prefixes(party, policy).into_iter().filter(|prefix| prefix.is_ipv4() == v4);
            all.collect::<Vec<_>>()
        };
        for to in allow.to.iter().flat_map(of_family) {
            for from in &allow.from {
                let (from, side) = match from {
                    Party::Peer(peer) => (format!("src-address-list=peer-{peer}"), "in"),
                    Party::Lan(prefix) | Party::Behind { prefix, .. } if prefix.is_ipv4() == v4 => {
                        (format!("src-address={}", shortest(*prefix)), "out")
                    }
                    Party::Edge | Party::Lan(_) | Party::Behind { .. } | Party::Wan => continue,
                };
                let side = format!("{side}-interface={OURS}");
                rule(&allow.name, &side, Some(&from), Some(to), &allow.service, text);
            }
        }
    }
    let _ = writeln!(
        text,
        "add action=drop chain=forward comment=\"the rest of the tunnel\" in-interface={OURS}"
    );
    let _ = writeln!(
        text,
        "add action=drop chain=forward comment=\"the rest into the tunnel\" out-interface={OURS}"
    );
}
