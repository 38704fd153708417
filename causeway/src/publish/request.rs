//! What a person asks to publish, read from the command line.

use policy::forwarder::ProxyProtocol;
use policy::{Host, Name, Protocol, PublicPorts, text};

/// What is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A host name on port 443.
    Name {
        /// The name, in lower case.
        name: String,
        /// Where Caddy is to find it, `HOST:PORT`; `None` when its site is left alone.
        upstream: Option<String>,
    },
    /// A service of its own.
    Service(NewService),
}

/// A service of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewService {
    /// Its name.
    pub(super) name: Name,
    /// The public ports.
    pub(super) ports: Vec<PublicPorts>,
    /// Where its flows go.
    pub(super) upstream: String,
    /// The header that the upstream is given.
    pub(super) proxy_protocol: ProxyProtocol,
}

/// Why a request is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// Neither a host name nor a service.
    #[error(
        "{0:?} is no host name such as emby.example.com; for a service of its own name its program as well: \
         causeway publish {0} 27015/udp --upstream 127.0.0.1:27015"
    )]
    NoHostName(String),
    /// A host name with more than one port, or none of this machine.
    #[error("{0:?} is no port of a program here: write 8096, or HOST:PORT for another machine")]
    NoLocalPort(String),
    /// More than one port for a host name.
    #[error("a host name has one program behind it: write one port, such as 8096")]
    SeveralPorts,
    /// A header where Caddy already writes the visitor's address.
    #[error(
        "--proxy-protocol is for a service of its own (--upstream): Caddy gets the header by its own service"
    )]
    HeaderOfName,
    /// No name of a service.
    #[error("{0:?} is no name of a service: 1 to 32 letters, digits, \"-\", \"_\" and \".\"")]
    BadName(String),
    /// No public port.
    #[error("{0:?} is no public port: write 25, 27015/udp or 5000-5010")]
    BadPort(String),
    /// Nothing to open.
    #[error("name the public port, such as 25, 27015/udp or 5000-5010")]
    NoPort,
    /// Ports that one service cannot have.
    #[error("a service has one port or range, over TCP, UDP or both: run the command once for each")]
    DifferentPorts,
    /// A header over UDP.
    #[error("--proxy-protocol needs TCP alone: UDP has no such header")]
    HeaderOverUdp,
}

/// The request of these arguments; with an upstream it is a service of its own.
pub(super) fn read(
    name: &str,
    ports: &[String],
    upstream: Option<&str>,
    proxy_protocol: ProxyProtocol,
) -> Result<Request, RequestError> {
    match upstream {
        Some(upstream) => service(name, ports, upstream, proxy_protocol).map(Request::Service),
        None if proxy_protocol != ProxyProtocol::Off => Err(RequestError::HeaderOfName),
        None => host_name(name, ports),
    }
}

fn host_name(name: &str, ports: &[String]) -> Result<Request, RequestError> {
    let known = known_name(name).ok_or_else(|| RequestError::NoHostName(name.to_owned()))?;
    let upstream = match ports {
        [] => None,
        [port] => Some(local(port).ok_or_else(|| RequestError::NoLocalPort(port.clone()))?),
        _ => return Err(RequestError::SeveralPorts),
    };
    Ok(Request::Name { name: known, upstream })
}

/// A host name of several labels, in lower case and without its final dot.
pub(super) fn known_name(written: &str) -> Option<String> {
    match text::host(written)? {
        Host::Name(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            name.contains('.').then_some(name)
        }
        Host::Address(_) => None,
    }
}

/// `8096` on this machine, or `HOST:PORT`.
fn local(written: &str) -> Option<String> {
    match text::port(written) {
        Some(port) => Some(format!("127.0.0.1:{port}")),
        None => text::host_port(written).map(|there| there.to_string()),
    }
}

fn service(
    name: &str,
    written: &[String],
    upstream: &str,
    proxy_protocol: ProxyProtocol,
) -> Result<NewService, RequestError> {
    let name = Name::new(name).ok_or_else(|| RequestError::BadName(name.to_owned()))?;
    let read = |port: &String| PublicPorts::parse(port).ok_or_else(|| RequestError::BadPort(port.clone()));
    let ports = written.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let first = ports.first().ok_or(RequestError::NoPort)?;
    if ports.iter().any(|other| other.ports != first.ports) {
        return Err(RequestError::DifferentPorts);
    }
    if proxy_protocol != ProxyProtocol::Off && ports.iter().any(|ports| ports.protocol == Protocol::Udp) {
        return Err(RequestError::HeaderOverUdp);
    }
    Ok(NewService { name, ports, upstream: upstream.to_owned(), proxy_protocol })
}

impl NewService {
    /// Whether all of its ports are of TCP.
    pub(super) fn is_tcp(&self) -> bool {
        self.ports.iter().all(|ports| ports.protocol == Protocol::Tcp)
    }

    /// A warning when its program takes every visitor for this machine.
    pub(super) fn warning(&self) -> Option<String> {
        let fix = match (self.proxy_protocol, self.is_tcp()) {
            (ProxyProtocol::V1 | ProxyProtocol::V2, _) => return None,
            (ProxyProtocol::Off, true) => "if it reads the PROXY protocol, use --proxy-protocol v2",
            (ProxyProtocol::Off, false) => "UDP has no PROXY header",
        };
        Some(format!("warning: {} takes every visitor for this machine: {fix}", self.upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_leads_to_a_program_here_or_on_another_machine() {
        for (port, upstream) in [("8096", "127.0.0.1:8096"), ("192.168.88.5:8096", "192.168.88.5:8096")] {
            let request = read("Emby.Example.com.", &[port.to_owned()], None, ProxyProtocol::Off);
            let name = "emby.example.com".to_owned();
            assert_eq!(request, Ok(Request::Name { name, upstream: Some(upstream.to_owned()) }));
        }
    }

    #[test]
    fn with_an_upstream_it_is_a_service_of_its_own() {
        let ports = ["27015/udp".to_owned()];
        let request = read("game", &ports, Some("127.0.0.1:27015"), ProxyProtocol::Off);
        let Ok(Request::Service(service)) = request else { panic!("{request:?}") };
        assert_eq!(service.ports[0].to_string(), "27015/udp");
        assert!(service.warning().unwrap().contains("takes every visitor for this machine"));
    }

    #[test]
    fn what_is_neither_says_how_both_are_written() {
        let off = ProxyProtocol::Off;
        let said = |name: &str, ports: &[&str], upstream, proxy| {
            let ports: Vec<_> = ports.iter().map(|port| (*port).to_owned()).collect();
            read(name, &ports, upstream, proxy).unwrap_err().to_string()
        };
        let game = Some("127.0.0.1:27015");
        for (text, expected) in [
            (said("game", &["27015/udp"], None, off), "causeway publish game 27015/udp --upstream"),
            (said("*.example.com", &["8096"], None, off), "no host name"),
            (said("192.0.2.2", &["8096"], None, off), "no host name"),
            (said("a.example.com/../x", &["8096"], None, off), "no host name"),
            (said("emby.example.com", &["8096/udp"], None, off), "no port of a program here"),
            (said("emby.example.com", &["0"], None, off), "no port of a program here"),
            (said("emby.example.com", &["80", "81"], None, off), "one port"),
            (said("emby.example.com", &["80"], None, ProxyProtocol::V2), "--upstream"),
            (said("a b", &["25"], game, off), "no name of a service"),
            (said("game", &[], game, off), "name the public port"),
            (said("game", &["25/sctp"], game, off), "no public port"),
            (said("game", &["25", "26"], game, off), "once for each"),
            (said("game", &["25/udp"], game, ProxyProtocol::V2), "UDP"),
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
