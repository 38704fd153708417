//! What another program changed is put back at once; repeated interference is logged once.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tunnel::io::tun::is_gone;

use super::Edge;
use super::blocking::blocking;
use super::blueprint::{Repair, Rules};
use super::failing::FIRST_PAUSE;
use super::path_check;
use crate::kernel::{Failure, FailureKind};

/// How long after a change the look begins, so that a burst of changes costs one.
const SETTLE: Duration = Duration::from_millis(200);
/// The longest time between two looks, when no change is reported.
const POLL: Duration = Duration::from_secs(10);
/// Repairs within [`CONTENTION_WINDOW`] from which on there is contention.
const CONTENTION: usize = 12;
/// See [`CONTENTION`].
const CONTENTION_WINDOW: Duration = Duration::from_secs(60);
/// The longest pause between repairs during contention.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether another program keeps undoing repairs: when they were made, and the pause before the
/// next.
#[derive(Debug, Default)]
pub(super) struct Contention {
    repairs: VecDeque<Instant>,
    /// Repairs since the start.
    pub(super) total: u64,
    pub(super) is_on: bool,
}

impl Contention {
    /// Counts a repair; whether contention begins with it.
    fn handle_repair(&mut self, now: Instant) -> bool {
        self.total += 1;
        self.repairs.push_back(now);
        let was_on = self.is_on;
        self.is_on = self.recent(now) >= CONTENTION;
        self.is_on && !was_on
    }

    /// How long to wait before the next look: not at all, or twice as long with each repair during
    /// contention.
    fn pause(&mut self, now: Instant) -> Duration {
        let recent = self.recent(now);
        self.is_on = recent >= CONTENTION;
        let doublings = u32::try_from(recent.saturating_sub(CONTENTION)).unwrap_or(u32::MAX);
        if self.is_on {
            Duration::from_secs(1 << doublings.min(6)).min(LONGEST_PAUSE)
        } else {
            Duration::ZERO
        }
    }

    fn recent(&mut self, now: Instant) -> usize {
        while self.repairs.front().is_some_and(|first| now.duration_since(*first) > CONTENTION_WINDOW) {
            self.repairs.pop_front();
        }
        self.repairs.len()
    }
}

impl Edge {
    /// Watches and repairs until the daemon cannot go on; why.
    pub async fn reconcile(self: Rc<Self>) -> String {
        if let Err(failure) = self.watch_for_changes().await {
            tracing::info!("changes by others are only found every {} s: {failure}", POLL.as_secs());
        }
        let mut polls = 0_u32;
        // The first look also finds what changed before the watch began.
        let mut rules_too = true;
        loop {
            if let Err(fault) = self.look(rules_too).await {
                return fault;
            }
            let pause = self.contention.borrow_mut().pause(Instant::now());
            sleep(pause).await;
            let failing = self.failing.borrow().pause();
            rules_too = match failing {
                Some(pause) => {
                    // However many changes are reported.
                    sleep(FIRST_PAUSE).await;
                    drop(timeout(pause.saturating_sub(FIRST_PAUSE), self.wakeup.notified()).await);
                    true
                }
                None => {
                    let is_settling = self.path_faults.borrow().is_settling();
                    let wait = if is_settling { path_check::LEAST } else { POLL };
                    let is_notified = timeout(wait, self.wakeup.notified()).await.is_ok();
                    if is_notified {
                        sleep(SETTLE).await;
                    }
                    polls = if is_notified { 0 } else { polls + 1 };
                    // Reading the rules starts a program: without a notification, once a minute.
                    is_notified || is_settling || polls.is_multiple_of(6)
                }
            };
        }
    }

    /// Starts a thread that waits on the helper's sockets and wakes the loop.
    async fn watch_for_changes(&self) -> Result<(), Failure> {
        let (helper, wakeup) = (self.helper.clone(), Arc::clone(&self.wakeup));
        let fds = blocking(move || helper.watch()).await?;
        let thread =
            std::thread::Builder::new().name("cw-watch".to_owned()).spawn(move || listen(&fds, &wakeup));
        thread.map(drop).map_err(|error| Failure::new(FailureKind::Kernel, error.to_string()))
    }

    /// Looks once, and puts back what differs; an error when the daemon cannot go on.
    async fn look(&self, rules_too: bool) -> Result<(), String> {
        let _turn = self.applying.lock().await;
        let begun = Instant::now();
        let followed = self.follow_machine().await;
        let repaired = self.repair(rules_too).await;
        let is_sound = repaired.as_ref().is_ok_and(|lines| *lines == 0) && followed.is_ok();
        let failed = repaired.map(drop).and(followed).err();
        if let Some(fault) = self.helper.fault() {
            return Err(format!("the kernel helper is lost: {fault}"));
        }
        match failed {
            Some(failure) if failure.kind == FailureKind::Gone => return Err(self.give_up_device()),
            Some(failure) => self.note_failure(failure.message, begun.elapsed()),
            None if self.failing.borrow_mut().handle_success() => {
                tracing::info!("rules, routes and switches are checked and put back again");
            }
            None => {}
        }
        self.warn_of_remarks();
        // As often as the rules: after every change, and once a minute.
        if rules_too {
            self.check_paths(is_sound).await;
            // Also without a scrape: conntrack's room is judged with these counters. An nft that
            // hangs is not waited for again.
            if is_sound && let Err(failure) = self.read_counters().await {
                tracing::debug!(%failure, "the kernel's counters cannot be read");
            }
        }
        Ok(())
    }

    /// Puts back what differs; how many lines that were.
    async fn repair(&self, rules_too: bool) -> Result<usize, Failure> {
        let (blueprint, expected) = {
            let current = self.current.borrow();
            (Arc::clone(&current.blueprint), current.fingerprint)
        };
        let (helper, state) = (self.helper.clone(), self.state.clone());
        let rules = if rules_too { Rules::Expected(expected) } else { Rules::Skipped };
        let Repair { lines, fingerprint, unwritable } =
            blocking(move || blueprint.repair(&helper, &state, rules)).await?;
        if let Some(fingerprint) = fingerprint {
            self.current.borrow_mut().fingerprint = Some(fingerprint);
        }
        // What a person has fixed since is no problem any more.
        self.current.borrow_mut().unwritable = unwritable;
        if !lines.is_empty() {
            self.log_repair(&lines);
        }
        Ok(lines.len())
    }

    fn note_failure(&self, reason: String, lasted: Duration) {
        let mut failing = self.failing.borrow_mut();
        let warn = failing.handle_failure(reason, lasted);
        if let Some(problem) = failing.problem() {
            if warn {
                tracing::warn!("{problem}");
            } else {
                tracing::debug!("{problem}");
            }
        }
    }

    /// The device that the data plane works on is no longer the tunnel's: it goes when the daemon ends, and the next start
    /// makes another. Returns why.
    fn give_up_device(&self) -> String {
        match self.device.tun().set_persistent(false) {
            Ok(()) => {}
            // The data plane finds that as well, at the same time.
            Err(error) if is_gone(&error) => return "the TUN device was deleted".to_owned(),
            Err(error) => tracing::debug!(%error, "the device stays under its new name"),
        }
        let name = &self.current.borrow().policy.interface.name;
        format!("the device {name} was renamed, moved or replaced by another program")
    }

    fn log_repair(&self, lines: &[String]) {
        let begins = self.contention.borrow_mut().handle_repair(Instant::now());
        if begins {
            tracing::warn!(
                "another program keeps changing what the edge needs ({}); find out which: another firewall or network \
                 manager?",
                lines.join("; ")
            );
        } else {
            tracing::info!("repaired what another program changed: {}", lines.join("; "));
        }
    }
}

/// Wakes the loop at every message of the sockets, for as long as the process lives.
fn listen(fds: &[OwnedFd], wakeup: &Notify) {
    loop {
        let mut waiting: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        fds.iter().for_each(drain);
        wakeup.notify_one();
        // A storm of changes costs no more than ten rounds a second.
        std::thread::sleep(SETTLE / 2);
    }
}

/// Empties a socket; what it says does not matter, and an overflow is a notification too.
fn drain(fd: &OwnedFd) {
    let mut buffer = [0; 8192];
    for _ in 0..1024 {
        match rustix::net::recv(fd, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_now_and_then_is_no_contention() {
        let mut contention = Contention::default();
        let start = Instant::now();
        for minute in 0..20 {
            let now = start + Duration::from_secs(60 * minute);
            assert!(!contention.handle_repair(now));
            assert_eq!(contention.pause(now), Duration::ZERO);
        }
    }

    #[test]
    fn contention_is_logged_once_and_slows_down_repairs_but_never_ends_them() {
        let mut contention = Contention::default();
        let start = Instant::now();
        let mut logged = 0;
        for second in 0..30 {
            logged += u32::from(contention.handle_repair(start + Duration::from_secs(second)));
        }
        assert_eq!(logged, 1);
        assert_eq!(contention.pause(start + Duration::from_secs(30)), LONGEST_PAUSE);
        assert_eq!(contention.pause(start + Duration::from_secs(120)), Duration::ZERO);
        assert!(!contention.is_on);
    }
}
