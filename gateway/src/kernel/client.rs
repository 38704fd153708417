//! The daemon's side of the helper.

use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::frame;
use super::protocol::{Failure, FailureKind, Flow, FlowQuery, Listing, Reply, Request, Routing};

/// The hidden subcommand under which the helper runs.
pub const HELPER_COMMAND: &str = "kernel-helper";

/// Longer than the helper's own patience with `nft`, so that its answer is the one that is heard.
const PATIENCE: Duration = Duration::from_secs(60);

/// The helper process, one request at a time. Clones speak to the same one.
///
/// Every call blocks until the helper has answered: inside tokio it belongs into `spawn_blocking`.
#[derive(Clone, Debug)]
pub struct Helper {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    socket: UnixStream,
    child: Child,
}

impl Helper {
    /// Starts the helper: this same program, with the socket as its standard input.
    ///
    /// Must happen before the first thread and while the process still has `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// When a socket pair or a process cannot be had.
    pub fn start() -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_read_timeout(Some(PATIENCE))?;
        near.set_write_timeout(Some(PATIENCE))?;
        let child = Command::new(std::env::current_exe()?)
            .arg(HELPER_COMMAND)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { inner: Arc::new(Mutex::new(Inner { socket: near, child })) })
    }

    /// The helper's process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.inner.lock().child.id()
    }

    /// Whether the helper still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.inner.lock().child.try_wait(), Ok(None))
    }

    /// Sends the wish, waits for the answer.
    ///
    /// # Errors
    /// What the helper answers, or [`FailureKind::Kernel`] when it is gone.
    pub fn call(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        self.call_with(request, &[])
    }

    /// Like [`call`](Self::call), with descriptors for the helper.
    ///
    /// # Errors
    /// As there.
    pub fn call_with(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let inner = self.inner.lock();
        let gone = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Kernel, format!("the kernel helper is gone: {error}"))
        };
        frame::send(&inner.socket, request, fds).map_err(|error| gone(&error))?;
        match frame::receive(&inner.socket).map_err(|error| gone(&error))? {
            Some((Reply::Failed(failure), _)) => Err(failure),
            Some(answer) => Ok(answer),
            None => Err(gone(&"it closed its socket")),
        }
    }

    /// Asks whether there is a TUN driver that we may use.
    ///
    /// # Errors
    /// [`FailureKind::Permission`] with the mend.
    pub fn probe(&self) -> Result<(), Failure> {
        self.call(&Request::Probe).map(drop)
    }

    /// Asks the kernel whether it would take a ruleset.
    ///
    /// # Errors
    /// [`FailureKind::Ruleset`] with the words of `nft`.
    pub fn check_ruleset(&self, ruleset: String) -> Result<(), Failure> {
        self.call(&Request::CheckRuleset { ruleset }).map(drop)
    }

    /// Applies a ruleset in one transaction.
    ///
    /// # Errors
    /// [`FailureKind::Ruleset`]; then nothing changed.
    pub fn apply_ruleset(&self, ruleset: String) -> Result<(), Failure> {
        self.call(&Request::ApplyRuleset { ruleset }).map(drop)
    }

    /// Adds what the plan has and the kernel has not; the changes, a line each.
    ///
    /// # Errors
    /// What the kernel refused; then everything is as it was, unless the message says so.
    pub fn add_routing(&self, routing: Routing) -> Result<Vec<String>, Failure> {
        match self.call(&Request::AddRouting { routing })?.0 {
            Reply::Changed { lines } => Ok(lines),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes device, addresses, routes and rules what the plan says; the changes, a line each.
    ///
    /// # Errors
    /// What the kernel refused; what came before it stays done, and a second call goes on from there.
    pub fn apply_routing(&self, routing: Routing) -> Result<Vec<String>, Failure> {
        match self.call(&Request::ApplyRouting { routing })?.0 {
            Reply::Changed { lines } => Ok(lines),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads our table or a part of it as JSON; empty when it does not exist.
    ///
    /// # Errors
    /// What `nft` said.
    pub fn list(&self, what: Listing) -> Result<String, Failure> {
        match self.call(&Request::List { what })?.0 {
            Reply::Listed { json } => Ok(json),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads switches, `None` for those this kernel lacks.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read_sysctls(&self, paths: Vec<String>) -> Result<Vec<Option<String>>, Failure> {
        match self.call(&Request::ReadSysctls { paths })?.0 {
            Reply::Sysctls { values } => Ok(values),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes switches; those that could not be written, with their value and the reason.
    ///
    /// # Errors
    /// When the helper refuses a path.
    pub fn write_sysctls(
        &self,
        values: Vec<(String, String)>,
    ) -> Result<Vec<(String, String, String)>, Failure> {
        match self.call(&Request::WriteSysctls { values })?.0 {
            Reply::Unwritable { switches } => Ok(switches),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads flows: those that carried most, and how many there are.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn flows(&self, query: FlowQuery) -> Result<(Vec<Flow>, usize), Failure> {
        match self.call(&Request::Flows { query })?.0 {
            Reply::Flows { flows, matched } => Ok((flows, matched)),
            other => Err(unexpected(&other)),
        }
    }

    /// Opens the sockets that tell of changes.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn watch(&self) -> Result<Vec<OwnedFd>, Failure> {
        self.call(&Request::Watch).map(|(_, fds)| fds)
    }

    /// Opens the TUN device or the outer socket.
    ///
    /// # Errors
    /// [`FailureKind::Permission`] or [`FailureKind::Conflict`], with the mend.
    pub fn open(&self, request: &Request) -> Result<OwnedFd, Failure> {
        let (reply, fds) = self.call(request)?;
        fds.into_iter().next().ok_or_else(|| unexpected(&reply))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The helper ends when its socket does; waiting for it leaves no zombie.
        drop(self.socket.shutdown(Shutdown::Both));
        drop(self.child.wait());
    }
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::new(FailureKind::Kernel, format!("the kernel helper answered something else: {reply:?}"))
}
