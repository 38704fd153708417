//! `causeway notify` and `causeway quiet`: requests to `causeway-agent`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use daemon::agent::{self, Quiet as Shown, Reply, Request};
use daemon::command_line::print;
use daemon::exit::{Exit, ExitError};
use daemon::text::{lasting, period};

/// `causeway notify`
#[derive(Debug, Args)]
pub(crate) struct Notify {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send a test message to every receiver, and show what came of it; root only.
    Test {
        /// Connect to this control socket of the agent.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
}

/// `causeway quiet`
#[derive(Debug, Args)]
pub(crate) struct Quiet {
    /// Send nothing for this time, such as 30m, 8h or 2d; `off` sends again. Without it, show what
    /// is quiet.
    #[arg(value_name = "TIME")]
    time: Option<String>,
    /// Only about this service or name.
    #[arg(value_name = "NAME", requires = "time")]
    name: Option<String>,
    /// Connect to this control socket of the agent.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Sends the test messages.
///
/// # Errors
/// [`Exit::Failed`] when a receiver has not got its message.
pub(crate) fn notify(Notify { verb: Verb::Test { socket } }: &Notify) -> Result<Exit, ExitError> {
    let mut has_failed = false;
    let mut lines = Vec::new();
    for reply in ask_all(socket.as_deref(), &Request::Test)? {
        let Reply::Tested(tested) = reply else { return Err(another()) };
        for receiver in tested {
            has_failed |= receiver.error.is_some();
            lines.push(match receiver.error {
                None => format!("{}: sent", receiver.name),
                Some(error) => format!("{}: not sent: {error}", receiver.name),
            });
        }
    }
    lines.iter().try_for_each(|line| print(&format!("{line}\n")))?;
    Ok(if has_failed { Exit::Failed } else { Exit::Ok })
}

/// Sets, ends or shows the times in which nothing is sent.
///
/// # Errors
/// What the agent says of it.
pub(crate) fn quiet(Quiet { time, name, socket }: &Quiet) -> Result<Exit, ExitError> {
    let name = name.clone();
    let request = match time.as_deref() {
        None => Request::Quiets,
        Some("off") => Request::QuietOff { name },
        Some(time) => Request::Quiet { seconds: seconds(time)?, name },
    };
    let mut lines = Vec::new();
    for reply in ask_all(socket.as_deref(), &request)? {
        let Reply::Quiets(quiets) = reply else { return Err(another()) };
        lines.extend(quiets.iter().map(line));
    }
    if lines.is_empty() {
        lines.push("Nothing is quiet: every outage is sent.".to_owned());
    }
    lines.iter().try_for_each(|line| print(&format!("{line}\n")))?;
    Ok(Exit::Ok)
}

/// A time with its unit: 8 seconds are never meant.
fn seconds(time: &str) -> Result<u64, ExitError> {
    let is_bare = time.bytes().all(|byte| byte.is_ascii_digit());
    let unit = || Err("it has no unit".to_owned());
    let read = if is_bare { unit() } else { lasting(time) };
    read.map(|time| time.as_secs()).map_err(|error| {
        let message = format!("{time:?} is no time: {error}; write `causeway quiet 8h NAME`, or `off`");
        ExitError::new(Exit::Usage, message)
    })
}

fn line(Shown { name, seconds }: &Shown) -> String {
    let about = name.as_deref().map(|name| format!(" about {name}")).unwrap_or_default();
    format!("Nothing is sent{about} for {}.", period(*seconds))
}

/// Asks every agent of this machine; one that answers is enough.
fn ask_all(socket: Option<&Path>, request: &Request) -> Result<Vec<Reply>, ExitError> {
    if let Some(socket) = socket {
        return agent::ask(socket, request).map(|reply| vec![reply]);
    }
    let (mut replies, mut errors) = (Vec::new(), Vec::new());
    for (socket, _) in agent::sockets() {
        match agent::ask(&socket, request) {
            Ok(reply) => replies.push(reply),
            Err(error) => errors.push(error),
        }
    }
    if !replies.is_empty() {
        return Ok(replies);
    }
    Err(errors.into_iter().find(|error| error.exit != Exit::Unreachable).unwrap_or_else(not_running))
}

fn not_running() -> ExitError {
    let units: Vec<_> = agent::sockets().into_iter().map(|(_, unit)| unit).collect();
    let [edge, origin] = [units.first(), units.get(1)].map(|unit| unit.copied().unwrap_or_default());
    let message = format!(
        "causeway-agent does not answer; add a [[notify]] to gateway.toml or forwarder.toml, then run: \
         systemctl enable --now {edge} (at the edge) or {origin} (at the origin)"
    );
    ExitError::new(Exit::Unreachable, message)
}

fn another() -> ExitError {
    ExitError::new(Exit::Failed, "the agent sent the answer to another request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quiet_is_a_sentence() {
        let shown = |name: Option<&str>| line(&Shown { name: name.map(str::to_owned), seconds: 28_800 });
        assert_eq!(shown(None), "Nothing is sent for 8 hours.");
        assert_eq!(shown(Some("emby.example.com")), "Nothing is sent about emby.example.com for 8 hours.");
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(seconds("8h").unwrap(), 28_800);
        for wrong in ["8", "", "8x", "0s", "tomorrow"] {
            assert_eq!(seconds(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn an_agent_that_does_not_run_is_exit_three_with_what_to_enable() {
        let error = ask_all(None, &Request::Quiets).unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable);
        assert!(error.message.contains("systemctl enable --now causeway-agent"), "{error}");
    }
}
