//! The listeners of the link: one at each address of the edge in the tunnel.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use policy::gateway::Policy;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

/// How long a listener rests when the process is out of descriptors.
const REST: Duration = Duration::from_millis(500);
/// Connections that the kernel holds until they are taken.
const BACKLOG: i32 = 64;

/// What becomes of each address.
#[derive(Default)]
pub(in crate::edge) struct Listening {
    addresses: BTreeMap<SocketAddr, Listener>,
}

/// One address.
enum Listener {
    /// It has its socket, and nothing is taken yet.
    Bound(std::net::TcpListener),
    /// Connections are taken.
    Serving(JoinHandle<()>),
    /// It has none, for this reason.
    Failed(String),
}

/// Where a policy has the link: at each address of the edge in the tunnel.
fn places(policy: &Policy) -> Vec<SocketAddr> {
    let place = |address: &ipnetwork::IpNetwork| SocketAddr::new(address.ip(), policy.link.port);
    policy.interface.address.iter().map(place).collect()
}

impl Listening {
    /// Takes the sockets before the rules know which there are; the addresses need not be on the
    /// device yet.
    pub(in crate::edge) fn bind(policy: &Policy) -> Self {
        let addresses = places(policy).into_iter().map(|address| (address, Listener::bind(address)));
        Self { addresses: addresses.collect() }
    }

    /// Listens where this policy has the link, and nowhere else; what failed is tried again.
    /// `serve` gets each connection with its source.
    pub(super) fn follow(
        &mut self,
        policy: &Policy,
        serve: &(impl Fn(TcpStream, SocketAddr) + Clone + 'static),
    ) {
        let wanted = places(policy);
        let mut before = std::mem::take(&mut self.addresses);
        for address in &wanted {
            let listener = match before.remove(address) {
                None | Some(Listener::Failed(_)) => Listener::bind(*address),
                Some(there) => there,
            };
            self.addresses.insert(*address, listener.serve(*address, serve));
        }
        before.into_values().for_each(Listener::close);
    }

    /// Listens nowhere any more.
    pub(super) fn close(&mut self) {
        std::mem::take(&mut self.addresses).into_values().for_each(Listener::close);
    }

    /// Where it listens.
    pub(in crate::edge) fn sockets(&self) -> Vec<SocketAddr> {
        let listening =
            self.addresses.iter().filter(|(_, listener)| !matches!(listener, Listener::Failed(_)));
        listening.map(|(address, _)| *address).collect()
    }

    /// Where it does not, each with its fix.
    pub(super) fn problems(&self) -> Vec<String> {
        let failed = |listener: &Listener| match listener {
            Listener::Failed(problem) => Some(problem.clone()),
            Listener::Bound(_) | Listener::Serving(_) => None,
        };
        self.addresses.values().filter_map(failed).collect()
    }
}

impl Listener {
    fn bind(address: SocketAddr) -> Self {
        bind(address).map_or_else(|error| Self::Failed(problem(address, &error)), Self::Bound)
    }

    /// Takes connections from now on.
    fn serve(self, address: SocketAddr, serve: &(impl Fn(TcpStream, SocketAddr) + Clone + 'static)) -> Self {
        let Self::Bound(socket) = self else { return self };
        match TcpListener::from_std(socket) {
            Ok(listener) => Self::Serving(spawn_local(accept(listener, serve.clone()))),
            Err(error) => Self::Failed(problem(address, &error)),
        }
    }

    fn close(self) {
        if let Self::Serving(task) = self {
            task.abort();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn problem(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program listens on {address}, so no peer has a link; stop it (see: ss -ltnp 'sport = :{port}'), or set \
             [link] port in the configurations of both ends"
        ),
        _ => format!("the link's socket at {address} cannot be had ({error}), so no peer has a link"),
    }
}

async fn accept(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr)) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => serve(stream, source),
            // The connection was gone before it was taken, or there is no descriptor.
            Err(error) => {
                tracing::debug!(%error, "a connection for the link could not be taken");
                sleep(REST).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::edge::example;

    #[test]
    fn a_port_that_another_program_has_is_a_problem_with_its_fix_until_it_is_free() {
        run(async {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let policy = policy(&["127.0.0.1/32"], taken.local_addr().unwrap().port());
            let mut listening = Listening::bind(&policy);
            assert_eq!(listening.sockets(), []);
            let problem = listening.problems().remove(0);
            assert!(
                problem.contains("another program listens on") && problem.contains("ss -ltnp"),
                "{problem}"
            );
            drop(taken);
            listening.follow(&policy, &|_, _| {});
            assert_eq!((listening.sockets().len(), listening.problems()), (1, vec![]));
        });
    }

    #[test]
    fn sockets_are_taken_before_the_device_has_their_addresses() {
        let listening = Listening::bind(&policy(&["10.77.88.1/30", "fd77:88::1/64"], 51_899));
        assert_eq!((listening.sockets().len(), listening.problems()), (2, vec![]));
    }

    #[test]
    fn a_port_that_is_not_configured_any_more_is_closed() {
        run(async {
            let [one, two] = [1, 2].map(|_| {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                listener.local_addr().unwrap()
            });
            let mut listening = Listening::bind(&policy(&["127.0.0.1/32"], one.port()));
            listening.follow(&policy(&["127.0.0.1/32"], one.port()), &|_, _| {});
            listening.follow(&policy(&["127.0.0.1/32"], two.port()), &|_, _| {});
            assert_eq!(listening.sockets(), [two]);
            while std::net::TcpStream::connect(one).is_ok() {
                tokio::task::yield_now().await;
            }
            listening.close();
            assert_eq!(listening.sockets(), []);
        });
    }

    fn policy(addresses: &[&str], port: u16) -> Policy {
        let mut policy = example::policy(example::TEXT);
        policy.interface.address = addresses.iter().map(|address| address.parse().unwrap()).collect();
        policy.link.port = port;
        policy
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }
}
