//! Verbs of a location that lives on another machine, run there by its own stackctl.

use std::path::Path;

use crate::config::Machine;
use crate::invocation::quote_for_shell;

/// Arguments of `ssh` that run stackctl with `words` on a machine.
///
/// Nothing is copied and no secret crosses: the machine has its own checkout and its own env files.
#[must_use]
pub fn arguments(
    machine: &Machine,
    root: &Path,
    location: &str,
    words: &[String],
    terminal: bool,
) -> Vec<String> {
    let target = machine.host.strip_prefix("ssh://").unwrap_or(&machine.host);
    let (user, host) = target.rsplit_once('@').map_or((None, target), |(user, host)| (Some(user), host));
    let (host, port) = split_port(host);
    let mut argv: Vec<String> = Vec::new();
    if let Some(config) = &machine.ssh_config {
        argv.extend(["-F".into(), root.join(config).to_string_lossy().into_owned()]);
    }
    argv.extend(["-o".into(), "BatchMode=yes".into(), "-o".into(), "ConnectTimeout=10".into()]);
    argv.extend(["-o".into(), "ServerAliveInterval=10".into()]);
    argv.push(if terminal { "-t".into() } else { "-T".into() });
    if let Some(port) = port {
        argv.extend(["-p".into(), port.to_owned()]);
    }
    if let Some(user) = user {
        argv.extend(["-l".into(), user.to_owned()]);
    }
    argv.extend(["--".into(), host.to_owned()]);
    let fixed = [machine.command.as_str(), "--root", &machine.path, "--location", location, "--here"];
    let line: Vec<String> =
        fixed.into_iter().chain(words.iter().map(String::as_str)).map(quote_for_shell).collect();
    argv.push(line.join(" "));
    argv
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    if let Some((inside, after)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (inside, after.strip_prefix(':'));
    }
    host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_stackctl_gets_its_words_quoted() {
        let machine = Machine {
            host: "ssh://pi@192.168.1.2:2222".into(),
            path: "/srv/docker compose".into(),
            ssh_config: Some("ssh.conf".into()),
            command: "stackctl".into(),
        };
        let words = ["up".to_owned(), "it's".to_owned()];
        assert_eq!(
            arguments(&machine, Path::new("/t"), "kyiv", &words, false).join(" "),
            "-F /t/ssh.conf -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -T -p 2222 -l pi -- 192.168.1.2 \
             stackctl --root '/srv/docker compose' --location kyiv --here up 'it'\\''s'"
        );
        assert_eq!(split_port("[fd00::1]:22"), ("fd00::1", Some("22")));
        assert_eq!(split_port("host"), ("host", None));
    }
}
