//! Events on their way to the shell.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::node::Event;

/// Events that may wait; then the oldest are dropped.
const CAPACITY: usize = 1024;

/// A bounded queue of events, oldest first.
#[derive(Default)]
pub(crate) struct EventQueue {
    waiting: Mutex<VecDeque<Event>>,
    dropped: AtomicU64,
}

impl EventQueue {
    /// Adds an event; a full queue loses its oldest.
    pub(crate) fn push(&self, event: Event) {
        let mut waiting = self.waiting.lock();
        if waiting.len() == CAPACITY {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(event);
    }

    /// Takes the oldest event.
    pub(crate) fn pop(&self) -> Option<Event> {
        self.waiting.lock().pop_front()
    }

    /// Events lost because nobody took them.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::PeerId;

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts_it() {
        let queue = EventQueue::default();
        for peer in 0..1030 {
            queue.push(Event::Handshake { peer: PeerId(peer) });
        }

        assert_eq!(queue.dropped(), 6);
        assert_eq!(queue.pop(), Some(Event::Handshake { peer: PeerId(6) }));
    }
}
