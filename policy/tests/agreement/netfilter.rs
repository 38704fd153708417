//! Netfilter's counters and tracked flows, read over netlink: with one packet a millisecond there
//! is no time to start a process for each.

use std::collections::BTreeMap;
use std::io::Read;

use socket2::{Domain, Protocol, Socket, Type};

/// `AF_NETLINK` and `NETLINK_NETFILTER` (netlink(7)).
const NETLINK: i32 = 16;
const NETFILTER: i32 = 12;
/// Subsystem and message (linux/netfilter/nfnetlink.h, nf_tables.h, nfnetlink_conntrack.h).
const ONE_OBJECT: u16 = 10 << 8 | 18;
const OBJECTS: u16 = 10 << 8 | 19;
const FORGET_FLOWS: u16 = 1 << 8 | 2;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// Flags: a request, with an acknowledgement, for everything.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// Attributes of an object, and of a counter's data.
const TABLE: u16 = 1;
const NAME: u16 = 2;
const KIND: u16 = 3;
const DATA: u16 = 4;
const PACKETS: u16 = 2;
const COUNTER: u32 = 1;
const INET: u8 = 1;

/// A socket to netfilter in the namespace that it was opened in.
pub(crate) struct Netfilter(Socket);

impl Netfilter {
    pub(crate) fn open() -> Self {
        let socket = Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(NETFILTER))).unwrap();
        Self(socket)
    }

    /// Packets in each named counter of an `inet` table.
    pub(crate) fn counters(&mut self, table: &str) -> BTreeMap<String, u64> {
        let mut attributes = attribute(TABLE, &[table.as_bytes(), &[0]].concat());
        attributes.extend(attribute(KIND, &COUNTER.to_be_bytes()));
        self.send(OBJECTS, REQUEST | DUMP, INET, &attributes);
        let mut counters = BTreeMap::new();
        self.replies(|kind, body| {
            assert_eq!(kind, ONE_OBJECT);
            let object = attributes_of(&body[4..]);
            let name = object[&NAME].split(|&byte| byte == 0).next().unwrap();
            let data = attributes_of(object[&DATA]);
            let packets = u64::from_be_bytes(data[&PACKETS].try_into().unwrap());
            counters.insert(String::from_utf8(name.to_vec()).unwrap(), packets);
        });
        counters
    }

    /// Empties the table of tracked flows.
    pub(crate) fn forget_flows(&mut self) {
        self.send(FORGET_FLOWS, REQUEST | ACKNOWLEDGE, 0, &[]);
        self.replies(|kind, _| panic!("an unexpected answer: {kind}"));
    }

    fn send(&self, kind: u16, flags: u16, family: u8, attributes: &[u8]) {
        let mut message = u32::try_from(20 + attributes.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family, 0, 0, 0]);
        message.extend(attributes);
        self.0.send(&message).unwrap();
    }

    /// Every message of an answer, until its end or acknowledgement.
    fn replies(&mut self, mut each: impl FnMut(u16, &[u8])) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = self.0.read(&mut buffer).unwrap();
            let mut rest = &buffer[..length];
            while rest.len() >= 16 {
                let size = usize::try_from(u32::from_ne_bytes(rest[..4].try_into().unwrap())).unwrap();
                let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
                let body = &rest[16..size];
                match kind {
                    DONE => return,
                    ERROR => {
                        assert_eq!(body[..4], [0; 4], "refused by netfilter");
                        return;
                    }
                    _ => each(kind, body),
                }
                rest = &rest[size.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attributes_of(mut bytes: &[u8]) -> BTreeMap<u16, &[u8]> {
    let mut found = BTreeMap::new();
    while bytes.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes(bytes[..2].try_into().unwrap()));
        // The highest bit means that the attribute has attributes inside.
        let kind = u16::from_ne_bytes(bytes[2..4].try_into().unwrap()) & 0x3fff;
        found.insert(kind, &bytes[4..size]);
        bytes = &bytes[size.next_multiple_of(4).min(bytes.len())..];
    }
    found
}
