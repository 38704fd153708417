//! A thread of its own that looks after those which carry packets: dead or stuck ones are reported once.
//!
//! It takes no lock that a data thread could hold, so that it sees a thread that is stuck with one.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::clock;
use crate::progress::{Fault, Judge, Judgement, Life, Pulse};

/// Between two looks while a thread has something to do. With the looks it takes, a stuck thread is found within eight
/// seconds.
const TICK: Duration = Duration::from_secs(1);
/// The same while all of them wait.
const QUIET_TICK: Duration = Duration::from_secs(4);
/// How long a process may take to end in good order once a thread failed.
const GRACE: Duration = Duration::from_secs(1);

/// A thread to look after.
pub struct Watched {
    /// Its signs of life.
    pub pulse: Arc<Pulse>,
    /// Whether one of the things is there that it waits for, by the flags of [`Pulse::rest`].
    pub has_work: Box<dyn Fn(u8) -> bool + Send>,
}

/// The thread that looks after others. Dropping it ends it.
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
    /// Begins to look after `threads`; `on_fault` runs once, on the watchdog's own thread, which then ends.
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

    /// Whether no thread has failed so far, and the watchdog still looks after them.
    #[must_use]
    pub fn is_sound(&self) -> bool {
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
            // It has nothing to say that was not said.
            let _ = thread.join();
        }
    }
}

/// To be called by a watched thread before anything else; what it returns is to be kept until the thread's end.
pub fn begin(pulse: &Pulse) -> Life<'_> {
    #[cfg(target_os = "linux")]
    let id = rustix::thread::gettid().as_raw_nonzero().get();
    #[cfg(not(target_os = "linux"))]
    let id = 0;
    pulse.begin(id)
}

/// Ends the process with exit code 1 unless it ends by itself within a second: for the end of a handler of faults, since
/// the thread that would end the process may wait for a lock of the stuck one.
pub fn end_process_soon() {
    std::thread::sleep(GRACE);
    // SAFETY: ends the process at once; no destructor runs, which is the point.
    unsafe { libc::_exit(1) }
}

fn watch(threads: &[Watched], stop: &AtomicBool) -> Option<Fault> {
    let mut judges: Vec<_> = threads.iter().map(|_| (Judge::default(), Instant::now())).collect();
    let mut tick = TICK;
    while sleep(tick, stop) {
        tick = QUIET_TICK;
        for (watched, (judge, moved)) in threads.iter().zip(&mut judges) {
            let pulse = &watched.pulse;
            if pulse.is_over() {
                continue;
            }
            if pulse.has_panicked() || !exists(pulse.id()) {
                return Some(Fault::Gone { name: pulse.name(), id: pulse.id() });
            }
            match judge.handle_look(pulse.look(), has_work(watched)) {
                Judgement::AtRest => *moved = Instant::now(),
                Judgement::AtWork => {
                    if judge.has_moved() {
                        *moved = Instant::now();
                    }
                    tick = TICK;
                }
                Judgement::Stuck => {
                    let since = moved.elapsed();
                    return Some(Fault::Stuck { name: pulse.name(), id: pulse.id(), since });
                }
            }
        }
    }
    None
}

fn has_work(watched: &Watched) -> bool {
    let sight = watched.pulse.look();
    sight.waits_for().is_none_or(|flags| sight.is_overdue(clock::instant()) || (watched.has_work)(flags))
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

/// Whether this process still has the thread: one that a fault of the kernel's ended unwinds nothing.
#[cfg(target_os = "linux")]
fn exists(id: i32) -> bool {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: signal 0 is not delivered; the call only says whether the thread is there.
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
        let pulse = Arc::new(Pulse::new("vanishes"));
        let (sender, faults) = mpsc::channel();
        let thread = std::thread::spawn({
            let pulse = Arc::clone(&pulse);
            move || {
                // As after a fault of the kernel's: the thread ends, and nothing of it is dropped.
                std::mem::forget(begin(&pulse));
            }
        });
        thread.join().unwrap();
        let _watchdog = Watchdog::start(vec![watched(&pulse)], move |fault| sender.send(fault).unwrap());

        let fault = faults.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(fault, Fault::Gone { name: "vanishes", id } if id == pulse.id()), "{fault}");
    }

    #[test]
    fn a_thread_that_is_stuck_is_reported_and_one_that_waits_is_not() {
        let (waits, works) = (Arc::new(Pulse::new("waits")), Arc::new(Pulse::new("works")));
        let (sender, faults) = mpsc::channel();
        let _lives = (begin(&waits), begin(&works));
        waits.rest(0, clock::instant().after(Duration::from_secs(3600)));
        let watchdog =
            Watchdog::start(vec![watched(&waits), watched(&works)], move |fault| sender.send(fault).unwrap());

        let fault = faults.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(fault, Fault::Stuck { name: "works", .. }), "{fault}");
        assert!(!watchdog.unwrap().is_sound());
    }

    #[test]
    fn a_watchdog_ends_at_once_with_its_owner() {
        let pulse = Arc::new(Pulse::new("ends"));
        drop(begin(&pulse));
        let watchdog = Watchdog::start(vec![watched(&pulse)], |fault| panic!("{fault}")).unwrap();
        assert!(watchdog.is_sound());
        drop(watchdog);
    }

    fn watched(pulse: &Arc<Pulse>) -> Watched {
        Watched { pulse: Arc::clone(pulse), has_work: Box::new(|_| false) }
    }
}
