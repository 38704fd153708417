//! A super-packet cut into wire packets, in place.
//!
//! Every segment's header is written directly before its payload, over the tail of the payload
//! before, which by then has been used: nothing but headers is ever moved.

use super::{Offload, SuperPacket};
use crate::packet::{Ip, Malformed, Sum, Tcp, Udp, protocol, tcp_flags};

/// Bytes of IP and transport header that a super-packet may have: IPv6 with some extension headers
/// and full TCP options fit.
const MAX_HEADER: usize = 256;

/// Why a super-packet cannot be cut; each is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SplitError {
    /// The IP or transport header does not fit the bytes.
    #[error("malformed header: {0}")]
    Malformed(#[from] Malformed),
    /// The offload names another protocol or family than the packet has.
    #[error("offload does not match the packet")]
    Mismatch,
    /// A fragment cannot be a super-packet.
    #[error("fragmented super-packet")]
    Fragment,
    /// Headers of more than 256 bytes.
    #[error("headers too long")]
    HeaderTooLong,
    /// Segments of zero bytes.
    #[error("zero segment size")]
    ZeroSegment,
    /// The checksum field lies outside the packet.
    #[error("checksum field out of range")]
    ChecksumRange,
}

/// The wire packets of a super-packet, one at a time.
///
/// Each has right lengths and full checksums. The bytes of the super-packet are used up on the way.
#[derive(Debug)]
pub struct Segments<'a> {
    bytes: &'a mut [u8],
    plan: Plan,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one lives on the stack per super-packet")]
enum Plan {
    /// One packet, already complete.
    Single,
    /// Cut by the template.
    Cut(Template),
    Done,
}

#[derive(Debug)]
struct Template {
    header: [u8; MAX_HEADER],
    header_len: usize,
    ip_len: usize,
    is_v4: bool,
    is_tcp: bool,
    segment_size: usize,
    /// First payload byte not yet handed out.
    at: usize,
    index: u16,
    /// The sum of addresses and protocol; lengths are added per segment.
    pseudo: Sum,
}

impl<'a> Segments<'a> {
    /// Checks the packet against its offload and gets ready to cut it; a partial checksum is
    /// completed here.
    ///
    /// # Errors
    /// [`SplitError`]; the packet must be dropped.
    #[inline]
    pub fn new(packet: SuperPacket<'a>) -> Result<Self, SplitError> {
        let SuperPacket { bytes, offload } = packet;
        let ip = Ip::parse(bytes)?;
        let bytes = bytes.get_mut(..ip.total_len).ok_or(Malformed::TotalLength)?;
        let (segment_size, is_v4, is_tcp) = match offload {
            Offload::None => return Ok(Self { bytes, plan: Plan::Single }),
            Offload::Checksum { start, offset } => {
                // Below the header's end it would change where the packet goes, after that was
                // decided.
                if usize::from(start) < ip.header_len {
                    return Err(SplitError::ChecksumRange);
                }
                complete_checksum(bytes, start, offset)?;
                return Ok(Self { bytes, plan: Plan::Single });
            }
            Offload::Tcp4 { segment_size } => (segment_size, true, true),
            Offload::Tcp6 { segment_size } => (segment_size, false, true),
            Offload::Udp4 { segment_size } => (segment_size, true, false),
            Offload::Udp6 { segment_size } => (segment_size, false, false),
        };
        let template = Template::new(&ip, bytes, usize::from(segment_size), is_v4, is_tcp)?;
        Ok(Self { bytes, plan: Plan::Cut(template) })
    }

    /// How many segments are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        match &self.plan {
            Plan::Single => 1,
            Plan::Cut(template) => template.remaining(self.bytes.len()),
            Plan::Done => 0,
        }
    }

    /// The length of the longest segment in bytes.
    #[must_use]
    pub fn max_len(&self) -> usize {
        match &self.plan {
            Plan::Cut(template) => self.bytes.len().min(template.header_len + template.segment_size),
            Plan::Single | Plan::Done => self.bytes.len(),
        }
    }

    /// The next wire packet; its bytes may be changed, they are not read again.
    #[inline]
    pub fn next_segment(&mut self) -> Option<&mut [u8]> {
        match &mut self.plan {
            Plan::Single => {
                self.plan = Plan::Done;
                Some(self.bytes)
            }
            Plan::Cut(template) => template.cut(self.bytes),
            Plan::Done => None,
        }
    }
}

impl Template {
    fn new(
        ip: &Ip,
        bytes: &[u8],
        segment_size: usize,
        is_v4: bool,
        is_tcp: bool,
    ) -> Result<Self, SplitError> {
        let (wanted, checksum_at) = if is_tcp { (protocol::TCP, 16) } else { (protocol::UDP, 6) };
        if ip.is_v4() != is_v4 || ip.protocol != wanted {
            return Err(SplitError::Mismatch);
        }
        if ip.fragment.is_some() {
            return Err(SplitError::Fragment);
        }
        if segment_size == 0 {
            return Err(SplitError::ZeroSegment);
        }
        let payload = ip.payload(bytes);
        let transport_len = if is_tcp {
            Tcp::parse(payload)?.header_len
        } else {
            payload.get(..Udp::HEADER_LEN).ok_or(Malformed::Short)?.len()
        };
        let header_len = ip.header_len + transport_len;
        let mut header = [0; MAX_HEADER];
        let place = header.get_mut(..header_len).ok_or(SplitError::HeaderTooLong)?;
        place.copy_from_slice(bytes.get(..header_len).ok_or(Malformed::Short)?);
        // Both checksum fields are summed as zero below.
        zero_word(&mut header, ip.header_len + checksum_at);
        if is_v4 {
            zero_word(&mut header, 10);
        }
        let pseudo = Sum::new().pseudo_header(ip.src, ip.dst, ip.protocol, 0);
        let ip_len = ip.header_len;
        Ok(Self { header, header_len, ip_len, is_v4, is_tcp, segment_size, at: header_len, index: 0, pseudo })
    }

    fn remaining(&self, len: usize) -> usize {
        let left = len.saturating_sub(self.at).div_ceil(self.segment_size);
        // A super-packet without payload is one packet.
        if self.index == 0 { left.max(1) } else { left }
    }

    #[inline]
    fn cut<'b>(&mut self, bytes: &'b mut [u8]) -> Option<&'b mut [u8]> {
        if self.index > 0 && self.at >= bytes.len() {
            return None;
        }
        let end = bytes.len().min(self.at + self.segment_size);
        let is_last = end == bytes.len();
        let packet = bytes.get_mut(self.at - self.header_len..end)?;
        packet.get_mut(..self.header_len)?.copy_from_slice(self.header.get(..self.header_len)?);
        self.fix_ip(packet)?;
        if self.is_tcp {
            self.fix_tcp(packet, is_last)?
        } else {
            self.fix_udp(packet)?
        }
        self.index = self.index.wrapping_add(1);
        self.at = end;
        Some(packet)
    }

    #[inline]
    fn fix_ip(&self, packet: &mut [u8]) -> Option<()> {
        let total_len = u16::try_from(packet.len()).ok()?;
        if self.is_v4 {
            let ip = packet.get_mut(..self.ip_len)?;
            let id = read_word(ip, 4)?.wrapping_add(self.index);
            write_word(ip, 2, total_len)?;
            write_word(ip, 4, id)?;
            let checksum = Sum::new().bytes(ip).checksum();
            write_word(ip, 10, checksum)
        } else {
            write_word(packet, 4, total_len.checked_sub(40)?)
        }
    }

    #[inline]
    fn fix_tcp(&self, packet: &mut [u8], is_last: bool) -> Option<()> {
        let segment = packet.get_mut(self.ip_len..)?;
        let length = segment.len();
        let header: &mut [u8; 20] = segment.first_chunk_mut()?;
        let advance = u32::try_from(self.at - self.header_len).ok()?;
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]).wrapping_add(advance);
        [header[4], header[5], header[6], header[7]] = sequence.to_be_bytes();
        if !is_last {
            header[13] &= !(tcp_flags::FIN | tcp_flags::PSH);
        }
        if self.index > 0 {
            header[13] &= !tcp_flags::CWR;
        }
        let checksum = self.pseudo.word(u16::try_from(length).ok()?).bytes(segment).checksum();
        write_word(segment, 16, checksum)
    }

    #[inline]
    fn fix_udp(&self, packet: &mut [u8]) -> Option<()> {
        let datagram = packet.get_mut(self.ip_len..)?;
        let length = u16::try_from(datagram.len()).ok()?;
        write_word(datagram, 4, length)?;
        let checksum = self.pseudo.word(length).bytes(datagram).checksum();
        write_word(datagram, 6, if checksum == 0 { 0xffff } else { checksum })
    }
}

/// Replaces the pseudo-header sum in the checksum field by the whole checksum.
fn complete_checksum(packet: &mut [u8], start: u16, offset: u16) -> Result<(), SplitError> {
    let covered = packet.get_mut(usize::from(start)..).ok_or(SplitError::ChecksumRange)?;
    let field = usize::from(offset);
    if covered.len() < field.saturating_add(2) {
        return Err(SplitError::ChecksumRange);
    }
    let checksum = Sum::new().bytes(covered).checksum();
    // Only UDP reads zero as "no checksum"; its field is the one at offset 6.
    let checksum = if checksum == 0 && offset == 6 { 0xffff } else { checksum };
    write_word(covered, field, checksum).ok_or(SplitError::ChecksumRange)
}

#[inline]
fn read_word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

#[inline]
pub(super) fn write_word(bytes: &mut [u8], at: usize, word: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = word.to_be_bytes();
    Some(())
}

fn zero_word(bytes: &mut [u8], at: usize) {
    let _ = write_word(bytes, at, 0);
}
