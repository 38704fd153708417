//! The systemd units as systemd itself judges them.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Topology, scenario};
use scenarios::Site;

/// What the packages' scripts have in common.
const FUNCTIONS: &str = "./packaging/maintainer/functions";

#[test]
fn the_gateways_unit_scores_two_or_better_and_those_without_privileges_one_and_a_half() -> Result<()> {
    for (unit, most) in [
        ("gateway.service", 20),
        ("forwarder.service", 15),
        ("causeway-agent.service", 15),
        ("causeway-forwarder-agent.service", 15),
    ] {
        // The threshold is in tenths; above it the exit status is a failure.
        let threshold = format!("--threshold={most}");
        let output = analyze(&["security", "--offline=true", "--no-pager", &threshold], unit)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{unit}: {}", said.lines().last().unwrap_or_default());
    }
    Ok(())
}

#[test]
fn the_guards_unit_has_no_limit_of_time_and_is_tried_again() -> Result<()> {
    let unit = std::fs::read_to_string(lab::workspace().join("configs/systemd/causeway-guard.service"))?;
    let wanted =
        ["TimeoutStartSec=infinity", "Restart=on-failure", "StartLimitIntervalSec=0", "SuccessExitStatus=10"];
    for line in wanted {
        ensure!(unit.lines().any(|own| own == line), "{line} is not in the unit");
    }
    Ok(())
}

#[test]
fn a_package_asks_the_forwarder_alone_to_hand_over_and_restarts_the_gateway() -> Result<()> {
    for (daemon, hands_over) in [("gateway", false), ("forwarder", true)] {
        let folder = tempfile::tempdir()?;
        let mut running = Command::new("sh")
            .args(["-c", "trap 'exit 7' USR2; echo; while :; do sleep 0.05; done"])
            .stdout(Stdio::piped())
            .spawn()?;
        // The line comes when the signal is caught.
        BufReader::new(running.stdout.take().context("no output")?).read_line(&mut String::new())?;
        // As systemd says it: this process first, another one when it has taken over.
        let systemctl = folder.path().join("systemctl");
        let text = format!(
            "#!/bin/sh\nif mkdir \"$0.asked\" 2>/dev/null; then echo {}; else echo 1; fi\n",
            running.id()
        );
        std::fs::write(&systemctl, text)?;
        std::fs::set_permissions(&systemctl, Permissions::from_mode(0o755))?;
        let script = format!(". {FUNCTIONS}; upgrade_in_place {daemon}");
        let status = Command::new("sh")
            .args(["-ec", &script])
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .current_dir(lab::workspace())
            .status()?;
        ensure!(status.success() == hands_over, "{daemon}: {status}");
        if !hands_over {
            ensure!(running.try_wait()?.is_none(), "the gateway was sent a signal");
            running.kill()?;
        }
        ensure!((running.wait()?.code() == Some(7)) == hands_over, "{daemon} was not asked");
    }
    Ok(())
}

#[test]
fn the_gateways_filter_lets_it_confine_itself_under_every_systemd() -> Result<()> {
    let unit = std::fs::read_to_string(lab::workspace().join("configs/systemd/gateway.service"))?;
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (names, is_refused) = line.strip_prefix('~').map_or((line, false), |names| (names, true));
        for name in names.split_whitespace() {
            for call in system_calls(name)? {
                if is_refused {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    // systemd 252 has these in no group that @system-service contains, 257 has them in @default.
    for call in ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "capset", "prctl"]
    {
        ensure!(allowed.contains(call), "{call} is refused");
    }
    for call in ["mount", "reboot", "ptrace", "setuid", "bpf"] {
        ensure!(!allowed.contains(call), "{call} is allowed");
    }
    Ok(())
}

/// A system call by itself, or those of a group as this machine's systemd knows it.
fn system_calls(name: &str) -> Result<Vec<String>> {
    if !name.starts_with('@') {
        return Ok(vec![name.to_owned()]);
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", name]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let inside =
        text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(inside.map(system_calls).collect::<Result<Vec<_>>>()?.concat())
}

#[test]
fn the_gateway_notifies_systemd_when_it_is_ready_and_when_it_stops() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.write()?;
        let path = site.edge.directory().join("notify");
        let systemd = UnixDatagram::bind(&path)?;
        systemd.set_read_timeout(Some(Duration::from_secs(10)))?;
        let command = site.edge.command(lab::binary("gateway")?).env("NOTIFY_SOCKET", &path);
        let gateway = command.arg("--config").arg(site.gateway_config.path()).spawn("gateway")?;
        lab.judge(&gateway);
        site.gateway = Some(gateway);
        wait_for(&systemd, "READY=1")?;
        // Ready means that rules, device and control socket are there.
        ensure!(site.state()? == "never");
        ensure!(site.edge.run("nft list tables")?.contains("causeway"));
        let status = site.gateway()?.stop(Duration::from_secs(10))?;
        ensure!(status.success(), "the gateway ended with {status}");
        wait_for(&systemd, "STOPPING=1")
    })
}

fn wait_for(systemd: &UnixDatagram, wanted: &str) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = systemd.recv(&mut buffer).with_context(|| format!("{wanted} was not said"))?;
        let words = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        if words.lines().any(|word| word == wanted) {
            return Ok(());
        }
    }
}

fn analyze(arguments: &[&str], unit: &str) -> Result<Output> {
    let path = lab::workspace().join("configs/systemd").join(unit);
    let output = Command::new("systemd-analyze").args(arguments).arg(path).output();
    output.context("systemd-analyze is not installed: run scripts/packages test")
}
