//! Messages of ctnetlink, as `nfnetlink_conntrack.h` numbers them: what both requests share, and
//! how attributes are read.

use std::io;

use rtnetlink::packet_core::{NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_CTNETLINK << 8`: the kind of an entry, and with the number of a request that of the
/// request.
pub(super) const ENTRY: u16 = 1 << 8;
/// `NLMSG_ERROR`, which is also the acknowledgement, and `NLMSG_DONE`.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
/// Bytes of a message's header, and of the family, version and resource after it.
pub(super) const HEADER: usize = 16;
pub(super) const FAMILY: usize = 4;

/// Attributes of an entry.
pub(super) mod cta {
    pub(crate) const TUPLE_ORIG: u16 = 1;
    pub(crate) const TUPLE_REPLY: u16 = 2;
    pub(crate) const PROTOINFO: u16 = 4;
    pub(crate) const MARK: u16 = 8;
    pub(crate) const COUNTERS_ORIG: u16 = 9;
    pub(crate) const COUNTERS_REPLY: u16 = 10;
    pub(crate) const TIMESTAMP: u16 = 20;
    pub(crate) const MARK_MASK: u16 = 21;

    // Within a tuple, its addresses and its protocol.
    pub(crate) const TUPLE_IP: u16 = 1;
    pub(crate) const TUPLE_PROTO: u16 = 2;
    pub(crate) const IP_V4_SRC: u16 = 1;
    pub(crate) const IP_V4_DST: u16 = 2;
    pub(crate) const IP_V6_SRC: u16 = 3;
    pub(crate) const IP_V6_DST: u16 = 4;
    pub(crate) const PROTO_NUM: u16 = 1;
    pub(crate) const PROTO_SRC_PORT: u16 = 2;
    pub(crate) const PROTO_DST_PORT: u16 = 3;

    // Within the others.
    pub(crate) const PROTOINFO_TCP: u16 = 1;
    pub(crate) const PROTOINFO_TCP_STATE: u16 = 1;
    pub(crate) const COUNTERS_PACKETS: u16 = 1;
    pub(crate) const COUNTERS_BYTES: u16 = 2;
    pub(crate) const TIMESTAMP_START: u16 = 1;
}

/// What is done with the entries of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `IPCTNL_MSG_CT_GET`, of all.
    List,
    /// `IPCTNL_MSG_CT_DELETE`; without a tuple, of all.
    Delete,
}

/// A socket towards the kernel.
pub(super) fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// A request about the entries whose mark, masked, is `mark`.
pub(super) fn request(order: Order, mark: u32, mask: u32) -> Vec<u8> {
    let (number, flags) = match order {
        Order::List => (1, NLM_F_REQUEST | NLM_F_DUMP),
        Order::Delete => (2, NLM_F_REQUEST | NLM_F_ACK),
    };
    // Sequence and port: one request at a time needs neither. Then any family, version 0, no
    // resource.
    let mut body = vec![0; 8 + FAMILY];
    for (kind, value) in [(cta::MARK, mark), (cta::MARK_MASK, mask)] {
        body.extend(8_u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value.to_be_bytes());
    }
    let length = u32::try_from(8 + body.len()).unwrap_or(u32::MAX);
    let head = [&length.to_ne_bytes()[..], &(ENTRY | number).to_ne_bytes(), &flags.to_ne_bytes()];
    [head.concat(), body].concat()
}

/// The kind of a message, its body, and the messages after it.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(number(bytes, 0)?)).ok()?;
    let body = bytes.get(HEADER..length)?;
    Some((u16::from_ne_bytes(number(bytes, 4)?), body, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// What an [`ERROR`] says, which is nothing for an acknowledgement.
pub(super) fn outcome(body: &[u8]) -> io::Result<()> {
    match number(body, 0).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The value of an attribute among those of an entry or of another attribute.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(bytes, 0)?));
        let kind = u16::from_ne_bytes(number(bytes, 2)?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The bytes of a number.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Messages and attributes begin at multiples of four.
pub(super) const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_says_and_names_mark_and_mask() {
        for order in [Order::List, Order::Delete] {
            let request = request(order, 7, 0xffff);
            let (_, body, rest) = message(&request).unwrap();
            assert!(rest.is_empty());
            assert_eq!(attribute(&body[FAMILY..], cta::MARK), Some(&7_u32.to_be_bytes()[..]));
            assert_eq!(attribute(&body[FAMILY..], cta::MARK_MASK), Some(&0xffff_u32.to_be_bytes()[..]));
        }
    }

    #[test]
    fn an_acknowledgement_is_no_error_and_a_cut_one_is() {
        assert!(outcome(&[0; 4]).is_ok());
        assert_eq!(outcome(&(-libc::EPERM).to_ne_bytes()).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(outcome(&[0; 3]).is_err());
    }
}
