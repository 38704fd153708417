//! The UNIX socket that `wg` looks for.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use zeroize::Zeroizing;

use super::{Configure, Errno, MAX_REQUEST, parse_set};

/// Where `wg` looks for sockets.
pub const DIRECTORY: &str = "/var/run/wireguard";
/// Clients served at a time; a further one is disconnected.
const MAX_CLIENTS: usize = 16;
/// How long a client may be silent, or not read, in the middle of a request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A listening socket with its thread; dropping it stops the thread and removes the socket.
pub struct Server {
    path: PathBuf,
    /// Device and inode of our socket, so that another's is not removed.
    identity: (u64, u64),
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `device` at `DIRECTORY/NAME.sock`.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn start(name: &str, device: Arc<dyn Configure>) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(DIRECTORY)?;
        Self::at(Path::new(DIRECTORY).join(format!("{name}.sock")), device)
    }

    /// Serves `device` at `path`, mode 0600.
    ///
    /// # Errors
    /// `AddrInUse` when a server answers there already, `AlreadyExists` when there is something
    /// that is no socket (it is left alone), or from the system. A socket without a server is
    /// replaced.
    pub fn at(path: PathBuf, device: Arc<dyn Configure>) -> io::Result<Self> {
        clear_stale(&path)?;
        let (listener, metadata) = listen(&path)?;
        let (wake, woken) = UnixStream::pair()?;
        let thread = std::thread::Builder::new()
            .name("cw-uapi".to_owned())
            .spawn(move || accept_until_woken(&listener, &woken, &device))?;
        Ok(Self { path, identity: (metadata.dev(), metadata.ino()), wake, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the socket is still there: `wg` and administrators remove sockets.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The thread ends when the other end of its pair is closed for writing.
        let _ = self.wake.shutdown(std::net::Shutdown::Both);
        if self.is_reachable() {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens at `path`, where the socket appears only once it accepts: `wg` removes one that refuses
/// it, as a socket does between `bind` and `listen`.
fn listen(path: &Path) -> io::Result<(UnixListener, fs::Metadata)> {
    // Not named as `wg` expects, so that it does not look at it.
    let unfinished = path.with_extension("sock.new");
    if let Err(error) = fs::remove_file(&unfinished)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(&unfinished)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))?;
    let metadata = fs::symlink_metadata(&unfinished)?;
    // Unlike a rename, this never replaces what another process put there meanwhile.
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => Ok((listener, metadata)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
    }
}

fn clear_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => fs::remove_file(path),
    }
}

fn accept_until_woken(listener: &UnixListener, woken: &UnixStream, device: &Arc<dyn Configure>) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        if rustix::event::poll(&mut fds, None).is_err() {
            continue;
        }
        if fds.iter().skip(1).any(|fd| !fd.revents().is_empty()) {
            return;
        }
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) => {
                // No descriptors left, for example; the client waits in the backlog meanwhile.
                tracing::debug!(%error, "cannot accept a client");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if clients.fetch_add(1, Ordering::AcqRel) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (device, counted) = (Arc::clone(device), Arc::clone(&clients));
        let spawned = std::thread::Builder::new().name("cw-uapi-client".to_owned()).spawn(move || {
            if let Err(error) = serve(client, &*device) {
                tracing::debug!(%error, "client left");
            }
            counted.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            clients.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Serves one client until it leaves or breaks the protocol.
fn serve(mut client: UnixStream, device: &dyn Configure) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut pending = Zeroizing::new(Vec::new());
    loop {
        let request = match read_request(&mut client, &mut pending)? {
            Some(Ok(request)) => request,
            Some(Err(errno)) => return reply(&mut client, "", Err(errno)),
            None => return Ok(()),
        };
        let (operation, rest) = request.split_once('\n').unwrap_or((&request, ""));
        match operation {
            "get=1" => reply(&mut client, &device.snapshot().write(), Ok(()))?,
            "set=1" => {
                let result = parse_set(rest).and_then(|set| device.apply(set));
                reply(&mut client, "", result)?;
            }
            _ => return reply(&mut client, "", Err(Errno::Protocol)),
        }
    }
}

/// Reads up to an empty line. `None` when the client is done.
fn read_request(
    client: &mut UnixStream,
    pending: &mut Zeroizing<Vec<u8>>,
) -> io::Result<Option<Result<Zeroizing<String>, Errno>>> {
    let mut searched = 0;
    loop {
        let from = pending.get(searched..).unwrap_or_default();
        if let Some(at) = from.windows(2).position(|pair| pair == b"\n\n") {
            let end = searched + at;
            let request = Zeroizing::new(pending.get(..end).unwrap_or_default().to_vec());
            pending.drain(..end + 2);
            return Ok(Some(
                String::from_utf8(request.to_vec()).map(Zeroizing::new).map_err(|_| Errno::Protocol),
            ));
        }
        searched = pending.len().saturating_sub(1);
        if pending.len() > MAX_REQUEST {
            return Ok(Some(Err(Errno::TooBig)));
        }
        let mut chunk = Zeroizing::new([0; 16 << 10]);
        match client.read(&mut *chunk)? {
            0 => return Ok(None),
            read => append(pending, chunk.get(..read).unwrap_or_default()),
        }
    }
}

/// Appends without leaving secrets behind in a block that a growing vector gave up.
fn append(pending: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    if pending.capacity() < pending.len() + more.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((pending.len() + more.len()) * 2));
        larger.extend_from_slice(pending);
        *pending = larger;
    }
    pending.extend_from_slice(more);
}

fn reply(client: &mut UnixStream, lines: &str, result: Result<(), Errno>) -> io::Result<()> {
    client.write_all(lines.as_bytes())?;
    let code = result.map_or_else(Errno::code, |()| 0);
    client.write_all(format!("errno={code}\n\n").as_bytes())
}
