//! Both ends of a pairing together, and whoever is between them.

use tunnel::key::PrivateKey;

use super::code::Code;
use super::edge::{EdgeEvent, EdgeFault, EdgePairing, Joiner};
use super::example::{code, name, offer, terms};
use super::joiner::{JoinEvent, JoinFault, JoinPairing};
use super::message::{Failure, Message, Refusal, SCHEMA, Terms};
use super::words::{Opening, Words};
use crate::link::message::Bytes;

#[test]
fn both_ends_show_the_same_words_and_one_yes_pairs_them() {
    let (mut edge, mut join) = (edge(), join(code()));
    edge.handle_connected();
    carry(&mut edge, &mut join);
    let joiner = offered(&mut edge).unwrap();
    assert_eq!(joiner.key, PrivateKey::from_bytes([2; 32]).public());
    let (found, words) = opened(&mut join).unwrap();
    assert_eq!((found, words), (terms(), joiner.words));

    edge.accept();
    carry(&mut edge, &mut join);
    assert_eq!(join.poll_event(), Some(JoinEvent::Accepted));
    join.written();
    carry(&mut edge, &mut join);
    assert_eq!((edge.poll_event(), edge.poll_event()), (Some(EdgeEvent::Written), None));
    assert_eq!(join.poll_event(), None, "the edge may still go back");
    edge.keep();
    carry(&mut edge, &mut join);
    assert_eq!((join.poll_event(), join.poll_event()), (Some(JoinEvent::Kept), None));
}

#[test]
fn a_joiner_that_has_written_goes_back_unless_the_edge_keeps_it() {
    let (_, mut join) = written_pair();
    join.handle_disconnected();
    assert_eq!(ended(&mut join), Some(JoinFault::Gone));

    let (mut edge, mut join) = written_pair();
    edge.refuse(Refusal::NotApplied);
    carry(&mut edge, &mut join);
    assert_eq!(ended(&mut join), Some(JoinFault::Refused(Refusal::NotApplied)));

    let (mut edge, mut join) = offered_pair();
    edge.accept();
    edge.keep();
    carry(&mut edge, &mut join);
    assert_eq!((join.poll_event(), join.poll_event()), (Some(JoinEvent::Accepted), None));
}

#[test]
fn what_comes_after_the_joiner_has_written_does_not_undo_the_pairing() {
    let (mut edge, mut join) = written_pair();
    edge.handle_frame(&Message::Offer(offer()).to_bytes());
    edge.handle_connected();
    edge.handle_disconnected();
    assert_eq!(edge.poll_event(), None);
    edge.keep();
    carry(&mut edge, &mut join);
    assert_eq!(join.poll_event(), Some(JoinEvent::Kept));
}

#[test]
fn the_joiner_gets_the_reason_why_its_message_ended_the_pairing() {
    let mut hostile = offer();
    hostile.key = Bytes([0; 32]);
    let second = Message::Offer(offer()).to_bytes();
    for (frame, reason) in [
        (b"{".to_vec(), Refusal::Malformed),
        (Message::Written.to_bytes(), Refusal::Malformed),
        (Message::Offer(hostile).to_bytes(), Refusal::BadKey),
    ] {
        let mut edge = edge();
        edge.handle_connected();
        edge.handle_frame(&frame);
        assert_eq!(last_sent(&mut edge), Some(Message::Refused { reason }));
    }
    let (mut edge, _) = offered_pair();
    edge.handle_frame(&second);
    assert_eq!(last_sent(&mut edge), Some(Message::Refused { reason: Refusal::Burnt }));
}

#[test]
fn the_edge_opens_nothing_before_the_joiner_is_bound_to_its_key_and_nonce() {
    let mut edge = edge();
    assert_eq!(edge.poll_frame(), None);
    edge.handle_connected();
    let sent = edge.poll_frame().unwrap();
    assert!(matches!(Message::parse(&sent), Some(Message::Commitment { .. })));
    assert_eq!(edge.poll_frame(), None);
    assert!(!sent.windows(5).any(|part| part == b"nonce"));
}

#[test]
fn no_one_between_the_ends_chooses_the_words() {
    // It has the code, offers its own key to the edge, and has its own code with the joiner.
    let own = Code { edge_key: PrivateKey::from_bytes([8; 32]).public(), ..code() };
    let (mut edge, mut middle_as_joiner) = (edge(), join(code()));
    let (mut middle_as_edge, mut join) = (EdgePairing::new(own.clone(), [7; 32], &terms()), join(own));
    edge.handle_connected();
    middle_as_edge.handle_connected();
    carry(&mut edge, &mut middle_as_joiner);
    carry(&mut middle_as_edge, &mut join);
    let (at_edge, at_joiner) = (offered(&mut edge).unwrap().words, opened(&mut join).unwrap().1);
    assert_ne!(at_edge, at_joiner);
}

#[test]
fn terms_and_nonce_that_are_altered_after_the_commitment_end_the_pairing() {
    let altered = Terms { may_publish: vec!["1-65535".to_owned()], ..terms() };
    for (nonce, terms) in [([3; 32], &altered), ([9; 32], &terms())] {
        let mut join = join(code());
        let bound =
            Opening { nonce: &Bytes([3; 32]), terms: &serde_json::to_string(&self::terms()).unwrap() };
        let commitment = Message::Commitment { commitment: bound.commitment(&code()), schema: SCHEMA };
        join.handle_frame(&commitment.to_bytes());
        let opening = Message::Opening { nonce: Bytes(nonce), terms: serde_json::to_string(terms).unwrap() };
        join.handle_frame(&opening.to_bytes());
        assert_eq!(ended(&mut join), Some(JoinFault::Altered));
    }
}

#[test]
fn a_commitment_of_one_code_is_none_of_another() {
    let other = Code { address: "10.77.88.253/24".parse().unwrap(), ..code() };
    let (mut edge, mut join) = (edge(), join(other));
    edge.handle_connected();
    carry(&mut edge, &mut join);
    assert_eq!(ended(&mut join), Some(JoinFault::Altered));
}

#[test]
fn a_second_key_burns_the_code_before_and_after_the_decision() {
    for is_accepted in [false, true] {
        let (mut edge, mut join) = offered_pair();
        if is_accepted {
            edge.accept();
        }
        let mut second = offer();
        second.key = Bytes(*PrivateKey::from_bytes([6; 32]).public().as_bytes());
        edge.handle_frame(&Message::Offer(second).to_bytes());
        assert_eq!(fault(&mut edge), Some(EdgeFault::SecondKey));
        carry(&mut edge, &mut join);
        if is_accepted {
            assert_eq!(join.poll_event(), Some(JoinEvent::Accepted));
        }
        assert_eq!(ended(&mut join), Some(JoinFault::Refused(Refusal::Burnt)));
        edge.accept();
        assert_eq!(edge.poll_frame(), None, "a yes that comes later does nothing");
    }
}

#[test]
fn an_offer_that_is_sent_again_burns_the_code_as_well() {
    let (mut edge, _) = offered_pair();
    edge.handle_frame(&Message::Offer(offer()).to_bytes());
    assert_eq!(fault(&mut edge), Some(EdgeFault::SecondKey));
}

#[test]
fn a_second_connection_after_an_offer_burns_the_code_and_one_before_it_does_not() {
    let (mut edge, _) = offered_pair();
    edge.handle_connected();
    assert_eq!(fault(&mut edge), Some(EdgeFault::SecondJoiner));

    let (mut edge, mut join) = (self::edge(), join(code()));
    edge.handle_connected();
    edge.poll_frame();
    edge.handle_disconnected();
    edge.handle_connected();
    carry(&mut edge, &mut join);
    assert!(offered(&mut edge).is_some(), "the nonce was not opened to the first one");
}

#[test]
fn a_connection_that_ends_after_the_offer_ends_the_pairing() {
    let (mut edge, mut join) = offered_pair();
    edge.handle_disconnected();
    join.handle_disconnected();
    assert_eq!((fault(&mut edge), ended(&mut join)), (Some(EdgeFault::Gone), Some(JoinFault::Gone)));
}

#[test]
fn every_message_out_of_its_order_ends_the_pairing() {
    let messages = [
        Message::Commitment { commitment: Bytes([0; 32]), schema: SCHEMA },
        Message::Opening { nonce: Bytes([0; 32]), terms: String::new() },
        Message::Accepted,
        Message::Kept,
        Message::Written,
    ];
    for message in &messages {
        let mut edge = edge();
        edge.handle_connected();
        edge.handle_frame(&message.to_bytes());
        assert_eq!(fault(&mut edge), Some(EdgeFault::OutOfOrder), "{message:?}");
        let (mut edge, _) = offered_pair();
        edge.handle_frame(&message.to_bytes());
        assert_eq!(fault(&mut edge), Some(EdgeFault::OutOfOrder), "{message:?}");
    }
    for message in messages.iter().skip(1).chain([&Message::Offer(offer())]) {
        let mut join = join(code());
        join.handle_frame(&message.to_bytes());
        assert_eq!(ended(&mut join), Some(JoinFault::OutOfOrder), "{message:?}");
    }
    for message in [&messages[0], &messages[1], &messages[3], &messages[4], &Message::Offer(offer())] {
        let (_, mut join) = offered_pair();
        join.handle_frame(&message.to_bytes());
        assert_eq!(ended(&mut join), Some(JoinFault::OutOfOrder), "{message:?}");
    }
}

#[test]
fn an_offer_before_the_commitment_is_not_answered() {
    let mut edge = edge();
    edge.handle_frame(&Message::Offer(offer()).to_bytes());
    assert_eq!(fault(&mut edge), Some(EdgeFault::OutOfOrder));
}

#[test]
fn what_is_no_message_ends_the_pairing_at_either_end() {
    for frame in [&b"{"[..], b"", &[0xff; 5000]] {
        let mut edge = edge();
        edge.handle_connected();
        edge.handle_frame(frame);
        assert_eq!(fault(&mut edge), Some(EdgeFault::Malformed));
        let mut join = join(code());
        join.handle_frame(frame);
        assert_eq!(ended(&mut join), Some(JoinFault::Malformed));
    }
}

#[test]
fn a_key_that_may_not_be_used_is_refused() {
    for key in [[0; 32], *code().edge_key.as_bytes(), *code().one_time.public().as_bytes()] {
        let mut edge = edge();
        edge.handle_connected();
        let mut hostile = offer();
        hostile.key = Bytes(key);
        edge.handle_frame(&Message::Offer(hostile).to_bytes());
        assert_eq!(fault(&mut edge), Some(EdgeFault::BadKey));
    }
}

#[test]
fn a_refusal_reaches_the_joiner_with_its_reason_and_a_failure_the_edge() {
    let (mut edge, mut join) = offered_pair();
    edge.refuse(Refusal::Declined);
    carry(&mut edge, &mut join);
    assert_eq!(ended(&mut join), Some(JoinFault::Refused(Refusal::Declined)));
    assert_eq!(fault(&mut edge), Some(EdgeFault::Refused));

    let (mut edge, mut join) = offered_pair();
    join.fail(Failure::PresharedKey);
    carry(&mut edge, &mut join);
    assert_eq!(fault(&mut edge), Some(EdgeFault::Failed(Failure::PresharedKey)));
    join.written();
    assert_eq!(join.poll_frame(), None);
}

#[test]
fn terms_that_this_end_cannot_use_are_refused() {
    let with = |addresses: &[&str]| Terms {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..terms()
    };
    let bad_ports = Terms { may_publish: vec!["80\"]\n[[service]]".to_owned()], ..terms() };
    let bad =
        [with(&[]), with(&["10.99.0.2/24"]), with(&["10.77.88.1/24"]), with(&["10.77.88.254/24"]), bad_ports];
    for terms in bad {
        let (mut edge, mut join) = (EdgePairing::new(code(), [3; 32], &terms), join(code()));
        edge.handle_connected();
        carry(&mut edge, &mut join);
        assert!(matches!(ended(&mut join), Some(JoinFault::Terms(_))), "{terms:?}");
    }
}

#[test]
fn an_address_that_is_taken_is_not_called_one_outside_the_network() {
    for (address, what) in [
        ("10.77.88.1/24", "the edge's own"),
        ("10.77.88.254/24", "that of the code"),
        ("10.99.0.2/24", "not in the edge's network"),
    ] {
        let terms = Terms { addresses: vec![address.parse().unwrap()], ..terms() };
        let (mut edge, mut join) = (EdgePairing::new(code(), [3; 32], &terms), join(code()));
        edge.handle_connected();
        carry(&mut edge, &mut join);
        let fault = ended(&mut join).unwrap().to_string();
        assert!(fault.contains(what), "{address}: {fault}");
    }
}

#[test]
fn another_version_of_the_messages_is_named() {
    let mut join = join(code());
    join.handle_frame(&Message::Commitment { commitment: Bytes([0; 32]), schema: 7 }.to_bytes());
    assert_eq!(ended(&mut join), Some(JoinFault::Schema(7)));
    assert!(JoinFault::Schema(7).to_string().contains("update the older"));
}

#[test]
fn a_next_key_of_the_edge_reaches_the_joiner_and_one_that_is_taken_is_refused() {
    let with = |key: [u8; 32]| Terms { next_key: Some(Bytes(key)), ..terms() };
    let next = with(*PrivateKey::from_bytes([8; 32]).public().as_bytes());
    let (mut edge, mut join) = (EdgePairing::new(code(), [3; 32], &next), join(code()));
    edge.handle_connected();
    let commitment = edge.poll_frame().unwrap();
    join.handle_frame(&commitment);
    carry(&mut edge, &mut join);
    let words = offered(&mut edge).unwrap().words;
    assert_eq!(opened(&mut join), Some((next, words)));

    let taken = [code().edge_key, code().one_time.public(), PrivateKey::from_bytes([2; 32]).public()];
    for key in taken.map(|key| *key.as_bytes()).into_iter().chain([[0; 32]]) {
        let (mut edge, mut join) = (EdgePairing::new(code(), [3; 32], &with(key)), self::join(code()));
        edge.handle_connected();
        carry(&mut edge, &mut join);
        assert!(matches!(ended(&mut join), Some(JoinFault::Terms(_))), "{key:?}");
    }
}

fn edge() -> EdgePairing {
    EdgePairing::new(code(), [3; 32], &terms())
}

fn join(code: Code) -> JoinPairing {
    JoinPairing::new(code, PrivateKey::from_bytes([2; 32]).public(), [4; 32], name("mini"), name("0.1.0"))
}

/// A pairing that waits for the operator.
fn offered_pair() -> (EdgePairing, JoinPairing) {
    let (mut edge, mut join) = (edge(), join(code()));
    edge.handle_connected();
    carry(&mut edge, &mut join);
    assert!(offered(&mut edge).is_some() && opened(&mut join).is_some());
    (edge, join)
}

/// A pairing whose joiner has written its configuration.
fn written_pair() -> (EdgePairing, JoinPairing) {
    let (mut edge, mut join) = offered_pair();
    edge.accept();
    carry(&mut edge, &mut join);
    assert_eq!(join.poll_event(), Some(JoinEvent::Accepted));
    join.written();
    carry(&mut edge, &mut join);
    assert_eq!(edge.poll_event(), Some(EdgeEvent::Written));
    (edge, join)
}

fn last_sent(edge: &mut EdgePairing) -> Option<Message> {
    let last = std::iter::from_fn(|| edge.poll_frame()).last()?;
    Message::parse(&last)
}

/// Carries frames both ways until there are none.
fn carry(edge: &mut EdgePairing, join: &mut JoinPairing) {
    loop {
        let (down, up) = (edge.poll_frame(), join.poll_frame());
        down.iter().for_each(|frame| join.handle_frame(frame));
        up.iter().for_each(|frame| edge.handle_frame(frame));
        if down.is_none() && up.is_none() {
            return;
        }
    }
}

fn offered(edge: &mut EdgePairing) -> Option<Joiner> {
    match edge.poll_event()? {
        EdgeEvent::Offered(joiner) => Some(joiner),
        EdgeEvent::Written | EdgeEvent::Ended(_) => None,
    }
}

fn opened(join: &mut JoinPairing) -> Option<(Terms, Words)> {
    match join.poll_event()? {
        JoinEvent::Offered { terms, words } => Some((*terms, words)),
        JoinEvent::Accepted | JoinEvent::Kept | JoinEvent::Ended(_) => None,
    }
}

fn fault(edge: &mut EdgePairing) -> Option<EdgeFault> {
    match edge.poll_event()? {
        EdgeEvent::Ended(fault) => Some(fault),
        EdgeEvent::Offered(_) | EdgeEvent::Written => None,
    }
}

fn ended(join: &mut JoinPairing) -> Option<JoinFault> {
    match join.poll_event()? {
        JoinEvent::Ended(fault) => Some(fault),
        JoinEvent::Offered { .. } | JoinEvent::Accepted | JoinEvent::Kept => None,
    }
}
