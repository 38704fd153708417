//! From the inner network to the outer one.

use std::net::SocketAddr;

use boringtun::noise::TunnResult;

use super::Node;
use super::core::MAX_WAITING;
use super::locked_peer::{LockedPeer, Output};
use super::status::Verdict;
use super::table::Table;
use super::wire::{DATA_OVERHEAD, INITIATION_LEN};
use crate::offload::{Offload, Segments, SuperPacket};
use crate::packet::{Ip, Udp, protocol};
use crate::reason::DropReason;
use crate::time::Now;
use crate::transmit::SendQueue;

/// Longest packet that is padded: it goes through a buffer on the stack.
const MAX_PADDED: usize = 2048;

impl Node {
    /// Encrypts an inner packet or super-packet for the peer that owns its destination.
    ///
    /// `out` needs room for the packet plus 48 bytes for each of its segments (and 148 for a
    /// handshake); the packet is split in place, its bytes are gone afterwards.
    pub fn handle_inner(&self, now: Now, packet: SuperPacket<'_>, out: &mut SendQueue) -> Verdict {
        let verdict = self.try_inner(now, packet, out);
        if let Verdict::Drop(reason) = verdict {
            self.drops.count(reason);
        }
        verdict
    }

    #[inline]
    fn try_inner(&self, now: Now, packet: SuperPacket<'_>, out: &mut SendQueue) -> Verdict {
        let Ok(ip) = Ip::parse(packet.bytes) else { return Verdict::Drop(DropReason::MalformedInner) };
        let table = self.table.load();
        if ip.protocol == protocol::UDP
            && is_own_outer(self.interface.listen_port(), &table, &ip, packet.bytes)
        {
            return Verdict::Drop(DropReason::RoutingLoop);
        }
        let Some(peer) = table.owner(ip.dst) else { return Verdict::Drop(DropReason::NoPeer) };
        let Ok(segments) = Segments::new(packet) else { return Verdict::Drop(DropReason::MalformedInner) };
        let mut locked = LockedPeer::lock(self, peer, now);
        let verdict = locked.send(segments, ip.ecn(), out);
        locked.release();
        verdict
    }
}

/// Whether a packet is one that our own socket sent: from our port to a peer's endpoint.
fn is_own_outer(listen_port: u16, table: &Table, ip: &Ip, packet: &[u8]) -> bool {
    let Ok(udp) = Udp::parse(ip.payload(packet)) else { return false };
    // The scan is only for packets that already look like ours.
    udp.source_port == listen_port && table.has_endpoint(SocketAddr::new(ip.dst, udp.destination_port))
}

impl LockedPeer<'_> {
    fn send(&mut self, segments: Segments<'_>, ecn: u8, out: &mut SendQueue) -> Verdict {
        if self.core.tunn.is_none() {
            return Verdict::Drop(DropReason::NoSession);
        }
        if self.endpoint.is_none() {
            return Verdict::Drop(DropReason::NoEndpoint);
        }
        self.refresh(out);
        if self.core.session.is_some() {
            self.flush(out);
            self.encrypt(segments, ecn, out)
        } else {
            self.wait(segments, out)
        }
    }

    fn encrypt(&mut self, mut segments: Segments<'_>, ecn: u8, out: &mut SendQueue) -> Verdict {
        let (Some(endpoint), mtu) = (self.endpoint, self.node.interface.mtu()) else {
            return Verdict::Drop(DropReason::NoEndpoint);
        };
        let (wanted, mut datagrams, mut bytes) = (segments.remaining(), 0, 0);
        let mut scratch = [0; MAX_PADDED];
        while let Some(segment) = segments.next_segment() {
            let content = padded(segment, mtu, &mut scratch);
            let Some(slot) = out.slot((content.len() + DATA_OVERHEAD).max(INITIATION_LEN)) else { break };
            let Some(tunn) = self.core.tunn.as_mut() else { break };
            let TunnResult::WriteToNetwork(message) = tunn.encapsulate(content, slot) else { break };
            let written = message.len();
            out.commit(endpoint, ecn, written);
            datagrams += 1;
            bytes += written;
        }
        // The verdict counts one of them itself when none could be sent.
        self.node.drops.count_many(DropReason::SendQueueFull, wanted.saturating_sub(datagrams.max(1)));
        if datagrams == 0 {
            return Verdict::Drop(DropReason::SendQueueFull);
        }
        self.note_data_sent(datagrams, bytes);
        Verdict::Sent { peer: self.peer.id, datagrams }
    }

    /// Encrypts a packet of the node's own for this peer; nothing waits when there is no session.
    pub(super) fn send_own(&mut self, packet: &[u8], out: &mut SendQueue) {
        if self.core.session.is_none() {
            return;
        }
        let mut bytes = packet.to_vec();
        if let Ok(segments) = Segments::new(SuperPacket { bytes: &mut bytes, offload: Offload::None }) {
            self.encrypt(segments, 0, out);
        }
    }

    /// Encrypts one packet of the node's own as it is, unpadded, into a datagram that goes alone.
    pub(super) fn send_own_alone(&mut self, packet: &[u8], dont_fragment: bool, out: &mut SendQueue) {
        let Some(endpoint) = self.endpoint else { return };
        let Some(slot) = out.slot(packet.len() + DATA_OVERHEAD) else { return };
        let Some(tunn) = self.core.tunn.as_mut() else { return };
        let TunnResult::WriteToNetwork(message) = tunn.encapsulate(packet, slot) else { return };
        let written = message.len();
        out.commit_alone(endpoint, written, dont_fragment);
        self.note_data_sent(1, written);
    }

    fn note_data_sent(&mut self, datagrams: usize, bytes: usize) {
        self.peer.stats.add_sent(datagrams, bytes);
        self.core.traffic.note_data_sent(self.now.instant);
    }

    /// Leaves one packet with the `Tunn`, which begins a handshake with it where none is under way.
    ///
    /// While the peer may still confirm a handshake of its own that was answered, that initiation is
    /// not sent: it would cross the confirmation. The `Tunn` repeats it if none comes.
    fn leave_waiting(&mut self, segment: &[u8], out: &mut SendQueue) -> Output {
        let (len, now) = ((segment.len() + DATA_OVERHEAD).max(INITIATION_LEN), self.now.instant);
        let withholds = self.core.opens_at().is_some_and(|at| at > now);
        self.emit_or_withhold(out, len, None, withholds, |tunn, slot| tunn.encapsulate(segment, slot))
    }

    /// Leaves packets with the `Tunn` until there is a session, and requests one.
    fn wait(&mut self, mut segments: Segments<'_>, out: &mut SendQueue) -> Verdict {
        self.core.wanted = true;
        self.follow_wall_clock();
        let (mut kept, mtu) = (0, self.node.interface.mtu());
        let mut scratch = [0; MAX_PADDED];
        while let Some(segment) = segments.next_segment() {
            if self.core.waiting >= MAX_WAITING {
                self.node.drops.count(DropReason::SendQueueFull);
                continue;
            }
            let segment = padded(segment, mtu, &mut scratch);
            if let Output::Full = self.leave_waiting(segment, out) {
                continue;
            }
            self.core.waiting += 1;
            self.core.longest = self.core.longest.max(segment.len());
            kept += 1;
        }
        if kept == 0 { Verdict::Drop(DropReason::NoSession) } else { Verdict::Waiting { peer: self.peer.id } }
    }
}

/// A packet padded with zeros to a multiple of 16 bytes, but never beyond the MTU (WireGuard paper
/// §5.4.6).
#[inline]
fn padded<'a>(packet: &'a [u8], mtu: usize, scratch: &'a mut [u8; MAX_PADDED]) -> &'a [u8] {
    let wanted = packet.len().next_multiple_of(16).min(mtu.max(packet.len()));
    if wanted == packet.len() {
        return packet;
    }
    let Some(target) = scratch.get_mut(..wanted) else { return packet };
    let (copy, zeros) = target.split_at_mut(packet.len());
    copy.copy_from_slice(packet);
    zeros.fill(0);
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_padded_to_sixteen_bytes_but_not_beyond_the_mtu() {
        let length = |len: usize, mtu| padded(&vec![1; len], mtu, &mut [7; MAX_PADDED]).len();

        assert_eq!(length(84, 1420), 96);
        assert_eq!(length(96, 1420), 96);
        assert_eq!(length(1390, 1420), 1392);
        assert_eq!(length(1419, 1420), 1420);
        assert_eq!(length(1420, 1420), 1420);
        assert_eq!(length(1500, 1420), 1500);
        assert_eq!(length(3001, 9000), 3001);
    }

    #[test]
    fn padding_is_zero() {
        let mut scratch = [7; MAX_PADDED];
        assert_eq!(padded(&[1; 20], 1420, &mut scratch)[20..], [0; 12]);
    }
}
