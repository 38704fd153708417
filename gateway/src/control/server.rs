//! The daemon's side of the control socket: who may ask, how much, and how many at once.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::timeout;

use super::protocol::{MAX_LINE, MAX_READER_LINE, Reply, Request};
use crate::exit::Exit;

/// Most clients at once that may only read; the next one is refused, so that it keeps no place from root.
const MAX_READERS: usize = 32;
/// Most clients at once that may write; the next ones wait in the kernel's queue.
const MAX_WRITERS: usize = 16;
/// Most requests of one connection.
const MAX_REQUESTS: usize = 10_000;
/// A client that says nothing for so long is sent away.
const IDLE: Duration = Duration::from_secs(60);

/// Answers requests that are allowed.
pub trait Answer {
    /// The answer to one request; the caller has checked the right to ask it.
    fn answer(&self, request: Request) -> impl Future<Output = Reply>;
}

/// The socket while the daemon serves it; dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Takes the path: a stale socket is replaced, anything else in the way is left alone.
    ///
    /// Mode 0660 and `group`, where it exists and this process may give files to it: connecting is reading, and what
    /// changes something is asked for the caller's uid besides.
    ///
    /// # Errors
    /// `AddrInUse` when a daemon answers there, `AlreadyExists` when something other than a socket is in the way.
    pub fn bind(path: &Path, group: &str) -> io::Result<Self> {
        clear_stale(path)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        let socket = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        if let Some(gid) = group_id(group)
            && let Err(error) = chown(path, None, Some(gid))
        {
            tracing::debug!(group, %error, "the control socket stays with the daemon's own group");
        }
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Serves until the future is dropped. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve<A: Answer + 'static>(&self, answer: Rc<A>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let readers = Arc::new(Semaphore::new(MAX_READERS));
        let writers = Arc::new(Semaphore::new(MAX_WRITERS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: the next client may have better luck.
                    tracing::debug!(%error, "a control client could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(may_write) = may_write(&stream) else { continue };
            let place = if may_write {
                Arc::clone(&writers).acquire_owned().await.ok()
            } else {
                Arc::clone(&readers).try_acquire_owned().ok()
            };
            let Some(place) = place else {
                refuse_busy(&stream);
                continue;
            };
            let answer = Rc::clone(&answer);
            task::spawn_local(async move {
                if let Err(error) = converse(stream, may_write, &*answer).await {
                    tracing::debug!(%error, "a control client went away");
                }
                drop(place);
            });
        }
    }
}

/// Whether the client is root or the daemon's own user.
fn may_write(stream: &UnixStream) -> io::Result<bool> {
    let caller = stream.peer_cred()?.uid();
    Ok(caller == 0 || caller == rustix::process::geteuid().as_raw())
}

/// Says that there is no place; what does not fit into the socket's buffer at once is not waited for.
fn refuse_busy(stream: &UnixStream) {
    let reply = failed(Exit::Failed, format!("{MAX_READERS} clients read already; try again later"));
    if let Ok(mut text) = serde_json::to_vec(&reply) {
        text.push(b'\n');
        drop(stream.try_write(&text));
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

async fn converse(stream: UnixStream, may_write: bool, answer: &impl Answer) -> io::Result<()> {
    let limit = if may_write { MAX_LINE } else { MAX_READER_LINE };
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    for _ in 0..MAX_REQUESTS {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(u64::try_from(limit).unwrap_or(u64::MAX));
        let Ok(got) = timeout(IDLE, bounded.read_until(b'\n', &mut line)).await else { return Ok(()) };
        if got? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n") || line.len() < limit;
        let reply = if whole {
            reply_to(&line, may_write, answer).await
        } else {
            failed(Exit::Usage, format!("a request has at most {limit} bytes"))
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        timeout(IDLE, write.write_all(&text)).await??;
        if !whole {
            return Ok(());
        }
    }
    Ok(())
}

async fn reply_to(line: &[u8], may_write: bool, answer: &impl Answer) -> Reply {
    match serde_json::from_slice::<Request>(line) {
        Ok(request) if request.is_privileged() && !may_write => {
            failed(Exit::Permission, "only root and the daemon's own user may do this; use sudo".to_owned())
        }
        Ok(request) => answer.answer(request).await,
        Err(error) => failed(Exit::Usage, format!("not a request: {error}")),
    }
}

/// A refusal.
#[must_use]
pub fn failed(exit: Exit, message: String) -> Reply {
    Reply::Failed { exit: exit as u8, message }
}

/// Removes a socket that nobody answers on; never anything that is no socket.
fn clear_stale(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket is in the way",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The number of a group in `/etc/group`, which is where a system group of ours would be.
#[must_use]
pub fn group_id(group: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Client;

    use super::super::report::{Health, SCHEMA, Status};
    use super::*;

    struct Fixed;

    impl Answer for Fixed {
        async fn answer(&self, _: Request) -> Reply {
            Reply::Status(Status {
                schema: SCHEMA,
                health: Health::Ok,
                version: "1".to_owned(),
                config: String::new(),
                generation: 1,
                config_in_force: true,
                confirm_within_seconds: None,
                last_apply_ok: true,
                uptime_seconds: 0,
                interface: "gw0".to_owned(),
                peers_up: 0,
                peers: 0,
                leaked_packets: 0,
                trusted: Vec::new(),
                problems: Vec::new(),
            })
        }
    }

    #[test]
    fn a_request_is_answered_on_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let answer = served(&path, |mut client| {
            client.write_all(b"{\"command\":\"status\"}\n").unwrap();
            read_line(&mut client)
        });
        assert!(answer.starts_with("{\"status\":{\"schema\":1"), "{answer}");
        assert!(!path.exists());
    }

    #[test]
    fn nonsense_is_answered_with_a_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let answer = served(&folder.path().join("socket"), |mut client| {
            client.write_all(b"{\"command\":\"explode\"}\n").unwrap();
            read_line(&mut client)
        });
        assert!(answer.contains("\"exit\":2"), "{answer}");
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path, "nobody").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let _live = Socket::bind(&path, "nobody").unwrap();
        assert_eq!(Socket::bind(&path, "nobody").unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn readers_that_hold_every_place_do_not_keep_root_out() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can connect as another user");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (readers, said) = (path.clone(), path.clone());
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (idle, refusal, answer) = served(&path, move |_root| {
            std::fs::set_permissions(&readers, std::fs::Permissions::from_mode(0o666)).unwrap();
            let (idle, mut late) = std::thread::spawn(move || {
                let nobody = rustix::process::Uid::from_raw(65_534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                let idle: Vec<_> = (0..MAX_READERS).map(|_| Client::connect(&readers).unwrap()).collect();
                (idle, Client::connect(&readers).unwrap())
            })
            .join()
            .unwrap();
            let refusal = read_line(&mut late);
            let mut root = Client::connect(&said).unwrap();
            root.write_all(b"{\"command\":\"status\"}\n").unwrap();
            (idle, refusal, read_line(&mut root))
        });
        assert!(refusal.contains("try again later"), "{refusal}");
        assert!(answer.starts_with("{\"status\""), "{answer}");
        drop(idle);
    }

    fn served<T: Send + 'static>(path: &Path, client: impl FnOnce(Client) -> T + Send + 'static) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = path.to_owned();
        task::LocalSet::new().block_on(&runtime, async move {
            let socket = Socket::bind(&path, "nobody").unwrap();
            let asked = task::spawn_blocking(move || client(Client::connect(path).unwrap()));
            tokio::select! {
                _ = socket.serve(Rc::new(Fixed)) => unreachable!("the server does not end"),
                answer = asked => answer.unwrap(),
            }
        })
    }

    fn read_line(client: &mut Client) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while client.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    }
}
