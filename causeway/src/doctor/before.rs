//! A configuration before the first start: what this machine means for it, without a daemon.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use daemon::exit::{Exit, ExitError};
use daemon::files::read_text;
use daemon::health::HopName;
use policy::forwarder::{Peer, Policy, Service, Upstream};
use policy::{Host, Source};
use tunnel::time::ClockFault;

use super::finding::Finding;

/// How long an upstream may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// What a configuration file finds on this machine.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn findings(config: &Path) -> Result<Vec<Finding>, ExitError> {
    let text = read_text(config).map_err(|error| ExitError::new(Exit::Invalid, unread(config, &error)))?;
    if is_of_edge(&text) { edge(config) } else { origin(config, &text) }
}

fn unread(config: &Path, error: &io::Error) -> String {
    format!("{}: {error}; name a gateway.toml or forwarder.toml that this user may read", config.display())
}

/// Only gateway.toml has these sections.
fn is_of_edge(text: &str) -> bool {
    let of_edge = ["[wan]", "[lan]", "[[publish]]", "[[allow]]"];
    text.lines().any(|line| of_edge.contains(&line.trim()))
}

#[cfg(target_os = "linux")]
fn edge(config: &Path) -> Result<Vec<Finding>, ExitError> {
    use crate::setup::{Finding as Found, examine};

    let finding = |(hop, found): (HopName, Found)| match found {
        Found::Fine(text) => Finding::ok(hop, "edge", text),
        Found::Note(text) => Finding::ok(hop, "edge", format!("note: {text}")),
        Found::Missing(text) => Finding::failing(hop, "edge", "missing", text).in_two(),
    };
    Ok(examine(config)?.into_iter().map(finding).chain([valid("edge", config)]).collect())
}

#[cfg(not(target_os = "linux"))]
fn edge(_: &Path) -> Result<Vec<Finding>, ExitError> {
    Err(ExitError::new(Exit::Usage, "an edge runs on Linux: examine its file there"))
}

fn valid(role: &str, config: &Path) -> Finding {
    Finding::ok(HopName::Daemon, role, format!("{} is valid", config.display()))
}

fn origin(config: &Path, text: &str) -> Result<Vec<Finding>, ExitError> {
    let policy = policy::forwarder::parse(&Source { name: config, text })
        .map_err(daemon::files::LoadError::Invalid)?;
    let mut found = vec![valid("origin", config)];
    found.extend(clock());
    found.extend(policy.peers.iter().map(endpoint));
    found.extend(listeners(&policy));
    found.extend(policy.services.iter().filter_map(upstream));
    Ok(found)
}

fn clock() -> Option<Finding> {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let fault = ClockFault::of(wall)?;
    let fix = daemon::diagnosis::Cause::Clock.fix();
    Some(Finding::failing(HopName::Daemon, "origin", "clock", fault.to_string()).fix(fix))
}

/// Whether an edge's endpoint has an address, that of no proxy, and a route.
fn endpoint(peer: &Peer) -> Finding {
    let (name, endpoint) = (peer.name.as_str(), &peer.endpoint);
    let failing = |hop, reason, what: String| Finding::failing(hop, "origin", reason, what).of(name);
    let Some(address) = resolve(&endpoint.host, endpoint.port) else {
        let what = format!("the endpoint {endpoint} of {name} has no address");
        return failing(HopName::PublicName, "unresolved", what).fix(format!(
            "correct the endpoint, or this machine's DNS (try: getent hosts {})",
            host(&endpoint.host)
        ));
    };
    if forwarder::outage::is_proxy(address.ip()) {
        let what = format!(
            "{endpoint} leads to {}, which is @cloudflare: its proxy carries no WireGuard",
            address.ip()
        );
        return failing(HopName::PublicName, "proxied", what)
            .fix("use a name that is not proxied (\"DNS only\"), or the edge's address");
    }
    match has_route(address) {
        Ok(()) => {
            Finding::ok(HopName::Route, "origin", format!("{endpoint} of {name} is {address}")).of(name)
        }
        Err(error) => {
            failing(HopName::Route, "no_route", format!("there is no route to {address} of {name}: {error}"))
                .fix("connect this machine to the internet, then run this again")
        }
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Name(name) => name.to_string(),
        Host::Address(address) => address.to_string(),
    }
}

fn resolve(host: &Host, port: u16) -> Option<SocketAddr> {
    match host {
        Host::Address(address) => Some(SocketAddr::new(*address, port)),
        Host::Name(name) => (&**name, port).to_socket_addrs().ok()?.next(),
    }
}

/// A connected socket sends nothing.
fn has_route(address: SocketAddr) -> io::Result<()> {
    let own: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    UdpSocket::bind(own)?.connect(address)
}

/// The local ports that the forwarder listens on.
fn listeners(policy: &Policy) -> Vec<Finding> {
    let wanted = policy.reach.iter().map(|reach| reach.listen.to_string());
    let wanted = wanted.chain(policy.metrics.listen.iter().map(ToString::to_string));
    let taken = |listen: String| match TcpListener::bind(&listen) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Some(
            Finding::failing(
                HopName::ServiceEntry,
                "origin",
                "port_taken",
                format!("another program listens on {listen}"),
            )
            .fix("stop it (ss -ltnp names it), or write another `listen`"),
        ),
        Ok(_) | Err(_) => None,
    };
    wanted.filter_map(taken).collect()
}

/// What a service would dial.
fn upstream(entry: &Service) -> Option<Finding> {
    let failures: Option<Vec<(String, io::Error)>> =
        entry.upstreams.iter().map(|upstream| dial(entry, upstream).err()).collect();
    let finding = match failures?.into_iter().next() {
        None => return None,
        Some((to, error)) => {
            let what = format!("{to} does not accept connections: {error}");
            let fix = "start the program that listens there, or correct `upstream`";
            Finding::failing(HopName::Upstream, "origin", "refused", what).fix(fix)
        }
    };
    Some(finding.of(entry.name.as_str()))
}

fn dial(entry: &Service, upstream: &Upstream) -> Result<(), (String, io::Error)> {
    let shown = upstream.to_string();
    if !entry.protocols.contains(policy::Protocol::Tcp) {
        return Ok(());
    }
    let dialled = match upstream {
        Upstream::Unix(path) => std::os::unix::net::UnixStream::connect(path).map(drop),
        Upstream::Network { host, port } => {
            let port = port.of(entry.ports.first(), entry.ports.first());
            match resolve(host, port) {
                Some(address) => TcpStream::connect_timeout(&address, CONNECT).map(drop),
                None => Err(io::Error::other("its name has no address")),
            }
        }
    };
    dialled.map_err(|error| (shown, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_an_edges_by_its_sections() {
        assert!(is_of_edge("[interface]\n[wan]\ninterface = \"eth0\"\n"));
        assert!(!is_of_edge("# no [wan] here\n[interface]\n[[service]]\n"));
    }

    #[test]
    fn what_an_origin_lacks_before_its_first_start_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"x.key\"\n\
             [[peer]]\nname = \"kyiv\"\npublic_key = \"{KEY}\"\nendpoint = \"104.16.0.1:51820\"\nallowed_ips = [\"0.0.0.0/0\"]\n\
             [[service]]\nname = \"https\"\nprotocol = [\"tcp\"]\nmatch = \"192.168.88.2:443\"\nupstream = \"{dead}\"\n\
             [metrics]\nlisten = [\"{}\"]\n",
            taken.local_addr().unwrap()
        );
        let found = origin(Path::new("forwarder.toml"), &text).unwrap();
        let failing: Vec<_> =
            found.iter().filter_map(|finding| Some((finding.hop, finding.reason.as_deref()?))).collect();
        let expected = [
            (HopName::PublicName, "proxied"),
            (HopName::ServiceEntry, "port_taken"),
            (HopName::Upstream, "refused"),
        ];
        assert_eq!(failing, expected);
        assert!(found.iter().filter(|finding| finding.reason.is_some()).all(|finding| finding.fix.is_some()));
    }

    const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
}
