//! What somebody else changed is put back, at once and without a fuss; whoever keeps changing it is told of.

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

use super::Edge;
use super::blueprint::Repair;
use super::observe::blocking;
use super::path_check;
use crate::kernel::{Failure, FailureKind};

/// How long after a change the look begins, so that a burst of changes costs one.
const SETTLE: Duration = Duration::from_millis(200);
/// The longest time between two looks, when nothing is told.
const POLL: Duration = Duration::from_secs(10);
/// Repairs within [`FIGHT_WINDOW`] from which on somebody is fighting.
const FIGHT: usize = 12;
/// See [`FIGHT`].
const FIGHT_WINDOW: Duration = Duration::from_secs(60);
/// The longest pause between repairs while somebody fights.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When repairs were made, and what follows for the next one.
#[derive(Debug, Default)]
pub(super) struct Fight {
    repairs: VecDeque<Instant>,
    /// Repairs since the start.
    pub(super) total: u64,
    pub(super) is_on: bool,
}

impl Fight {
    /// Counts a repair; whether a fight begins with it.
    fn handle_repair(&mut self, now: Instant) -> bool {
        self.total += 1;
        self.repairs.push_back(now);
        let was_on = self.is_on;
        self.is_on = self.recent(now) >= FIGHT;
        self.is_on && !was_on
    }

    /// How long to wait before the next look: none, or twice as long with each repair of a fight.
    fn pause(&mut self, now: Instant) -> Duration {
        let recent = self.recent(now);
        self.is_on = recent >= FIGHT;
        let doublings = u32::try_from(recent.saturating_sub(FIGHT)).unwrap_or(u32::MAX);
        if self.is_on {
            Duration::from_secs(1 << doublings.min(6)).min(LONGEST_PAUSE)
        } else {
            Duration::ZERO
        }
    }

    fn recent(&mut self, now: Instant) -> usize {
        while self.repairs.front().is_some_and(|first| now.duration_since(*first) > FIGHT_WINDOW) {
            self.repairs.pop_front();
        }
        self.repairs.len()
    }
}

impl Edge {
    /// Watches and repairs until the future is dropped.
    pub async fn reconcile(self: Rc<Self>) {
        let bell = Arc::new(Notify::new());
        if let Err(failure) = self.hang_bell(&bell).await {
            tracing::info!("changes by others are only found every {} s: {failure}", POLL.as_secs());
        }
        // What changed between the start and the bell.
        self.look(true).await;
        let mut polls = 0_u32;
        loop {
            let is_settling = self.path_faults.borrow().is_settling();
            let wait = if is_settling { path_check::LEAST } else { POLL };
            let told = timeout(wait, bell.notified()).await.is_ok();
            if told {
                sleep(SETTLE).await;
            }
            polls = if told { 0 } else { polls + 1 };
            // Reading the rules starts a program: without a bell that is done once a minute.
            self.look(told || is_settling || polls.is_multiple_of(6)).await;
            let pause = self.fight.borrow_mut().pause(Instant::now());
            sleep(pause).await;
        }
    }

    /// Has a thread wait on the helper's sockets and ring.
    async fn hang_bell(&self, bell: &Arc<Notify>) -> Result<(), Failure> {
        let (helper, bell) = (self.helper.clone(), Arc::clone(bell));
        let fds = blocking(move || helper.watch()).await?;
        let thread =
            std::thread::Builder::new().name("cw-watch".to_owned()).spawn(move || listen(&fds, &bell));
        thread.map(drop).map_err(|error| Failure::new(FailureKind::Kernel, error.to_string()))
    }

    async fn look(&self, rules_too: bool) {
        let _turn = self.applying.lock().await;
        self.follow_machine().await;
        let (blueprint, expected) = {
            let current = self.current.borrow();
            (Arc::clone(&current.blueprint), current.fingerprint)
        };
        let (helper, state) = (self.helper.clone(), self.state.clone());
        let expected = rules_too.then_some(expected).flatten();
        let repair = blocking(move || blueprint.repair(&helper, &state, expected)).await;
        let mut repaired = false;
        match repair {
            Ok(Repair { lines, fingerprint, unwritable }) => {
                if let Some(fingerprint) = fingerprint {
                    self.current.borrow_mut().fingerprint = Some(fingerprint);
                }
                // What a person has mended since is no problem any more.
                self.current.borrow_mut().unwritable = unwritable;
                repaired = !lines.is_empty();
                if repaired {
                    self.tell_repair(&lines);
                }
            }
            // The device is gone or the helper is: the data plane ends the daemon over both.
            Err(failure) => tracing::debug!(%failure, "the kernel's state could not be looked at"),
        }
        self.warn_of_remarks();
        // As often as the rules: after every change, and once a minute.
        if rules_too {
            self.check_paths(repaired).await;
        }
    }

    fn tell_repair(&self, lines: &[String]) {
        let begins = self.fight.borrow_mut().handle_repair(Instant::now());
        if begins {
            tracing::warn!(
                "somebody keeps changing what the edge needs ({}); find out who: another firewall or network manager?",
                lines.join("; ")
            );
        } else {
            tracing::info!("repaired what somebody changed: {}", lines.join("; "));
        }
    }
}

/// Rings at every message of the sockets, for as long as the process lives.
fn listen(fds: &[OwnedFd], bell: &Notify) {
    loop {
        let mut waiting: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut waiting, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        fds.iter().for_each(drain);
        bell.notify_one();
        // A storm of changes costs no more than ten rounds a second.
        std::thread::sleep(SETTLE / 2);
    }
}

/// Empties a socket; what it says does not matter, and an overflow is a bell too.
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
    fn a_repair_now_and_then_is_no_fight() {
        let mut fight = Fight::default();
        let start = Instant::now();
        for minute in 0..20 {
            let now = start + Duration::from_secs(60 * minute);
            assert!(!fight.handle_repair(now));
            assert_eq!(fight.pause(now), Duration::ZERO);
        }
    }

    #[test]
    fn a_fight_is_told_once_and_slows_down_but_never_ends() {
        let mut fight = Fight::default();
        let start = Instant::now();
        let mut told = 0;
        for second in 0..30 {
            told += u32::from(fight.handle_repair(start + Duration::from_secs(second)));
        }
        assert_eq!(told, 1);
        assert_eq!(fight.pause(start + Duration::from_secs(30)), LONGEST_PAUSE);
        assert_eq!(fight.pause(start + Duration::from_secs(120)), Duration::ZERO);
        assert!(!fight.is_on);
    }
}
