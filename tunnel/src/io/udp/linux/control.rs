//! Control data of a datagram: local side, ECN bits, segment size.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::endpoint::LocalSide;

/// Bytes of control data per message, enough for all that is requested: packet information, class
/// and GRO size take at most 112 bytes.
const SPACE: usize = 192;

/// One message for `sendmmsg`: a whole run, or one datagram of it.
pub(super) struct Outgoing<'a> {
    pub(super) contents: &'a [u8],
    /// Set when the kernel is to segment it.
    pub(super) segment_size: Option<u16>,
    pub(super) to: SocketAddr,
    pub(super) from: Option<LocalSide>,
    pub(super) ecn: u8,
}

/// Room for the control data of one message, aligned as its headers need.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct ControlSpace([u8; SPACE]);

/// Control data that came with a message.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) local: Option<LocalSide>,
    pub(super) ecn: u8,
    pub(super) segment_size: Option<usize>,
}

impl ControlSpace {
    pub(super) const fn new() -> Self {
        Self([0; SPACE])
    }

    /// Offers the whole room to a receive call.
    pub(super) fn attach(&mut self, header: &mut libc::msghdr) {
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = SPACE as _;
    }

    /// Writes what a message to be sent needs; nothing at all for most.
    pub(super) fn write(&mut self, header: &mut libc::msghdr, outgoing: &Outgoing<'_>, is_v6: bool) {
        self.attach(header);
        let mut used = 0;
        if let Some(size) = outgoing.segment_size {
            used += push(header, used, libc::SOL_UDP, libc::UDP_SEGMENT, size);
        }
        match outgoing.from.map(|local| local.address) {
            // The route decides the interface, so that a changed one is followed.
            Some(IpAddr::V4(address)) if !is_v6 => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                used += push(header, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            Some(address) if is_v6 => {
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                    ipi6_ifindex: 0,
                };
                used += push(header, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            _ => {}
        }
        if outgoing.ecn & 3 != 0 {
            let class = i32::from(outgoing.ecn & 3);
            let is_v4 = match outgoing.to.ip() {
                IpAddr::V4(_) => true,
                IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
            };
            let (level, kind) = if is_v4 {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            used += push(header, used, level, kind, class);
        }
        header.msg_controllen = used as _;
    }
}

/// Appends one control message and returns its size; nothing when it does not fit.
fn push<T: Copy>(header: &mut libc::msghdr, used: usize, level: i32, kind: i32, value: T) -> usize {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: both only compute.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size)) };
    if used + space > SPACE {
        return 0;
    }
    // SAFETY: `msg_control` points to `SPACE` writable bytes aligned for a header; `used` is a
    // multiple of that alignment, and header and value end before `SPACE`.
    unsafe {
        let at = header.msg_control.cast::<u8>().add(used).cast::<libc::cmsghdr>();
        (*at).cmsg_level = level;
        (*at).cmsg_type = kind;
        (*at).cmsg_len = length as _;
        libc::CMSG_DATA(at).cast::<T>().write_unaligned(value);
    }
    space
}

impl Control {
    /// The control data that came with a message.
    pub(super) fn read(header: &libc::msghdr) -> Self {
        let mut control = Self::default();
        // SAFETY: the kernel set the control length to what it wrote, so the macros walk whole
        // messages only.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !at.is_null() {
            // SAFETY: `at` is a message inside the control data.
            let message = unsafe { *at };
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: Option<libc::in_pktinfo> = value(at);
                    control.local = info.map(|info| LocalSide {
                        address: IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())),
                        interface: u32::try_from(info.ipi_ifindex).unwrap_or(0),
                    });
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: Option<libc::in6_pktinfo> = value(at);
                    control.local = info.map(|info| LocalSide {
                        address: Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical(),
                        interface: info.ipi6_ifindex,
                    });
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => control.ecn = value::<u8>(at).unwrap_or(0) & 3,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    control.ecn = value::<i32>(at).unwrap_or(0) as u8 & 3;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    control.segment_size = value::<i32>(at).and_then(|size| usize::try_from(size).ok());
                }
                _ => {}
            }
            // SAFETY: as for the first message.
            at = unsafe { libc::CMSG_NXTHDR(header, at) };
        }
        control
    }
}

/// The value of a control message, when it is long enough for the type.
fn value<T: Copy>(at: *const libc::cmsghdr) -> Option<T> {
    // SAFETY: only computes.
    let needed = unsafe { libc::CMSG_LEN(size_of::<T>() as libc::c_uint) } as usize;
    // SAFETY: the caller passes a message inside the control data.
    #[allow(clippy::unnecessary_cast, reason = "musl has another type here")]
    let length = unsafe { (*at).cmsg_len } as usize;
    // SAFETY: the message is long enough for a `T`, a plain structure that any bytes are valid for.
    (length >= needed).then(|| unsafe { libc::CMSG_DATA(at).cast::<T>().read_unaligned() })
}
