//! The daemon's side of the control socket: who may send requests, how large they may be, and how
//! many clients there may be.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
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

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{MAX_LINE, MAX_READER_LINE, Outcome};
use crate::exit::{Exit, ExitError};

/// Most clients at once that may only read; the next one is refused, so that readers never take
/// root's place.
const MAX_READERS: usize = 32;
/// Most clients at once that may write; the next ones wait in the kernel's queue.
const MAX_WRITERS: usize = 16;
/// Most requests of one connection.
const MAX_REQUESTS: usize = 10_000;
/// A client that sends nothing for so long is disconnected.
const IDLE: Duration = Duration::from_secs(60);

/// Answers requests that are allowed.
pub trait Answer {
    /// A request.
    type Request: DeserializeOwned + Serialize;
    /// An answer.
    type Reply: Serialize;

    /// Whether only root and the daemon's own user may ask this.
    fn is_privileged(request: &Self::Request) -> bool;

    /// The answer to one request; the right to ask it was checked.
    fn answer(&self, request: Self::Request) -> impl Future<Output = Result<Self::Reply, ExitError>>;
}

/// Who may connect, which is who may read.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// The daemon's own user and root (mode 0600).
    Owner,
    /// Also this group, where it exists and this process may give files to it (mode 0660).
    Group(&'a str),
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon answers there already.
    #[error("{}: another daemon answers there; stop it, or set another [control] socket", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket has the name.
    #[error("{} is no socket; move it away, or set another [control] socket", .0.display())]
    NoSocket(PathBuf),
    /// From the system.
    #[error("{}: {error}; set [control] socket to a path that this user may write", path.display())]
    System {
        /// Which path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl BindError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Taken(_) | Self::NoSocket(_) => Exit::Conflict,
            Self::System { error, .. } => Exit::of(error),
        }
    }
}

/// The socket while the daemon serves it; dropping it removes the file, unless another process has it.
#[derive(Debug)]
pub struct Socket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
    is_others: Cell<bool>,
}

impl Socket {
    /// Listens at the path: a socket on which no daemon answers is replaced, and anything else with
    /// this name is left alone.
    ///
    /// Whoever may connect may read; for a request that changes something the caller's uid is
    /// checked as well.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(path: &Path, access: Access<'_>) -> Result<Self, BindError> {
        let system = |error| BindError::System { path: path.to_owned(), error };
        clear_stale(path)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(system)?;
        }
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(system)?;
        let socket = Self { listener, path: path.to_owned(), is_others: Cell::new(false) };
        let mode = if matches!(access, Access::Owner) { 0o600 } else { 0o660 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(system)?;
        if let Access::Group(group) = access
            && let Some(gid) = group_id(group)
            && let Err(error) = chown(path, None, Some(gid))
        {
            tracing::debug!(group, %error, "the control socket keeps the daemon's own group");
        }
        socket.listener.set_nonblocking(true).map_err(system)?;
        Ok(socket)
    }

    /// The socket at this path, which another process of the same daemon passed to this one, and has
    /// as well until [`Self::own`].
    #[must_use]
    pub fn passed(path: &Path, descriptor: OwnedFd) -> Self {
        Self { listener: descriptor.into(), path: path.to_owned(), is_others: Cell::new(true) }
    }

    /// No other process has it any more.
    pub fn own(&self) {
        self.is_others.set(false);
    }

    /// The listener, to be passed to another process of the same daemon.
    ///
    /// # Errors
    /// From the system.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Another process serves it from now on: the file stays.
    pub fn leave(&self) {
        self.is_others.set(true);
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until the future is dropped. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// When tokio does not take the listener.
    pub async fn serve<A: Answer + 'static>(&self, answer: Rc<A>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let readers = Arc::new(Semaphore::new(MAX_READERS));
        let writers = Arc::new(Semaphore::new(MAX_WRITERS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, for example: one may be free for the next client.
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
                if let Err(error) = serve_client(stream, may_write, &*answer).await {
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

/// Reports that there are too many clients, if the socket's buffer takes the report at once.
fn refuse_busy(stream: &UnixStream) {
    let reply: Outcome<()> =
        failed(Exit::Failed, format!("{MAX_READERS} clients are connected already; try again later"));
    if let Ok(mut text) = serde_json::to_vec(&reply) {
        text.push(b'\n');
        drop(stream.try_write(&text));
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.is_others.get() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

async fn serve_client<A: Answer>(stream: UnixStream, may_write: bool, answer: &A) -> io::Result<()> {
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

async fn reply_to<A: Answer>(line: &[u8], may_write: bool, answer: &A) -> Outcome<A::Reply> {
    match parse::<A::Request>(line) {
        Ok(request) if A::is_privileged(&request) && !may_write => {
            failed(Exit::Permission, "only root and the daemon's own user may do this; use sudo".to_owned())
        }
        Ok(request) => match answer.answer(request).await {
            Ok(reply) => Outcome::Done(reply),
            Err(error) => failed(error.exit, error.message),
        },
        Err(error) => failed(Exit::Usage, format!("not a request: {error}")),
    }
}

/// Reads a request; one without arguments may have no further field either, which serde does not
/// see. What is null counts as left out.
fn parse<R: DeserializeOwned + Serialize>(line: &[u8]) -> serde_json::Result<R> {
    // From the text, which may have a field twice; a `Value` keeps the last one.
    let request = serde_json::from_slice(line)?;
    let given: Value = serde_json::from_slice(line)?;
    let known = serde_json::to_value(&request)?;
    // serde takes the number of a command for its name.
    if given.get("command").is_some_and(|command| !command.is_string()) {
        return Err(serde::de::Error::custom("`command` is a name"));
    }
    let fields = given.as_object().into_iter().flatten();
    match fields.filter(|(_, value)| !value.is_null()).find(|(key, _)| known.get(key).is_none()) {
        Some((key, _)) => Err(serde::de::Error::custom(format_args!("unknown field `{key}`"))),
        None => Ok(request),
    }
}

fn failed<R>(exit: Exit, message: String) -> Outcome<R> {
    Outcome::Failed { exit: exit as u8, message }
}

/// Removes a socket on which no daemon answers; never anything that is no socket.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    let system = |error| BindError::System { path: path.to_owned(), error };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(system)
        }
        Err(error) => Err(system(error)),
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

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Serialize)]
    #[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
    enum Request {
        Status,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Reply {
        Status { schema: u32 },
    }

    struct Fixed;

    impl Answer for Fixed {
        type Request = Request;
        type Reply = Reply;

        fn is_privileged(_: &Request) -> bool {
            false
        }

        async fn answer(&self, request: Request) -> Result<Reply, ExitError> {
            match request {
                Request::Status => Ok(Reply::Status { schema: 1 }),
            }
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
    fn the_number_of_a_command_is_not_its_name() {
        assert!(parse::<Request>(b"{\"command\":\"status\"}").is_ok());
        assert!(parse::<Request>(b"{\"command\":0}").is_err());
    }

    #[test]
    fn a_request_without_arguments_has_none() {
        for further in ["colour", "schema", "commands"] {
            let line = format!("{{\"command\":\"status\",\"{further}\":1}}");
            let error = parse::<Request>(line.as_bytes()).err().map(|error| error.to_string());
            assert_eq!(error, Some(format!("unknown field `{further}`")));
        }
        assert!(parse::<Request>(b"{\"command\":\"status\"}").is_ok());
        assert!(parse::<Request>(b"{\"command\":\"status\",\"command\":\"status\"}").is_err());
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, Access::Owner), Err(BindError::NoSocket(_))));
        assert!(path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let _live = Socket::bind(&path, Access::Owner).unwrap();
        assert!(matches!(Socket::bind(&path, Access::Owner), Err(BindError::Taken(_))));
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
            let socket = Socket::bind(&path, Access::Group("nobody")).unwrap();
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
