//! The name of a peer's endpoint: resolved at the start, and repeatedly while the peer is silent.

use std::net::SocketAddr;
use std::time::Duration;

use policy::{Host, HostPort};
use tunnel::time::{Instant, Now};

/// First and longest pause between requests that gave no address.
const UNANSWERED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between requests while the peer is silent: its address may have just changed.
const SILENT: Duration = Duration::from_secs(5);

/// A peer's endpoint as the configuration names it.
#[derive(Debug)]
pub struct EndpointName {
    endpoint: HostPort,
    /// The address tried last.
    address: Option<SocketAddr>,
    request_at: Option<Instant>,
    pause: Duration,
    is_silent: bool,
    is_unresolved: bool,
    /// How many replies were tried: each address of a name is tried in turn.
    turn: usize,
}

impl EndpointName {
    /// A name that is resolved at once.
    #[must_use]
    pub fn new(endpoint: HostPort) -> Self {
        let request_at = Some(Instant::default());
        Self {
            endpoint,
            address: None,
            request_at,
            pause: UNANSWERED.0,
            is_silent: false,
            is_unresolved: false,
            turn: 0,
        }
    }

    /// The name in the configuration.
    #[must_use]
    pub const fn endpoint(&self) -> &HostPort {
        &self.endpoint
    }

    /// Whether the name had no address at the last request.
    #[must_use]
    pub const fn is_unresolved(&self) -> bool {
        self.is_unresolved
    }

    /// The peer is silent: its name is resolved now, and again until the peer replies.
    pub fn handle_silence(&mut self, now: Now) {
        self.is_silent = true;
        self.request_at = Some(now.instant);
    }

    /// The peer has replied from where it is.
    pub fn handle_reply(&mut self) {
        self.is_silent = false;
        if self.address.is_some() {
            self.request_at = None;
        }
    }

    /// When [`is_due`](Self::is_due) may next be true.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.request_at
    }

    /// Whether to request now; if so, the next request is scheduled, in case the reply is lost or
    /// changes nothing.
    pub fn is_due(&mut self, now: Now) -> bool {
        if self.request_at.is_none_or(|at| at > now.instant) {
            return false;
        }
        let is_literal = matches!(self.endpoint.host, Host::Address(_));
        self.request_at = match (self.is_silent, self.address) {
            (true, _) if !is_literal => Some(now.instant.after(SILENT)),
            (_, None) => Some(now.instant.after(UNANSWERED.1)),
            (_, Some(_)) => None,
        };
        true
    }

    /// Takes the addresses while the peer is assumed at `current`; returns the address to try, when
    /// it is another than before or than `current`, to which a packet of the peer may have moved
    /// it.
    pub fn handle_resolved(
        &mut self,
        now: Now,
        addresses: &[SocketAddr],
        current: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        self.is_unresolved = addresses.is_empty();
        if self.is_unresolved {
            if self.address.is_none() {
                self.request_at = Some(now.instant.after(self.pause));
                self.pause = (self.pause * 2).min(UNANSWERED.1);
            }
            return None;
        }
        self.pause = UNANSWERED.0;
        let address = *addresses.get(self.turn % addresses.len())?;
        self.turn = self.turn.wrapping_add(1);
        if !self.is_silent {
            self.request_at = None;
        }
        let is_new = self.address.replace(address) != Some(address);
        (is_new || current != Some(address)).then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_resolved_at_once_and_then_no_more_while_the_peer_replies() {
        let mut name = name();
        assert!(name.is_due(at(0)));
        assert_eq!(name.handle_resolved(at(0), &[address(1)], None), Some(address(1)));
        name.handle_reply();
        assert_eq!(name.deadline(), None);
    }

    #[test]
    fn the_name_of_a_silent_peer_is_resolved_every_five_seconds_until_it_replies() {
        let mut name = name();
        name.is_due(at(0));
        name.handle_resolved(at(0), &[address(1)], None);
        name.handle_silence(at(10));
        for second in [10, 15, 20] {
            assert!(name.is_due(at(second)));
            assert!(!name.is_due(at(second + 4)));
            assert_eq!(
                name.handle_resolved(at(second), &[address(1)], Some(address(1))),
                None,
                "the same address is not tried again"
            );
        }
        assert!(name.is_due(at(25)));
        assert_eq!(name.handle_resolved(at(25), &[address(2)], Some(address(1))), Some(address(2)));
        name.handle_reply();
        assert!(!name.is_due(at(60)));
    }

    #[test]
    fn a_silent_peer_that_moved_is_tried_at_the_address_of_its_name() {
        let mut name = name();
        name.is_due(at(0));
        name.handle_resolved(at(0), &[address(1)], None);
        name.handle_reply();
        name.handle_silence(at(10));
        assert!(name.is_due(at(10)));
        assert_eq!(name.handle_resolved(at(10), &[address(1)], Some(address(66))), Some(address(1)));
    }

    #[test]
    fn each_address_of_a_name_is_tried_in_turn() {
        let mut name = name();
        name.handle_silence(at(0));
        let both = [address(1), address(2)];
        let tried: Vec<_> =
            (0..4).filter_map(|second| name.handle_resolved(at(second), &both, None)).collect();
        assert_eq!(tried, [address(1), address(2), address(1), address(2)]);
    }

    #[test]
    fn a_name_without_an_address_is_resolved_ever_more_slowly() {
        let mut name = name();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(name.is_due(at(now)));
            assert_eq!(name.handle_resolved(at(now), &[], None), None);
            let next = name.deadline().unwrap().since_boot().as_secs();
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    fn name() -> EndpointName {
        EndpointName::new(HostPort { host: Host::Name("kyiv.example.com".into()), port: 51820 })
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 51820))
    }

    fn at(seconds: u64) -> Now {
        Now { instant: Instant::from_boot(Duration::from_secs(seconds)), wall: Duration::ZERO }
    }
}
