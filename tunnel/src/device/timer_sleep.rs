//! The timer thread's sleep, and what ends it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use crate::io::clock;
use crate::node::Node;
use crate::time::Instant;

/// The timer thread's sleep, which a thread that carries packets ends when there is something to do
/// sooner.
#[derive(Default)]
pub(super) struct TimerSleep {
    /// In nanoseconds since boot; 0 while it does not sleep.
    until: AtomicU64,
    sleeper: OnceLock<Thread>,
}

impl TimerSleep {
    /// Sleeps until there is something to do, by `due` at the latest.
    pub(super) fn sleep(&self, node: &Node, due: Instant) {
        let _ = self.sleeper.set(std::thread::current());
        let nanos = u64::try_from(due.since_boot().as_nanos()).unwrap_or(u64::MAX);
        self.until.store(nanos, Ordering::SeqCst);
        // What came up since `due` was computed found no sleeper to wake.
        if !has_more_due(node, due) {
            std::thread::park_timeout(due.since(clock::instant()));
        }
        self.until.store(0, Ordering::SeqCst);
    }

    /// Wakes the sleeper if there is something to do before it wakes by itself.
    pub(super) fn end_early(&self, node: &Node) {
        let until = self.until.load(Ordering::SeqCst);
        let until = Instant::from_boot(Duration::from_nanos(until));
        if until > Instant::default() && has_more_due(node, until) {
            self.until.store(0, Ordering::SeqCst);
            if let Some(sleeper) = self.sleeper.get() {
                sleeper.unpark();
            }
        }
    }
}

/// Whether there is something to do before `due`.
pub(super) fn has_more_due(node: &Node, due: Instant) -> bool {
    node.has_events() || node.poll_timeout().is_some_and(|at| at < due)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::key::PrivateKey;
    use crate::node::{NodeConfig, PeerConfig};

    #[test]
    fn a_timer_that_comes_nearer_ends_the_sleep() {
        let (sleep, node) = (Arc::new(TimerSleep::default()), Arc::new(node()));
        let late = clock::instant().after(Duration::from_secs(3600));
        let sleeper = thread::spawn({
            let (sleep, node) = (Arc::clone(&sleep), Arc::clone(&node));
            move || sleep.sleep(&node, late)
        });
        while sleep.until.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        sleep.end_early(&node);
        assert!(sleep.until.load(Ordering::SeqCst) > 0, "there was nothing to wake for");

        request_session(&node);
        sleep.end_early(&node);
        sleeper.join().unwrap();
    }

    #[test]
    fn the_sleep_does_not_begin_while_there_is_something_to_do() {
        let (sleep, node) = (TimerSleep::default(), node());
        request_session(&node);

        sleep.sleep(&node, clock::instant().after(Duration::from_secs(3600)));
    }

    #[test]
    fn what_is_due_later_does_not_end_the_sleep() {
        let node = node();
        request_session(&node);

        assert!(!has_more_due(&node, node.poll_timeout().unwrap()));
        assert!(has_more_due(&node, clock::instant().after(Duration::from_secs(60))));
    }

    fn node() -> Node {
        Node::new(
            NodeConfig {
                private_key: Some(PrivateKey::from_bytes([7; 32])),
                addresses: Vec::new(),
                mtu: 1420,
                listen_port: 51820,
                liveness: None,
                wall_watermark: Duration::ZERO,
            },
            clock::now(),
        )
    }

    /// Makes the node want a session at once.
    fn request_session(node: &Node) {
        let peer = PeerConfig {
            public_key: PrivateKey::from_bytes([8; 32]).public(),
            preshared_key: None,
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            keepalive: Some(Duration::from_secs(25)),
            allowed_ips: vec!["10.0.0.2/32".parse().unwrap()],
            probe: None,
            initiate: true,
        };
        node.update_peers(&[peer], &[], clock::now()).unwrap();
    }
}
