//! What a visitor's probe says about the public path of a name.

use std::net::IpAddr;

use daemon::link::visitor::Cause;
use ipnetwork::IpNetwork;

use super::address;
use crate::upstream::Finding;

/// One connection to an address of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Try {
    /// The address.
    pub(super) address: IpAddr,
    /// How it went.
    pub(super) reply: Reply,
    /// Who opened the flow that came out of the tunnel with the probe's mark, if one did.
    pub(super) client: Option<IpAddr>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// This machine has no route to the address.
    NoRoute,
    /// The connection was refused.
    Refused,
    /// Nothing came in time.
    TimedOut,
    /// A connection, but nothing that a server for the name replies.
    Nothing,
    /// TLS of a kind that this program does not have.
    Incompatible,
    /// A certificate.
    Certificate(Shown),
    /// A reply without TLS.
    Http {
        /// Whether it shows that a proxy passed it on.
        is_proxied: bool,
    },
}

/// The certificate that came, and what came with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// What is wrong with it.
    pub(super) fault: Option<Cause>,
    /// Whether this system trusts who signed it.
    pub(super) trusted: Option<bool>,
    /// Whether it is the upstream's; `None` where that is not known.
    pub(super) is_upstreams: Option<bool>,
    /// Whether the page shows that a proxy passed it on.
    pub(super) is_proxied: bool,
}

/// What is known besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// The addresses at which the edges are now, and have been dialled.
    pub(super) edges: Vec<IpAddr>,
    /// Networks of the tunnels.
    pub(super) own: Vec<IpNetwork>,
    /// Whether the file says that visitors come through a proxy: not every source is let in.
    pub(super) is_restricted: bool,
}

/// What one connection says.
pub(super) fn judge(tried: &Try, scene: &Scene) -> Finding {
    match tried.client {
        Some(client) => arrived(tried, client, scene),
        None => not_arrived(tried, scene),
    }
}

/// What all connections to a name say: any of its addresses may be a visitor's.
pub(super) fn together(findings: Vec<Finding>) -> Option<Finding> {
    let rank = |finding: &Finding| match finding {
        Finding::Failing(_) => 0,
        Finding::Proven { .. } => 1,
        Finding::Unknown(_) => 2,
    };
    findings.into_iter().min_by_key(rank)
}

/// The probe came out of the tunnel: name, forward, rules and tunnel work.
fn arrived(tried: &Try, client: IpAddr, scene: &Scene) -> Finding {
    let client = client.to_canonical();
    let is_routers = client == tried.address || scene.edges.contains(&client);
    if is_routers || !address::is_public(client, &scene.own) {
        return Finding::Failing(Cause::ClientAddressLost);
    }
    match &tried.reply {
        Reply::Certificate(Shown { fault: Some(fault), .. }) => Finding::Failing(*fault),
        Reply::Certificate(Shown { is_upstreams: Some(false), .. }) => {
            Finding::Failing(Cause::OtherCertificate)
        }
        Reply::Certificate(shown) => Finding::Proven { trusted: shown.trusted },
        Reply::Incompatible | Reply::Http { .. } => Finding::Proven { trusted: None },
        Reply::NoRoute | Reply::Refused | Reply::TimedOut | Reply::Nothing => {
            Finding::Failing(Cause::NoReply)
        }
    }
}

fn not_arrived(tried: &Try, scene: &Scene) -> Finding {
    let is_edges = scene.edges.contains(&tried.address);
    if is_edges && scene.is_restricted && matches!(tried.reply, Reply::TimedOut | Reply::Refused) {
        return Finding::Unknown(Cause::Restricted);
    }
    let at_edge = |cause| Finding::Failing(if is_edges { cause } else { Cause::Elsewhere });
    match &tried.reply {
        Reply::NoRoute => Finding::Unknown(Cause::NoRoute),
        Reply::TimedOut => at_edge(Cause::NotForwarded),
        Reply::Refused => at_edge(Cause::PortRefused),
        Reply::Certificate(Shown { is_upstreams: Some(true), .. }) => Finding::Unknown(Cause::AnotherWay),
        Reply::Certificate(shown) => {
            let is_proxys =
                scene.is_restricted || shown.is_proxied || (shown.trusted == Some(true) && !is_edges);
            match shown.fault {
                Some(fault) if is_proxys => Finding::Failing(fault),
                None if is_proxys => Finding::Unknown(Cause::Proxy),
                Some(_) | None => at_edge(Cause::OtherServer),
            }
        }
        Reply::Http { is_proxied } if scene.is_restricted || *is_proxied => Finding::Unknown(Cause::Proxy),
        Reply::Nothing | Reply::Incompatible | Reply::Http { .. } => at_edge(Cause::OtherServer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: &str = "192.0.2.2";
    const CARRIER: &str = "198.51.100.7";

    #[test]
    fn a_probe_that_comes_out_of_the_tunnel_with_a_good_certificate_proves_the_path() {
        for (reply, trusted) in [
            (
                certificate(Shown { trusted: Some(true), is_upstreams: Some(true), ..Shown::default() }),
                Some(true),
            ),
            (certificate(Shown { trusted: Some(false), ..Shown::default() }), Some(false)),
            (Reply::Incompatible, None),
            (Reply::Http { is_proxied: false }, None),
        ] {
            assert_eq!(at(EDGE, reply, Some(CARRIER)), Finding::Proven { trusted });
        }
        let elsewhere = at("203.0.113.10", certificate(Shown::default()), Some(CARRIER));
        assert_eq!(elsewhere, Finding::Proven { trusted: None }, "an edge may have several addresses");
    }

    #[test]
    fn a_flow_from_the_router_the_edge_or_a_private_network_has_lost_its_client() {
        for client in
            ["192.168.1.1", EDGE, "::ffff:192.0.2.2", "203.0.113.9", "10.77.88.1", "100.64.0.2", "fe80::1"]
        {
            let finding = at("203.0.113.9", certificate(Shown::default()), Some(client));
            assert_eq!(finding, Finding::Failing(Cause::ClientAddressLost), "{client}");
        }
    }

    #[test]
    fn what_comes_back_through_the_tunnel_is_judged_by_its_certificate() {
        let fault = |fault| certificate(Shown { fault: Some(fault), ..Shown::default() });
        for cause in [Cause::CertificateExpired, Cause::WrongCertificate] {
            assert_eq!(at(EDGE, fault(cause), Some(CARRIER)), Finding::Failing(cause));
        }
        let other = certificate(Shown { is_upstreams: Some(false), trusted: Some(true), ..Shown::default() });
        assert_eq!(at(EDGE, other, Some(CARRIER)), Finding::Failing(Cause::OtherCertificate));
        for reply in [Reply::Nothing, Reply::TimedOut] {
            assert_eq!(at(EDGE, reply, Some(CARRIER)), Finding::Failing(Cause::NoReply));
        }
    }

    #[test]
    fn a_probe_that_does_not_arrive_is_the_forwards_fault_at_the_edges_address_and_the_names_elsewhere() {
        let foreign = || certificate(Shown { trusted: Some(false), ..Shown::default() });
        for (reply, cause) in [
            (Reply::TimedOut, Cause::NotForwarded),
            (Reply::Refused, Cause::PortRefused),
            (Reply::Nothing, Cause::OtherServer),
            (Reply::Http { is_proxied: false }, Cause::OtherServer),
            (foreign(), Cause::OtherServer),
            (certificate(Shown { trusted: Some(true), ..Shown::default() }), Cause::OtherServer),
        ] {
            assert_eq!(at(EDGE, reply.clone(), None), Finding::Failing(cause), "{reply:?}");
        }
        for reply in [Reply::TimedOut, Reply::Refused, Reply::Nothing, foreign()] {
            assert_eq!(at("203.0.113.10", reply, None), Finding::Failing(Cause::Elsewhere));
        }
    }

    #[test]
    fn a_proxy_that_ends_tls_is_named_and_only_a_bad_certificate_of_it_is_failing() {
        let trusted = Shown { trusted: Some(true), ..Shown::default() };
        let proxied = Shown { trusted: Some(false), is_proxied: true, ..Shown::default() };
        for shown in [trusted, proxied] {
            assert_eq!(at("203.0.113.10", certificate(shown), None), Finding::Unknown(Cause::Proxy));
        }
        let expired = Shown { fault: Some(Cause::CertificateExpired), ..proxied };
        assert_eq!(
            at("203.0.113.10", certificate(expired), None),
            Finding::Failing(Cause::CertificateExpired)
        );
        assert_eq!(
            at("203.0.113.10", Reply::Http { is_proxied: true }, None),
            Finding::Unknown(Cause::Proxy)
        );
        let restricted = Scene { is_restricted: true, ..scene() };
        let tried = tried("203.0.113.10", certificate(Shown::default()), None);
        assert_eq!(judge(&tried, &restricted), Finding::Unknown(Cause::Proxy));
    }

    #[test]
    fn a_port_that_is_closed_to_others_by_the_file_says_nothing_when_it_is_closed() {
        let restricted = Scene { is_restricted: true, ..scene() };
        for reply in [Reply::TimedOut, Reply::Refused] {
            let finding = judge(&tried(EDGE, reply, None), &restricted);
            assert_eq!(finding, Finding::Unknown(Cause::Restricted));
        }
    }

    #[test]
    fn the_upstreams_certificate_by_another_way_and_a_missing_route_say_nothing() {
        let direct = certificate(Shown { is_upstreams: Some(true), trusted: Some(true), ..Shown::default() });
        assert_eq!(at("203.0.113.10", direct, None), Finding::Unknown(Cause::AnotherWay));
        assert_eq!(at(EDGE, Reply::NoRoute, None), Finding::Unknown(Cause::NoRoute));
    }

    #[test]
    fn of_several_addresses_a_failing_one_decides_and_one_without_a_route_does_not() {
        let (proven, no_route) = (Finding::Proven { trusted: None }, Finding::Unknown(Cause::NoRoute));
        let failing = Finding::Failing(Cause::Elsewhere);
        assert_eq!(together(vec![no_route, proven]), Some(proven));
        assert_eq!(together(vec![proven, failing, no_route]), Some(failing));
        assert_eq!(together(vec![no_route]), Some(no_route));
        assert_eq!(together(vec![]), None);
    }

    fn at(address: &str, reply: Reply, client: Option<&str>) -> Finding {
        judge(&tried(address, reply, client), &scene())
    }

    fn tried(address: &str, reply: Reply, client: Option<&str>) -> Try {
        let client = client.map(|client| client.parse().unwrap());
        Try { address: address.parse().unwrap(), reply, client }
    }

    fn scene() -> Scene {
        let (edges, own) = (vec![EDGE.parse().unwrap()], vec!["10.77.88.0/30".parse().unwrap()]);
        Scene { edges, own, is_restricted: false }
    }

    const fn certificate(shown: Shown) -> Reply {
        Reply::Certificate(shown)
    }
}
