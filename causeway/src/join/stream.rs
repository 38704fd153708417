//! One TCP connection inside the tunnel, by smoltcp: packets go in and come out, no socket, no
//! clock.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr};
use tunnel::endpoint::PeerId;
use tunnel::sink::InnerSink;
use tunnel::time::Instant;

/// Bytes of each buffer: several messages of either side.
const BUFFER: usize = 32 << 10;
/// Local ports of connections: another one each time, since the edge may still have the one before.
const PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Between segments that ask whether the other end is still there.
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(5);
/// How long an end that does not answer is waited for.
const TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(20);
/// Between attempts while the other end refuses.
const PAUSE: Duration = Duration::from_secs(1);
/// Packets that may wait in each direction.
const MAX_PACKETS: usize = 64;

/// A connection to one address, dialled again until it was open once.
pub(super) struct Stream {
    device: Packets,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    target: SocketAddr,
    was_open: bool,
    /// When it is dialled again, if the other end refused.
    dial_at: Instant,
    /// Bytes that came and are not taken.
    received: Vec<u8>,
    /// Bytes that wait for room in the connection.
    waiting: VecDeque<u8>,
}

impl Stream {
    /// A connection from `own` to `target`, which is in the same network.
    pub(super) fn new(own: IpNetwork, target: SocketAddr, mtu: usize, now: Instant) -> Self {
        let mut device =
            Packets { mtu, incoming: VecDeque::new(), outgoing: VecDeque::new(), slot: Vec::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = fastrand::u64(..);
        let mut interface = Interface::new(config, &mut device, smol(now));
        interface.update_ip_addrs(|addresses| {
            // An interface has room for at least one.
            let _ = addresses.push(IpCidr::new(own.ip().into(), own.prefix()));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(TIMEOUT));
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let (received, waiting) = (Vec::new(), VecDeque::new());
        Self { device, interface, sockets, handle, target, was_open: false, dial_at: now, received, waiting }
    }

    /// Does what is due, and returns the packets to send.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        if !socket.is_open() && !self.was_open && self.dial_at <= now {
            self.dial_at = now.after(PAUSE);
            // It cannot fail: the addresses are given and the socket is closed.
            let _ = socket.connect(self.interface.context(), self.target, fastrand::u16(PORTS));
        }
        self.interface.poll(smol(now), &mut self.device, &mut self.sockets);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        self.was_open |= socket.may_send();
        let mut piece = [0; 2048];
        while self.received.len() < BUFFER
            && let Ok(count @ 1..) = socket.recv_slice(&mut piece)
        {
            self.received.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
        let sent = socket.send_slice(self.waiting.make_contiguous()).unwrap_or_default();
        self.waiting.drain(..sent);
        self.interface.poll(smol(now), &mut self.device, &mut self.sockets);
        self.device.outgoing.drain(..).collect()
    }

    /// How long until [`poll`](Self::poll) has something to do.
    pub(super) fn poll_timeout(&mut self, now: Instant) -> Option<Duration> {
        let delay = self.interface.poll_delay(smol(now), &self.sockets)?;
        Some(Duration::from_micros(delay.total_micros()))
    }

    /// Sends bytes once there is room.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
    }

    /// Bytes that came.
    pub(super) fn received(&self) -> Vec<u8> {
        self.received.clone()
    }

    /// Forgets the first bytes that came.
    pub(super) fn discard(&mut self, count: usize) {
        self.received.drain(..count.min(self.received.len()));
    }

    /// Whether the other end took the connection.
    pub(super) const fn is_open(&self) -> bool {
        self.was_open
    }

    /// Whether it was open and the other end has closed it.
    pub(super) fn is_closed(&self) -> bool {
        let socket = self.sockets.get::<tcp::Socket<'_>>(self.handle);
        self.was_open && !socket.may_recv() && self.received.is_empty()
    }

    /// Whether everything that was sent has arrived.
    pub(super) fn is_flushed(&self) -> bool {
        let socket = self.sockets.get::<tcp::Socket<'_>>(self.handle);
        self.waiting.is_empty() && socket.send_queue() == 0
    }
}

/// The device of smoltcp: two queues of packets.
struct Packets {
    mtu: usize,
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    /// Where the node decrypts to.
    slot: Vec<u8>,
}

impl Device for Packets {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        (self.outgoing.len() < MAX_PACKETS).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let filled = fill(&mut packet);
        self.0.push_back(packet);
        filled
    }
}

impl InnerSink for Stream {
    fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        let device = &mut self.device;
        device.slot.resize(len, 0);
        (device.incoming.len() < MAX_PACKETS).then_some(&mut device.slot)
    }

    fn commit(&mut self, _: PeerId, len: usize, _: u8) {
        let packet = self.device.slot.get(..len).unwrap_or_default().to_vec();
        self.device.incoming.push_back(packet);
    }
}

fn smol(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.since_boot().as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_streams_that_carry_each_others_packets_connect_and_exchange_bytes() {
        let now = |millis: u64| Instant::from_boot(Duration::from_millis(1000 + millis));
        let target: SocketAddr = "10.77.88.1:51899".parse().unwrap();
        let mut dialler = Stream::new("10.77.88.254/24".parse().unwrap(), target, 1280, now(0));
        let mut listener = Stream::new("10.77.88.1/24".parse().unwrap(), target, 1280, now(0));
        let socket = listener.sockets.get_mut::<tcp::Socket<'_>>(listener.handle);
        socket.listen(51_899).unwrap();
        dialler.send(b"key");
        listener.send(b"words");
        for millis in 0..50 {
            listener.device.incoming.extend(dialler.poll(now(millis)));
            dialler.device.incoming.extend(listener.poll(now(millis)));
        }
        assert!(dialler.is_open() && dialler.is_flushed());
        assert_eq!((dialler.received(), listener.received()), (b"words".to_vec(), b"key".to_vec()));
        dialler.discard(5);

        listener.sockets.get_mut::<tcp::Socket<'_>>(listener.handle).close();
        for millis in 50..100 {
            listener.device.incoming.extend(dialler.poll(now(millis)));
            dialler.device.incoming.extend(listener.poll(now(millis)));
        }
        assert!(dialler.is_closed());
    }
}
