use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;
use crate::endpoint::{Endpoint, LocalSide};

#[test]
fn a_run_arrives_as_the_datagrams_it_was_made_of() {
    for (sender, receiver) in [
        (UdpOptions::default(), UdpOptions::default()),
        (UdpOptions { gso: false, ..Default::default() }, UdpOptions::default()),
        (UdpOptions::default(), UdpOptions { gro: false, ..Default::default() }),
        (portable(), UdpOptions::default()),
        (UdpOptions::default(), portable()),
        (portable(), portable()),
    ] {
        let (a, b) = (open(&sender), open(&receiver));
        let contents: Vec<u8> = (0..45 * 1452 - 100).map(|i| (i % 251) as u8).collect();
        send(&a, &b, 1452, &contents);
        let datagrams = receive(&b, 45);
        assert_eq!(datagrams.len(), 45, "{sender:?} to {receiver:?}");
        assert_eq!(b.stats().received_datagrams.read(), 45, "{sender:?} to {receiver:?}");
        assert_eq!(datagrams.concat(), contents);
        assert!(datagrams[..44].iter().all(|datagram| datagram.len() == 1452));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_with_a_source_sends_from_it_alone_and_nothing_while_the_machine_lacks_it() {
    let (a, b) = (open(&UdpOptions::default()), open(&UdpOptions::default()));
    let own: IpAddr = "127.0.0.2".parse().unwrap();
    // Loopback has the whole network, but only one address of it.
    a.set_source(Some(own)).unwrap();
    send(&a, &b, 100, &[7; 300]);
    assert_eq!((a.stats().withheld.read(), a.stats().send_calls.read()), (1, 0));
    a.note_source(true);
    send(&a, &b, 100, &[7; 100]);
    let mut batch = ReceiveBatch::new(4);
    assert_eq!(b.receive(&mut batch, Wait::Block).unwrap(), 1);
    let from = batch.iter_mut().next().unwrap().from;
    assert_eq!(from.ip(), own);

    a.set_source(Some("198.51.100.77".parse().unwrap())).unwrap();
    a.note_source(true);
    send(&a, &b, 100, &[7; 300]);
    assert_eq!(a.stats().withheld.read(), 2, "the kernel refuses an address that is not here");
    assert_eq!(a.stats().source_cleared.read(), 0);
    a.set_source(None).unwrap();
    send(&a, &b, 100, &[7; 100]);
    assert_eq!(b.receive(&mut batch, Wait::Block).unwrap(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn segmented_and_joined_bytes_are_counted_apart_from_plain_ones() {
    let (a, b) = (open(&UdpOptions::default()), open(&UdpOptions::default()));
    send(&a, &b, 1000, &[7; 10_000]);
    send(&a, &b, 100, &[7; 100]);
    assert_eq!(receive(&b, 11).len(), 11);
    assert_eq!((a.stats().sent_bytes_segmented.read(), a.stats().sent_bytes_plain.read()), (10_000, 100));
    assert_eq!(b.stats().received_bytes_joined.read() + b.stats().received_bytes_plain.read(), 10_100);
    assert!(b.stats().received_bytes_joined.read() >= 10_000);
    a.set_offload(false, false);
    send(&a, &b, 1000, &[7; 10_000]);
    assert_eq!((a.stats().sent_bytes_segmented.read(), a.stats().sent_bytes_plain.read()), (10_000, 10_100));
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_full_receive_buffer_drops_is_counted_once_it_is_sampled() {
    let (a, b) = (open(&UdpOptions::default()), open(&UdpOptions { buffer: 1, ..Default::default() }));
    b.socket().set_recv_buffer_size(1).unwrap();
    for _ in 0..200 {
        send(&a, &b, 1000, &[7; 1000]);
    }
    assert_eq!(b.stats().receive_queue_drops.read(), 0);
    b.sample_queue_drops();
    let dropped = b.stats().receive_queue_drops.read();
    let mut batch = ReceiveBatch::new(64);
    let mut kept = 0;
    while let Ok(count) = b.receive(&mut batch, Wait::No) {
        kept += count as u64;
    }
    assert!(dropped > 0 && dropped + kept == 200, "{dropped} dropped, {kept} kept");
    b.sample_queue_drops();
    assert_eq!(b.stats().receive_queue_drops.read(), dropped);
}

#[cfg(target_os = "linux")]
#[test]
fn the_reply_leaves_from_the_address_that_was_sent_to() {
    let (edge, client) = (open(&UdpOptions::default()), open(&UdpOptions::default()));
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    let endpoint = Endpoint { remote: SocketAddr::new(address, edge.local_port().unwrap()), local: None };
    client.send(one(endpoint, b"hello"), Wait::Block);
    let mut batch = ReceiveBatch::new(4);
    edge.receive(&mut batch, Wait::Block).unwrap();
    let asked = batch.iter_mut().next().map(|received| (received.from, received.to)).unwrap();
    assert_eq!(asked.1.unwrap().address, address);

    edge.send(one(Endpoint { remote: asked.0, local: asked.1 }, b"answer"), Wait::Block);
    client.receive(&mut batch, Wait::Block).unwrap();
    let answer = batch.iter_mut().next().unwrap();
    assert_eq!((answer.from, &*answer.contents), (endpoint.remote, b"answer".as_slice()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_local_side_that_is_gone_is_cleared_and_the_run_still_sent() {
    let (a, b) = (open(&UdpOptions::default()), open(&UdpOptions::default()));
    let gone = LocalSide { address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), interface: 0 };
    let endpoint = Endpoint { remote: loopback(&b), local: Some(gone) };
    let sent = a.send(
        [Transmit { endpoint, ecn: 0, segment_size: 100, dont_fragment: false, contents: &[3; 1000] }]
            .into_iter(),
        Wait::Block,
    );
    assert_eq!((sent, receive(&b, 10).len()), (1, 10));
    assert_eq!((a.stats().source_cleared.read(), a.stats().send_errors.read()), (1, 0));
    a.send(one(endpoint, b"again"), Wait::Block);
    assert_eq!((receive(&b, 1).len(), a.stats().source_cleared.read()), (1, 1));
}

#[cfg(target_os = "linux")]
#[test]
fn ecn_bits_travel_both_ways() {
    let (a, b) = (open(&UdpOptions::default()), open(&UdpOptions::default()));
    for ecn in 0..4 {
        let endpoint = Endpoint { remote: loopback(&b), local: None };
        a.send(
            [Transmit { endpoint, ecn, segment_size: 9, dont_fragment: false, contents: &[1; 9] }]
                .into_iter(),
            Wait::Block,
        );
        let mut batch = ReceiveBatch::new(1);
        b.receive(&mut batch, Wait::Block).unwrap();
        assert_eq!(batch.iter_mut().next().unwrap().ecn, ecn);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_the_kernel_will_not_segment_goes_out_datagram_by_datagram() {
    // More datagrams than any kernel segments fail with EINVAL, as segments above the interface's
    // MTU do in older kernels.
    let (a, b) = (open(&UdpOptions::default()), open(&UdpOptions::default()));
    send(&a, &b, 10, &[5; 2000]);
    assert_eq!(receive(&b, 200).len(), 200);
    assert_eq!((a.stats().segment_fallbacks.read(), a.offload().0), (1, true));
    send(&a, &b, 10, &[5; 100]);
    assert_eq!((receive(&b, 10).len(), a.stats().sent_bytes_segmented.read()), (10, 100));
}

#[test]
fn the_network_refusing_a_datagram_is_counted_and_nothing_else() {
    for options in [UdpOptions::default(), portable()] {
        let a = open(&options);
        let endpoint = Endpoint { remote: "127.0.0.1:0".parse().unwrap(), local: None };
        assert_eq!(a.send(one(endpoint, b"x"), Wait::Block), 1);
        assert_eq!(a.stats().send_errors.read(), 1);
    }
}

#[test]
fn nothing_to_receive_is_would_block_and_an_empty_datagram_is_left_out() {
    for options in [UdpOptions::default(), portable()] {
        let b = open(&options);
        let mut batch = ReceiveBatch::new(4);
        let error = b.receive(&mut batch, Wait::No).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", loopback(&b)).unwrap();
        assert_eq!(b.receive(&mut batch, Wait::Block).unwrap(), 1);
        assert_eq!(batch.iter_mut().count(), 0);
    }
}

#[test]
fn more_messages_than_slots_wait_for_the_next_call() {
    for options in [UdpOptions { gro: false, ..Default::default() }, portable()] {
        let (a, b) = (open(&UdpOptions { gso: false, ..Default::default() }), open(&options));
        send(&a, &b, 100, &[1; 1000]);
        let mut batch = ReceiveBatch::new(4);
        for expected in [4, 4, 2] {
            assert_eq!(b.receive(&mut batch, Wait::Block).unwrap(), expected);
        }
    }
}

#[test]
fn short_messages_come_by_the_batch_and_long_ones_two_at_a_time() {
    for options in [UdpOptions { gro: false, ..Default::default() }, portable()] {
        let (a, b) = (open(&UdpOptions { gso: false, ..Default::default() }), open(&options));
        let mut batch = ReceiveBatch::new(16);
        for (len, expected) in
            [(100, &[16, 4][..]), (9000, &[7]), (9000, &[2, 2, 1]), (100, &[2, 16]), (100, &[16, 4])]
        {
            let count: usize = expected.iter().sum();
            send(&a, &b, len, &vec![1; len * count]);
            for expected in expected {
                assert_eq!(b.receive(&mut batch, Wait::Block).unwrap(), *expected, "{options:?}");
            }
        }
    }
}

#[test]
fn a_taken_port_is_an_error() {
    let a = open(&UdpOptions::default());
    let options = UdpOptions { port: a.local_port().unwrap(), ..Default::default() };
    assert_eq!(UdpSocket::open(&options).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn both_families_arrive_at_one_socket() {
    let (a, b) = (open(&UdpOptions::default()), open(&UdpOptions::default()));
    let port = b.local_port().unwrap();
    for remote in [SocketAddr::from(([127, 0, 0, 1], port)), format!("[::1]:{port}").parse().unwrap()] {
        a.send(one(Endpoint { remote, local: None }, b"x"), Wait::Block);
        let mut batch = ReceiveBatch::new(1);
        b.receive(&mut batch, Wait::Block).unwrap();
        assert_eq!(batch.iter_mut().next().unwrap().from.ip(), remote.ip());
    }
}

fn open(options: &UdpOptions) -> UdpSocket {
    UdpSocket::open(options).unwrap()
}

fn portable() -> UdpOptions {
    UdpOptions { backend: Backend::Portable, ..Default::default() }
}

fn loopback(socket: &UdpSocket) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], socket.local_port().unwrap()))
}

fn one(endpoint: Endpoint, contents: &[u8]) -> impl Iterator<Item = Transmit<'_>> {
    [Transmit { endpoint, ecn: 0, segment_size: contents.len(), dont_fragment: false, contents }].into_iter()
}

fn send(from: &UdpSocket, to: &UdpSocket, segment_size: usize, contents: &[u8]) {
    let endpoint = Endpoint { remote: loopback(to), local: None };
    let run = Transmit { endpoint, ecn: 0, segment_size, dont_fragment: false, contents };
    assert_eq!(from.send([run].into_iter(), Wait::Block), 1);
}

fn receive(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut batch = ReceiveBatch::new(4);
    let mut datagrams = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while datagrams.len() < count && Instant::now() < end {
        if socket.receive(&mut batch, Wait::No).is_ok() {
            for received in batch.iter_mut() {
                datagrams.extend(received.contents.chunks(received.stride).map(<[u8]>::to_vec));
            }
        }
    }
    datagrams
}
