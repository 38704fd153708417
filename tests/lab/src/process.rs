//! A process that runs during a scenario: signals, waiting, and its output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::enter;
use crate::wait::until;

/// A running process; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    described: String,
    child: Child,
    log: PathBuf,
    /// How long the file was when the process was started.
    begins: usize,
}

/// The signals scenarios send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: stop in good order.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGHUP: reload.
    Hangup,
    /// SIGKILL.
    Kill,
    /// SIGSTOP: pause.
    Stop,
    /// SIGCONT: go on.
    Continue,
}

impl Process {
    pub(crate) fn new(described: String, child: Child, log: PathBuf, begins: usize) -> Self {
        Self { described, child, log, begins }
    }

    /// The process number as seen from outside the lab, good for `/proc/PID`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The only process that it has started.
    pub fn only_child(&self) -> Result<u32> {
        let mut children = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let text = fs::read_to_string(task?.path().join("children"))?;
            children.extend(text.split_whitespace().map(str::parse::<u32>).collect::<Result<Vec<_>, _>>()?);
        }
        ensure!(children.len() == 1, "{} has the children {children:?}", self.described);
        children.first().copied().context("no child")
    }

    /// Everything it has written to standard output and error, without the output of an earlier
    /// process of the same name.
    pub fn log(&self) -> Result<String> {
        let all = fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        Ok(String::from_utf8_lossy(all.get(self.begins..).unwrap_or_default()).into_owned())
    }

    /// Where its output is kept.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
            Signal::Hangup => libc::SIGHUP,
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        };
        enter::kill(self.pid(), number).with_context(|| format!("{signal:?} to {}", self.described))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let described = self.described.clone();
        until(limit, &format!("{described} to end"), || Ok(self.child.try_wait()?))
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop and waits for its exit status.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Terminate)?;
        self.wait(limit)
    }

    /// Waits until its output contains `text`.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<()> {
        until(limit, &format!("{} to say {text:?}", self.described), || {
            Ok(self.log()?.contains(text).then_some(()))
        })
    }

    /// One line of `/proc/PID/status`, for example `CapEff`.
    pub fn status_field(&self, field: &str) -> Result<String> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path)?;
        let prefix = format!("{field}:");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        Ok(line.with_context(|| format!("{path} has no {field}"))?.trim().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
