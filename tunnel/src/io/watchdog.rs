//! A thread that watches those which carry packets: a dead or stuck one is reported once.
//!
//! It takes no lock that a data thread could hold, so that it finds a thread that is stuck with
//! one.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::clock;
use crate::progress::{Fault, Heartbeat, Progress, RunGuard, StuckDetector};

/// Between two samples while a thread has something to do. With the samples it takes, a stuck
/// thread is found within eight seconds.
const TICK: Duration = Duration::from_secs(1);
/// The same while all of them wait.
const QUIET_TICK: Duration = Duration::from_secs(4);
/// How long a process may take to end by itself once a thread failed.
const GRACE: Duration = Duration::from_secs(1);

/// A thread to watch.
pub struct Watched {
    /// Its heartbeat.
    pub heartbeat: Arc<Heartbeat>,
    /// Whether something that it waits for is there, by the flags of [`Heartbeat::begin_wait`].
    pub has_work: Box<dyn Fn(u8) -> bool + Send>,
}

/// The thread that watches others. Dropping it ends it.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicBool,
}

impl Watchdog {
    /// Starts to watch `threads`; `on_fault` runs once, on the watchdog's own thread, which then
    /// ends.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(threads: Vec<Watched>, on_fault: impl FnOnce(Fault) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("cw-watchdog".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Some(fault) = watch(&threads, &shared.stop) {
                    shared.failed.store(true, Ordering::Release);
                    on_fault(fault);
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether no thread has failed so far, and the watchdog still watches them.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.shared.failed.load(Ordering::Acquire)
            && self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Whether a thread failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        // After a fault it may be the one that ends the process.
        if !self.has_failed() && thread.thread().id() != std::thread::current().id() {
            // Its result was reported already.
            let _ = thread.join();
        }
    }
}

/// A watched thread calls this before anything else, and keeps what it returns until its end.
pub fn begin(heartbeat: &Heartbeat) -> RunGuard<'_> {
    #[cfg(target_os = "linux")]
    let id = rustix::thread::gettid().as_raw_nonzero().get();
    #[cfg(not(target_os = "linux"))]
    let id = 0;
    heartbeat.begin(id)
}

/// Ends the process with exit code 1 unless it ends by itself within a second: for the end of a
/// handler of faults, since the thread that would end the process may wait for a lock of the stuck
/// one.
pub fn end_process_soon() {
    std::thread::sleep(GRACE);
    // SAFETY: ends the process at once; no destructor runs, which is the point.
    unsafe { libc::_exit(1) }
}

fn watch(threads: &[Watched], stop: &AtomicBool) -> Option<Fault> {
    let mut detectors: Vec<_> = threads.iter().map(|_| (StuckDetector::default(), Instant::now())).collect();
    let mut tick = TICK;
    while sleep(tick, stop) {
        tick = QUIET_TICK;
        for (watched, (detector, moved)) in threads.iter().zip(&mut detectors) {
            let heartbeat = &watched.heartbeat;
            if heartbeat.is_over() {
                continue;
            }
            if heartbeat.has_panicked() || !exists(heartbeat.id()) {
                return Some(Fault::Gone { name: heartbeat.name(), id: heartbeat.id() });
            }
            match detector.handle_sample(heartbeat.sample(), has_work(watched)) {
                Progress::Idle => *moved = Instant::now(),
                Progress::Working => {
                    if detector.has_moved() {
                        *moved = Instant::now();
                    }
                    tick = TICK;
                }
                Progress::Stuck => {
                    let since = moved.elapsed();
                    return Some(Fault::Stuck { name: heartbeat.name(), id: heartbeat.id(), since });
                }
            }
        }
    }
    None
}

fn has_work(watched: &Watched) -> bool {
    let sample = watched.heartbeat.sample();
    sample.waits_for().is_none_or(|flags| sample.is_overdue(clock::instant()) || (watched.has_work)(flags))
}

/// Sleeps for so long; false when it is to end.
fn sleep(time: Duration, stop: &AtomicBool) -> bool {
    let end = Instant::now() + time;
    loop {
        if stop.load(Ordering::Acquire) {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::park_timeout(left);
    }
}

/// Whether this process still has the thread: one that ended by a fault in the kernel does not
/// unwind.
#[cfg(target_os = "linux")]
fn exists(id: i32) -> bool {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: signal 0 is not delivered; the call only returns whether the thread is there.
    let found = unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) };
    id == 0 || found == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

#[cfg(not(target_os = "linux"))]
const fn exists(_: i32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_vanishes_without_unwinding_is_reported() {
        let heartbeat = Arc::new(Heartbeat::new("vanishes"));
        let (sender, faults) = mpsc::channel();
        let thread = std::thread::spawn({
            let heartbeat = Arc::clone(&heartbeat);
            move || {
                // As after a fault in the kernel: the thread ends without running any destructor.
                std::mem::forget(begin(&heartbeat));
            }
        });
        thread.join().unwrap();
        let _watchdog = Watchdog::start(vec![watched(&heartbeat)], move |fault| sender.send(fault).unwrap());

        let fault = faults.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(fault, Fault::Gone { name: "vanishes", id } if id == heartbeat.id()), "{fault}");
    }

    #[test]
    fn a_thread_that_is_stuck_is_reported_and_one_that_waits_is_not() {
        let (waits, works) = (Arc::new(Heartbeat::new("waits")), Arc::new(Heartbeat::new("works")));
        let (sender, faults) = mpsc::channel();
        let _lives = (begin(&waits), begin(&works));
        waits.begin_wait(0, clock::instant().after(Duration::from_secs(3600)));
        let watchdog =
            Watchdog::start(vec![watched(&waits), watched(&works)], move |fault| sender.send(fault).unwrap());

        let fault = faults.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(fault, Fault::Stuck { name: "works", .. }), "{fault}");
        assert!(!watchdog.unwrap().is_healthy());
    }

    #[test]
    fn a_watchdog_ends_at_once_with_its_owner() {
        let heartbeat = Arc::new(Heartbeat::new("ends"));
        drop(begin(&heartbeat));
        let watchdog = Watchdog::start(vec![watched(&heartbeat)], |fault| panic!("{fault}")).unwrap();
        assert!(watchdog.is_healthy());
        drop(watchdog);
    }

    fn watched(heartbeat: &Arc<Heartbeat>) -> Watched {
        Watched { heartbeat: Arc::clone(heartbeat), has_work: Box::new(|_| false) }
    }
}
