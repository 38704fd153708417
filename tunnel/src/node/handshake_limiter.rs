//! The limiter of handshakes: what a message must show before a public-key operation is spent on
//! it.
//!
//! First mac1 (a source that does not know our key gets no reply), then a token bucket per source
//! prefix, then, when the bucket is empty or the whole node is busy, a cookie (WireGuard paper
//! §5.3). A source that returns the cookie has proven its address and is counted in a second set of
//! buckets, which spoofed sources cannot empty.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;

use super::wire::COOKIE_LEN;
use crate::reason::DropReason;
use crate::time::Instant;

/// Handshake messages a second that one source prefix may send (as wireguard-go's limiter).
const PER_SOURCE: u64 = 20;
/// How many of them may come at once.
const BURST: u64 = 5;
/// Unproven handshake messages a second, from all sources together, from which on cookies are
/// required.
const UNDER_LOAD: u64 = 200;
/// Buckets per set: 32 KiB, whatever is sent to us. Sources that share one need a cookie a little
/// earlier.
const SLOTS: usize = 4096;

/// What is to be done with a handshake message.
#[derive(Debug)]
pub(super) enum Admission {
    /// Go on to the public-key part.
    Pass,
    /// Send this cookie reply instead.
    Cookie([u8; COOKIE_LEN]),
    /// Drop it without an answer.
    Refuse(DropReason),
}

/// The limiter of one private key.
pub(super) struct HandshakeLimiter {
    /// Checks mac1 only: it never comes under load.
    mac: RateLimiter,
    /// Always under load: it accepts only messages with a valid cookie, and makes the reply for the
    /// others.
    cookies: RateLimiter,
    unproven: Buckets,
    proven: Buckets,
    all_sources: Bucket,
}

impl HandshakeLimiter {
    pub(super) fn new(public: &x25519::PublicKey) -> Self {
        Self {
            mac: RateLimiter::new(public, u64::MAX),
            cookies: RateLimiter::new(public, 0),
            unproven: Buckets::new(),
            proven: Buckets::new(),
            all_sources: Bucket::default(),
        }
    }

    /// Judges one handshake message that came from `source`.
    pub(super) fn admit(&self, source: IpAddr, message: &[u8], now: Instant) -> Admission {
        if self.mac.verify_packet(None, message, &mut []).is_err() {
            return Admission::Refuse(DropReason::BadMac);
        }
        let mut reply = [0; COOKIE_LEN];
        let shows_mac2 = message.last_chunk::<16>().is_some_and(|mac2| *mac2 != [0; 16]);
        if shows_mac2 && self.cookies.verify_packet(Some(source), message, &mut reply).is_ok() {
            let within = self.proven.slot(source).take(now, PER_SOURCE, BURST);
            return if within { Admission::Pass } else { Admission::Refuse(DropReason::RateLimited) };
        }
        let within = self.unproven.slot(source).take(now, PER_SOURCE, BURST);
        if within && self.all_sources.take(now, UNDER_LOAD, UNDER_LOAD) {
            return Admission::Pass;
        }
        match self.cookies.verify_packet(Some(source), message, &mut reply) {
            Err(TunnResult::WriteToNetwork(_)) => Admission::Cookie(reply),
            Ok(_) | Err(_) => Admission::Refuse(DropReason::RateLimited),
        }
    }
}

/// A fixed array of buckets; a source's is found by a keyed hash, so no source can aim at
/// another's.
struct Buckets {
    key: RandomState,
    slots: Box<[Bucket]>,
    spill: Bucket,
}

impl Buckets {
    fn new() -> Self {
        Self {
            key: RandomState::new(),
            slots: (0..SLOTS).map(|_| Bucket::default()).collect(),
            spill: Bucket::default(),
        }
    }

    fn slot(&self, source: IpAddr) -> &Bucket {
        let hash = self.key.hash_one(prefix(source));
        let index = usize::try_from(hash % SLOTS as u64).unwrap_or_default();
        self.slots.get(index).unwrap_or(&self.spill)
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 host can fill.
pub(super) fn prefix(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 | 1 << 127,
    }
}

/// A token bucket in one word: the time until which its tokens are spent (the generic cell rate
/// algorithm).
#[derive(Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token out of a bucket that gains `rate` a second and holds `burst`.
    fn take(&self, now: Instant, rate: u64, burst: u64) -> bool {
        let interval = Duration::from_secs(1).as_nanos() as u64 / rate;
        let now = u64::try_from(now.since_boot().as_nanos()).unwrap_or(u64::MAX);
        let spend = |spent: u64| {
            let next = spent.max(now).saturating_add(interval);
            (next <= now.saturating_add(interval * burst)).then_some(next)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boringtun::noise::Tunn;
    use boringtun::x25519::{PublicKey, StaticSecret};

    #[test]
    fn a_source_may_send_five_at_once_and_twenty_a_second() {
        let lab = Lab::new();
        let source = ip("203.0.113.10");

        let burst = (0..10).filter(|_| lab.passes(source, at(0))).count();
        let later = (0..1000u64).filter(|ms| lab.passes(source, at(1000 + ms))).count();

        assert_eq!(burst, 5);
        assert!((20..=25).contains(&later), "{later}");
    }

    #[test]
    fn a_flooding_source_does_not_keep_others_out() {
        let lab = Lab::new();
        for _ in 0..1000 {
            lab.passes(ip("203.0.113.10"), at(0));
        }

        // One of them may happen to share the flooder's bucket.
        let others = (1..=10).map(|host| ip(&format!("198.51.100.{host}")));
        assert!(others.filter(|other| lab.passes(*other, at(0))).count() >= 9);
    }

    #[test]
    fn hosts_of_one_v6_network_count_as_one_source() {
        let lab = Lab::new();
        let hosts = (1..=10).map(|host| ip(&format!("2001:db8::{host:x}")));

        assert_eq!(hosts.filter(|host| lab.passes(*host, at(0))).count(), 5);
        let networks = (1..=10).map(|network| ip(&format!("2001:db8:0:{network:x}::1")));
        assert!(networks.filter(|host| lab.passes(*host, at(0))).count() >= 9);
    }

    #[test]
    fn a_message_with_a_wrong_mac1_is_refused_in_silence() {
        let lab = Lab::new();
        let mut message = lab.initiation();
        message[120] ^= 1;

        let verdict = lab.limiter.admit(ip("203.0.113.10"), &message, at(0));
        assert!(matches!(verdict, Admission::Refuse(DropReason::BadMac)));
    }

    #[test]
    fn many_spoofed_sources_lead_to_cookies_and_a_returned_cookie_is_admitted() {
        let lab = Lab::new();
        let passed = (0..4_000u32)
            .filter(|n| lab.passes(IpAddr::V4((0x0a00_0000 + n).into()), at(u64::from(n / 4))))
            .count();
        assert!(passed <= 2 * UNDER_LOAD as usize + 5, "{passed}");

        let honest = ip("198.51.100.7");
        let mut caller = lab.caller();
        let first = initiation(&mut caller);
        let Admission::Cookie(reply) = lab.limiter.admit(honest, &first, at(999)) else {
            panic!("expected a cookie under load");
        };
        let mut scratch = [0; 256];
        assert!(matches!(caller.decapsulate(None, &reply, &mut scratch), TunnResult::Done));

        let second = initiation(&mut caller);
        assert!(matches!(lab.limiter.admit(honest, &second, at(999)), Admission::Pass));
        // The cookie proves this address and no other.
        assert!(!matches!(lab.limiter.admit(ip("198.51.100.8"), &second, at(999)), Admission::Pass));
    }

    #[test]
    fn a_proven_source_is_limited_too() {
        let lab = Lab::new();
        let honest = ip("198.51.100.7");
        let mut caller = lab.caller();
        let Some(reply) =
            (0..50).find_map(|_| match lab.limiter.admit(honest, &initiation(&mut caller), at(0)) {
                Admission::Cookie(reply) => Some(reply),
                Admission::Pass | Admission::Refuse(_) => None,
            })
        else {
            panic!("expected a cookie once the bucket is empty");
        };
        // The caller accepts a reply only to its latest message, so it must not have sent another
        // since.
        let mut scratch = [0; 256];
        caller.decapsulate(None, &reply, &mut scratch);

        let passed = (0..50)
            .filter(|_| matches!(lab.limiter.admit(honest, &initiation(&mut caller), at(0)), Admission::Pass))
            .count();
        assert_eq!(passed, 5);
    }

    struct Lab {
        limiter: HandshakeLimiter,
        public: PublicKey,
    }

    impl Lab {
        fn new() -> Self {
            let public = PublicKey::from(&StaticSecret::from([7; 32]));
            Self { limiter: HandshakeLimiter::new(&public), public }
        }

        fn caller(&self) -> Tunn {
            Tunn::new(StaticSecret::from([9; 32]), self.public, None, None, 1, None)
        }

        fn initiation(&self) -> Vec<u8> {
            initiation(&mut self.caller())
        }

        fn passes(&self, source: IpAddr, now: Instant) -> bool {
            thread_local!(static MESSAGE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
            MESSAGE.with_borrow_mut(|message| {
                if message.is_empty() {
                    *message = self.initiation();
                }
                matches!(self.limiter.admit(source, message, now), Admission::Pass)
            })
        }
    }

    fn initiation(caller: &mut Tunn) -> Vec<u8> {
        let mut buffer = [0; 148];
        let TunnResult::WriteToNetwork(message) = caller.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("no initiation");
        };
        message.to_vec()
    }

    fn at(ms: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(1_000_000 + ms))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
