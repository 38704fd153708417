//! Handshakes that look like a mistake in a configuration at either end, and what to do about them.

use std::time::Duration;

use tunnel::key::PublicKey;
use tunnel::node::{Node, PeerState, Refused};
use tunnel::time::{Instant, Now};

/// One mistake is warned of once in this time: whoever knows the port can repeat it at will.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Mistakes that were warned of and are remembered.
const REMEMBERED: usize = 64;

/// What is wrong with the handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge) enum Mistake {
    /// They are made for another key than the edge's.
    OtherKey,
    /// They come with a key that no peer has.
    UnknownKey(PublicKey),
}

/// What was warned of, and when.
#[derive(Debug, Default)]
pub(super) struct Warned(Vec<(Mistake, Instant)>);

/// The mistakes of the last minute, each with what to do about it. The key of a `used` code is none:
/// it becomes no peer.
pub(in crate::edge) fn mistakes(node: &Node, used: Option<PublicKey>, now: Now) -> Vec<(Mistake, String)> {
    let mut refused = node.refused(now);
    refused.unknown.retain(|refused| Some(refused.key) != used);
    if refused == Refused::default() {
        return Vec::new();
    }
    let is_one_missing = node.peers(now).iter().any(|peer| peer.state != PeerState::Up);
    described(&refused, node.private_key().map(|key| key.public()), is_one_missing)
}

/// Handshakes for another key mean something only while a peer is missing; a key that is in no
/// `[[peer]]` may be that of one more.
fn described(refused: &Refused, own: Option<PublicKey>, is_one_missing: bool) -> Vec<(Mistake, String)> {
    let other = own.filter(|_| refused.foreign > 0 && is_one_missing).map(|own| {
        let count = refused.foreign;
        let line = format!(
            "{count} handshakes in the last minute were made for another key than this edge's (bad_mac): the far end's \
             [[peer]] must have public_key = \"{own}\""
        );
        (Mistake::OtherKey, line)
    });
    let unknown = refused.unknown.iter().map(|refused| {
        let (key, count) = (refused.key, refused.count);
        let line = format!(
            "{count} handshakes in the last minute came with a key that no [[peer]] has (unknown_peer): {key}; if the far \
             end's NAME.pub says the same, write it as the public_key of its [[peer]] here"
        );
        (Mistake::UnknownKey(key), line)
    });
    other.into_iter().chain(unknown).collect()
}

impl Warned {
    pub(super) fn is_new(&mut self, mistake: Mistake, now: Instant) -> bool {
        self.0.retain(|(_, at)| now.since(*at) < AGAIN);
        let is_new = self.0.len() < REMEMBERED && !self.0.iter().any(|(known, _)| *known == mistake);
        if is_new {
            self.0.push((mistake, now));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use tunnel::key::PrivateKey;
    use tunnel::node::RefusedKey;

    use super::*;

    #[test]
    fn each_mistake_says_what_to_write_and_where() {
        let refused = Refused { foreign: 7, unknown: vec![RefusedKey { key: key(2), count: 5 }] };
        let lines: Vec<_> =
            described(&refused, Some(key(1)), true).into_iter().map(|(_, line)| line).collect();

        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("7 handshakes") && lines[0].contains(&key(1).to_string()),
            "{}",
            lines[0]
        );
        assert!(
            lines[1].starts_with("5 handshakes") && lines[1].contains(&key(2).to_string()),
            "{}",
            lines[1]
        );
    }

    #[test]
    fn handshakes_for_another_key_are_noise_while_every_peer_is_up() {
        let refused = Refused { foreign: 7, unknown: Vec::new() };

        assert!(described(&refused, Some(key(1)), false).is_empty());
    }

    #[test]
    fn a_mistake_is_warned_of_once_an_hour_and_only_so_many_are_remembered() {
        let mut warned = Warned::default();
        assert!(warned.is_new(Mistake::OtherKey, at(0)));
        assert!(!warned.is_new(Mistake::OtherKey, at(3_599)));
        assert!(warned.is_new(Mistake::OtherKey, at(3_600)));
        let new = (0..200).filter(|n| warned.is_new(Mistake::UnknownKey(key(*n)), at(3_601))).count();
        assert_eq!(new, REMEMBERED - 1);
    }

    fn key(n: u8) -> PublicKey {
        PrivateKey::from_bytes([n; 32]).public()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000 + seconds))
    }
}
