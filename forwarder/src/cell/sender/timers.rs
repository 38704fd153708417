//! What happens when no segment arrives: the retransmission timeout, tail loss probes, the
//! reordering timer, window probes.

use std::time::Duration;

use tunnel::time::Instant;

use super::Sender;
use super::recovery::Phase;
use super::scoreboard::Run;

/// How long a receiver may keep an acknowledgement of a single segment (RFC 8985 §7.2, Linux's
/// value).
const DELAYED_ACK: Duration = Duration::from_millis(200);
/// What a probe waits longer than two round trips, for clocks of a millisecond.
const SLACK: Duration = Duration::from_millis(2);
/// Before the first round trip was measured.
const UNMEASURED: Duration = Duration::from_secs(1);

/// Deadlines, and what became due.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// RFC 6298.
    pub(super) retransmit: Option<Instant>,
    /// RFC 8985 §7.
    pub(super) probe: Option<Instant>,
    /// RFC 8985 §6.3.
    pub(super) reorder: Option<Instant>,
    /// RFC 9293 §3.8.6.1, and how often it ran out in a row.
    window: Option<Instant>,
    window_probes: u32,
    pub(super) probe_due: bool,
    pub(super) window_probe_due: bool,
}

/// A tail loss probe in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// Where what it carries ends.
    pub(super) end: u64,
    /// Whether that was sent before.
    pub(super) again: bool,
}

impl Sender {
    /// When [`handle_timeout`](Self::handle_timeout) is next due.
    pub(in crate::cell) fn poll_timeout(&self) -> Option<Instant> {
        let Timers { retransmit, probe, reorder, window, .. } = self.timers;
        [retransmit, probe, reorder, window].into_iter().flatten().min()
    }

    /// Does what is due; what is then to be sent comes from [`poll_segment`](Self::poll_segment).
    pub(in crate::cell) fn handle_timeout(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.timers.reorder) {
            self.reordering_timed_out(now);
        }
        if is_due(self.timers.retransmit) && !is_due(self.timers.probe) {
            self.timed_out(now);
        }
        if is_due(self.timers.probe) {
            self.timers.probe = None;
            self.timers.probe_due = true;
            self.timers.retransmit = Some(now.after(self.rtt.timeout()));
        }
        self.watch_window(now);
        if is_due(self.timers.window) {
            self.timers.window_probe_due = true;
            self.timers.window_probes += 1;
            self.timers.window = Some(now.after(self.window_delay()));
        }
    }

    /// The path is back: a timeout or window probe that was delayed by doubling is due now, and
    /// counts from one again. `true` when something is.
    pub(in crate::cell) fn resume(&mut self, now: Instant) -> bool {
        let mut is_due = false;
        if self.timers.retransmit.is_some() && self.rtt.reset_back_off() {
            self.timers.retransmit = Some(now);
            is_due = true;
        }
        if self.timers.window.is_some() && std::mem::take(&mut self.timers.window_probes) > 0 {
            self.timers.window = Some(now);
            is_due = true;
        }
        is_due
    }

    /// What might have been late only is lost.
    fn reordering_timed_out(&mut self, now: Instant) {
        let lost = self.board.lost();
        let was_recovering = self.recovery.phase() == Phase::Fast;
        self.detect(now);
        if was_recovering && self.board.lost() > lost {
            self.step(0, false);
        }
    }

    /// The retransmission timeout ran out (RFC 6298 §5, RFC 5681 §3.1).
    fn timed_out(&mut self, now: Instant) {
        if self.board.outstanding() == 0 {
            self.timers.retransmit = None;
            return;
        }
        self.black_hole.handle_timeout(self.board.outstanding());
        let is_new = self.recovery.phase() == Phase::Open;
        let sent = (self.board.acknowledged(), self.board.next());
        let allowance =
            self.rack.newest().map_or(Duration::ZERO, |_| self.rack.allowance(&self.rtt, true, 0));
        self.duplicates = 0;
        self.board.time_out(now, allowance);
        if is_new {
            self.reduce(true);
        }
        self.recovery.time_out(sent, is_new);
        let in_flight = usize::try_from(self.in_flight()).unwrap_or(usize::MAX);
        self.cubic.set_window(in_flight.saturating_add(self.sizes.segment));
        self.rtt.back_off();
        self.probe = None;
        self.timers.probe = None;
        self.timers.probe_due = false;
        self.timers.reorder = None;
        self.timers.retransmit = Some(now.after(self.rtt.timeout()));
    }

    /// After an acknowledgement.
    pub(super) fn rearm(&mut self, now: Instant, advanced: bool) {
        if self.board.outstanding() == 0 {
            self.timers.retransmit = None;
            self.timers.probe = None;
            self.timers.probe_due = false;
        } else if advanced {
            self.timers.retransmit = Some(now.after(self.rtt.timeout()));
        }
        self.arm_probe(now);
        if self.window.edge > self.board.next() {
            self.timers.window = None;
            self.timers.window_probes = 0;
        }
        self.watch_window(now);
    }

    /// Arms the tail loss probe: while nothing is known to be missing, and once per flight.
    pub(super) fn arm_probe(&mut self, now: Instant) {
        self.timers.probe = None;
        let outstanding = self.board.outstanding();
        let is_quiet =
            self.recovery.phase() == Phase::Open && self.timers.reorder.is_none() && self.board.lost() == 0;
        if !self.offer.selective || outstanding == 0 || self.probe.is_some() || !is_quiet {
            return;
        }
        let single = if outstanding <= self.sizes.segment as u64 { DELAYED_ACK } else { Duration::ZERO };
        let wait = self.rtt.smoothed().map_or(UNMEASURED, |smoothed| smoothed * 2 + single + SLACK);
        let at = now.after(wait);
        // A probe instead of the timeout costs nothing, and the timeout follows it.
        self.timers.probe = Some(self.timers.retransmit.map_or(at, |timeout| timeout.min(at)));
    }

    /// Handles the reply to a probe (RFC 8985 §7.4).
    pub(super) fn handle_probe_reply(&mut self, place: u64, arrived_twice: Option<Run>, is_duplicate: bool) {
        let Some(probe) = self.probe.filter(|probe| place >= probe.end) else { return };
        if !probe.again || arrived_twice.is_some_and(|run| run.1 == probe.end) {
            self.probe = None;
        } else if place > probe.end {
            // The original was lost and the probe repaired it: that is congestion all the same.
            self.probe = None;
            if self.recovery.phase() == Phase::Open {
                self.reduce(true);
                self.cubic.set_window(self.cubic.threshold());
            }
        } else if is_duplicate {
            self.probe = None;
        }
    }

    /// Arms the timer of a closed window while that is all that is waited for.
    pub(super) fn watch_window(&mut self, now: Instant) {
        let is_stuck = self.board.outstanding() == 0
            && self.stream_end() > self.board.next()
            && self.window.edge <= self.board.next();
        if !is_stuck {
            self.timers.window = None;
        } else if self.timers.window.is_none() {
            self.timers.window = Some(now.after(self.window_delay()));
        }
    }

    fn window_delay(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.timers.window_probes).unwrap_or(u32::MAX);
        self.rtt.timeout().saturating_mul(doubled).min(super::rtt::LONGEST)
    }
}
