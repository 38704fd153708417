//! A machine on which `scripts/install` puts things, and what systemd would do with its units.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, NodeCommand, Process, until};

/// How long a daemon may take to answer.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Gives a machine an `/etc`, `/usr/local` and `/var/lib` of its own with nothing of Causeway, the
/// device for tunnels, and these lines of `/etc/hosts`. Needs real root.
pub fn separate(node: &Node, hosts: &str) -> Result<()> {
    node.shell(&format!(
        "mkdir -p -m 0755 /run/own
         for folder in etc usr/local var/lib; do
             mkdir -p /run/own/$folder /run/own/work/$folder
             mount -t overlay -o lowerdir=/$folder,upperdir=/run/own/$folder,workdir=/run/own/work/$folder own /$folder
         done
         rm -rf /var/lib/causeway* /etc/causeway
         printf '127.0.0.1 localhost\\n{hosts}\\n' > /etc/hosts
         mount -t tmpfs -o mode=0755 tmpfs /dev/net && mknod -m 0666 /dev/net/tun c 10 200"
    ))
    .map(drop)
}

/// Does what an installed unit says, as its user, with its folders and capabilities: runs it to its
/// end, or starts it and waits until it answers.
pub fn start_unit(lab: &Lab, node: &Node, unit: &str) -> Result<Option<Process>> {
    let text = node.run(&format!("cat /etc/systemd/system/{unit}.service"))?;
    if value(&text, "Type") == "oneshot" {
        return node.run(value(&text, "ExecStart")).map(|_| None);
    }
    let user = value(&text, "User");
    for (base, key) in [("/run", "RuntimeDirectory"), ("/var/lib", "StateDirectory")] {
        let mode = value(&text, &format!("{key}Mode"));
        for name in value(&text, key).split_whitespace() {
            node.run(&format!("install -d -m {mode} -o {user} -g {user} {base}/{name}"))?;
        }
    }
    let process = as_unit(node, &text).spawn(unit)?;
    lab.judge(&process);
    let status = if unit == "gateway" { "gatewayctl" } else { "forwarder" };
    until(START_LIMIT, &format!("{unit} to answer"), || {
        let output = node.command(format!("/usr/local/bin/{status}")).arg("peers").output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Some(()))
    })?;
    Ok(Some(process))
}

/// Ends what [`start_unit`] started.
pub fn stop_unit(unit: &str, process: Option<Process>) -> Result<()> {
    let mut process = process.with_context(|| format!("{unit} does not run"))?;
    let status = process.stop(Duration::from_secs(20))?;
    ensure!(status.success(), "{unit} ended with {status}:\n{}", process.log()?);
    Ok(())
}

/// The value of a unit's key that it has once.
pub fn value<'u>(unit: &'u str, key: &str) -> &'u str {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
}

/// The unit's command as systemd runs it: its user, its capabilities, its folders in the
/// environment.
fn as_unit(node: &Node, unit: &str) -> NodeCommand {
    let user = value(unit, "User");
    let first = |key| value(unit, key).split_whitespace().next().unwrap_or_default();
    let held = match value(unit, "AmbientCapabilities") {
        "" => "-all".to_owned(),
        held => format!("-all,+{}", held.trim_start_matches("CAP_").to_lowercase()),
    };
    let command = node.command("setpriv").args(["--reuid", user, "--regid", user, "--clear-groups"]);
    let command = command.args(["--inh-caps", &held, "--ambient-caps", &held, "--bounding-set", &held]);
    let command = command.arg("--no-new-privs").args(value(unit, "ExecStart").split_whitespace());
    let command = command.env("RUNTIME_DIRECTORY", format!("/run/{}", first("RuntimeDirectory")));
    let command = command.env("STATE_DIRECTORY", format!("/var/lib/{}", first("StateDirectory")));
    command.env("HOME", "/nonexistent")
}
