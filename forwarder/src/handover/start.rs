//! Before the tunnels are taken over: the old process starts the new one and waits until it is ready.
//!
//! The new process gets its end of the socket as standard input. It is started by a process of the
//! same program that ends at once, so that its parent is the service manager, as it would be after
//! any other start.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::{Descriptors, Exchange, OldProcess};

/// How long the new process may take until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(10);
/// Flows of the old process that the new one keeps apart, whatever `[limits]` was there.
#[cfg(target_os = "linux")]
const MAX_FLOWS: usize = 1 << 18;
/// The environment variable that makes a start take over.
#[cfg(target_os = "linux")]
const VARIABLE: &str = "CAUSEWAY_TAKES_OVER";

/// The installed program, as this process was started, with its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file, which an upgrade replaces.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// That of this process. It must be asked before an upgrade replaces the file.
    ///
    /// # Errors
    /// When the system does not say which it is.
    pub fn of_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let named = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
        let path = named.map_or_else(env::current_exe, Ok)?;
        Ok(Self { path, arguments: arguments.collect() })
    }
}

/// Why the old process goes on alone.
#[derive(Debug, Error)]
pub enum NotReady {
    /// Not every system has what it takes.
    #[error("only Linux has what it takes")]
    Unsupported,
    /// It cannot be started, or what it needs cannot be passed.
    #[error("{} could not be started: {error}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// It ended first: it has logged why.
    #[error("{} ended before it was ready", .0.display())]
    Ended(PathBuf),
    /// It took too long, and was killed.
    #[error("{} was not ready within {} s", .0.display(), READY_WITHIN.as_secs())]
    TimedOut(PathBuf),
}

/// A new process that is ready.
#[derive(Debug)]
pub struct Ready {
    /// Its number.
    pub process: u32,
    /// The socket that leads to it.
    pub exchange: Exchange,
}

/// What a process that takes over begins with.
#[derive(Debug)]
pub struct Inherited {
    /// What the old process passed.
    pub descriptors: Descriptors,
    #[cfg(target_os = "linux")]
    socket: std::os::fd::OwnedFd,
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;

    /// Starts the program; blocks.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: &Program, _: Descriptors) -> Result<Ready, NotReady> {
        Err(NotReady::Unsupported)
    }

    impl Inherited {
        /// Nothing is inherited.
        ///
        /// # Errors
        /// None.
        pub const fn of_process() -> io::Result<Option<Self>> {
            Ok(None)
        }

        /// There is nothing to take over.
        ///
        /// # Errors
        /// Always.
        pub fn take_over(self) -> io::Result<(Exchange, OldProcess)> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io::{IoSlice, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
    };
    use rustix::process::{Pid, Signal, kill_process};
    use tunnel::io::clock;

    use super::*;
    use crate::handover::Message;
    use crate::handover::message::MAX_MESSAGE;

    /// Wanted kernel buffer of the socket, each way.
    const BUFFER: usize = 4 << 20;

    /// Starts the program as a new process, passes it these descriptors, and waits until it is ready;
    /// blocks. A process that is not ready in time is killed.
    ///
    /// # Errors
    /// Why it is not ready; it does not run any more then.
    pub fn start(program: &Program, descriptors: Descriptors) -> Result<Ready, NotReady> {
        let failed = |error| NotReady::Failed { program: program.path.clone(), error };
        let deadline = Instant::now() + READY_WITHIN;
        let (near, far) = pair().map_err(failed)?;
        let mut first = Command::new(&program.path)
            .args(&program.arguments)
            .env(VARIABLE, "start")
            .stdin(Stdio::from(far))
            .spawn()
            .map_err(failed)?;
        let mut process = None;
        let spoken = pass(&near, descriptors).and_then(|()| await_ready(&near, deadline, &mut process));
        end_first(&mut first, spoken.is_err());
        match (spoken, process) {
            (Ok(()), Some(process)) => Ok(Ready { process, exchange: Exchange::new(near).map_err(failed)? }),
            (spoken, process) => {
                let process = process.and_then(|number| Pid::from_raw(i32::try_from(number).ok()?));
                // One that ended by itself closed the socket first, and still writes why.
                let hangs = spoken.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
                if let Some(process) = process.filter(|_| hangs) {
                    // One that has ended is gone already.
                    let _ = kill_process(process, Signal::KILL);
                }
                let error = spoken.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                let has_ended =
                    [io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
                Err(if error.kind() == io::ErrorKind::TimedOut {
                    NotReady::TimedOut(program.path.clone())
                } else if has_ended.contains(&error.kind()) {
                    NotReady::Ended(program.path.clone())
                } else {
                    failed(error)
                })
            }
        }
    }

    fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for socket in [&pair.0, &pair.1] {
            sockopt::set_socket_send_buffer_size(socket, BUFFER)?;
        }
        Ok(pair)
    }

    /// The process that starts the other ends by itself, unless it hangs.
    fn end_first(first: &mut Child, hangs: bool) {
        if hangs {
            let _ = first.kill();
        }
        let _ = first.wait();
    }

    fn pass(socket: &OwnedFd, descriptors: Descriptors) -> io::Result<()> {
        for (name, descriptor) in descriptors.into_all() {
            send(socket, &Message::Descriptor(&name), Some(descriptor.as_fd()))?;
        }
        send(socket, &Message::Passed, None)
    }

    fn await_ready(socket: &OwnedFd, deadline: Instant, process: &mut Option<u32>) -> io::Result<()> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(socket, PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&left))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match receive(socket, &mut buffer)? {
                (Ok(Message::Started(number)), _) => *process = Some(number),
                (Ok(Message::Ready), _) => return Ok(()),
                // Of another release.
                _ => {}
            }
        }
    }

    impl Inherited {
        /// What the process that started this one passed; `None` for any other start. Does not return
        /// in the process that only starts the next.
        ///
        /// # Errors
        /// When the socket is not there, or breaks.
        pub fn of_process() -> io::Result<Option<Self>> {
            let Some(step) = env::var_os(VARIABLE) else { return Ok(None) };
            let stdin = io::stdin();
            if step != "run" {
                let mut arguments = env::args_os();
                arguments.next();
                let next = Command::new(env::current_exe()?).args(arguments).env(VARIABLE, "run").spawn()?;
                send(&stdin, &Message::Started(next.id()), None)?;
                std::process::exit(0);
            }
            let socket = stdin.as_fd().try_clone_to_owned()?;
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            let (mut descriptors, mut buffer) = (Descriptors::default(), vec![0; MAX_MESSAGE]);
            loop {
                match receive(&socket, &mut buffer)? {
                    (Ok(Message::Descriptor(name)), Some(descriptor)) => {
                        descriptors.add(name.to_owned(), descriptor);
                    }
                    (Ok(Message::Passed), _) => return Ok(Some(Self { descriptors, socket })),
                    // Of another release.
                    _ => {}
                }
            }
        }

        /// Reports that this process is ready, and waits until the old one has stopped reading from
        /// the tunnels.
        ///
        /// # Errors
        /// When the old process has ended.
        pub fn take_over(self) -> io::Result<(Exchange, OldProcess)> {
            send(&self.socket, &Message::Ready, None)?;
            let mut old = OldProcess::new(MAX_FLOWS, clock::instant());
            let mut buffer = vec![0; MAX_MESSAGE];
            while !old.is_complete() {
                match receive(&self.socket, &mut buffer)? {
                    (Ok(Message::Flows(flows)), _) => {
                        let beyond = old.handle_flows(flows);
                        if beyond > 0 {
                            tracing::info!(flows = beyond, "the old process has too many flows, which end");
                        }
                    }
                    (Ok(Message::Ended(flow)), _) => old.handle_ended(&flow),
                    (Ok(Message::TakeOver(left)), _) => old.handle_take_over(clock::instant().after(left)),
                    // Of another release.
                    _ => {}
                }
            }
            Ok((Exchange::new(self.socket)?, old))
        }
    }

    fn send(socket: impl AsFd, message: &Message<'_>, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    type Received<'b> = (Result<Message<'b>, crate::handover::BadMessage>, Option<OwnedFd>);

    /// Waits for one message; an error at the end.
    fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> io::Result<Received<'b>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut room = [IoSliceMut::new(&mut *buffer)];
            match recvmsg(socket, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received?,
            }
        };
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptor = passed.last();
            }
        }
        let bytes = buffer.get(..received.bytes).unwrap_or_default();
        Ok((Message::read(bytes), descriptor))
    }
}

pub use system::start;
