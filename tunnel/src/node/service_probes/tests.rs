use super::*;
use crate::packet::Ip;
use crate::packet::icmp::Error;

const OWN: &str = "10.77.88.1";
const TARGET: &str = "192.168.88.2:443";

#[test]
fn an_open_port_is_reported_once_and_every_repetition_is_reset() {
    let mut scene = Scene::default();
    let syn = scene.probe(0);
    for news in [Some((target(), ServiceReply::Open)), None, None] {
        let taken = scene.answer(&syn, tcp_flags::SYN | tcp_flags::ACK, 1).unwrap();
        assert_eq!(taken.news, news);
        let reset = taken.reset.unwrap();
        assert_eq!((reset.source, reset.destination), (syn.source, syn.destination));
        assert_eq!((reset.sequence, reset.flags), (syn.sequence.wrapping_add(1), tcp_flags::RST));
    }
    assert_eq!(scene.silent(2_000), None);
}

#[test]
fn a_reset_is_a_refusal_and_gets_no_answer() {
    let mut scene = Scene::default();
    let syn = scene.probe(0);
    let taken = scene.answer(&syn, tcp_flags::RST | tcp_flags::ACK, 1).unwrap();
    assert_eq!(taken.news, Some((target(), ServiceReply::Refused)));
    assert!(taken.reset.is_none());
}

#[test]
fn an_error_of_a_router_is_reported_as_what_it_says() {
    for (error, reply) in [
        (Error::PortUnreachable, ServiceReply::Refused),
        (Error::HostUnreachable, ServiceReply::Unreachable),
        (Error::NoRoute, ServiceReply::Unreachable),
        (Error::Prohibited, ServiceReply::Prohibited),
    ] {
        let mut scene = Scene::default();
        let syn = scene.probe(0);
        let taken = scene.error(error, &syn.packet()).unwrap();
        assert_eq!(taken.news, Some((target(), reply)));
        assert!(taken.reset.is_none());
    }
}

#[test]
fn a_syn_is_repeated_twice_and_then_the_target_is_silent() {
    let mut scene = Scene::default();
    let syn = scene.probe(0);
    assert!(scene.syn(499).is_none());
    for millisecond in [500, 1_000] {
        assert_eq!(scene.probes.deadline(), Some(at(millisecond)));
        let again = scene.syn(millisecond).unwrap();
        assert_eq!((again.source, again.sequence), (syn.source, syn.sequence));
    }
    assert!(scene.syn(1_999).is_none());
    assert_eq!((scene.silent(1_999), scene.probes.deadline()), (None, Some(at(2_000))));
    assert_eq!(scene.silent(2_000), Some((target(), ServiceReply::Silent)));
    assert_eq!(scene.silent(2_001), None, "once");
}

#[test]
fn a_late_reply_is_reported_and_reset_until_the_target_repeats_it_no_more() {
    let mut scene = Scene::default();
    let syn = scene.probe(0);
    scene.silent(2_000).unwrap();
    let taken = scene.answer(&syn, tcp_flags::SYN | tcp_flags::ACK, 1).unwrap();
    assert_eq!(taken.news, Some((target(), ServiceReply::Open)));
    assert!(taken.reset.is_some() && scene.probes.is_listening());
    assert_eq!(scene.probes.deadline(), Some(at(64_000)));
    scene.silent(64_000);
    assert!(!scene.probes.is_listening());
    assert_eq!(scene.probes.deadline(), None);
}

#[test]
fn what_does_not_match_in_every_number_is_no_reply() {
    let mut scene = Scene::default();
    let syn = scene.probe(0);
    let both = tcp_flags::SYN | tcp_flags::ACK;
    for wrong in [0, 2, 0x8000_0000] {
        assert!(scene.answer(&syn, both, wrong).is_none(), "acknowledgement + {wrong}");
        assert!(scene.answer(&syn, tcp_flags::RST | tcp_flags::ACK, wrong).is_none());
    }
    for flags in [tcp_flags::SYN, tcp_flags::RST, tcp_flags::ACK, tcp_flags::FIN | tcp_flags::ACK] {
        assert!(scene.answer(&syn, flags, 1).is_none(), "flags {flags:#x}");
    }
    let other = |change: fn(&mut Bare)| {
        let mut other = syn;
        change(&mut other);
        other
    };
    for forged in [
        other(|bare| bare.source.set_port(bare.source.port() ^ 1)),
        other(|bare| bare.destination.set_port(444)),
        other(|bare| bare.destination.set_ip([192, 168, 88, 3].into())),
        other(|bare| bare.source.set_ip([10, 77, 88, 9].into())),
    ] {
        assert!(scene.answer(&forged, both, 1).is_none(), "{forged:?}");
        assert!(scene.error(Error::PortUnreachable, &forged.packet()).is_none(), "{forged:?}");
    }
    let guessed = Bare { sequence: syn.sequence.wrapping_add(1), ..syn };
    assert!(scene.error(Error::HostUnreachable, &guessed.packet()).is_none());
    assert_eq!(scene.silent(2_000), Some((target(), ServiceReply::Silent)), "nothing of this counted");
}

#[test]
fn ports_are_above_the_kernels_and_differ_while_one_is_remembered() {
    let mut scene = Scene::default();
    let mut seen = std::collections::BTreeSet::new();
    for second in 0..60 {
        let syn = scene.probe(second * 1_000);
        assert!(syn.source.port() >= 61_000);
        assert!(seen.insert(syn.source.port()), "used twice");
    }
}

#[test]
fn as_many_as_allowed_wait_and_no_more_are_remembered_than_allowed() {
    let (slots, mut probes) = (Slots::default(), ServiceProbes::default());
    for port in 0..MAX_SERVICE_PROBES {
        let target = SocketAddr::new(target().ip(), u16::try_from(port).unwrap());
        probes.begin(OWN.parse().unwrap(), target, slots.take().unwrap(), at(0));
    }
    assert!(slots.take().is_none());
    while probes.poll_silent(at(2_000)).is_some() {}
    assert!(slots.take().is_some(), "who waits no more has no place");
    for _ in 0..2 * MAX_REMEMBERED {
        probes.begin(OWN.parse().unwrap(), target(), slots.take().unwrap(), at(3_000));
        probes.sent.back_mut().unwrap().take(ServiceReply::Refused);
    }
    assert_eq!(probes.sent.len(), MAX_REMEMBERED);
    probes.clear();
    assert!(!probes.is_listening());
}

#[derive(Default)]
struct Scene {
    slots: Slots,
    probes: ServiceProbes,
}

impl Scene {
    /// Begins a probe, and returns its first SYN.
    fn probe(&mut self, millisecond: u64) -> Bare {
        let slot = self.slots.take().unwrap();
        self.probes.begin(OWN.parse().unwrap(), target(), slot, at(millisecond));
        let mut syn = None;
        while let Some(next) = self.syn(millisecond) {
            syn = Some(next);
        }
        // Those of earlier probes are answered, so that only the new one waits.
        for sent in self.probes.sent.iter_mut().rev().skip(1) {
            sent.take(ServiceReply::Refused);
        }
        syn.unwrap()
    }

    fn syn(&mut self, millisecond: u64) -> Option<Bare> {
        self.probes.poll_syn(at(millisecond))
    }

    fn silent(&mut self, millisecond: u64) -> Option<(SocketAddr, ServiceReply)> {
        self.probes.poll_silent(at(millisecond))
    }

    /// The reply to a SYN with these flags, which acknowledges its number and so much more.
    fn answer(&mut self, syn: &Bare, flags: u8, more: u32) -> Option<Taken> {
        let acknowledgement = syn.sequence.wrapping_add(more);
        let answer = Bare {
            source: syn.destination,
            destination: syn.source,
            sequence: 7,
            acknowledgement: (flags & tcp_flags::ACK != 0).then_some(acknowledgement),
            flags,
        };
        let packet = answer.packet();
        let ip = Ip::parse(&packet).unwrap();
        self.probes.handle_segment(ip.src, ip.dst, &Tcp::parse(ip.payload(&packet)).unwrap())
    }

    fn error(&mut self, error: Error, about: &[u8]) -> Option<Taken> {
        let packet = error.build(about, "10.77.88.2".parse().unwrap()).unwrap();
        self.probes.handle_error(&IcmpError::parse(&Ip::parse(&packet).unwrap(), &packet).unwrap())
    }
}

fn target() -> SocketAddr {
    TARGET.parse().unwrap()
}

fn at(millisecond: u64) -> Instant {
    Instant::from_boot(Duration::from_millis(millisecond))
}
