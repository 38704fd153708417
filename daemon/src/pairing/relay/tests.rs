//! Pairings on virtual time.

use super::*;

#[test]
fn frames_go_both_ways_in_order_however_the_stream_is_cut() {
    let (mut relay, joiner) = connected();
    for byte in [b"one".as_slice(), b"", b"three"].iter().flat_map(|body| frame(body).unwrap()) {
        relay.handle_input(at(1), joiner, &[byte]);
    }
    let reply = put(&mut relay, 1, vec![b"four".to_vec(), vec![7; MAX_FRAME]]).unwrap();
    assert_eq!(reply.frames, [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
    assert_eq!((reply.connections, reply.is_connected, reply.end), (1, true, None));
    assert_eq!(sent(&mut relay, joiner), [frame(b"four").unwrap(), frame(&[7; MAX_FRAME]).unwrap()].concat());
    assert!(ask(&mut relay, at(2)).frames.is_empty(), "what was read is read once");
}

#[test]
fn what_the_node_and_the_socket_have_seen_is_passed_on() {
    let mut relay = open();
    let seen = Seen { datagrams: 3, unknown: 2, is_heard: true, has_session: true };
    let reply = relay.exchange(at(1), &peer(1).key, Vec::new(), seen).unwrap();
    assert_eq!((reply.datagrams, reply.unknown, reply.is_heard, reply.has_session), (3, 2, true, true));
}

#[test]
fn there_is_no_pairing_before_it_is_opened() {
    let mut relay = Relay::default();
    assert_eq!(ask(&mut relay, at(0)).end, Some(PairingEnd::Closed));
    assert_eq!((relay.peer(), relay.poll_timeout(), relay.accept(at(0))), (None, None, None));
}

#[test]
fn a_code_expires_after_fifteen_minutes_however_busy_it_is() {
    let (mut relay, joiner) = connected();
    let last = u64::from(LIFETIME) - 1;
    for second in 1..=last {
        assert_eq!(ask(&mut relay, at(second)).end, None, "after {second} s");
    }
    relay.handle_input(at(last + 1), joiner, &frame(b"late").unwrap());
    let reply = ask(&mut relay, at(last + 1));
    assert_eq!((reply.end, reply.is_connected, reply.frames.len()), (Some(PairingEnd::Expired), false, 0));
    assert!(relay.is_over(joiner));
}

#[test]
fn a_pairing_that_nothing_asks_about_for_ten_seconds_is_closed_by_its_own_timer() {
    let mut relay = open();
    ask(&mut relay, at(5));
    assert_eq!(relay.poll_timeout(), Some(at(5 + u64::from(UNASKED))));
    relay.handle_timeout(at(14));
    assert!(relay.peer().is_some());
    relay.handle_timeout(at(15));
    assert_eq!((relay.peer(), relay.end(), relay.poll_timeout()), (None, Some(PairingEnd::Closed), None));
}

#[test]
fn as_many_frames_as_are_allowed_wait_and_one_more_ends_the_pairing() {
    let (mut relay, joiner) = connected();
    for _ in 0..MAX_FRAMES {
        relay.handle_input(at(1), joiner, &frame(b"x").unwrap());
    }
    assert_eq!(ask(&mut relay, at(1)).frames.len(), MAX_FRAMES);
    for _ in 0..=MAX_FRAMES {
        relay.handle_input(at(2), joiner, &frame(b"x").unwrap());
    }
    let reply = ask(&mut relay, at(2));
    assert_eq!((reply.end, reply.frames.len()), (Some(PairingEnd::TooMuch), 0));
}

#[test]
fn a_frame_of_four_kibibytes_passes_and_a_longer_one_ends_the_pairing_by_its_length_alone() {
    let (mut relay, joiner) = connected();
    relay.handle_input(at(1), joiner, &frame(&[7; MAX_FRAME]).unwrap());
    assert_eq!(ask(&mut relay, at(1)).frames, [vec![7; MAX_FRAME]]);
    relay.handle_input(at(2), joiner, &u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes());
    assert_eq!(ask(&mut relay, at(2)).end, Some(PairingEnd::TooMuch));
}

#[test]
fn the_command_is_held_to_the_same_limits() {
    let is_taken = |frames: Vec<Vec<u8>>| {
        let (mut relay, joiner) = connected();
        let is_taken = put(&mut relay, 1, frames).is_ok();
        assert_eq!(relay.poll_output(joiner).is_empty(), !is_taken, "what was too much is sent");
        assert_eq!(ask(&mut relay, at(1)).end, None, "the joiner did nothing wrong");
        is_taken
    };
    assert!(is_taken(vec![vec![0; MAX_FRAME]; MAX_FRAMES]));
    assert!(!is_taken(vec![Vec::new(); MAX_FRAMES + 1]));
    assert!(!is_taken(vec![vec![0; MAX_FRAME + 1]]));
}

#[test]
fn frames_that_wait_for_a_slow_joiner_count_until_they_were_sent() {
    let (mut relay, joiner) = connected();
    put(&mut relay, 1, vec![b"x".to_vec(); MAX_FRAMES]).unwrap();
    sent(&mut relay, joiner);
    put(&mut relay, 2, vec![b"x".to_vec(); MAX_FRAMES]).unwrap();
    assert_eq!(put(&mut relay, 3, vec![b"x".to_vec()]), Err(Oversized));
}

#[test]
fn a_second_connection_while_the_first_is_open_ends_the_pairing_and_both() {
    let (mut relay, first) = connected();
    let second = relay.accept(at(1)).unwrap();
    relay.handle_input(at(1), second, &frame(b"intruder").unwrap());
    put(&mut relay, 1, vec![b"secret".to_vec()]).unwrap();
    assert_eq!(relay.poll_output(second), b"");
    let due = relay.poll_timeout().unwrap();
    assert_eq!(due, at(1).after(OVERLAP));
    relay.handle_timeout(due);
    let reply = ask(&mut relay, due);
    assert_eq!((reply.end, reply.connections, reply.frames.len()), (Some(PairingEnd::SecondJoiner), 2, 0));
    assert!(relay.is_over(first) && relay.is_over(second) && relay.accept(due).is_none());
    assert_eq!(ask(&mut relay, at(99)).end, Some(PairingEnd::SecondJoiner), "an end stays readable");
}

#[test]
fn a_third_connection_is_not_waited_for() {
    let (mut relay, _) = connected();
    assert!(relay.accept(at(1)).is_some() && relay.accept(at(1)).is_none());
    assert_eq!(relay.end(), Some(PairingEnd::SecondJoiner));
}

#[test]
fn a_joiner_may_connect_again_after_its_connection_ended() {
    let (mut relay, first) = connected();
    relay.handle_input(at(1), first, &frame(b"of the first").unwrap());
    put(&mut relay, 1, vec![b"for the first".to_vec()]).unwrap();
    relay.handle_input(at(1), first, &frame(b"unread").unwrap());
    relay.handle_hangup(at(1), first);
    assert!(relay.is_over(first));
    let second = relay.accept(at(2)).unwrap();
    relay.handle_input(at(2), second, &frame(b"of the second").unwrap());
    assert_eq!(relay.poll_output(second), b"", "frames for the first go to the second");
    let reply = ask(&mut relay, at(2));
    assert_eq!((reply.end, reply.connections, reply.frames), (None, 2, vec![b"of the second".to_vec()]));
}

#[test]
fn the_end_of_a_connection_may_come_after_the_beginning_of_the_next() {
    let (mut relay, first) = connected();
    let second = relay.accept(at(1)).unwrap();
    assert!(!relay.is_over(second) && !relay.wants_input(second));
    relay.handle_hangup(at(1), first);
    assert!(relay.wants_input(second));
    relay.handle_timeout(at(2));
    assert_eq!(relay.end(), None);
}

#[test]
fn what_a_joiner_sent_before_it_hung_up_is_read() {
    let (mut relay, joiner) = connected();
    relay.handle_input(at(1), joiner, &frame(b"done").unwrap());
    relay.handle_hangup(at(1), joiner);
    let reply = ask(&mut relay, at(1));
    assert_eq!((reply.is_connected, reply.frames), (false, vec![b"done".to_vec()]));
}

#[test]
fn frames_for_a_joiner_that_is_not_there_are_discarded() {
    let mut relay = open();
    put(&mut relay, 1, vec![b"early".to_vec()]).unwrap();
    let joiner = relay.accept(at(1)).unwrap();
    assert_eq!(relay.poll_output(joiner), b"");
}

#[test]
fn the_last_frames_are_sent_before_a_connection_closes_and_the_peer_goes_a_second_later() {
    let (mut relay, joiner) = connected();
    put(&mut relay, 1, vec![b"welcome".to_vec()]).unwrap();
    relay.close(at(1));
    assert_eq!(relay.end(), Some(PairingEnd::Closed));
    assert!(!relay.is_over(joiner) && relay.accept(at(1)).is_none());
    assert_eq!(sent(&mut relay, joiner), frame(b"welcome").unwrap());
    assert!(relay.is_over(joiner));
    assert_eq!(relay.poll_timeout(), Some(at(1).after(LINGER)));
    relay.handle_timeout(at(1).after(LINGER));
    assert_eq!(relay.peer(), None);
}

#[test]
fn a_joiner_that_does_not_read_does_not_keep_a_closed_pairing() {
    let (mut relay, joiner) = connected();
    put(&mut relay, 1, vec![b"welcome".to_vec()]).unwrap();
    relay.close(at(1));
    relay.handle_timeout(at(1).after(LINGER));
    assert!(relay.is_over(joiner) && relay.peer().is_none());
}

#[test]
fn a_pairing_without_a_connection_is_gone_when_it_is_closed() {
    let mut relay = open();
    relay.close(at(1));
    assert_eq!((relay.peer(), relay.poll_timeout()), (None, None));
}

#[test]
fn there_is_one_pairing_at_a_time_and_the_next_has_nothing_of_the_one_before() {
    let (mut relay, joiner) = connected();
    assert_eq!(relay.open(at(1), peer(2)), Err(AlreadyOpen));
    assert_eq!(relay.peer(), Some(peer(1)));
    relay.close(at(1));
    assert_eq!(relay.open(at(1), peer(2)), Ok(()));
    assert_eq!(relay.peer(), Some(peer(2)));
    assert!(relay.is_over(joiner));
    let reply = relay.exchange(at(1), &peer(2).key, Vec::new(), Seen::default()).unwrap();
    assert_eq!((reply.end, reply.connections), (None, 0));
}

#[test]
fn a_command_whose_pairing_is_over_gets_nothing_of_the_next_and_puts_nothing_in() {
    let (mut relay, _) = connected();
    relay.close(at(1));
    relay.open(at(1), peer(2)).unwrap();
    let joiner = relay.accept(at(1)).unwrap();
    relay.handle_input(at(1), joiner, &frame(b"of the second").unwrap());
    let reply = put(&mut relay, 2, vec![b"of the first".to_vec()]).unwrap();
    assert_eq!((reply.end, reply.frames.len()), (Some(PairingEnd::Closed), 0));
    assert_eq!(relay.poll_output(joiner), b"");
    assert!(relay.is_of(&peer(2).key) && !relay.is_of(&peer(1).key));
    let reply = relay.exchange(at(2), &peer(2).key, Vec::new(), Seen::default()).unwrap();
    assert_eq!((reply.end, reply.frames), (None, vec![b"of the second".to_vec()]));
    // Only its own command keeps it open.
    put(&mut relay, 9, Vec::new()).unwrap();
    relay.handle_timeout(at(12));
    assert_eq!(relay.end(), Some(PairingEnd::Closed));
}

#[test]
fn a_forgotten_pairing_does_not_keep_the_next_from_opening() {
    let mut relay = open();
    assert_eq!(relay.open(at(u64::from(UNASKED)), peer(2)), Ok(()));
}

fn open() -> Relay {
    let mut relay = Relay::default();
    relay.open(at(0), peer(1)).unwrap();
    relay
}

fn connected() -> (Relay, ConnectionId) {
    let mut relay = open();
    let joiner = relay.accept(at(0)).unwrap();
    (relay, joiner)
}

fn ask(relay: &mut Relay, now: Instant) -> PairingReply {
    relay.exchange(now, &peer(1).key, Vec::new(), Seen::default()).unwrap()
}

fn put(relay: &mut Relay, second: u64, frames: Vec<Vec<u8>>) -> Result<PairingReply, Oversized> {
    relay.exchange(at(second), &peer(1).key, frames, Seen::default())
}

/// Everything that waits to be sent, a few bytes at a time.
fn sent(relay: &mut Relay, id: ConnectionId) -> Vec<u8> {
    let mut sent = Vec::new();
    loop {
        let piece = relay.poll_output(id).iter().take(3).copied().collect::<Vec<_>>();
        if piece.is_empty() {
            return sent;
        }
        relay.handle_sent(id, piece.len());
        sent.extend(piece);
    }
}

fn peer(number: u8) -> TemporaryPeer {
    TemporaryPeer { key: PublicKey::new([number; 32]).unwrap(), address: [10, 77, 88, number].into() }
}

fn at(seconds: u64) -> Instant {
    Instant::from_boot(Duration::from_secs(1_000 + seconds))
}
