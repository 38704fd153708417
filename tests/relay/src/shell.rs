//! The relay between real sockets: one thread, two paths.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::faults::{Faults, InvalidFaults};
use crate::path::{Counters, Path};

/// How long the threads wait for a datagram when nothing is due, before they check whether they
/// must end.
const POLL: Duration = Duration::from_millis(4);

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the side that dials the relay to the target.
    Forward,
    /// From the target back.
    Back,
}

/// A relay that runs until it is dropped.
///
/// It serves one dialling side at a time. Answers go to the address of the last datagram, since a
/// NAT in front of that side may rebind.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

type OpenTarget = Box<dyn Fn() -> io::Result<UdpSocket> + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    near: UdpSocket,
    open_target: OpenTarget,
    target: SocketAddr,
    start: Instant,
    ending: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("target", &self.target).finish_non_exhaustive()
    }
}

struct State {
    forward: Path,
    back: Path,
    far: Arc<UdpSocket>,
    dialler: Option<SocketAddr>,
}

impl Relay {
    /// Relays between `near`, where the dialling side sends, and `target`, reached through a socket
    /// that `open_target` makes, again at every [`Relay::rebind`]. Both may belong to any network
    /// namespace.
    pub fn start(
        near: UdpSocket,
        target: SocketAddr,
        seed: u64,
        open_target: impl Fn() -> io::Result<UdpSocket> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        near.set_read_timeout(Some(POLL))?;
        let far = open_far(&open_target)?;
        let state = State { forward: Path::new(seed), back: Path::new(seed ^ u64::MAX), far, dialler: None };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            near,
            open_target: Box::new(open_target),
            target,
            start: Instant::now(),
            ending: AtomicBool::new(false),
        });
        let spawn = |name: &str, work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            let body = move || {
                while !shared.ending.load(Ordering::Relaxed) {
                    work(&shared);
                }
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(body)
        };
        let threads = vec![spawn("relay-forward", Shared::forward)?, spawn("relay-back", Shared::back)?];
        Ok(Self { shared, threads })
    }

    /// Replaces the faults of one direction.
    pub fn set_faults(&self, direction: Direction, faults: Faults) -> Result<(), InvalidFaults> {
        faults.check()?;
        self.with_path(direction, |path| path.set_faults(faults));
        Ok(())
    }

    /// Restarts the faults' sequence in both directions.
    pub fn reseed(&self, seed: u64) {
        self.with_path(Direction::Forward, |path| path.reseed(seed));
        self.with_path(Direction::Back, |path| path.reseed(seed ^ u64::MAX));
    }

    /// What happened in one direction.
    pub fn counters(&self, direction: Direction) -> Counters {
        self.with_path(direction, |path| path.counters())
    }

    /// Starts or stops keeping the datagrams of one direction for [`Relay::replay`].
    pub fn record(&self, direction: Direction, on: bool) {
        self.with_path(direction, |path| path.record(on));
    }

    /// Sends the last `count` recorded datagrams again; answers how many there were.
    pub fn replay(&self, direction: Direction, count: usize) -> usize {
        let now = self.shared.now();
        self.with_path(direction, |path| path.replay(now, count))
    }

    /// Goes on from a new source port, as a NAT that lost its mapping does; answers the new local
    /// address.
    pub fn rebind(&self) -> io::Result<SocketAddr> {
        let far = open_far(&self.shared.open_target)?;
        let address = far.local_addr()?;
        self.shared.lock().far = far;
        Ok(address)
    }

    fn with_path<T>(&self, direction: Direction, work: impl FnOnce(&mut Path) -> T) -> T {
        let mut state = self.shared.lock();
        match direction {
            Direction::Forward => work(&mut state.forward),
            Direction::Back => work(&mut state.back),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a datagram, at most until the next one is `due`; answers whether there is one. A
    /// socket's own timeout counts in ticks of milliseconds, which would add that much jitter to
    /// the path.
    fn is_readable(&self, socket: &UdpSocket, due: Option<Duration>) -> bool {
        let wait = due.map_or(POLL, |due| due.saturating_sub(self.now()).min(POLL));
        let timeout = Timespec::try_from(wait).ok();
        matches!(poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout.as_ref()), Ok(1..))
    }

    fn forward(&self) {
        let mut buffer = [0; 65_536];
        let due = self.lock().forward.poll_timeout();
        let received = self.is_readable(&self.near, due).then(|| self.near.recv_from(&mut buffer));
        let mut state = self.lock();
        if let Some(Ok((length, from))) = received {
            state.dialler = Some(from);
            state.forward.handle_datagram(self.now(), buffer.get(..length).unwrap_or_default());
        }
        while let Some(datagram) = state.forward.poll_datagram(self.now()) {
            // A send error counts as a loss on the path.
            let _ = state.far.send_to(&datagram, self.target);
        }
    }

    fn back(&self) {
        let mut buffer = [0; 65_536];
        let (far, due) = {
            let state = self.lock();
            (Arc::clone(&state.far), state.back.poll_timeout())
        };
        let received = self.is_readable(&far, due).then(|| far.recv_from(&mut buffer));
        let mut state = self.lock();
        if let (Some(Ok((length, _))), true) = (received, Arc::ptr_eq(&far, &state.far)) {
            state.back.handle_datagram(self.now(), buffer.get(..length).unwrap_or_default());
        }
        while let Some(datagram) = state.back.poll_datagram(self.now()) {
            let Some(dialler) = state.dialler else { continue };
            let _ = self.near.send_to(&datagram, dialler);
        }
    }
}

fn open_far(open: impl Fn() -> io::Result<UdpSocket>) -> io::Result<Arc<UdpSocket>> {
    let socket = open()?;
    socket.set_read_timeout(Some(POLL))?;
    Ok(Arc::new(socket))
}
