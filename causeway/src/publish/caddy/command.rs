//! Caddy's own command. What it prints may be another machine's, as of a container: it is neither
//! waited for nor read without a limit.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How long it may run: a container's takes a few seconds.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// The most that is read of it: a whole configuration as JSON.
const MAX_OUTPUT: u64 = 4 << 20;
/// Between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);
/// The most characters of an error that are shown.
const MAX_SHOWN: usize = 400;

/// Programs that run Caddy in a container, where loopback and files are the container's.
const CONTAINERS: [&str; 7] = ["docker", "podman", "nerdctl", "incus", "lxc", "kubectl", "machinectl"];
/// Programs that run it as another user.
const OTHER_USERS: [&str; 3] = ["runuser", "setpriv", "su"];
/// Programs that do so with `-u`.
const OTHER_USERS_BY_OPTION: [&str; 2] = ["sudo", "doas"];

/// Whether these words run Caddy in a container.
pub(super) fn is_in_container(words: &[String]) -> bool {
    // Such as docker-compose and lxc-attach.
    let program = program(words).split('-').next().unwrap_or_default();
    CONTAINERS.contains(&program)
}

/// Whether these words run Caddy as this user, on this machine's files.
pub(super) fn is_own(words: &[String]) -> bool {
    let names_user = |word: &String| word.starts_with("-u") || word.starts_with("--user");
    let is_other = OTHER_USERS.contains(&program(words))
        || OTHER_USERS_BY_OPTION.contains(&program(words)) && words.iter().any(names_user);
    !is_in_container(words) && !is_other
}

fn program(words: &[String]) -> &str {
    words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default()
}

/// Runs it to its end.
///
/// # Errors
/// When it cannot be started, does not end within `limit` (it is stopped then), or prints more than
/// can be its reply.
pub(super) fn run(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let status = wait(&mut child, started, limit)?;
    // A process that it left behind may still have the pipes.
    let received = |pipe: Receiver<io::Result<Vec<u8>>>| {
        pipe.recv_timeout(limit.saturating_sub(started.elapsed())).unwrap_or_else(|_| Err(too_late(limit)))
    };
    Ok(Output { status, stdout: received(stdout)?, stderr: received(stderr)? })
}

fn wait(child: &mut Child, started: Instant, limit: Duration) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Err(too_late(limit));
        }
        sleep(PAUSE);
    }
}

fn too_late(limit: Duration) -> io::Error {
    let message = format!("it did not end within {} s and was stopped", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, message)
}

fn read(pipe: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let length = pipe.map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT + 1).read_to_end(&mut bytes));
        let is_whole = u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_OUTPUT);
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "it printed more than 4 MiB");
        let whole = length.and_then(|_| if is_whole { Ok(bytes) } else { Err(too_long()) });
        // Without a receiver it came too late.
        drop(sender.send(whole));
    });
    receiver
}

/// What it printed about an error: its last line that is no log line, quoted, with everything that
/// a terminal would obey escaped.
pub(super) fn error_of(printed: &[u8]) -> String {
    let printed = String::from_utf8_lossy(printed);
    let is_log = |line: &&str| line.trim_start().starts_with('{');
    let found = printed.lines().map(str::trim).rfind(|line| !line.is_empty() && !is_log(line));
    found.map_or_else(
        || "no reason was printed".to_owned(),
        |line| format!("{:?}", line.chars().take(MAX_SHOWN).collect::<String>()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_among_log_lines() {
        let printed =
            b"{\"level\":\"info\",\"msg\":\"using config\"}\nError: adapting: no such directive\n\n";
        assert_eq!(error_of(printed), "\"Error: adapting: no such directive\"");
        assert_eq!(error_of(b""), "no reason was printed");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_long_lines_are_cut() {
        let said = error_of("Error: \u{1b}]52;c;cm0gLXJm\u{7}\u{9b}31m\u{202e}x\u{1b}[8m".as_bytes());
        assert_eq!(said, r#""Error: \u{1b}]52;c;cm0gLXJm\u{7}\u{9b}31m\u{202e}x\u{1b}[8m""#);
        assert_eq!(error_of(&[b'a'; 100_000]).len(), MAX_SHOWN + 2);
    }

    #[test]
    fn a_command_that_does_not_end_is_stopped() {
        let hanging = shell("printf started; exec sleep 600", Duration::from_millis(300)).unwrap_err();
        assert_eq!(hanging.kind(), io::ErrorKind::TimedOut, "{hanging}");
        // Its own process has ended, and one that it left behind has the pipe.
        let left = shell("sleep 5 & exit 0", Duration::from_millis(300)).unwrap_err();
        assert_eq!(left.kind(), io::ErrorKind::TimedOut, "{left}");
    }

    #[test]
    fn a_command_that_prints_without_end_is_not_read_to_the_end() {
        let endless = shell("exec cat /dev/zero", Duration::from_secs(60)).unwrap_err();
        assert_eq!(endless.to_string(), "it printed more than 4 MiB");
        let output = shell("echo out; echo err >&2; exit 3", LIMIT).unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_container_and_another_user_are_known_by_the_program() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (line, in_container, own) in [
            ("caddy", false, true),
            ("/usr/local/bin/caddy-2", false, true),
            ("env GODEBUG=1 caddy", false, true),
            ("sudo caddy", false, true),
            ("sudo -u caddy caddy", false, false),
            ("runuser -u caddy -- caddy", false, false),
            ("/usr/bin/docker exec caddy caddy", true, false),
            ("docker-compose exec -T caddy caddy", true, false),
        ] {
            let words = words(line);
            assert_eq!((is_in_container(&words), is_own(&words)), (in_container, own), "{line}");
        }
    }

    fn shell(script: &str, limit: Duration) -> io::Result<Output> {
        run(Command::new("sh").args(["-c", script]), limit)
    }
}
