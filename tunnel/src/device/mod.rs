//! The data plane of the gateway: threads that carry packets between a TUN device, a [`Node`] and a
//! UDP socket.
//!
//! The sending side ([`tx`]) reads super-packets from the TUN, encrypts, and sends in segmented
//! batches; the receiving side ([`rx`]) receives batches, decrypts, coalesces, and writes
//! super-packets. The main thread does both, a round of each in turn, until both directions keep it
//! busy; then a helper takes over the receiving ([`balance`]). While request/response traffic is
//! active it busy-polls for a moment before it sleeps ([`crate::busy_poll`]). The timer thread runs
//! timers and hands out events. There is no queue between the threads; what the TUN has ready waits
//! in a short one that is fair between flows.

mod backlog;
mod balance;
mod calls;
mod interrupt;
mod rx;
mod threads;
mod timer_sleep;
mod tx;
mod unreachable;
mod watch;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::io::counters::counters;
use crate::io::tun::{Tun, TunOffload};
use crate::io::udp::UdpSocket;
use crate::io::watchdog::{self, Watchdog};
use crate::node::{Event, Node};
use crate::offload::CoalesceOptions;
use crate::progress::{Fault, Heartbeat};
use crate::time::Instant;
pub use calls::{Call, CallLog};

/// How long a change may take until every thread has seen it.
const INTERRUPT_LIMIT: Duration = Duration::from_secs(2);

/// The name of the thread that does everything.
const ONE: &str = "cw-one";
/// The names of the threads that share the work, by their place.
const NAMES: [&str; 3] = ["cw-tx", "cw-rx", "cw-timers"];

/// How the work is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// One thread on a machine with one core, else one for packets, which gets a second for the
    /// other direction while both keep it busy, and one for timers.
    #[default]
    Auto,
    /// One thread for everything, timers included: all that one core can use.
    One,
    /// One thread for each direction, and one for timers.
    PerDirection,
}

/// What is done in super-packets and batches; each can be switched while traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// TCP super-packets and partial checksums to and from the TUN.
    pub tun_tcp: bool,
    /// UDP super-packets to and from the TUN, where the kernel has them.
    pub tun_udp: bool,
    /// Segmented sends on the outer socket.
    pub udp_gso: bool,
    /// Joined receives on the outer socket.
    pub udp_gro: bool,
    /// Busy polling for a moment before sleeping, while request/response traffic is active
    /// ([`BusyPoll`](crate::busy_poll::BusyPoll)); never where there is only one processor.
    pub busy_poll: bool,
}

impl Default for Offloads {
    fn default() -> Self {
        Self { tun_tcp: true, tun_udp: true, udp_gso: true, udp_gro: true, busy_poll: true }
    }
}

/// What the device reports to its owner, on its timer thread: a handler must not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// Something the node wants done, logged or counted.
    Node(Event),
    /// The TUN device was deleted; the threads have ended.
    TunGone,
    /// A thread is dead or stuck. Sent by owners to themselves from their handler of faults
    /// ([`Device::watch`]).
    ThreadFailed(Fault),
}

counters! {
    /// What the threads have done since the start.
    DeviceStats {
        /// Rounds of the sending side: each ends in one send call.
        tx_rounds,
        /// Packets and super-packets read from the TUN.
        tx_packets,
        /// Packets and super-packets dropped because their flow held the most of a full queue.
        tx_queue_drops,
        /// ICMP errors for packets that have nowhere to go: no peer, or none that can be reached.
        tx_unreachable,
        /// Rounds of the receiving side: each begins with one receive call.
        rx_rounds,
        /// Packets decrypted.
        rx_packets,
        /// Packets and super-packets handed to the TUN.
        rx_emitted,
        /// Decrypted packets whose own checksum was wrong; they were never joined with others.
        rx_bad_checksums,
        /// Times the receiving side was given to a thread of its own.
        divisions,
        /// Times it was taken back.
        joins,
        /// Sockets that replaced another.
        rebinds,
        /// Waits that began with busy polling.
        busy_polls,
        /// Busy-poll windows that expired without work.
        busy_poll_misses,
    }
}

/// A running device. Dropping it stops the threads and closes what they held.
pub struct Device {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    watchdog: Mutex<Option<Watchdog>>,
}

/// What the threads share.
struct Shared {
    node: Arc<Node>,
    tun: Tun,
    socket: ArcSwap<UdpSocket>,
    /// Raised by every change that threads must notice; `seen` holds the last one each has seen.
    generation: AtomicU64,
    seen: [AtomicU64; 3],
    /// The heartbeats of the threads there are.
    heartbeats: Vec<Arc<Heartbeat>>,
    stop: AtomicBool,
    gone: AtomicBool,
    /// Bit 0: coalesce TCP; bit 1: coalesce UDP.
    coalesce: AtomicU8,
    busy_poll: AtomicBool,
    /// When ICMP errors may leave again, in milliseconds since boot.
    errors_from: AtomicU64,
    switches: Mutex<Offloads>,
    stats: DeviceStats,
    handoff: threads::RxHandoff,
    timer_sleep: timer_sleep::TimerSleep,
}

impl Device {
    /// Starts the threads. `on_event` runs on the timer thread.
    ///
    /// # Errors
    /// When a thread cannot be started, or the TUN refuses the offloads.
    pub fn start(
        node: Arc<Node>,
        tun: Tun,
        socket: UdpSocket,
        offloads: Offloads,
        threads: Threads,
        on_event: impl FnMut(DeviceEvent) + Send + 'static,
    ) -> io::Result<Self> {
        interrupt::install();
        node.set_listen_port(socket.local_port()?);
        let is_one = threads == Threads::One || threads == Threads::Auto && processors() == 1;
        let names: &[_] = if is_one { &[ONE] } else { &NAMES };
        let shared = Arc::new(Shared {
            node,
            tun,
            socket: ArcSwap::from_pointee(socket),
            generation: AtomicU64::new(0),
            seen: [const { AtomicU64::new(0) }; 3],
            heartbeats: names.iter().map(|name| Arc::new(Heartbeat::new(name))).collect(),
            stop: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            coalesce: AtomicU8::new(0),
            busy_poll: AtomicBool::new(false),
            errors_from: AtomicU64::new(0),
            switches: Mutex::new(offloads),
            stats: DeviceStats::default(),
            handoff: threads::RxHandoff::default(),
            timer_sleep: timer_sleep::TimerSleep::default(),
        });
        shared.set_offloads(offloads)?;
        let device = Self { shared, threads: Mutex::new(Vec::new()), watchdog: Mutex::new(None) };
        let on_event: threads::OnEvent = Box::new(on_event);
        if is_one {
            device.spawn(worker::MAIN, move |shared| threads::run_main(shared, Some(on_event)))?;
        } else {
            device.set_threads(threads);
            device.spawn(worker::MAIN, |shared| threads::run_main(shared, None))?;
            device.spawn(worker::RX_HELPER, threads::run_rx_helper)?;
            device.spawn(worker::TIMERS, move |shared| threads::run_timers(shared, on_event))?;
        }
        Ok(device)
    }

    fn spawn(&self, place: usize, run: impl FnOnce(&Shared) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let heartbeat = shared.heartbeat(place);
        let thread = std::thread::Builder::new().name(heartbeat.name().to_owned()).spawn(move || {
            let _life = watchdog::begin(&heartbeat);
            run(&shared);
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// The node the device carries packets for.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.shared.node
    }

    /// The TUN device.
    #[must_use]
    pub fn tun(&self) -> &Tun {
        &self.shared.tun
    }

    /// The outer socket as it is now.
    #[must_use]
    pub fn socket(&self) -> Arc<UdpSocket> {
        self.shared.socket.load_full()
    }

    /// What the threads have done; readable at any time.
    #[must_use]
    pub fn stats(&self) -> &DeviceStats {
        &self.shared.stats
    }

    /// Whether the threads run: false after [`stop`](Self::stop) and after the TUN was deleted.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.shared.stop.load(Ordering::Acquire)
    }

    /// Replaces the outer socket while traffic flows; the old one is closed once no thread uses it.
    ///
    /// # Errors
    /// When the new socket has no port, or cannot send from the address of the old one.
    pub fn rebind(&self, socket: UdpSocket) -> io::Result<()> {
        let port = socket.local_port()?;
        let switches = *self.shared.switches.lock();
        socket.set_offload(switches.udp_gso, switches.udp_gro);
        socket.set_source(self.shared.socket.load().source())?;
        self.shared.socket.store(Arc::new(socket));
        self.shared.node.set_listen_port(port);
        self.shared.stats.rebinds.add(1);
        self.announce();
        Ok(())
    }

    /// Which offloads are wanted; what fell back by itself shows in the sockets' own state.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        *self.shared.switches.lock()
    }

    /// Which offloads this machine supports, whatever is switched on.
    #[must_use]
    pub fn supported_offloads(&self) -> Offloads {
        let (udp_gso, udp_gro) = self.socket().supported_offload();
        let tun_udp = self.tun().supports_udp();
        Offloads { tun_tcp: true, tun_udp, udp_gso, udp_gro, busy_poll: processors() > 1 }
    }

    /// Switches offloads while traffic flows.
    ///
    /// # Errors
    /// When the TUN refuses them.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.shared.set_offloads(offloads)
    }

    /// Answers nothing with an ICMP error before `at`: what has nowhere to go is dropped, so that its
    /// sender tries again instead of giving up.
    pub fn withhold_errors_until(&self, at: Instant) {
        let milliseconds = u64::try_from(at.since_boot().as_millis()).unwrap_or(u64::MAX);
        self.shared.errors_from.store(milliseconds, Ordering::Relaxed);
    }

    /// Changes how the work is divided while traffic flows; a device that was started with one
    /// thread keeps it.
    pub fn set_threads(&self, threads: Threads) {
        self.shared.handoff.always.store(threads == Threads::PerDirection, Ordering::Release);
        self.announce();
    }

    /// Wakes the timer thread, so that it runs the node's timers at once after a change.
    pub fn wake(&self) {
        for thread in self.threads.lock().iter() {
            thread.thread().unpark();
            if thread.thread().name() == Some(ONE) {
                interrupt::interrupt(thread);
            }
        }
    }

    /// Ends the threads and waits for them; called by one of them, as from an event handler, it
    /// does not wait for that.
    ///
    /// After a fault ([`watch`](Self::watch)) it waits for none of them.
    pub fn stop(&self) {
        let watchdog = self.watchdog.lock().take();
        self.shared.stop.store(true, Ordering::Release);
        if watchdog.is_some_and(|watchdog| watchdog.has_failed()) {
            self.threads.lock().clear();
            return;
        }
        self.announce();
        for thread in self.threads.lock().drain(..) {
            if thread.thread().id() == std::thread::current().id() {
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a data thread ended by a panic");
            }
        }
    }

    /// Makes every thread notice a change: interrupts it until it has, since an interruption just
    /// before a system call is lost.
    fn announce(&self) {
        let generation = self.shared.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let threads = self.threads.lock();
        let end = std::time::Instant::now() + INTERRUPT_LIMIT;
        loop {
            let mut all_seen = true;
            for (thread, seen) in threads.iter().zip(&self.shared.seen) {
                let is_other = thread.thread().id() != std::thread::current().id();
                if is_other && seen.load(Ordering::Acquire) < generation && !thread.is_finished() {
                    all_seen = false;
                    thread.thread().unpark();
                    interrupt::interrupt(thread);
                }
            }
            if all_seen || std::time::Instant::now() > end {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn heartbeat(&self, place: usize) -> Arc<Heartbeat> {
        self.heartbeats.get(place).cloned().unwrap_or_default()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.tun.set_offload(TunOffload { tcp: offloads.tun_tcp, udp: offloads.tun_udp })?;
        self.socket.load().set_offload(offloads.udp_gso, offloads.udp_gro);
        self.busy_poll.store(offloads.busy_poll && processors() > 1, Ordering::Relaxed);
        *self.switches.lock() = offloads;
        let udp = offloads.tun_udp && self.tun.has_udp();
        self.coalesce.store(u8::from(offloads.tun_tcp) | u8::from(udp) << 1, Ordering::Release);
        Ok(())
    }

    /// Whether senders get an error at `now` when their packets have nowhere to go.
    fn answers_with_errors(&self, now: Instant) -> bool {
        now.since_boot().as_millis() >= u128::from(self.errors_from.load(Ordering::Relaxed))
    }

    fn coalesce_options(bits: u8) -> CoalesceOptions {
        CoalesceOptions { tcp: bits & 1 != 0, udp: bits & 2 != 0 }
    }

    /// Ends every thread because the TUN is gone.
    fn give_up(&self) {
        self.gone.store(true, Ordering::Release);
        self.stop.store(true, Ordering::Release);
    }
}
