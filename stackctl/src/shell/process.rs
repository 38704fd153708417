//! Running other programs with an environment of our choosing.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// A program call: argv, environment and folder, nothing inherited.
pub struct Call<'c> {
    /// The program, found on the given `PATH`.
    pub program: &'c str,
    /// Its arguments; never a secret.
    pub arguments: &'c [String],
    /// Its whole environment; never a secret.
    pub environment: &'c [(String, String)],
    /// Its working directory.
    pub workdir: &'c Path,
}

impl Call<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(self.arguments).env_clear().current_dir(self.workdir);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // `${PWD}` in a Compose file means where its commands run.
        if self.environment.iter().any(|(name, _)| name == "PWD") {
            command.env("PWD", self.workdir);
        }
        command
    }

    /// Runs it with the terminal as its own; standard output goes to ours.
    pub fn run(&self) -> io::Result<ExitStatus> {
        self.command().status()
    }

    /// Runs it with its standard output on our standard error, which keeps ours for data.
    pub fn run_aside(&self) -> io::Result<ExitStatus> {
        let stderr = io::stderr();
        self.command().stdin(Stdio::null()).stdout(stderr).status()
    }

    /// As [`Self::run_aside`], asking `enough` twice a second whether to end it.
    pub fn run_watched(&self, enough: &mut dyn FnMut() -> bool) -> io::Result<ExitStatus> {
        let mut child = self.command().stdin(Stdio::null()).stdout(io::stderr()).spawn()?;
        let mut asked = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if asked.elapsed() >= Duration::from_millis(500) {
                if enough() {
                    return end(&mut child);
                }
                asked = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs it and keeps what it says.
    pub fn capture(&self) -> io::Result<Output> {
        self.command().stdin(Stdio::null()).output()
    }

    /// Runs it, keeps what it says, and ends it after `limit`.
    pub fn capture_within(&self, limit: Duration) -> io::Result<Output> {
        let start = Instant::now();
        let mut child =
            self.command().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err) = (drain(out), drain(err));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer in {} s", limit.as_secs()),
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
        Ok(Output { status, stdout: text(out), stderr: text(err) })
    }
}

/// Asks a child to end, which lets it end its own children, and makes it after two seconds.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()
}

/// The last lines that a failed program printed, for a message.
#[must_use]
pub fn error_output(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = said.get(said.len().saturating_sub(5)..).unwrap_or_default().join("\n");
    if tail.is_empty() { format!("it ended with {}", output.status) } else { tail }
}

/// Writes data to standard output; a reader that went away is no failure.
pub fn say(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Writes a message to standard error.
pub fn notify(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn drain<R: io::Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_knows_only_the_given_environment() {
        let environment = [("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("A".to_owned(), "1".to_owned())];
        let call =
            Call { program: "env", arguments: &[], environment: &environment, workdir: Path::new("/") };
        let said =
            call.capture().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).expect("ran");
        assert_eq!(said.lines().collect::<Vec<_>>(), ["A=1", "PATH=/usr/bin:/bin"]);
    }

    #[test]
    fn a_child_that_does_not_answer_is_ended() {
        let (environment, arguments) = ([("PATH".to_owned(), "/usr/bin:/bin".to_owned())], ["30".to_owned()]);
        let call = Call {
            program: "sleep",
            arguments: &arguments,
            environment: &environment,
            workdir: Path::new("/"),
        };
        let ended = call.capture_within(Duration::from_millis(50));
        assert!(ended.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut));
    }
}
