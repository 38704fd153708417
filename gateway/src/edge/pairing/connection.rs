//! One connection of the temporary peer, as the task that carries its bytes sees it.

use daemon::link::shell::LinkEnd;
use daemon::pairing::relay::ConnectionId;
use tunnel::time::Instant;

use super::Pairing;

/// A connection of the pairing; its timers are those of the pairing.
pub(super) struct Connection<'p> {
    pub(super) pairing: &'p Pairing,
    pub(super) id: ConnectionId,
}

impl LinkEnd for Connection<'_> {
    fn wants_input(&self, _: Instant) -> bool {
        self.pairing.relay.borrow().wants_input(self.id)
    }

    fn handle_input(&self, now: Instant, bytes: &[u8]) -> usize {
        if !bytes.is_empty() {
            self.pairing.change(|relay| relay.handle_input(now, self.id, bytes));
        }
        bytes.len()
    }

    fn output(&self, _: Instant, most: usize, into: &mut Vec<u8>) {
        let relay = self.pairing.relay.borrow();
        let output = relay.poll_output(self.id);
        into.extend_from_slice(output.get(..most).unwrap_or(output));
    }

    fn handle_sent(&self, _: Instant, count: usize) {
        self.pairing.relay.borrow_mut().handle_sent(self.id, count);
    }

    fn handle_hangup(&self, now: Instant) {
        self.pairing.change(|relay| relay.handle_hangup(now, self.id));
    }

    fn handle_timeout(&self, _: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn is_over(&self) -> bool {
        self.pairing.relay.borrow().is_over(self.id)
    }
}
