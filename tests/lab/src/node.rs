//! A node: one network namespace with a mount namespace of its own, and what can be done inside it.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::enter::{self, Entry, RawPackets, User};
use crate::process::Process;
use crate::spawner::Spawner;

/// How long [`Node::run`] and [`Node::output`] wait for a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// One machine of a lab. Clones are the same machine.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    pid: u32,
    net: File,
    mount: File,
    directory: PathBuf,
    spawner: Arc<Spawner>,
    holder: std::sync::Mutex<Child>,
    processor: OnceLock<usize>,
}

/// Sends raw packets out of one interface of a node.
#[derive(Debug)]
pub struct PacketSocket(RawPackets);

impl PacketSocket {
    /// Sends one packet as it is, its IP header first.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        Ok(self.0.send(packet)?)
    }
}

/// A command prepared for one node, with the options that only matter inside a namespace.
#[derive(Debug)]
pub struct NodeCommand {
    node: Node,
    command: Command,
    user: Option<User>,
    limit: Duration,
    directory: PathBuf,
    program: String,
}

impl Node {
    /// Makes the namespaces. `directory` is the node's folder for files and logs.
    pub(crate) fn create(spawner: &Arc<Spawner>, name: &str, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let mut command = Command::new("sleep");
        command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        enter::hold_new_namespaces(&mut command);
        let holder = spawner.spawn(command).with_context(|| format!("namespaces of {name}"))?;
        let pid = holder.id();
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
        let (net, mount) = (open("net")?, open("mnt")?);
        let node = Self(Arc::new(Inner {
            name: name.to_owned(),
            pid,
            net,
            mount,
            directory: directory.to_owned(),
            spawner: Arc::clone(spawner),
            holder: std::sync::Mutex::new(holder),
            processor: OnceLock::new(),
        }));
        node.ip("link set lo up")?;
        // Addresses are usable at once: no one else can have them.
        node.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        node.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(node)
    }

    /// The node's name in the topology.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The node's own folder, outside its namespaces: configuration, keys, captured output.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The path of this node's network namespace, for any program.
    pub fn network_path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.pid)
    }

    /// Prepares a program, by name or path, to run here in the node's own folder.
    pub fn command(&self, program: impl AsRef<OsStr>) -> NodeCommand {
        let program = program.as_ref();
        NodeCommand {
            node: self.clone(),
            command: Command::new(program),
            user: None,
            limit: COMMAND_LIMIT,
            directory: self.0.directory.clone(),
            program: program.to_string_lossy().into_owned(),
        }
    }

    /// Gives what is started here from now on one processor alone, by its number, as a machine with
    /// one core has it; only the first call counts.
    pub fn pin(&self, processor: usize) {
        self.0.processor.get_or_init(|| processor);
    }

    /// Runs a command line (split at spaces, no quoting) to its end and returns its standard
    /// output; failure to start, a non-zero exit and more than 60 seconds are errors that quote its
    /// output.
    pub fn run(&self, line: &str) -> Result<String> {
        self.line(line)?.run()
    }

    /// As [`Node::run`], but any exit status is an answer.
    pub fn output(&self, line: &str) -> Result<Output> {
        self.line(line)?.output()
    }

    /// Runs a shell script to its end and returns its standard output.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.command("sh").args(["-euc", script]).run()
    }

    /// Applies lines of `ip -batch`, separated by newlines.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.command("ip").args(["-batch", "-"]).run_with_input(batch.as_bytes()).map(drop)
    }

    /// Applies a script of nftables in one transaction.
    pub fn nft(&self, script: &str) -> Result<()> {
        self.command("nft").args(["-f", "-"]).run_with_input(script.as_bytes()).map(drop)
    }

    /// Sets a network sysctl of this namespace, for example `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.within(|| fs::write(&path, value))?.with_context(|| format!("{}: {path}={value}", self.name()))
    }

    /// Reads a network sysctl of this namespace.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        Ok(self.within(|| fs::read_to_string(&path))??.trim().to_owned())
    }

    /// Runs a closure on a short-lived thread inside the network namespace (not the mount
    /// namespace); sockets that it opens stay in the namespace wherever they are used later.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| enter::enter_network(&self.0.net).map(|()| work()));
            let entered = inside.join().map_err(|_| anyhow!("a closure panicked inside {}", self.name()))?;
            entered.with_context(|| format!("entering {}", self.name()))
        })
    }

    /// Listens on TCP inside the node.
    pub fn tcp_listener(&self, address: &str) -> Result<TcpListener> {
        self.within(|| TcpListener::bind(address))?
            .with_context(|| format!("{}: listen on {address}", self.name()))
    }

    /// Connects by TCP from the node, waiting no longer than `limit`.
    pub fn tcp_connect(&self, address: &str, limit: Duration) -> Result<TcpStream> {
        let target: SocketAddr = address.parse()?;
        self.within(|| TcpStream::connect_timeout(&target, limit))?
            .with_context(|| format!("{}: connect to {address}", self.name()))
    }

    /// Binds a UDP socket inside the node.
    pub fn udp_socket(&self, address: &str) -> Result<UdpSocket> {
        self.within(|| UdpSocket::bind(address))?.with_context(|| format!("{}: bind {address}", self.name()))
    }

    /// Opens a socket that sends raw IP packets, malformed ones included, out of an interface;
    /// `neighbour` is the node and interface at the other end of a veth pair, and `None` for a TUN.
    pub fn packet_socket(&self, interface: &str, neighbour: Option<(&Self, &str)>) -> Result<PacketSocket> {
        let mac = neighbour.map(|(node, name)| node.mac_address(name)).transpose()?;
        let name = CString::new(interface)?;
        let socket = self.within(|| RawPackets::open(&name, mac))?;
        Ok(PacketSocket(socket.with_context(|| format!("{}: packets on {interface}", self.name()))?))
    }

    fn mac_address(&self, interface: &str) -> Result<[u8; 6]> {
        let text = self.run(&format!("ip -json link show {interface}"))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let address = links.pointer("/0/address").and_then(serde_json::Value::as_str);
        let bytes: Result<Vec<u8>, _> =
            address.unwrap_or_default().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes?.try_into().map_err(|_| anyhow!("{interface} has no MAC address"))
    }

    /// Gives the node its own `/etc/hosts`-like file: later writes to the returned path change what
    /// it reads.
    pub fn shadow_file(&self, path: &str, text: &str) -> Result<PathBuf> {
        let own = self.0.directory.join(path.trim_start_matches('/').replace('/', "_"));
        fs::write(&own, text)?;
        self.command("mount").arg("--bind").arg(&own).arg(path).run()?;
        Ok(own)
    }

    fn line(&self, line: &str) -> Result<NodeCommand> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        Ok(self.command(program).args(words))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(holder) = self.holder.get_mut() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

impl NodeCommand {
    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs as this user and group, with no supplementary groups; the kernel then clears every
    /// effective capability.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some(User { uid, gid });
        self
    }

    /// Waits this long, instead of 60 seconds, for the command to end.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end; a non-zero exit is an error that quotes standard error.
    pub fn run(self) -> Result<String> {
        self.run_with_input(&[])
    }

    /// As [`NodeCommand::run`], with bytes on standard input.
    pub fn run_with_input(self, input: &[u8]) -> Result<String> {
        let described = format!("{}: {:?}", self.node.name(), self.command);
        let output = self.output_with_input(input)?;
        ensure!(
            output.status.success(),
            "{described}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs to the end; any exit status is an answer.
    pub fn output(self) -> Result<Output> {
        self.output_with_input(&[])
    }

    fn output_with_input(mut self, input: &[u8]) -> Result<Output> {
        let described = format!("{}: {:?}", self.node.name(), self.command);
        let limit = self.limit;
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.start()?;
        let pid = child.id();
        let mut stdin = child.stdin.take().context("no standard input")?;
        let (done, finished) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = stdin.write_all(input);
                drop(stdin);
                let _ = done.send(child.wait_with_output());
            });
            match finished.recv_timeout(limit) {
                Ok(output) => output.context(described),
                Err(_) => {
                    let _ = enter::kill(pid, libc::SIGKILL);
                    bail!("{described}: not finished after {limit:?}")
                }
            }
        })
    }

    /// Starts a process that goes on running; its output is captured in the node's folder as
    /// `NAME.log`.
    pub fn spawn(mut self, name: &str) -> Result<Process> {
        let log = self.node.directory().join(format!("{name}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let begins = usize::try_from(file.metadata()?.len())?;
        self.command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let described = format!("{} on {}", name, self.node.name());
        let child = self.start()?;
        Ok(Process::new(described, child, log, begins))
    }

    fn start(mut self) -> Result<Child> {
        let directory = CString::new(self.directory.as_os_str().as_bytes())?;
        let inner = &self.node.0;
        let entry = Entry {
            net: inner.net.as_raw_fd(),
            mount: inner.mount.as_raw_fd(),
            user: self.user,
            processor: inner.processor.get().copied(),
        };
        enter::enter_before_exec(&mut self.command, entry, directory);
        inner
            .spawner
            .spawn(self.command)
            .with_context(|| format!("{}: cannot start {}", inner.name, self.program))
    }
}

/// Reads a stream to its end, up to `limit` bytes.
pub fn read_all(stream: &mut TcpStream, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
