//! Stops one thread of a running process, as a debugger does, while the others go on.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ptr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::until;

/// How long a process may take to begin its threads.
const BEGINS: Duration = Duration::from_secs(10);

/// A thread that is stopped until this is dropped or its process ends.
#[derive(Debug)]
pub struct Halted {
    release: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Halted {
    /// Halts the thread of that name, once the process has begun it.
    ///
    /// # Errors
    /// When there is none, or the system refuses to trace it.
    pub fn thread(process: u32, name: &str) -> Result<Self> {
        let id = until(BEGINS, &format!("a thread {name} of {process}"), || find(process, name))?;
        let (release, released) = channel();
        let (halted, is_halted) = channel();
        // Only the thread that traces another may control it.
        let tracer = std::thread::spawn(move || {
            let begun = halt(id);
            let goes_on = begun.is_ok();
            let _ = halted.send(begun);
            if goes_on {
                hold(id, &released);
            }
        });
        is_halted.recv()?.with_context(|| format!("halting {name} of {process}"))?;
        Ok(Self { release: Some(release), tracer: Some(tracer) })
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}

fn find(process: u32, name: &str) -> Result<Option<libc::pid_t>> {
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        let called = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if called.trim_end() == name {
            return Ok(Some(entry.file_name().to_string_lossy().parse()?));
        }
    }
    Ok(None)
}

fn halt(id: libc::pid_t) -> io::Result<()> {
    ask(libc::PTRACE_SEIZE, id)?;
    ask(libc::PTRACE_INTERRUPT, id)?;
    // SAFETY: waits for a thread this one traces; no status is asked for.
    let waited = unsafe { libc::waitpid(id, ptr::null_mut(), libc::__WALL) };
    if waited == id { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps the thread stopped until its owner lets it go on; reaps it when its process ended first.
fn hold(id: libc::pid_t, released: &Receiver<()>) {
    loop {
        match released.recv_timeout(Duration::from_millis(20)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                // Refused when it has ended meanwhile.
                let _ = ask(libc::PTRACE_DETACH, id);
                return;
            }
        }
        // SAFETY: as in `halt`.
        if unsafe { libc::waitpid(id, ptr::null_mut(), libc::__WALL | libc::WNOHANG) } != 0 {
            return;
        }
    }
}

fn ask(request: libc::c_uint, id: libc::pid_t) -> io::Result<()> {
    let none: *mut libc::c_void = ptr::null_mut();
    // SAFETY: these requests take no address and no data.
    let done = unsafe { libc::ptrace(request, id, none, none) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
