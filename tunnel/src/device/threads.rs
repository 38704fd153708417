//! What the threads do.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};

use super::balance::{Balance, Usage};
use super::halves::{ANSWER_ROOM, Follow, Outbox, Round, Rx, Tx};
use super::nap::has_more_due;
use super::{DeviceEvent, Shared, kick};
use crate::busy_poll::BusyPoll;
use crate::io::{Wait, clock};
use crate::time::Instant;

/// Longest sleep of the slow thread: who changes peers from elsewhere may forget to wake it.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// Longest sleep of the leading thread, which is kicked for everything but the receiving side's return.
const LONG: Duration = Duration::from_secs(3600);
const RETURN_TICK: Duration = Duration::from_millis(1);

/// Whom to tell about events.
pub(super) type OnEvent = Box<dyn FnMut(DeviceEvent) + Send>;

/// A thread's place in [`Shared::seen`] and [`Shared::pulses`].
pub(super) const LEADER: usize = 0;
pub(super) const HELPER: usize = 1;
pub(super) const SLOW: usize = 2;

/// What a thread waits for, as the flags of [`Pulse::rest`](crate::progress::Pulse::rest).
pub(super) const FROM_TUN: u8 = 1;
pub(super) const FROM_SOCKET: u8 = 2;
pub(super) const TO_SOCKET: u8 = 4;
/// When a thread wakes that waits until something comes.
pub(super) const NEVER: Instant = Instant::from_boot(Duration::MAX);

/// The receiving side on its way between the leading thread and the one that helps it.
#[derive(Default)]
pub(super) struct Lent {
    rx: Mutex<Option<Box<Rx>>>,
    /// Whether it has a thread of its own all the time.
    pub(super) always: AtomicBool,
    /// Whether the leader wants it back.
    recalled: AtomicBool,
    helper: OnceLock<Thread>,
}

/// The thread that reads the TUN, and the socket too while nobody helps.
struct Leader<'a> {
    shared: &'a Shared,
    socket: Follow,
    tx: Tx,
    /// `None` while it is lent.
    rx: Option<Box<Rx>>,
    /// `None` where there is nobody to help.
    balance: Option<Balance>,
    busy_poll: BusyPoll,
    mask: kick::Mask,
}

/// Carries packets both ways; with `on_event` it also runs the timers, and nobody helps.
pub(super) fn lead(shared: &Shared, mut on_event: Option<OnEvent>) {
    let mut leader = Leader::new(shared, on_event.is_none());
    let mut out = Outbox::new(if on_event.is_some() { ANSWER_ROOM } else { 0 });
    let (mut due, mut ready) = (clock::instant(), (true, true));
    while leader.socket.follow(shared) {
        leader.divide_or_join();
        if let Some(on_event) = &mut on_event
            && (clock::instant() >= due || has_more_due(&shared.node, due))
        {
            due = do_what_is_due(shared, &mut leader.socket, &mut out, on_event);
        }
        ready = match leader.round(ready) {
            Round::Gone => {
                shared.give_up();
                continue;
            }
            Round::Busy => (true, true),
            Round::Idle if on_event.is_none() => leader.wait(LONG),
            Round::Idle if has_more_due(&shared.node, due) => leader.wait(Duration::ZERO),
            Round::Idle => leader.wait(due.since(clock::instant())),
        };
    }
    if let Some(on_event) = &mut on_event {
        tell_gone(shared, on_event);
    }
}

impl<'a> Leader<'a> {
    fn new(shared: &'a Shared, has_helper: bool) -> Self {
        Self {
            shared,
            socket: Follow::new(shared, LEADER),
            tx: Tx::new(),
            rx: Some(Box::new(Rx::new(shared))),
            balance: has_helper.then(|| Balance::new(usage(shared))),
            busy_poll: BusyPoll::default(),
            mask: kick::hold(),
        }
    }

    /// A round of each direction that has something.
    fn round(&mut self, ready: (bool, bool)) -> Round {
        let end = self.carry(ready);
        self.shared.nap.end_early(&self.shared.node);
        if self.tx.was_bulk() || self.rx.as_ref().is_some_and(|rx| rx.was_bulk()) {
            self.busy_poll.handle_bulk();
        }
        end
    }

    fn carry(&mut self, (tun, udp): (bool, bool)) -> Round {
        let received = match &mut self.rx {
            Some(rx) if udp => rx.round(self.shared, &mut self.socket, Wait::No),
            _ => Round::Idle,
        };
        if received == Round::Gone || !tun && !self.tx.is_waiting() {
            return received;
        }
        match self.tx.round(self.shared, &mut self.socket) {
            Round::Idle if self.tx.is_waiting() && !self.tx.is_stuck() => Round::Busy,
            Round::Idle => received,
            sent @ (Round::Busy | Round::Gone) => sent,
        }
    }

    /// Waits until the TUN or the socket has something, or has room again for what was left; tells which.
    fn wait(&mut self, most: Duration) -> (bool, bool) {
        let is_stuck = self.tx.is_stuck();
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.rx.is_some());
        wanted.set(PollFlags::OUT, is_stuck || self.rx.as_ref().is_some_and(|rx| rx.is_stuck()));
        // A queue that cannot be emptied is not filled either.
        let from_tun = if is_stuck { PollFlags::empty() } else { PollFlags::IN };
        let flags = if from_tun.is_empty() { 0 } else { FROM_TUN }
            | if wanted.contains(PollFlags::IN) { FROM_SOCKET } else { 0 }
            | if wanted.contains(PollFlags::OUT) { TO_SOCKET } else { 0 };
        let until = if most == LONG { NEVER } else { clock::instant().after(most) };
        self.socket.pulse.rest(flags, until);
        let mut fds = [PollFd::new(&self.shared.tun, from_tun), PollFd::new(&*self.socket.socket, wanted)];
        let returns = self.rx.is_none() && self.shared.lent.recalled.load(Ordering::Acquire);
        let most = if returns { most.min(RETURN_TICK) } else { most };
        if wait_for(&mut fds, most, self.shared, (&mut self.busy_poll, &self.mask)).is_err() {
            return (false, false);
        }
        let [tun, udp] = fds.map(|fd| fd.revents());
        (!tun.is_empty() || udp.contains(PollFlags::OUT), !udp.is_empty())
    }

    fn divide_or_join(&mut self) {
        let (lent, Some(balance)) = (&self.shared.lent, &mut self.balance) else { return };
        if self.rx.is_none() && lent.recalled.load(Ordering::Acquire) {
            self.rx = lent.rx.lock().take();
            self.shared.stats.joins.add(usize::from(self.rx.is_some()));
        } else if lent.always.load(Ordering::Acquire) {
            self.lend();
        } else if clock::instant() >= balance.due(self.rx.is_none()) {
            match balance.judge(usage(self.shared), self.rx.is_none()) {
                true => self.lend(),
                false => lent.recalled.store(self.rx.is_none(), Ordering::Release),
            }
        }
    }

    /// Gives the receiving side to the helper, if it is not there already.
    fn lend(&mut self) {
        let lent = &self.shared.lent;
        let Some(rx) = self.rx.take() else { return };
        lent.recalled.store(false, Ordering::Release);
        *lent.rx.lock() = Some(rx);
        self.shared.stats.divisions.add(1);
        if let Some(helper) = lent.helper.get() {
            helper.unpark();
        }
    }
}

/// Waits until something is ready, or for `most`; begins by looking where that is allowed and worth while.
fn wait_for(
    fds: &mut [PollFd<'_>],
    most: Duration,
    shared: &Shared,
    (busy_poll, mask): (&mut BusyPoll, &kick::Mask),
) -> io::Result<()> {
    let begin = clock::instant();
    let looks_on = shared.busy_poll.load(Ordering::Relaxed);
    let window = if looks_on { busy_poll.window().min(most) } else { Duration::ZERO };
    let looked = usize::from(!window.is_zero());
    look(fds, window, begin, mask)?;
    if looked > 0 {
        shared.stats.busy_polls.add(1);
        busy_poll.handle_look(clock::instant().since(begin));
    }
    if !any_ready(fds) {
        shared.stats.busy_poll_misses.add(looked);
        kick::poll(fds, most, mask)?;
    }
    busy_poll.handle_wait(clock::instant().since(begin));
    Ok(())
}

/// Looks again and again whether something is ready, for as long as `window` says; whoever else has something to do on this
/// processor goes first.
fn look(fds: &mut [PollFd<'_>], window: Duration, begin: Instant, mask: &kick::Mask) -> io::Result<()> {
    while clock::instant().since(begin) < window {
        std::thread::yield_now();
        kick::poll(fds, Duration::ZERO, mask)?;
        if any_ready(fds) {
            break;
        }
    }
    Ok(())
}

fn any_ready(fds: &[PollFd<'_>]) -> bool {
    fds.iter().any(|fd| !fd.revents().is_empty())
}

fn usage(shared: &Shared) -> Usage {
    let tun = shared.tun.stats();
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(cpu.tv_sec), u32::try_from(cpu.tv_nsec));
    Usage {
        now: clock::instant(),
        cpu: Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)),
        bytes: [
            tun.read_bytes_super.read() + tun.read_bytes_plain.read(),
            tun.written_bytes_super.read() + tun.written_bytes_plain.read(),
        ],
    }
}

/// Does the receiving whenever it is lent, and sleeps meanwhile.
pub(super) fn help(shared: &Shared) {
    kick::accept();
    let lent = &shared.lent;
    // Set before the first look, so that whoever lends later finds somebody to wake.
    let _ = lent.helper.set(std::thread::current());
    let mut socket = Follow::new(shared, HELPER);
    let mut mine: Option<Box<Rx>> = None;
    while socket.follow(shared) {
        let recalled = lent.recalled.load(Ordering::Acquire);
        match &mut mine {
            Some(_) if recalled => *lent.rx.lock() = mine.take(),
            Some(rx) => {
                if rx.round(shared, &mut socket, Wait::Block) == Round::Gone {
                    shared.give_up();
                }
                shared.nap.end_early(&shared.node);
            }
            None if recalled => socket.park(),
            None => {
                mine = lent.rx.lock().take();
                if mine.is_none() {
                    socket.park();
                }
            }
        }
    }
}

pub(super) fn run_slow(shared: &Shared, mut on_event: OnEvent) {
    kick::accept();
    let mut out = Outbox::new(ANSWER_ROOM);
    let mut socket = Follow::new(shared, SLOW);
    while socket.follow(shared) {
        let due = do_what_is_due(shared, &mut socket, &mut out, &mut on_event);
        socket.pulse.rest(0, due);
        shared.nap.take(&shared.node, due);
    }
    tell_gone(shared, &mut on_event);
}

fn tell_gone(shared: &Shared, on_event: &mut OnEvent) {
    if shared.gone.load(Ordering::Acquire) {
        on_event(DeviceEvent::TunGone);
    }
}

/// Runs timers and hands out events; returns until when there is nothing to do.
fn do_what_is_due(shared: &Shared, socket: &mut Follow, out: &mut Outbox, on_event: &mut OnEvent) -> Instant {
    let now = clock::now();
    let node = &shared.node;
    if node.poll_timeout().is_some_and(|due| due <= now.instant) {
        node.handle_timeout(now, &mut out.queue);
        out.flush(shared, socket, Wait::Block, false);
    }
    while let Some(event) = node.poll_event() {
        on_event(DeviceEvent::Node(event));
    }
    let latest = clock::instant().after(SLOW_TICK);
    node.poll_timeout().map_or(latest, |due| due.min(latest))
}
