//! The part of a Caddyfile that lets Caddy learn the client's address from the forwarder, and from
//! no other client.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::far_end::{ExportError, join};
use policy::Host;
use policy::forwarder::{Policy, ProxyProtocol, Service, Upstream, UpstreamPort};

/// The global options for every upstream that is given a PROXY header, with what to add to the
/// sites.
///
/// `proxies` are the ranges of the proxy in front of the edge, Cloudflare's for instance, empty
/// when there is none. `forwarder` is the forwarder's address on the network it shares with Caddy;
/// it is needed for upstreams that are not on loopback.
///
/// # Errors
/// [`ExportError`], when there is nothing to write or the forwarder's address is needed.
pub fn caddy(
    policy: &Policy,
    proxies: &[IpNetwork],
    forwarder: Option<IpAddr>,
) -> Result<String, ExportError> {
    let with_header = policy.services.iter().filter(|service| service.proxy_protocol != ProxyProtocol::Off);
    let listeners: BTreeSet<Listener> = with_header.flat_map(Listener::of).collect();
    if listeners.is_empty() {
        return Err(ExportError::NoHeader);
    }
    let mut text = String::from(
        "# Written by `gatewayctl` or `forwarder export caddy`: the global options, at the top of the Caddyfile.\n\
         # The forwarder writes a PROXY header before the client's first byte. Only the listener below reads one, before TLS;\n\
         # Caddy's other listeners reject a header as an invalid request, so no client can forge an address there.\n{\n",
    );
    for listener in &listeners {
        listener.options(proxies, forwarder, &mut text)?;
    }
    text.push_str("}\n\n");
    sites(&listeners, &mut text);
    explanation(proxies, &mut text);
    Ok(text)
}

/// Where Caddy must listen for the forwarder.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Listener {
    host: String,
    port: u16,
    loopback: bool,
}

impl Listener {
    /// The listeners of an entry: one for each port of its upstreams; a Unix-domain socket needs
    /// none that is named here.
    fn of(service: &Service) -> impl Iterator<Item = Self> {
        service
            .upstreams
            .iter()
            .filter_map(|upstream| match upstream {
                Upstream::Network { host, port } => Some(Self::of_upstream(service, host, *port)),
                Upstream::Unix(_) => None,
            })
            .flatten()
    }

    fn of_upstream(service: &Service, host: &Host, port: UpstreamPort) -> impl Iterator<Item = Self> + use<> {
        let (host, loopback) = match host {
            Host::Address(address) => (address.to_string(), address.is_loopback()),
            Host::Name(name) => (name.to_string(), &**name == "localhost"),
        };
        let first = port.of(service.ports.first(), service.ports.first());
        let count = service.ports.count().min(MOST_PORTS);
        let ports = (0..count).filter_map(move |offset| first.checked_add(u16::try_from(offset).ok()?));
        ports.map(move |port| Self { host: host.clone(), port, loopback })
    }

    /// How `servers` and `bind` name it: on a container network Caddy listens on all addresses.
    fn socket(&self) -> String {
        match (self.loopback, self.host.contains(':')) {
            (false, _) => format!(":{}", self.port),
            (true, true) => format!("[{}]:{}", self.host, self.port),
            (true, false) if self.host == "localhost" => format!("127.0.0.1:{}", self.port),
            (true, false) => format!("{}:{}", self.host, self.port),
        }
    }

    fn options(
        &self,
        proxies: &[IpNetwork],
        forwarder: Option<IpAddr>,
        text: &mut String,
    ) -> Result<(), ExportError> {
        let _ = writeln!(
            text,
            "\tservers {} {{\n\t\tlistener_wrappers {{\n\t\t\tproxy_protocol {{",
            self.socket()
        );
        text.push_str("\t\t\t\ttimeout 2s\n");
        if self.loopback {
            text.push_str(
                "\t\t\t\t# No `allow` here: it would make the header optional for the listed addresses. Only this machine reaches\n\
                 \t\t\t\t# the listener, and without a header nothing is served.\n\t\t\t\tfallback_policy require\n",
            );
        } else {
            let upstream = format!("{}:{}", self.host, self.port);
            let forwarder = forwarder.ok_or(ExportError::ForwarderUnknown { upstream })?;
            let _ = writeln!(
                text,
                "\t\t\t\t# The forwarder's address; a header from any other address ends the connection."
            );
            let _ = writeln!(
                text,
                "\t\t\t\tallow {}\n\t\t\t\tfallback_policy reject",
                IpNetwork::from(forwarder)
            );
        }
        text.push_str("\t\t\t}\n\t\t\ttls\n\t\t}\n");
        if !proxies.is_empty() {
            let _ = writeln!(text, "\t\ttrusted_proxies static {}", join(proxies, " "));
            text.push_str("\t\ttrusted_proxies_strict\n\t\tclient_ip_headers CF-Connecting-IP\n");
        }
        // QUIC carries no PROXY header.
        text.push_str("\t\tprotocols h1 h2\n\t}\n");
        Ok(())
    }
}

/// More ports than this in one entry are not written out.
const MOST_PORTS: u32 = 16;

fn sites(listeners: &BTreeSet<Listener>, text: &mut String) {
    text.push_str(
        "# Each published site gets the listener's address in addition to its own; for example:\n#\n",
    );
    for listener in listeners {
        let _ = writeln!(text, "#   https://emby.example.com:{} {{", listener.port);
        if listener.loopback {
            let socket = listener.socket();
            let address = socket.rsplit_once(':').map_or(socket.as_str(), |(address, _)| address);
            let _ = writeln!(text, "#       bind {}", address.trim_matches(['[', ']']));
        }
        text.push_str("#       import emby      # a snippet that both addresses share\n#   }\n");
    }
    text.push_str("#\n");
}

fn explanation(proxies: &[IpNetwork], text: &mut String) {
    text.push_str("# Which address is which:\n#   remote_ip   from the PROXY header: who connected to the edge's public port\n");
    if proxies.is_empty() {
        text.push_str(
            "#   client_ip   the same. With Cloudflare in front both would be Cloudflare's: name its ranges with --proxies, and let\n\
             #               [[publish]] allow only \"@cloudflare\".\n",
        );
    } else {
        text.push_str(
            "#   client_ip   from CF-Connecting-IP, if remote_ip is in trusted_proxies; else remote_ip\n\
             # Cloudflare ends TLS, connects from its own ranges and adds CF-Connecting-IP (the visitor) and X-Forwarded-For (to which\n\
             # a visitor can add lines, so it is not used). A client that bypasses Cloudflare can send that header too: it is\n\
             # ignored, since its address is in no range; [[publish]] allow = [\"@cloudflare\"] refuses such clients completely.\n\
             # The ranges change: export this part again when lists/cloudflare.list changes.\n",
        );
    }
}
