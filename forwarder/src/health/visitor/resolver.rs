//! The addresses of a public name, as this machine's own resolver has them.

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long the resolver may take.
const REPLY: Duration = Duration::from_secs(10);
/// The most threads that wait for the resolver: it may take longer than it is waited for.
const MAX_THREADS: usize = 8;

/// What the resolver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The name has these addresses.
    Addresses(Vec<IpAddr>),
    /// The name has none.
    Nothing,
    /// The resolver did not reply, or failed.
    NoReply,
}

/// Resolves names on threads of their own: neither the daemon's work nor its end waits for DNS.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    threads: Arc<AtomicUsize>,
}

impl Resolver {
    /// Resolves a name.
    pub(super) async fn resolve(&self, name: &str) -> Resolved {
        if self.threads.fetch_add(1, Ordering::Relaxed) >= MAX_THREADS {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return Resolved::NoReply;
        }
        let (reply, replied) = oneshot::channel();
        let (name, threads) = (name.to_owned(), Arc::clone(&self.threads));
        let begun = thread::Builder::new().name("fw-visitor".into()).spawn(move || {
            let resolved =
                resolved((name.as_str(), 0).to_socket_addrs().map(|found| found.map(|it| it.ip()).collect()));
            threads.fetch_sub(1, Ordering::Relaxed);
            // It may not be waited for any more.
            let _ = reply.send(resolved);
        });
        if begun.is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return Resolved::NoReply;
        }
        match timeout(REPLY, replied).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(_)) | Err(_) => Resolved::NoReply,
        }
    }
}

/// The standard library has no kind for the resolver's errors: that it should be tried again
/// (`EAI_AGAIN`) shows in the text alone, of glibc and of musl.
fn resolved(found: io::Result<Vec<IpAddr>>) -> Resolved {
    match found {
        Ok(addresses) if addresses.is_empty() => Resolved::Nothing,
        Ok(addresses) => Resolved::Addresses(addresses),
        Err(error) => {
            let text = error.to_string();
            let is_temporary =
                ["emporary failure", "ry again", "non-recoverable"].iter().any(|part| text.contains(part));
            if is_temporary || error.raw_os_error().is_some() { Resolved::NoReply } else { Resolved::Nothing }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_an_address_is_another_thing_than_a_resolver_that_does_not_reply() {
        let error =
            |text: &str| Err(io::Error::other(format!("failed to lookup address information: {text}")));
        assert_eq!(resolved(error("Name or service not known")), Resolved::Nothing);
        assert_eq!(resolved(error("nodename nor servname provided, or not known")), Resolved::Nothing);
        assert_eq!(resolved(error("Temporary failure in name resolution")), Resolved::NoReply);
        assert_eq!(resolved(error("Try again")), Resolved::NoReply);
        assert_eq!(resolved(Err(io::Error::from_raw_os_error(libc::EMFILE))), Resolved::NoReply);
        assert_eq!(resolved(Ok(Vec::new())), Resolved::Nothing);
    }

    #[test]
    fn no_more_threads_wait_for_the_resolver_than_may() {
        let resolver = Resolver::default();
        resolver.threads.store(MAX_THREADS, Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(resolver.resolve("localhost")), Resolved::NoReply);
        assert_eq!(resolver.threads.load(Ordering::Relaxed), MAX_THREADS);
        resolver.threads.store(0, Ordering::Relaxed);
        assert!(matches!(runtime.block_on(resolver.resolve("localhost")), Resolved::Addresses(_)));
    }
}
