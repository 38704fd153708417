//! Ends the flows of a service, by the conntrack mark that all of them carry.

use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use super::protocol::{Failure, FailureKind};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` (nfnetlink_conntrack.h).
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`
const FLAGS: u16 = 1 | 4;
/// `CTA_MARK` and `CTA_MARK_MASK`
const ATTRIBUTES: [u16; 2] = [8, 21];
/// `NLMSG_ERROR`, which is also the acknowledgement.
const ERROR: u16 = 2;
/// Header, family, and two attributes of a number each.
const LENGTH: u32 = 16 + 4 + 2 * 8;

/// Deletes every conntrack entry with one of `marks`; entries of others are left alone.
pub(super) fn forget(marks: &[u32]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(FailureKind::Kernel, format!("ending flows: {error}"));
    if marks.contains(&0) {
        // Unmarked flows are everybody else's.
        return Err(Failure::new(FailureKind::Refused, "flows without a mark are not ours to end"));
    }
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
    for &mark in marks {
        delete(&socket, mark).map_err(failed)?;
    }
    Ok(())
}

fn delete(socket: &Socket, mark: u32) -> io::Result<()> {
    socket.send(&request(mark), 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let number = |range: std::ops::Range<usize>| answer.get(range).and_then(|bytes| bytes.try_into().ok());
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match number(16..20).map(i32::from_ne_bytes) {
        Some(0) if kind == Some(ERROR) => Ok(()),
        // There was no such flow.
        Some(code) if kind == Some(ERROR) && code == -libc::ENOENT => Ok(()),
        Some(code) if kind == Some(ERROR) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A deletion without a tuple, which is a flush, filtered by the whole mark.
fn request(mark: u32) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(LENGTH.to_ne_bytes());
    message.extend(DELETE.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    // Sequence and port: one request at a time needs neither.
    message.extend([0; 8]);
    // Any family, version 0, no resource.
    message.extend([0; 4]);
    for (kind, value) in ATTRIBUTES.into_iter().zip([mark, u32::MAX]) {
        message.extend(8_u16.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_says() {
        assert_eq!(request(7).len(), usize::try_from(LENGTH).unwrap());
    }

    #[test]
    fn flows_of_others_are_refused() {
        assert_eq!(forget(&[0x4357_0001, 0]).unwrap_err().kind, FailureKind::Refused);
    }
}
