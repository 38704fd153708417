//! Sends probes of services through their peers, and takes the replies.

use std::net::SocketAddr;

use super::Node;
use super::locked_peer::LockedPeer;
use super::service_probes::{NotProbed, Taken};
use super::status::Event;
use super::wire::INITIATION_LEN;
use crate::packet::icmp_error::IcmpError;
use crate::packet::{Ip, Tcp, protocol, tcp_flags};
use crate::time::Now;
use crate::transmit::SendQueue;

impl Node {
    /// Probes whether something listens at `target`, by a SYN through the peer that has it; the
    /// result is an [`Event::ServiceProbed`], after two seconds at most. When the session ends
    /// before, there is none.
    ///
    /// # Errors
    /// [`NotProbed`]; then nothing is sent.
    pub fn probe_service(&self, target: SocketAddr, now: Now) -> Result<(), NotProbed> {
        let source = self.interface.source_towards(target.ip()).ok_or(NotProbed::NoAddress)?;
        let table = self.table.load();
        let peer = table.owner(target.ip()).ok_or(NotProbed::NoPeer)?;
        let mut locked = LockedPeer::lock(self, peer, now);
        let has_session = locked.core.session.is_some() && !locked.core.is_expired(now.instant);
        let slot = self.service_slots.take().filter(|_| has_session);
        let begun = match slot {
            Some(slot) => {
                locked.core.service_probes.begin(source, target, slot, now.instant);
                Ok(())
            }
            None if has_session => Err(NotProbed::Busy),
            None => Err(NotProbed::NoSession),
        };
        locked.release();
        begun
    }
}

impl LockedPeer<'_> {
    /// Reports services that did not reply in time, and sends the SYNs that are due.
    pub(super) fn probe_services(&mut self, out: &mut SendQueue) {
        let now = self.now.instant;
        while let Some((target, reply)) = self.core.service_probes.poll_silent(now) {
            self.node.events.push(Event::ServiceProbed { target, reply });
        }
        // What finds no room stays due.
        while out.room() >= INITIATION_LEN
            && let Some(syn) = self.core.service_probes.poll_syn(now)
        {
            self.send_own(&syn.packet(), out);
        }
    }

    /// Takes the reply to a probe of a service, and returns what to answer with. `None` for any
    /// other packet, which goes its way. Kept out of the code that every packet runs through.
    #[cold]
    #[inline(never)]
    pub(super) fn handle_service_reply(&mut self, packet: &[u8]) -> Option<Option<Vec<u8>>> {
        let ip = Ip::parse(packet).ok()?;
        if !self.node.interface.owns(ip.dst) || !ip.transport_checksum_is_valid(packet) {
            return None;
        }
        let probes = &mut self.core.service_probes;
        let Taken { news, reset } = match ip.protocol {
            protocol::TCP => probes.handle_segment(ip.src, ip.dst, &Tcp::parse(ip.payload(packet)).ok()?)?,
            _ => probes.handle_error(&IcmpError::parse(&ip, packet)?)?,
        };
        if let Some((target, reply)) = news {
            self.node.events.push(Event::ServiceProbed { target, reply });
        }
        Some(reset.map(|reset| reset.packet()))
    }
}

/// Whether a packet may be the reply to a SYN: read for every packet of a peer with probes.
#[inline]
pub(super) fn may_answer_a_syn(packet: &[u8]) -> bool {
    let Some(first) = packet.first() else { return false };
    let (next, flags) = if first >> 4 == 4 { (9, usize::from(first & 0x0f) * 4 + 13) } else { (6, 40 + 13) };
    packet.get(next) == Some(&protocol::TCP)
        && packet.get(flags).is_some_and(|flags| flags & (tcp_flags::SYN | tcp_flags::RST) != 0)
}
