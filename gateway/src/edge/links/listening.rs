//! The listeners of the link: one at each address of the edge in the tunnel.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

/// How long a listener rests when the process is out of descriptors.
const REST: Duration = Duration::from_millis(500);

/// What becomes of each address.
#[derive(Default)]
pub(super) struct Listening {
    addresses: BTreeMap<SocketAddr, Result<JoinHandle<()>, String>>,
}

impl Listening {
    /// Listens at exactly these addresses; one that failed is tried again. `serve` gets each connection with its source.
    pub(super) fn follow(
        &mut self,
        addresses: &[SocketAddr],
        serve: &(impl Fn(TcpStream, SocketAddr) + Clone + 'static),
    ) {
        self.addresses.retain(|address, listener| {
            let stays = addresses.contains(address) && listener.is_ok();
            if let (Ok(listener), false) = (&listener, stays) {
                listener.abort();
            }
            stays
        });
        for address in addresses {
            self.addresses.entry(*address).or_insert_with(|| {
                let listener = bind(*address).map_err(|error| problem(*address, &error))?;
                Ok(spawn_local(accept(listener, serve.clone())))
            });
        }
    }

    /// Listens nowhere any more.
    pub(super) fn close(&mut self) {
        self.addresses.values().flatten().for_each(JoinHandle::abort);
        self.addresses.clear();
    }

    /// Where it listens.
    pub(super) fn sockets(&self) -> Vec<SocketAddr> {
        let listening = self.addresses.iter().filter(|(_, listener)| listener.is_ok());
        listening.map(|(address, _)| *address).collect()
    }

    /// Where it does not, each with its fix.
    pub(super) fn problems(&self) -> Vec<String> {
        self.addresses.values().filter_map(|listener| listener.as_ref().err()).cloned().collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
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

    #[test]
    fn a_port_that_another_program_has_is_a_problem_with_its_fix_until_it_is_free() {
        run(async {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = taken.local_addr().unwrap();
            let mut listening = Listening::default();
            listening.follow(&[address], &|_, _| {});
            assert_eq!(listening.sockets(), []);
            let problem = listening.problems().remove(0);
            assert!(
                problem.contains("another program listens on") && problem.contains("ss -ltnp"),
                "{problem}"
            );
            drop(taken);
            listening.follow(&[address], &|_, _| {});
            assert_eq!((listening.sockets(), listening.problems()), (vec![address], vec![]));
        });
    }

    #[test]
    fn an_address_that_is_not_configured_any_more_is_closed() {
        run(async {
            let [one, two] = [1, 2].map(|_| {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                listener.local_addr().unwrap()
            });
            let mut listening = Listening::default();
            listening.follow(&[one, two], &|_, _| {});
            listening.follow(&[two], &|_, _| {});
            assert_eq!(listening.sockets(), [two]);
            while std::net::TcpStream::connect(one).is_ok() {
                tokio::task::yield_now().await;
            }
            listening.close();
            assert_eq!(listening.sockets(), []);
        });
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }
}
