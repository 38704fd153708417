//! What conntrack knows about flows: a dump over ctnetlink, read entry by entry and kept only as
//! far as asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::ctnetlink::{
    DONE, ENTRY, ERROR, FAMILY, Order, attribute, connect, cta, message, number, outcome, request,
};
use super::protocol::{Failure, FailureKind, Flow, FlowQuery};

/// One datagram of a dump; the kernel makes them no larger than what is offered, up to 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// The flows that fit the query, of which those that carried most come in full, and how many there
/// are.
pub(super) fn list(query: &FlowQuery) -> Result<(Vec<Flow>, usize), Failure> {
    let failed = |error: io::Error| Failure::new(FailureKind::Kernel, format!("reading flows: {error}"));
    let socket = connect().map_err(failed)?;
    socket.send(&request(Order::List, query.mark, query.mask), 0).map_err(failed)?;
    let (mut largest, mut matched) = (Largest::new(query.limit), 0);
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        socket.recv(&mut datagram, 0).map_err(failed)?;
        let mut each = |flow: Flow| {
            if query.fits(&flow) {
                matched += 1;
                largest.push(flow);
            }
        };
        if read(&datagram, &mut each).map_err(failed)? {
            return Ok((largest.into_sorted(), matched));
        }
    }
}

/// The flows that carried most of all that were pushed; holds twice as many as are asked for at
/// most.
struct Largest {
    limit: usize,
    flows: Vec<Flow>,
}

impl Largest {
    fn new(limit: usize) -> Self {
        Self { limit, flows: Vec::new() }
    }

    fn push(&mut self, flow: Flow) {
        self.flows.push(flow);
        if self.flows.len() > self.limit.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.flows.sort_by_key(|flow| std::cmp::Reverse(flow.bytes[0].saturating_add(flow.bytes[1])));
        self.flows.truncate(self.limit);
    }

    fn into_sorted(mut self) -> Vec<Flow> {
        self.cut();
        self.flows
    }
}

impl FlowQuery {
    fn fits(&self, flow: &Flow) -> bool {
        let mark = self.marks.is_empty() || self.marks.contains(&flow.mark);
        let ends = [flow.client, flow.listen, flow.target];
        let address = self.address.is_none_or(|address| ends.iter().any(|end| end.ip() == address));
        // Kernels that do not filter by mark themselves give everything.
        flow.mark & self.mask == self.mark && mark && address
    }
}

/// Reads a datagram of the dump; whether it was the last.
fn read(mut datagram: &[u8], each: &mut impl FnMut(Flow)) -> io::Result<bool> {
    while !datagram.is_empty() {
        let (kind, body, rest) = message(datagram).ok_or(io::ErrorKind::InvalidData)?;
        match kind {
            DONE => return Ok(true),
            ERROR => return outcome(body).map(|()| false),
            // Entries that are being torn down may lack a part; they are gone by the time the
            // answer is read.
            ENTRY => body.get(FAMILY..).and_then(flow).into_iter().for_each(&mut *each),
            _ => {}
        }
        datagram = rest;
    }
    Ok(false)
}

fn flow(bytes: &[u8]) -> Option<Flow> {
    let (protocol, client, listen) = tuple(attribute(bytes, cta::TUPLE_ORIG)?)?;
    let (_, target, answered) = tuple(attribute(bytes, cta::TUPLE_REPLY)?)?;
    let long = |outer, inner| {
        let value = attribute(attribute(bytes, outer)?, inner)?;
        number(value, 0).map(u64::from_be_bytes)
    };
    let both = |inner| [cta::COUNTERS_ORIG, cta::COUNTERS_REPLY].map(|way| long(way, inner).unwrap_or(0));
    let tcp = attribute(bytes, cta::PROTOINFO).and_then(|info| attribute(info, cta::PROTOINFO_TCP));
    let state = tcp.and_then(|tcp| attribute(tcp, cta::PROTOINFO_TCP_STATE));
    Some(Flow {
        mark: attribute(bytes, cta::MARK).and_then(|mark| number(mark, 0)).map_or(0, u32::from_be_bytes),
        protocol,
        client,
        listen,
        target,
        answered,
        packets: both(cta::COUNTERS_PACKETS),
        bytes: both(cta::COUNTERS_BYTES),
        started_nanoseconds: long(cta::TIMESTAMP, cta::TIMESTAMP_START),
        tcp_state: state.and_then(|state| state.first().copied()),
    })
}

/// Protocol, source and destination; a protocol without ports has port 0.
fn tuple(bytes: &[u8]) -> Option<(u8, SocketAddr, SocketAddr)> {
    let (addresses, protocol) = (attribute(bytes, cta::TUPLE_IP)?, attribute(bytes, cta::TUPLE_PROTO)?);
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        match attribute(addresses, v4) {
            Some(four) => number::<4>(four, 0).map(|octets| Ipv4Addr::from(octets).into()),
            None => number::<16>(attribute(addresses, v6)?, 0).map(|octets| Ipv6Addr::from(octets).into()),
        }
    };
    let port =
        |kind| attribute(protocol, kind).and_then(|port| number(port, 0)).map_or(0, u16::from_be_bytes);
    let source = SocketAddr::new(address(cta::IP_V4_SRC, cta::IP_V6_SRC)?, port(cta::PROTO_SRC_PORT));
    let destination = SocketAddr::new(address(cta::IP_V4_DST, cta::IP_V6_DST)?, port(cta::PROTO_DST_PORT));
    Some((attribute(protocol, cta::PROTO_NUM)?.first().copied()?, source, destination))
}

#[cfg(test)]
mod tests {
    use super::super::ctnetlink::aligned;
    use super::*;

    #[test]
    fn an_entry_is_read_with_all_its_parts() {
        let mut flows = Vec::new();
        assert!(!read(&sent(ENTRY, &entry()), &mut |flow| flows.push(flow)).unwrap());
        let flow = flows.pop().unwrap();
        assert_eq!((flow.mark, flow.protocol, flow.tcp_state), (0x4357_0001, 6, Some(3)));
        assert_eq!(flow.client, "203.0.113.10:40000".parse().unwrap());
        assert_eq!(flow.listen, "192.0.2.2:443".parse().unwrap());
        assert_eq!(flow.target, "192.168.88.2:8443".parse().unwrap());
        assert_eq!((flow.packets, flow.bytes), ([1, 2], [100, 200]));
        assert_eq!(flow.started_nanoseconds, Some(7));
    }

    #[test]
    fn a_cut_message_is_an_error_and_a_cut_attribute_no_flow() {
        let whole = sent(ENTRY, &entry());
        assert!(read(&whole[..whole.len() - 4], &mut |_| {}).is_err());
        for length in 0..entry().len() {
            let mut count = 0;
            // Wherever the entry is cut, nothing panics, and there is at most one flow.
            let _ = read(&sent(ENTRY, &entry()[..length]), &mut |_| count += 1);
            assert!(count <= 1);
        }
    }

    #[test]
    fn the_end_and_an_error_end_the_dump() {
        assert!(read(&sent(DONE, &[0; 4]), &mut |_| {}).unwrap());
        let error = read(&sent(ERROR, &(-libc::EPERM).to_ne_bytes()), &mut |_| {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn a_query_is_by_service_and_by_any_of_three_addresses() {
        let mut flows = Vec::new();
        read(&sent(ENTRY, &entry()), &mut |flow| flows.push(flow)).unwrap();
        let fits = |marks: &[u32], address: Option<&str>| {
            let address = address.map(|address| address.parse().unwrap());
            let query =
                FlowQuery { mark: 0x4357_0000, mask: 0xffff_0000, marks: marks.to_vec(), address, limit: 1 };
            query.fits(&flows[0])
        };
        assert!(fits(&[], None) && fits(&[0x4357_0001], None) && !fits(&[0x4357_0002], None));
        for known in ["203.0.113.10", "192.0.2.2", "192.168.88.2"] {
            assert!(fits(&[], Some(known)));
        }
        assert!(!fits(&[], Some("203.0.113.11")));
    }

    #[test]
    fn those_that_carried_most_are_kept_wherever_in_the_dump_they_are() {
        let mut flows = Vec::new();
        read(&sent(ENTRY, &entry()), &mut |flow| flows.push(flow)).unwrap();
        for limit in [1, 3, 50, 200] {
            let mut largest = Largest::new(limit);
            // 0, 37, 74 … 99, 36 …: every number below 100 once, in no order.
            for number in 0..100_u64 {
                largest.push(Flow { bytes: [number * 37 % 100, 1_000], ..flows[0].clone() });
                assert!(largest.flows.len() <= 2 * limit);
            }
            let kept: Vec<u64> = largest.into_sorted().iter().map(|flow| flow.bytes[0]).collect();
            let wanted: Vec<u64> = (0..100).rev().take(limit).collect();
            assert_eq!(kept, wanted);
        }
    }

    fn sent(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = [length.to_ne_bytes().to_vec(), kind.to_ne_bytes().to_vec(), vec![0; 10]].concat();
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn entry() -> Vec<u8> {
        let ends = |source: [u8; 4], from: u16, to: [u8; 4], port: u16| {
            let addresses = [attr(1, &source), attr(2, &to)].concat();
            let ports = [attr(1, &[6]), attr(2, &from.to_be_bytes()), attr(3, &port.to_be_bytes())].concat();
            [attr(1, &addresses), attr(2, &ports)].concat()
        };
        let counters = |packets: u64, bytes: u64| {
            [attr(1, &packets.to_be_bytes()), attr(2, &bytes.to_be_bytes())].concat()
        };
        [
            vec![2, 0, 0, 0],
            attr(1, &ends([203, 0, 113, 10], 40_000, [192, 0, 2, 2], 443)),
            attr(2, &ends([192, 168, 88, 2], 8443, [203, 0, 113, 10], 40_000)),
            attr(4, &attr(1, &attr(1, &[3]))),
            attr(8, &0x4357_0001_u32.to_be_bytes()),
            attr(9, &counters(1, 100)),
            attr(10, &counters(2, 200)),
            attr(20, &attr(1, &7_u64.to_be_bytes())),
        ]
        .concat()
    }

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes().to_vec(), kind.to_ne_bytes().to_vec(), value.to_vec()].concat();
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }
}
