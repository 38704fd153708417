//! The one thread that starts every process of a lab, so that all of them end when it does.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use crate::enter;

/// Starts processes inside one PID namespace whose init dies with this thread.
///
/// A thread that has left its PID namespace for its children can start no further threads, and the
/// death signal of a child is tied to the thread that forked it: both are why spawning has a thread
/// of its own.
#[derive(Debug)]
pub(crate) struct Spawner {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread and the namespace's init.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (ready, started) = channel();
        let thread = std::thread::Builder::new().name("lab-spawner".to_owned()).spawn(move || {
            let init = match start_init() {
                Ok(init) => init,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            for mut job in queue {
                let _ = job.reply.send(job.command.spawn());
            }
            end(init);
        })?;
        started.recv().map_err(io::Error::other)??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Starts `command` in the lab's PID namespace; the child's number is the one seen from
    /// outside.
    pub(crate) fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = channel();
        let jobs = self.jobs.as_ref().ok_or_else(|| io::Error::other("the lab has ended"))?;
        jobs.send(Job { command, reply }).map_err(|_| io::Error::other("the lab's spawner has ended"))?;
        answer.recv().map_err(io::Error::other)?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn start_init() -> io::Result<Child> {
    enter::unshare_children()?;
    let mut init = Command::new("sleep");
    init.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    enter::die_with_spawner(&mut init);
    init.spawn()
}

/// Kills the init, and with it everything still running in the namespace.
fn end(mut init: Child) {
    let _ = init.kill();
    let _ = init.wait();
}
