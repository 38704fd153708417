//! What the threads do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::backlog::Backlog;
use super::{DeviceEvent, Shared};
use crate::io::tun::{BUFFER_LEN, is_gone};
use crate::io::udp::{ReceiveBatch, UdpSocket};
use crate::io::{Wait, clock};
use crate::offload::Coalescer;
use crate::transmit::SendQueue;

/// Super-packets per round: enough to fill segmented sends, little enough to stay in the cache.
const BATCH: usize = 4;
/// Messages per receive call, when they are short.
const MESSAGES: usize = 16;
/// Bytes above which a packet counts towards the batch: small ones are bounded by the room of the send queue alone.
const LARGE: usize = 4096;
/// Most reads before the next round of encryption: enough to empty the TUN faster than it fills.
const FILL: usize = 64;
/// Room of the send queue: a round of super-packets with what encryption adds.
const SEND_ROOM: usize = BATCH * 72 * 1024;
/// Room for answers: the 256 packets that may wait for a session all go out when it is agreed.
const ANSWER_ROOM: usize = 256 * 1600;
/// Least room for another super-packet of segments of common size.
const SUPER_ROOM: usize = 70 * 1024;
/// Longest sleep of the slow thread: the data threads may start timers that it does not hear of.
const SLOW_TICK: Duration = Duration::from_millis(250);
/// Pause after an error that says nothing about the next call, so that none of them makes a thread spin.
const WEATHER_PAUSE: Duration = Duration::from_millis(10);

/// Whom to tell about events.
pub(super) type OnEvent = Box<dyn FnMut(DeviceEvent) + Send>;

/// A thread's place in [`Shared::seen`].
const TX: usize = 0;
const RX: usize = 1;
const SLOW: usize = 2;
/// The single thread is the only one, so it has the first place.
const ONE: usize = 0;

/// The sending side's own memory.
struct Tx {
    backlog: Backlog,
    out: SendQueue,
}

/// The receiving side's own memory.
struct Rx {
    batch: ReceiveBatch,
    coalescer: Coalescer,
    coalesce: u8,
    out: SendQueue,
}

/// How a round ended.
enum Round {
    /// Something was carried.
    Busy,
    /// There was nothing to carry, or a signal came first.
    Idle,
    /// The TUN was deleted.
    Gone,
}

pub(super) fn run_tx(shared: &Shared) {
    let mut tx = Tx::new();
    let mut socket = Follow::new(shared, TX);
    while socket.follow(shared) {
        match tx.round(shared, &mut socket, Wait::Block) {
            Round::Gone => return shared.give_up(),
            Round::Busy | Round::Idle => {}
        }
    }
}

pub(super) fn run_rx(shared: &Shared) {
    let mut rx = Rx::new(shared);
    let mut socket = Follow::new(shared, RX);
    while socket.follow(shared) {
        match rx.round(shared, &mut socket, Wait::Block) {
            Round::Gone => return shared.give_up(),
            Round::Busy | Round::Idle => {}
        }
    }
}

pub(super) fn run_slow(shared: &Shared, mut on_event: OnEvent) {
    let mut out = SendQueue::with_capacity(ANSWER_ROOM);
    let mut socket = Follow::new(shared, SLOW);
    while socket.follow(shared) {
        let sleep = do_what_is_due(shared, &mut socket, &mut out, &mut on_event);
        std::thread::park_timeout(sleep);
    }
    if shared.gone.load(Ordering::Acquire) {
        on_event(DeviceEvent::TunGone);
    }
}

/// Everything in one thread, woken by whichever side has something.
pub(super) fn run_all(shared: &Shared, mut on_event: OnEvent) {
    let (mut tx, mut rx) = (Tx::new(), Rx::new(shared));
    let mut socket = Follow::new(shared, ONE);
    let mut due = clock::instant();
    while socket.follow(shared) {
        if clock::instant() >= due {
            let sleep = do_what_is_due(shared, &mut socket, &mut tx.out, &mut on_event);
            due = clock::instant().after(sleep);
        }
        let waiting = !tx.backlog.is_empty();
        let sleep = if waiting { Duration::ZERO } else { due.since(clock::instant()) };
        let (tun_ready, udp_ready) = wait_for_either(shared, &socket.socket, sleep);
        let received = if udp_ready { rx.round(shared, &mut socket, Wait::No) } else { Round::Idle };
        let sent = if tun_ready || waiting { tx.round(shared, &mut socket, Wait::No) } else { Round::Idle };
        if matches!(received, Round::Gone) || matches!(sent, Round::Gone) {
            shared.give_up();
        }
    }
    if shared.gone.load(Ordering::Acquire) {
        on_event(DeviceEvent::TunGone);
    }
}

fn wait_for_either(shared: &Shared, socket: &UdpSocket, sleep: Duration) -> (bool, bool) {
    let mut fds = [PollFd::new(&shared.tun, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: i64::try_from(sleep.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(sleep.subsec_nanos()),
    };
    if rustix::event::poll(&mut fds, Some(&timeout)).is_err() {
        return (false, false);
    }
    let [tun, udp] = fds;
    (!tun.revents().is_empty(), !udp.revents().is_empty())
}

/// Runs timers and hands out events; returns how long there is nothing to do.
fn do_what_is_due(
    shared: &Shared,
    socket: &mut Follow,
    out: &mut SendQueue,
    on_event: &mut OnEvent,
) -> Duration {
    let now = clock::now();
    let node = &shared.node;
    if node.poll_timeout().is_some_and(|due| due <= now.instant) {
        node.handle_timeout(now, out);
        socket.flush(shared, out);
    }
    while let Some(event) = node.poll_event() {
        on_event(DeviceEvent::Node(event));
    }
    node.poll_timeout().map_or(SLOW_TICK, |due| due.since(clock::instant()).min(SLOW_TICK))
}

impl Tx {
    fn new() -> Self {
        Self { backlog: Backlog::new(BUFFER_LEN), out: SendQueue::with_capacity(SEND_ROOM) }
    }

    /// Takes in whatever the TUN has, encrypts a batch of it into one queue, and sends that.
    fn round(&mut self, shared: &Shared, socket: &mut Follow, first: Wait) -> Round {
        let end = self.fill(shared, if self.backlog.is_empty() { first } else { Wait::No });
        let (mut packets, mut large, mut now) = (0, 0, None);
        while large < BATCH && self.out.room() >= SUPER_ROOM {
            let Some(packet) = self.backlog.pop() else { break };
            packets += 1;
            large += usize::from(packet.bytes.len() > LARGE);
            shared.node.handle_inner(*now.get_or_insert_with(clock::now), packet, &mut self.out);
        }
        if packets > 0 {
            shared.stats.tx_rounds.add(1);
            shared.stats.tx_packets.add(packets);
            shared.stats.tx_queue_drops.add(self.backlog.take_dropped());
            socket.flush(shared, &mut self.out);
        }
        end
    }

    fn fill(&mut self, shared: &Shared, first: Wait) -> Round {
        let mut wait = first;
        for _ in 0..FILL {
            match shared.tun.receive(self.backlog.landing(), wait) {
                Ok(Some(packet)) => {
                    let (len, offload) = (packet.bytes.len(), packet.offload);
                    self.backlog.push(len, offload);
                }
                Ok(None) => {}
                Err(error) => return read_error(&error, "tun"),
            }
            wait = Wait::No;
        }
        Round::Busy
    }
}

impl Rx {
    fn new(shared: &Shared) -> Self {
        let coalesce = shared.coalesce.load(Ordering::Acquire);
        Self {
            batch: ReceiveBatch::new(MESSAGES),
            coalescer: Coalescer::new(Shared::coalesce_options(coalesce)),
            coalesce,
            out: SendQueue::with_capacity(ANSWER_ROOM),
        }
    }

    /// Receives up to a batch of messages, decrypts and joins what they hold, and writes that to the TUN.
    fn round(&mut self, shared: &Shared, socket: &mut Follow, wait: Wait) -> Round {
        if let Err(error) = socket.socket.receive(&mut self.batch, wait) {
            return read_error(&error, "udp");
        }
        let coalesce = shared.coalesce.load(Ordering::Acquire);
        if coalesce != self.coalesce {
            self.coalesce = coalesce;
            self.coalescer.set_options(Shared::coalesce_options(coalesce));
        }
        let before = self.coalescer.stats();
        let now = clock::now();
        let mut is_gone = false;
        for received in self.batch.iter_mut() {
            if !self.coalescer.has_room() {
                is_gone |= drain(&mut self.coalescer, shared);
            }
            shared.node.handle_received(now, received, &mut self.coalescer, &mut self.out);
        }
        // Answers first: a handshake waits for nobody's packets.
        if !self.out.is_empty() {
            socket.flush(shared, &mut self.out);
        }
        is_gone |= drain(&mut self.coalescer, shared);
        let after = self.coalescer.stats();
        shared.stats.rx_rounds.add(1);
        shared.stats.rx_packets.add((after.packets - before.packets) as usize);
        shared.stats.rx_emitted.add((after.emitted - before.emitted) as usize);
        shared.stats.rx_bad_checksums.add((after.bad_checksums - before.bad_checksums) as usize);
        if is_gone { Round::Gone } else { Round::Busy }
    }
}

/// Writes everything to the TUN; whether it turned out to be gone.
fn drain(coalescer: &mut Coalescer, shared: &Shared) -> bool {
    let mut is_gone = false;
    while let Some((_, packet)) = coalescer.poll_packet() {
        is_gone |= shared.tun.send(packet).is_err();
    }
    is_gone
}

fn read_error(error: &io::Error, from: &str) -> Round {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return Round::Idle;
    }
    if from == "tun" && is_gone(error) {
        return Round::Gone;
    }
    // An error that was queued on a socket, say: the call has taken it off, so the next one may succeed.
    tracing::debug!(%error, from, "read failed");
    std::thread::sleep(WEATHER_PAUSE);
    Round::Idle
}

/// A thread's hold on the socket that is in place.
struct Follow {
    socket: Arc<UdpSocket>,
    generation: u64,
    place: usize,
}

impl Follow {
    fn new(shared: &Shared, place: usize) -> Self {
        // Generation zero is older than any change, so the first call to `follow` loads whatever is there.
        Self { socket: shared.socket.load_full(), generation: 0, place }
    }

    /// Takes up changes; false when the thread is to end.
    fn follow(&mut self, shared: &Shared) -> bool {
        let generation = shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.socket = shared.socket.load_full();
            if let Some(seen) = shared.seen.get(self.place) {
                seen.store(generation, Ordering::Release);
            }
        }
        !shared.stop.load(Ordering::Acquire)
    }

    /// Sends everything queued, waiting for room, through the socket that is in place by then.
    fn flush(&mut self, shared: &Shared, out: &mut SendQueue) {
        let total = out.transmits().len();
        let mut done = 0;
        while done < total {
            done += self.socket.send(out.transmits().skip(done), Wait::Block);
            if done < total && !self.follow(shared) {
                break;
            }
        }
        out.clear();
    }
}
