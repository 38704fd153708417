//! Micro benches of the data path: `cargo bench -p benches`.
//!
//! Throughput is inner bytes per second; one over that, in GB/s, is CPU seconds per GB.

use benches::cipher::{Cipher, PACKET};
use benches::memory::Pair;
use benches::packets::{self, HEADERS, SEGMENT, Whole};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tunnel::node::PeerId;
use tunnel::offload::{CoalesceOptions, Coalescer, Segments};
use tunnel::packet::Sum;
use tunnel::sink::InnerSink;

const FULL: usize = 44 * SEGMENT as usize;

fn main() {
    divan::main();
}

#[divan::bench(args = [20, 64, 1420, 65_535])]
fn checksum(bencher: Bencher<'_, '_>, len: usize) {
    let bytes = vec![0xa5; len];
    bencher.counter(BytesCount::new(len)).bench_local(|| Sum::new().bytes(divan::black_box(&bytes)).checksum());
}

#[divan::bench(args = ["tcp4", "tcp6"])]
fn split(bencher: Bencher<'_, '_>, kind: &str) {
    let packet = full(kind);
    let mut buffer = vec![0; packet.bytes.len()];
    bencher.counter(BytesCount::new(FULL)).bench_local(|| {
        let packet = packet.copy_to(&mut buffer).expect("room for the packet");
        let mut segments = Segments::new(packet).expect("a valid packet");
        let mut bytes = 0;
        while let Some(segment) = segments.next_segment() {
            bytes += divan::black_box(segment).len();
        }
        bytes
    });
}

#[divan::bench(args = ["tcp4", "tcp6"])]
fn coalesce(bencher: Bencher<'_, '_>, kind: &str) {
    let segments = full(kind).segments();
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: false });
    bencher.counter(BytesCount::new(FULL)).bench_local(|| {
        for segment in &segments {
            let slot = coalescer.slot(segment.len() + 16).expect("room for a segment");
            slot[..segment.len()].copy_from_slice(segment);
            coalescer.commit(PeerId(1), segment.len(), 0);
        }
        let mut bytes = 0;
        while let Some((_, packet)) = coalescer.poll_packet() {
            bytes += divan::black_box(packet.bytes).len();
        }
        bytes
    });
}

/// A small packet through the engine, so that the look-ups weigh; with the prefixes of other peers beside it.
#[divan::bench(args = [0, 1_000, 100_000])]
fn small_packet_with_prefixes(bencher: Bencher<'_, '_>, prefixes: u32) {
    let (mut pair, packet) = (Pair::new(prefixes), packets::udp4(200));
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| pair.carry(&packet));
}

#[divan::bench]
fn encrypt_a_super_packet(bencher: Bencher<'_, '_>) {
    let (mut pair, packet) = (Pair::new(0), full("tcp4"));
    bencher.counter(BytesCount::new(FULL)).bench_local(|| pair.encrypt(&packet));
}

#[divan::bench]
fn node_to_node(bencher: Bencher<'_, '_>) {
    let (mut pair, packet) = (Pair::new(0), full("tcp4"));
    bencher.counter(BytesCount::new(FULL)).bench_local(|| pair.carry(&packet));
}

#[divan::bench(args = [64, 200, PACKET])]
fn cipher_seal(bencher: Bencher<'_, '_>, len: usize) {
    let mut cipher = Cipher::new(len).expect("a key");
    bencher.counter(BytesCount::new(len)).bench_local(|| cipher.seal());
}

#[divan::bench(args = [64, 200, PACKET])]
fn cipher_open(bencher: Bencher<'_, '_>, len: usize) {
    let mut cipher = Cipher::new(len).expect("a key");
    let sealed = cipher.sealed(len).expect("a packet");
    bencher.counter(BytesCount::new(len)).bench_local(|| cipher.open(&sealed));
}

fn full(kind: &str) -> Whole {
    assert!(FULL + HEADERS < 65_535);
    if kind == "tcp4" { packets::tcp4(FULL, 1) } else { packets::tcp6(44 * (SEGMENT as usize - 20), 1) }
}
