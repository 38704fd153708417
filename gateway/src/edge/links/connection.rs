//! One connection, as the task that carries its bytes sees it.

use daemon::link::links::LinkId;
use daemon::link::shell::LinkEnd;
use tunnel::time::Instant;

use super::EdgeLinks;

/// A connection among the links.
pub(super) struct Connection<'l> {
    pub(super) links: &'l EdgeLinks,
    pub(super) id: LinkId,
}

impl LinkEnd for Connection<'_> {
    fn wants_input(&self, now: Instant) -> bool {
        self.links.links.borrow().wants_input(now, self.id)
    }

    fn handle_input(&self, now: Instant, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let taken = self.links.links.borrow_mut().handle_input(now, self.id, bytes);
        self.links.handle_changes();
        taken
    }

    fn output(&self, _: Instant, most: usize, into: &mut Vec<u8>) {
        let links = self.links.links.borrow();
        let output = links.poll_output(self.id);
        into.extend_from_slice(output.get(..most).unwrap_or(output));
    }

    fn handle_sent(&self, now: Instant, count: usize) {
        self.links.links.borrow_mut().handle_sent(now, self.id, count);
        self.links.handle_changes();
    }

    fn handle_hangup(&self, now: Instant) {
        self.links.links.borrow_mut().handle_hangup(now, self.id);
        self.links.handle_changes();
    }

    fn handle_timeout(&self, now: Instant) {
        self.links.links.borrow_mut().handle_timeout(now, self.id);
        self.links.handle_changes();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.links.links.borrow().poll_timeout(self.id)
    }

    fn is_over(&self) -> bool {
        self.links.links.borrow().is_over(self.id)
    }
}
