//! The interface: a TUN device, an outer socket and a node, configured over the UAPI socket.

use std::io::Read as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use parking_lot::Mutex;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tunnel::device::{CallLog, Device, DeviceEvent, Offloads, Threads};
use tunnel::io::clock;
use tunnel::io::tun::{Tun, TunOffload, TunOptions};
use tunnel::io::udp::{Backend, UdpOptions, UdpSocket};
use tunnel::io::watchdog::end_process_soon;
use tunnel::node::{Node, NodeConfig};
use tunnel::uapi::server::Server;
use tunnel::uapi::{Configure, Errno, Set, Snapshot, apply_to_node};

use crate::{follow, signals};

/// Packets that may wait in the TUN: room for bursts, since the device empties it into a queue of
/// its own at once.
const QUEUE_LENGTH: u16 = 500;
/// The kernel's default MTU of a TUN device; WireGuard's is 80 less.
const DEFAULT_TUN_MTU: u16 = 1500;
const WIREGUARD_MTU: u16 = 1420;
/// What the background process writes to its parent once its socket answers.
const READY: u8 = b'+';
/// Set for the background process alone.
const NOTIFY: &str = "CAUSEWAY_WG_NOTIFY";
/// What to log: `level` and `target=level`, with commas; a background process logs only when this is set.
const LOG: &str = "CAUSEWAY_WG_LOG";

/// Run a plain WireGuard interface in userspace.
#[derive(Parser)]
#[command(name = "causeway-wg", version)]
struct Arguments {
    /// Stay in the foreground.
    #[arg(short = 'f', long)]
    foreground: bool,
    /// Divide the work over threads in this way.
    #[arg(long, value_enum, default_value_t = ThreadChoice::Auto)]
    threads: ThreadChoice,
    /// Use plain sockets, one datagram per call.
    #[arg(long)]
    portable: bool,
    /// Turn these off: any of tun-tcp, tun-udp, udp-gso, udp-gro, busy-poll, separated by commas.
    #[arg(long, value_delimiter = ',')]
    without: Vec<OffloadName>,
    /// Let this many packets wait in the TUN device.
    #[arg(long, default_value_t = QUEUE_LENGTH)]
    queue_length: u16,
    /// Use the interface of this name; create it if there is none.
    name: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ThreadChoice {
    Auto,
    One,
    PerDirection,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OffloadName {
    TunTcp,
    TunUdp,
    UdpGso,
    UdpGro,
    BusyPoll,
}

pub(super) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.foreground { run(&arguments) } else { start_in_background() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-wg: {error:#}");
            let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
            let denied = io.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
            ExitCode::from(if denied { 5 } else { 1 })
        }
    }
}

/// Starts this program again with `-f`, in a session of its own, and waits until it is ready.
fn start_in_background() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.arg("-f").args(std::env::args_os().skip(1)).current_dir("/").env(NOTIFY, "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().context("cannot start in the background")?;
    let mut signal = [0];
    let read = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read(&mut signal))?;
    if read == 1 && signal == [READY] {
        return Ok(());
    }
    let status = child.wait()?;
    // It has written to standard error what is wrong.
    std::process::exit(status.code().unwrap_or(1));
}

/// Logs to standard error what [`LOG`] says, else lines of level info and above.
fn start_log() {
    let default =
        || Targets::new().with_default(LevelFilter::INFO).with_target("boringtun", LevelFilter::OFF);
    let set = std::env::var(LOG).ok().and_then(|written| written.parse().ok());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(set.unwrap_or_else(default)).with(lines).init();
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    start_log();
    let signals = signals::Terminating::block();
    let without = |name| arguments.without.contains(&name);
    let offloads = Offloads {
        tun_tcp: !without(OffloadName::TunTcp),
        tun_udp: !without(OffloadName::TunUdp),
        udp_gso: !without(OffloadName::UdpGso),
        udp_gro: !without(OffloadName::UdpGro),
        busy_poll: !without(OffloadName::BusyPoll),
    };
    let tun = open_tun(arguments, offloads)?;
    let options = UdpOptions {
        backend: if arguments.portable { Backend::Portable } else { Backend::Auto },
        gso: offloads.udp_gso,
        gro: offloads.udp_gro,
        ..UdpOptions::default()
    };
    let name = tun.name().to_owned();
    let (ended, end) = mpsc::channel();
    let interface = Arc::new(Interface::start(tun, options, offloads, arguments, ended.clone())?);
    let server = Server::start(&name, interface.clone())
        .with_context(|| format!("cannot serve {}/{name}.sock", tunnel::uapi::server::DIRECTORY))?;
    follow::start(Arc::clone(&interface))?;
    tracing::info!(name, "interface is up for configuration");
    notify_ready()?;
    signals.forward(ended)?;
    let mut calls = CallLog::default();
    // Ends with a signal, or when the link is deleted; a removed socket ends it too, as wg-quick
    // expects.
    while end
        .recv_timeout(Duration::from_secs(1))
        .is_err_and(|error| error == mpsc::RecvTimeoutError::Timeout)
    {
        calls.check(&interface.device, clock::instant());
        if !server.is_reachable() {
            break;
        }
    }
    let has_failed = interface.device.has_failed();
    drop(server);
    interface.device.stop();
    anyhow::ensure!(!has_failed, "a data thread failed");
    tracing::info!(name, "interface is gone");
    Ok(())
}

fn open_tun(arguments: &Arguments, offloads: Offloads) -> anyhow::Result<Tun> {
    let offload = TunOffload { tcp: offloads.tun_tcp, udp: offloads.tun_udp };
    let options = TunOptions { name: &arguments.name, persistent: false, offload };
    let tun = Tun::open(&options).with_context(|| {
        format!("cannot open the TUN device {:?} (it needs /dev/net/tun and CAP_NET_ADMIN)", arguments.name)
    })?;
    tun.set_queue_length(arguments.queue_length).context("cannot set the queue length")?;
    if tun.mtu()? == DEFAULT_TUN_MTU {
        tun.set_mtu(WIREGUARD_MTU).context("cannot set the MTU")?;
    }
    Ok(tun)
}

/// Notifies the parent that waits, if one does, and detaches from its terminal and pipes.
fn notify_ready() -> anyhow::Result<()> {
    if std::env::var_os(NOTIFY).is_some() {
        rustix::process::setsid()?;
        rustix::io::write(std::io::stdout(), &[READY])?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&null)?;
        if std::env::var_os(LOG).is_none() {
            rustix::stdio::dup2_stderr(&null)?;
        }
    }
    Ok(())
}

/// What `wg` configures.
pub(super) struct Interface {
    pub(super) device: Device,
    options: UdpOptions,
    pub(super) fwmark: Mutex<u32>,
}

impl Interface {
    fn start(
        tun: Tun,
        options: UdpOptions,
        offloads: Offloads,
        arguments: &Arguments,
        ended: mpsc::Sender<()>,
    ) -> anyhow::Result<Self> {
        let socket = UdpSocket::open(&options).context("cannot open the outer socket")?;
        let config = NodeConfig {
            private_key: None,
            addresses: Vec::new(),
            mtu: tun.mtu()?,
            listen_port: socket.local_port()?,
            liveness: None,
            wall_watermark: Duration::ZERO,
        };
        let node = Arc::new(Node::new(config, clock::now()));
        let threads = match arguments.threads {
            ThreadChoice::Auto => Threads::Auto,
            ThreadChoice::One => Threads::One,
            ThreadChoice::PerDirection => Threads::PerDirection,
        };
        let ended_by_fault = ended.clone();
        let on_event = move |event| match event {
            DeviceEvent::Node(event) => tracing::debug!(?event, "node"),
            DeviceEvent::TunGone | DeviceEvent::ThreadFailed(_) => {
                let _ = ended.send(());
            }
        };
        let device = Device::start(node, tun, socket, offloads, threads, on_event)?;
        device.watch(move |fault| {
            tracing::error!("{fault}; the program ends");
            let _ = ended_by_fault.send(());
            end_process_soon();
        })?;
        Ok(Self { device, options, fwmark: Mutex::new(0) })
    }

    /// The new socket that another port or mark needs; it is open before anything is changed.
    fn new_socket(&self, set: &Set, fwmark: u32) -> Result<Option<UdpSocket>, Errno> {
        let port = self.device.socket().local_port()?;
        match set.listen_port {
            // Zero requests any port but the present one, as a new interface would get.
            Some(wanted) if wanted != port => {
                Ok(Some(UdpSocket::open(&UdpOptions { port: wanted, mark: fwmark, ..self.options })?))
            }
            _ => Ok(None),
        }
    }
}

impl Configure for Interface {
    fn snapshot(&self) -> Snapshot {
        let port = self.device.socket().local_port().unwrap_or(0);
        Snapshot::of_node(self.device.node(), port, *self.fwmark.lock(), clock::now())
    }

    fn apply(&self, set: Set) -> Result<(), Errno> {
        // Held throughout, so that two requests never mix.
        let mut fwmark = self.fwmark.lock();
        let wanted = set.fwmark.unwrap_or(*fwmark);
        let socket = self.new_socket(&set, wanted)?;
        if wanted != *fwmark && socket.is_none() {
            self.device.socket().set_mark(wanted)?;
        }
        if let Err(errno) = apply_to_node(self.device.node(), &set, clock::now()) {
            if wanted != *fwmark && socket.is_none() {
                self.device.socket().set_mark(*fwmark)?;
            }
            return Err(errno);
        }
        *fwmark = wanted;
        if let Some(socket) = socket {
            self.device.rebind(socket)?;
        }
        self.device.wake();
        Ok(())
    }
}
