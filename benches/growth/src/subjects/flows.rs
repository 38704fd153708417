//! TCP flows of the forwarder: its table, with a cell for each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use benches::hot::Loop;
use benches::memory::NOW;
use forwarder::cell::{Cell, Egress, Path, SCRATCH, Settings};
use forwarder::flow::{EdgeId, FlowKey, FlowTable, SlotId};
use tunnel::offload::SuperPacket;
use tunnel::packet::{Ip, Tcp, protocol, tcp_flags};

use super::Kept;

/// The rings hold one segment here, and 100,000 of them are to fit into a small machine.
const SETTINGS: Settings = Settings { mtu: 1420, ring: 4096, seed: 7 };
/// Bytes of a segment's payload.
const PAYLOAD: usize = 100;
const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 2);
const EDGE: EdgeId = EdgeId(0);

/// A segment of one flow among so many: its flow found, its data taken, and acknowledged.
pub(super) fn packet(flows: u32) -> Loop {
    let mut table = Flows::new(flows);
    Loop::new("packet", PAYLOAD, move || table.carry())
}

/// One flow more, from its SYN on, and its end.
pub(super) fn open(flows: u32) -> Loop {
    let mut table = Flows::new(flows);
    Loop::new("new flow", 1, move || {
        let id = table.open(flows)?;
        table.flows.remove(id).map(|_| 1)
    })
}

pub(super) fn memory(flows: u32) -> Kept {
    let mut table = Flows::new(flows);
    let ids: Vec<_> = table.flows.ids().collect();
    let rings =
        ids.iter().filter_map(|id| table.flows.get_mut(*id).map(|(_, flow)| flow.cell.touched())).sum();
    Kept::new(table, rings)
}

/// The flows of many clients to one service.
struct Flows {
    flows: FlowTable<FlowKey, Box<Flow>>,
    replies: Replies,
    scratch: Vec<u8>,
    segment: Vec<u8>,
    count: u32,
    turn: u32,
}

struct Flow {
    cell: Cell,
    /// The client's next sequence number, and the one it expects.
    next: u32,
    expects: u32,
}

/// The sequence number of the last reply.
#[derive(Default)]
struct Replies(Option<u32>);

impl Egress for Replies {
    fn is_ready(&self) -> bool {
        true
    }

    fn send(&mut self, packet: SuperPacket<'_>) {
        let tcp = Ip::parse(packet.bytes).and_then(|ip| Tcp::parse(ip.payload(packet.bytes)));
        self.0 = tcp.ok().map(|tcp| tcp.sequence);
    }
}

impl Flows {
    fn new(count: u32) -> Self {
        let mut flows = Self {
            flows: FlowTable::new(usize::MAX),
            replies: Replies::default(),
            scratch: vec![0; SCRATCH],
            segment: Vec::new(),
            count,
            turn: 0,
        };
        for number in 0..count {
            flows.open(number);
        }
        flows
    }

    /// Opens the flow with this number: its SYN, and the end of its handshake.
    fn open(&mut self, number: u32) -> Option<SlotId> {
        let remote = client(number);
        let mut syn = self.segment(remote, (1000, 0), tcp_flags::SYN, 0);
        let (ip, tcp) = headers(&syn)?;
        let path = Path { local: (SERVICE, 443).into(), remote };
        let mut cell = Cell::accept(NOW.instant, path, (&tcp, ip.payload(&syn)), SETTINGS);
        cell.handle_segment(NOW.instant, &mut syn, (&ip, &tcp), (&mut self.replies, &mut self.scratch));
        cell.poll_transmit(NOW.instant, (&mut self.replies, &mut self.scratch));
        let expects = self.replies.0.take()?.wrapping_add(1);
        self.segment = syn;
        let mut ack = self.segment(remote, (1001, expects), tcp_flags::ACK, 0);
        let (ip, tcp) = headers(&ack)?;
        cell.handle_segment(NOW.instant, &mut ack, (&ip, &tcp), (&mut self.replies, &mut self.scratch));
        self.segment = ack;
        let flow = cell.is_established().then_some(Flow { cell, next: 1001, expects })?;
        self.flows.insert(key(path.local, remote), Box::new(flow)).ok()
    }

    /// Takes a segment of the next flow, in an order that the cache cannot foresee.
    fn carry(&mut self) -> Option<usize> {
        self.turn = self.turn.wrapping_add(1);
        let remote = client((self.turn.wrapping_mul(0x9e37_79b1) >> 8) % self.count.max(1));
        let id = self.flows.find(&key((SERVICE, 443).into(), remote))?;
        let flow = self.flows.get_mut(id).map(|(_, flow)| (flow.next, flow.expects))?;
        let mut segment = self.segment(remote, flow, tcp_flags::ACK, PAYLOAD);
        let taken = self.handle(&mut segment);
        self.segment = segment;
        taken
    }

    fn handle(&mut self, segment: &mut [u8]) -> Option<usize> {
        let (ip, tcp) = headers(segment)?;
        let local = (ip.dst, tcp.destination_port).into();
        let id = self.flows.find(&key(local, (ip.src, tcp.source_port).into()))?;
        let (_, flow) = self.flows.get_mut(id)?;
        let out = (&mut self.replies, &mut *self.scratch);
        flow.cell.handle_segment(NOW.instant, segment, (&ip, &tcp), out);
        let taken = flow.cell.drain(|bytes| (bytes.len(), bytes.len()))?;
        flow.cell.poll_transmit(NOW.instant, (&mut self.replies, &mut self.scratch));
        flow.next = flow.next.wrapping_add(u32::try_from(taken).ok()?);
        Some(taken)
    }

    /// A segment of the client's, in the buffer that is used again.
    fn segment(
        &mut self,
        remote: SocketAddr,
        (sequence, expects): (u32, u32),
        flags: u8,
        payload: usize,
    ) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.segment);
        bytes.clear();
        let total = u16::try_from(40 + payload).unwrap_or(u16::MAX);
        bytes.extend([0x45, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
        if let IpAddr::V4(address) = remote.ip() {
            bytes.extend(address.octets());
        }
        bytes.extend(SERVICE.octets());
        bytes.extend(remote.port().to_be_bytes());
        bytes.extend(443_u16.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(expects.to_be_bytes());
        // Whoever gives segments to a cell has checked their checksums.
        bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.resize(40 + payload, 0x5a);
        bytes
    }
}

fn key(local: SocketAddr, remote: SocketAddr) -> FlowKey {
    FlowKey { edge: EDGE, local, remote }
}

/// 500 flows of each client.
fn client(number: u32) -> SocketAddr {
    let port = u16::try_from(number % 500).unwrap_or_default();
    SocketAddr::from((Ipv4Addr::from(0xcb00_7100 + number / 500), 40_000 + port))
}

fn headers(packet: &[u8]) -> Option<(Ip, Tcp)> {
    let ip = Ip::parse(packet).ok()?;
    let tcp = Tcp::parse(ip.payload(packet)).ok()?;
    Some((ip, tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_of_each_flow_is_taken() {
        let mut table = Flows::new(600);
        assert_eq!(table.flows.len(), 600);
        assert!((0..2000).all(|_| table.carry() == Some(PAYLOAD)));
    }

    #[test]
    fn a_flow_more_comes_and_goes() {
        let mut hot = open(10);
        assert!((0..100).all(|_| hot.turn() == Some(1)));
    }
}
