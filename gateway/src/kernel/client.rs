//! The daemon's side of the helper.

use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::frame;
use super::protocol::{
    Failure, FailureKind, Flow, FlowQuery, Listing, Numbered, Reply, Request, Routing, UplinkTable,
};
use super::scope::Scope;

/// The hidden subcommand under which the helper runs.
pub const HELPER_COMMAND: &str = "kernel-helper";

/// Longer than the helper waits for `nft` in one request, so that the helper's own error arrives.
const TIMEOUT: Duration = Duration::from_secs(40);
/// How long a helper that was killed may take to end.
const END: Duration = Duration::from_secs(1);

/// The helper process, one request at a time. Clones share it.
///
/// Every call blocks until the helper has replied: inside tokio it belongs into `spawn_blocking`. A
/// helper that once replied late or out of order gets no more requests, since its next reply would
/// belong to an earlier one.
#[derive(Clone, Debug)]
pub struct Helper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Mutex<Connection>,
    child: Mutex<Child>,
    process_id: u32,
    /// What it failed to do once.
    lost: OnceLock<String>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    /// Of the last request.
    sequence: u64,
    /// What the helper may do.
    scope: Scope,
}

impl Helper {
    /// Starts the helper: this same program, with the socket as its standard input; and sends it
    /// the scope.
    ///
    /// Must happen before the first thread and while the process still has `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// When a socket pair or a process cannot be had, or the helper refuses the scope.
    pub fn start(scope: Scope) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        let child = Command::new(std::env::current_exe()?)
            .arg(HELPER_COMMAND)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .spawn()?;
        Self::over(near, child, scope, TIMEOUT)
    }

    /// Uses the helper at the other end of `socket`, with `timeout` for each reply.
    fn over(socket: UnixStream, child: Child, scope: Scope, timeout: Duration) -> io::Result<Self> {
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        let process_id = child.id();
        let connection = Mutex::new(Connection { socket, sequence: 0, scope: scope.clone() });
        let inner = Inner { connection, child: Mutex::new(child), process_id, lost: OnceLock::new() };
        let helper = Self { inner: Arc::new(inner) };
        helper.call(&Request::Begin { scope }).map_err(io::Error::other)?;
        Ok(helper)
    }

    /// The helper's process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.inner.process_id
    }

    /// Why the helper can no longer be used: it ended, or did not reply in time; `None` while it
    /// can.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let ended = || match self.inner.child.lock().try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("it ended by itself ({status})")),
            Err(error) => Some(error.to_string()),
        };
        self.inner.lost.get().cloned().or_else(ended)
    }

    /// Makes sure that the helper may do what `wanted` needs, if root's texts ask for it.
    ///
    /// # Errors
    /// [`FailureKind::Conflict`] when only a restart can widen what it may do.
    pub fn cover(&self, wanted: &Scope) -> Result<(), Failure> {
        if self.inner.connection.lock().scope.covers(wanted) {
            return Ok(());
        }
        if let Reply::Scope(scope) = self.call(&Request::Widen)?.0 {
            let is_enough = scope.covers(wanted);
            self.inner.connection.lock().scope = scope;
            if is_enough {
                return Ok(());
            }
        }
        Err(Failure::new(
            FailureKind::Conflict,
            "the configuration asks for more than the kernel helper was allowed at its start, and no file of root's \
             allows it; use gatewayctl as root, or write the file as root and restart: systemctl restart gateway",
        ))
    }

    /// Sends the request, waits for the answer.
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
        let mut connection = self.inner.connection.lock();
        if let Some(fault) = self.inner.lost.get() {
            return Err(gone(fault));
        }
        match connection.exchange(request, fds) {
            Ok((Reply::Failed(failure), _)) => Err(failure),
            Ok(answer) => Ok(answer),
            // Refused before the first byte was sent.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(Failure::new(FailureKind::Refused, error.to_string()))
            }
            Err(error) => {
                let fault = self.inner.lost.get_or_init(|| described(&error, &connection.socket));
                drop(connection.socket.shutdown(Shutdown::Both));
                Err(gone(fault))
            }
        }
    }

    /// Asks whether there is a TUN driver that we may use.
    ///
    /// # Errors
    /// [`FailureKind::Permission`] with the fix.
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
    /// What the kernel refused; what came before it stays done, and a second call goes on from
    /// there.
    pub fn apply_routing(&self, routing: Routing) -> Result<Vec<String>, Failure> {
        match self.call(&Request::ApplyRouting { routing })?.0 {
            Reply::Changed { lines } => Ok(lines),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the tables of the way back what the plan says; the changes, a line each.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn follow_uplinks(&self, uplinks: Vec<UplinkTable>) -> Result<Vec<String>, Failure> {
        match self.call(&Request::FollowUplinks { uplinks })?.0 {
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

    /// Opens the sockets that report changes.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn watch(&self) -> Result<Vec<OwnedFd>, Failure> {
        self.call(&Request::Watch).map(|(_, fds)| fds)
    }

    /// Opens the TUN device or the outer socket.
    ///
    /// # Errors
    /// [`FailureKind::Permission`] or [`FailureKind::Conflict`], with the fix.
    pub fn open(&self, request: &Request) -> Result<OwnedFd, Failure> {
        let (reply, fds) = self.call(request)?;
        fds.into_iter().next().ok_or_else(|| unexpected(&reply))
    }
}

impl Connection {
    fn exchange(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<(Reply, Vec<OwnedFd>)> {
        self.sequence += 1;
        let sequence = self.sequence;
        frame::send(&self.socket, &Numbered { sequence, body: request }, fds)?;
        match frame::receive::<Numbered<Reply>>(&self.socket)? {
            Some((reply, fds)) if reply.sequence == sequence => Ok((reply.body, fds)),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered another request")),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed its socket")),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The helper ends when its socket does; waiting for it leaves no zombie.
        drop(self.connection.get_mut().socket.shutdown(Shutdown::Both));
        let child = self.child.get_mut();
        if self.lost.get().is_none() {
            drop(child.wait());
            return;
        }
        // A helper that did not reply may be stopped, or wait for the kernel; waiting for it would
        // keep the daemon from ending.
        drop(child.kill());
        let killed = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && killed.elapsed() < END {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Why an exchange failed, in words.
fn described(error: &io::Error, socket: &UnixStream) -> String {
    let timeout = socket.read_timeout().ok().flatten().unwrap_or(TIMEOUT);
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("it did not answer within {timeout:?}")
        }
        _ => error.to_string(),
    }
}

fn gone(fault: &str) -> Failure {
    Failure::new(FailureKind::Kernel, format!("the kernel helper is lost: {fault}"))
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::new(FailureKind::Kernel, format!("the kernel helper answered something else: {reply:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the daemon of these tests waits for an answer.
    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn a_helper_that_was_late_once_gets_no_more_requests_and_its_late_replies_are_dropped() {
        let (helper, far) = pair(|far| {
            // Answers the first request too late, and then the second one with the first one's
            // reply.
            let (first, _) = frame::receive::<Numbered<Request>>(far).unwrap().unwrap();
            thread::sleep(SHORT * 2);
            let late = Numbered { sequence: first.sequence, body: Reply::Listed { json: "old".to_owned() } };
            drop(frame::send(far, &late, &[]));
            while let Ok(Some((request, _))) = frame::receive::<Numbered<Request>>(far) {
                drop(frame::send(far, &Numbered { sequence: request.sequence, body: Reply::Done }, &[]));
            }
        });
        assert!(helper.list(Listing::Bans4).is_err());
        assert_eq!(helper.fault().as_deref(), Some("it did not answer within 300ms"));
        assert!(helper.list(Listing::Table).is_err() && helper.probe().is_err());
        drop(helper);
        far.join().unwrap();
    }

    #[test]
    fn an_answer_with_the_number_of_another_request_is_the_last_one() {
        let (helper, far) = pair(|far| {
            let (first, _) = frame::receive::<Numbered<Request>>(far).unwrap().unwrap();
            let other = Numbered { sequence: first.sequence - 1, body: Reply::Done };
            frame::send(far, &other, &[]).unwrap();
        });
        assert!(helper.probe().is_err() && helper.fault().is_some());
        drop(helper);
        far.join().unwrap();
    }

    #[test]
    fn a_helper_that_refuses_is_asked_again() {
        let (helper, far) = pair(|far| {
            for _ in 0..2 {
                let (request, _) = frame::receive::<Numbered<Request>>(far).unwrap().unwrap();
                let body = Reply::Failed(Failure::new(FailureKind::Kernel, "no"));
                frame::send(far, &Numbered { sequence: request.sequence, body }, &[]).unwrap();
            }
        });
        assert!(helper.probe().is_err() && helper.fault().is_none() && helper.probe().is_err());
        drop(helper);
        far.join().unwrap();
    }

    /// A thread that acts as the helper, after it has received its scope.
    fn pair(play: impl FnOnce(&UnixStream) + Send + 'static) -> (Helper, thread::JoinHandle<()>) {
        let (near, far) = UnixStream::pair().unwrap();
        let far = thread::spawn(move || {
            let (begin, _) = frame::receive::<Numbered<Request>>(&far).unwrap().unwrap();
            frame::send(&far, &Numbered { sequence: begin.sequence, body: Reply::Done }, &[]).unwrap();
            play(&far);
        });
        // A stand-in for the helper's process; it ends when its standard input is closed.
        let child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        (Helper::over(near, child, Scope::closed(), SHORT).unwrap(), far)
    }
}
