//! How the data thread waits: asleep, or busy-polling for a moment.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll};
use policy::Switch;
use policy::forwarder::Policy;
use tunnel::busy_poll::BusyPoll;
use tunnel::io::clock;

use crate::stats::{Stats, add};

/// Polls on behalf of the data thread.
pub(super) struct Waiting {
    busy_poll: BusyPoll,
    is_enabled: bool,
    stats: Arc<Stats>,
}

impl Waiting {
    /// As configured; with a single processor the sender of what is waited for could not run
    /// meanwhile.
    pub(super) fn new(policy: &Policy, stats: Arc<Stats>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            busy_poll: BusyPoll::default(),
            is_enabled: policy.offload.busy_poll == Switch::Auto && processors > 1,
            stats,
        }
    }

    /// Waits until one of the sources has something, for `most` at the longest; `after_bulk` when
    /// what was carried before is part of something large.
    ///
    /// # Errors
    /// Only when the poll itself fails.
    pub(super) fn wait(
        &mut self,
        poll: &mut Poll,
        events: &mut Events,
        most: Duration,
        after_bulk: bool,
    ) -> io::Result<()> {
        if after_bulk {
            self.busy_poll.handle_bulk();
        }
        if most.is_zero() {
            return once(poll, events, most);
        }
        let begin = clock::instant();
        let has_polled = self.busy_poll(poll, events, most)?;
        if has_polled {
            add(&self.stats.busy_polls, 1);
            self.busy_poll.handle_poll(clock::instant().since(begin));
        }
        if events.is_empty() {
            add(&self.stats.busy_poll_misses, u64::from(has_polled));
            once(poll, events, most)?;
        }
        self.busy_poll.handle_wait(clock::instant().since(begin));
        Ok(())
    }

    /// Polls repeatedly without sleeping, where that has paid off; other threads on this processor
    /// run first. Returns whether it did.
    fn busy_poll(&self, poll: &mut Poll, events: &mut Events, most: Duration) -> io::Result<bool> {
        events.clear();
        let window = if self.is_enabled { self.busy_poll.window().min(most) } else { Duration::ZERO };
        let begin = clock::instant();
        while events.is_empty() && clock::instant().since(begin) < window {
            std::thread::yield_now();
            once(poll, events, Duration::ZERO)?;
        }
        Ok(!window.is_zero())
    }
}

fn once(poll: &mut Poll, events: &mut Events, most: Duration) -> io::Result<()> {
    match poll.poll(events, Some(most)) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
