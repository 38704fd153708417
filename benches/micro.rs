//! Micro benches of the data path: `cargo bench -p benches`.
//!
//! Throughput is inner bytes per second; one over that, in GB/s, is CPU seconds per GB.

use benches::cipher::{Cipher, PACKET};
use benches::hot::{self, Loop};
use divan::Bencher;
use divan::counter::BytesCount;
use tunnel::packet::Sum;

fn main() {
    divan::main();
}

#[divan::bench(args = [20, 64, 1420, 65_535])]
fn checksum(bencher: Bencher<'_, '_>, len: usize) {
    let bytes = vec![0xa5; len];
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| Sum::new().bytes(divan::black_box(&bytes)).checksum());
}

#[divan::bench]
fn split_tcp4(bencher: Bencher<'_, '_>) {
    turn(bencher, hot::split("tcp4", hot::full_tcp4()));
}

#[divan::bench]
fn split_tcp6(bencher: Bencher<'_, '_>) {
    turn(bencher, hot::split("tcp6", hot::full_tcp6()));
}

#[divan::bench]
fn coalesce_tcp4(bencher: Bencher<'_, '_>) {
    turn(bencher, hot::coalesce("tcp4", hot::full_tcp4()));
}

#[divan::bench]
fn coalesce_tcp6(bencher: Bencher<'_, '_>) {
    turn(bencher, hot::coalesce("tcp6", hot::full_tcp6()));
}

#[divan::bench(args = [0, 1_000, 100_000])]
fn small_packet_with_prefixes(bencher: Bencher<'_, '_>, prefixes: u32) {
    turn(bencher, hot::small_packet("small", prefixes));
}

#[divan::bench(args = [1, 1000])]
fn send_to_peers_with_100_prefixes(bencher: Bencher<'_, '_>, peers: u32) {
    turn(bencher, hot::send_to("send", peers, 100));
}

#[divan::bench(args = [1, 1000])]
fn receive_from_peers_with_100_prefixes(bencher: Bencher<'_, '_>, peers: u32) {
    turn(bencher, hot::receive_from("receive", peers, 100));
}

#[divan::bench]
fn encrypt_a_super_packet(bencher: Bencher<'_, '_>) {
    turn(bencher, hot::encrypt());
}

#[divan::bench]
fn node_to_node(bencher: Bencher<'_, '_>) {
    turn(bencher, hot::node_to_node());
}

#[divan::bench(args = [64, 200, PACKET])]
fn cipher_seal(bencher: Bencher<'_, '_>, len: usize) {
    if let Ok(mut cipher) = Cipher::new(len) {
        bencher.counter(BytesCount::new(len)).bench_local(|| cipher.seal());
    }
}

#[divan::bench(args = [64, 200, PACKET])]
fn cipher_open(bencher: Bencher<'_, '_>, len: usize) {
    let ready = Cipher::new(len).and_then(|cipher| Ok((cipher.sealed(len)?, cipher)));
    if let Ok((sealed, mut cipher)) = ready {
        bencher.counter(BytesCount::new(len)).bench_local(|| cipher.open(&sealed));
    }
}

fn turn(bencher: Bencher<'_, '_>, mut hot: Loop) {
    bencher.counter(BytesCount::new(hot.bytes)).bench_local(|| hot.turn());
}
