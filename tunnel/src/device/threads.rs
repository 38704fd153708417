//! What the threads do: carry packets, receive, run timers.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};

use super::balance::{Balance, Usage};
use super::rx::Rx;
use super::timer_sleep::has_more_due;
use super::tx::Tx;
use super::worker::{
    FROM_SOCKET, FROM_TUN, MAIN, NEVER, Outbox, REPLY_ROOM, RX_HELPER, Round, TIMERS, TO_SOCKET, Worker,
};
use super::{DeviceEvent, Shared, interrupt};
use crate::busy_poll::BusyPoll;
use crate::io::{Wait, clock};
use crate::time::Instant;

/// Longest sleep of the timer thread: a caller that changes peers may forget to wake it, and after
/// a suspend its sleep goes on for what was left.
const TIMER_TICK: Duration = Duration::from_secs(4);
/// Longest sleep of the main thread, which is interrupted for everything but the receiving side's
/// return.
const LONG: Duration = Duration::from_secs(3600);
const RETURN_TICK: Duration = Duration::from_millis(1);

/// The handler of events.
pub(super) type OnEvent = Box<dyn FnMut(DeviceEvent) + Send>;

/// Passes the receiving side between the main thread and the one that helps it.
#[derive(Default)]
pub(super) struct RxHandoff {
    rx: Mutex<Option<Box<Rx>>>,
    /// Whether the receiving side has a thread of its own all the time.
    pub(super) always: AtomicBool,
    /// Whether the main thread wants it back.
    recalled: AtomicBool,
    helper: OnceLock<Thread>,
}

/// The thread that reads the TUN, and the socket too while it has no helper.
struct Main<'a> {
    shared: &'a Shared,
    worker: Worker,
    tx: Tx,
    /// `None` while the helper has it.
    rx: Option<Box<Rx>>,
    /// `None` where there is no helper.
    balance: Option<Balance>,
    busy_poll: BusyPoll,
    mask: interrupt::Mask,
}

/// Carries packets both ways; with `on_event` it also runs the timers, and has no helper.
pub(super) fn run_main(shared: &Shared, mut on_event: Option<OnEvent>) {
    let mut main = Main::new(shared, on_event.is_none());
    let mut out = Outbox::new(if on_event.is_some() { REPLY_ROOM } else { 0 });
    let (mut due, mut ready) = (clock::instant(), (true, true));
    while main.worker.step(shared) {
        main.divide_or_join();
        if let Some(on_event) = &mut on_event
            && (clock::instant() >= due || has_more_due(&shared.node, due))
        {
            due = do_what_is_due(shared, &mut main.worker, &mut out, on_event);
        }
        ready = match main.round(ready) {
            Round::Gone => {
                shared.give_up();
                continue;
            }
            Round::Busy => (true, true),
            Round::Idle if on_event.is_none() => main.wait(LONG),
            Round::Idle if has_more_due(&shared.node, due) => main.wait(Duration::ZERO),
            Round::Idle => main.wait(due.since(clock::instant())),
        };
    }
    if let Some(on_event) = &mut on_event {
        report_gone(shared, on_event);
    }
}

impl<'a> Main<'a> {
    fn new(shared: &'a Shared, has_helper: bool) -> Self {
        Self {
            shared,
            worker: Worker::new(shared, MAIN),
            tx: Tx::new(),
            rx: Some(Box::new(Rx::new(shared))),
            balance: has_helper.then(|| Balance::new(usage(shared))),
            busy_poll: BusyPoll::default(),
            mask: interrupt::allow_in_poll(),
        }
    }

    /// A round of each direction that has something.
    fn round(&mut self, ready: (bool, bool)) -> Round {
        let end = self.carry(ready);
        self.shared.timer_sleep.end_early(&self.shared.node);
        if self.tx.was_bulk() || self.rx.as_ref().is_some_and(|rx| rx.was_bulk()) {
            self.busy_poll.handle_bulk();
        }
        end
    }

    fn carry(&mut self, (tun, udp): (bool, bool)) -> Round {
        let received = match &mut self.rx {
            Some(rx) if udp => rx.round(self.shared, &mut self.worker, Wait::No, |worker| {
                self.tx.round_if_sparse(self.shared, worker)
            }),
            _ => Round::Idle,
        };
        if received == Round::Gone || !tun && !self.tx.is_waiting() {
            return received;
        }
        match self.tx.round(self.shared, &mut self.worker) {
            Round::Idle if self.tx.is_waiting() && !self.tx.is_stuck() => Round::Busy,
            Round::Idle => received,
            sent @ (Round::Busy | Round::Gone) => sent,
        }
    }

    /// Waits until the TUN or the socket has something, or has room again for what was left;
    /// returns which.
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
        self.worker.heartbeat.begin_wait(flags, until);
        let mut fds = [PollFd::new(&self.shared.tun, from_tun), PollFd::new(&*self.worker.socket, wanted)];
        let returns = self.rx.is_none() && self.shared.handoff.recalled.load(Ordering::Acquire);
        let most = if returns { most.min(RETURN_TICK) } else { most };
        if wait_for(&mut fds, most, self.shared, (&mut self.busy_poll, &self.mask)).is_err() {
            return (false, false);
        }
        let [tun, udp] = fds.map(|fd| fd.revents());
        (!tun.is_empty() || udp.contains(PollFlags::OUT), !udp.is_empty())
    }

    fn divide_or_join(&mut self) {
        let (handoff, Some(balance)) = (&self.shared.handoff, &mut self.balance) else { return };
        if self.rx.is_none() && handoff.recalled.load(Ordering::Acquire) {
            self.rx = handoff.rx.lock().take();
            self.shared.stats.joins.add(usize::from(self.rx.is_some()));
        } else if handoff.always.load(Ordering::Acquire) {
            self.hand_over_rx();
        } else if clock::instant() >= balance.due(self.rx.is_none()) {
            match balance.judge(usage(self.shared), self.rx.is_none()) {
                true => self.hand_over_rx(),
                false => handoff.recalled.store(self.rx.is_none(), Ordering::Release),
            }
        }
    }

    /// Gives the receiving side to the helper, if it is not there already.
    fn hand_over_rx(&mut self) {
        let handoff = &self.shared.handoff;
        let Some(rx) = self.rx.take() else { return };
        handoff.recalled.store(false, Ordering::Release);
        *handoff.rx.lock() = Some(rx);
        self.shared.stats.divisions.add(1);
        if let Some(helper) = handoff.helper.get() {
            helper.unpark();
        }
    }
}

/// Waits until something is ready, or for `most`; begins with busy polling where that is allowed
/// and worth it.
fn wait_for(
    fds: &mut [PollFd<'_>],
    most: Duration,
    shared: &Shared,
    (busy_poll, mask): (&mut BusyPoll, &interrupt::Mask),
) -> io::Result<()> {
    let begin = clock::instant();
    let is_on = shared.busy_poll.load(Ordering::Relaxed);
    let window = if is_on { busy_poll.window().min(most) } else { Duration::ZERO };
    let polled = usize::from(!window.is_zero());
    poll_busily(fds, window, begin, mask)?;
    if polled > 0 {
        shared.stats.busy_polls.add(1);
        busy_poll.handle_poll(clock::instant().since(begin));
    }
    if !any_ready(fds) {
        shared.stats.busy_poll_misses.add(polled);
        interrupt::poll(fds, most, mask)?;
    }
    busy_poll.handle_wait(clock::instant().since(begin));
    Ok(())
}

/// Polls again and again until something is ready, for at most `window`; other threads that want
/// this processor run first.
fn poll_busily(
    fds: &mut [PollFd<'_>],
    window: Duration,
    begin: Instant,
    mask: &interrupt::Mask,
) -> io::Result<()> {
    while clock::instant().since(begin) < window {
        std::thread::yield_now();
        interrupt::poll(fds, Duration::ZERO, mask)?;
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

/// Receives whenever it has the receiving side, and sleeps meanwhile.
pub(super) fn run_rx_helper(shared: &Shared) {
    interrupt::allow();
    let handoff = &shared.handoff;
    // Set before the first look for the receiving side, so that a later handover can wake it.
    let _ = handoff.helper.set(std::thread::current());
    let mut worker = Worker::new(shared, RX_HELPER);
    let mut mine: Option<Box<Rx>> = None;
    while worker.step(shared) {
        let recalled = handoff.recalled.load(Ordering::Acquire);
        match &mut mine {
            Some(_) if recalled => *handoff.rx.lock() = mine.take(),
            Some(rx) => {
                if rx.round(shared, &mut worker, Wait::Block, |_| Round::Idle) == Round::Gone {
                    shared.give_up();
                }
                shared.timer_sleep.end_early(&shared.node);
            }
            None if recalled => worker.park(),
            None => {
                mine = handoff.rx.lock().take();
                if mine.is_none() {
                    worker.park();
                }
            }
        }
    }
}

/// Runs the timers and hands out events.
pub(super) fn run_timers(shared: &Shared, mut on_event: OnEvent) {
    interrupt::allow();
    let mut out = Outbox::new(REPLY_ROOM);
    let mut worker = Worker::new(shared, TIMERS);
    while worker.step(shared) {
        let due = do_what_is_due(shared, &mut worker, &mut out, &mut on_event);
        worker.heartbeat.begin_wait(0, due);
        shared.timer_sleep.sleep(&shared.node, due);
    }
    report_gone(shared, &mut on_event);
}

fn report_gone(shared: &Shared, on_event: &mut OnEvent) {
    if shared.gone.load(Ordering::Acquire) {
        on_event(DeviceEvent::TunGone);
    }
}

/// Runs timers and hands out events; returns until when there is nothing to do.
fn do_what_is_due(shared: &Shared, worker: &mut Worker, out: &mut Outbox, on_event: &mut OnEvent) -> Instant {
    let now = clock::now();
    let node = &shared.node;
    if node.poll_timeout().is_some_and(|due| due <= now.instant) {
        node.handle_timeout(now, &mut out.queue);
        out.flush(shared, worker, Wait::Block, false);
    }
    while let Some(event) = node.poll_event() {
        on_event(DeviceEvent::Node(event));
    }
    let latest = clock::instant().after(TIMER_TICK);
    node.poll_timeout().map_or(latest, |due| due.min(latest))
}
