//! `configs/lib/earlier-version`: a program that fails after its upgrade is replaced by the one
//! before it, once. Programs are stand-ins, and what systemd would say is in the environment;
//! `make machine CHECKS=packages` does the same with real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};

const CRASHED: [&str; 2] = ["core-dump", "ABRT"];
const REFUSED: [&str; 2] = ["exit-code", "1"];

#[test]
fn a_program_that_fails_twice_after_its_upgrade_is_replaced_once_and_that_is_noted() -> Result<()> {
    let machine = Machine::new("twice")?;
    machine.upgrade("0.2.0")?;
    // What a power cut left in the way.
    fs::create_dir(machine.program().with_file_name("gateway.new"))?;
    machine.ended(REFUSED)?;
    ensure!(machine.version()? == "0.2.0", "one failure was enough");
    let said = machine.ended(CRASHED)?;
    ensure!(machine.version()? == "0.1.0", "two failures were not enough: {said}");
    ensure!(
        said.contains("0.2.0 failed 2 times after its upgrade (the last: ended by signal ABRT)"),
        "{said}"
    );
    let noted = machine.noted()?;
    for part in [r#""failed":"0.2.0""#, r#""runs":"0.1.0""#, r#""why":"ended by signal ABRT""#] {
        ensure!(noted.contains(part), "{part} is not in {noted}");
    }
    ensure!(machine.folder().join("failed/gateway").exists(), "the one that failed was not kept");
    // The earlier one fails as well, again and again.
    for _ in 0..5 {
        let said = machine.ended(CRASHED)?;
        ensure!(said.is_empty() && machine.version()? == "0.1.0", "{said}");
    }
    ensure!(machine.noted()? == noted, "it went back again");
    // The next upgrade is one of its own.
    machine.upgrade("0.3.0")?;
    ensure!(machine.noted().is_err(), "what was noted stays after the next upgrade");
    machine.ended(CRASHED)?;
    machine.ended(CRASHED)?;
    ensure!(machine.version()? == "0.1.0");
    Ok(())
}

#[test]
fn an_end_that_is_not_the_programs_own_fault_never_counts() -> Result<()> {
    let machine = Machine::new("fault")?;
    machine.upgrade("0.2.0")?;
    for ended in [
        ["success", "0"],
        // A configuration that is refused, a missing permission, a port that another one holds.
        ["exit-code", "4"],
        ["exit-code", "5"],
        ["exit-code", "6"],
        ["resources", ""],
        ["start-limit-hit", ""],
    ] {
        for _ in 0..3 {
            let said = machine.ended(ended)?;
            ensure!(said.is_empty() && machine.version()? == "0.2.0", "{ended:?}: {said}");
        }
    }
    Ok(())
}

#[test]
fn every_way_to_fail_counts() -> Result<()> {
    for ended in [
        REFUSED,
        CRASHED,
        // The program cannot run at all.
        ["exit-code", "203"],
        ["signal", "KILL"],
        ["watchdog", "ABRT"],
        ["timeout", "TERM"],
        ["oom-kill", "KILL"],
        ["protocol", "0"],
    ] {
        let machine = Machine::new("ways")?;
        machine.upgrade("0.2.0")?;
        machine.ended(ended)?;
        machine.ended(ended)?;
        ensure!(machine.version()? == "0.1.0", "{ended:?}");
    }
    Ok(())
}

#[test]
fn a_program_has_proven_itself_after_ten_minutes_or_a_reboot() -> Result<()> {
    let after: [fn(&mut Machine); 2] = [|machine| machine.uptime += 600, |machine| machine.boot = "another"];
    for later in after {
        let mut machine = Machine::new("proven")?;
        machine.upgrade("0.2.0")?;
        machine.ended(CRASHED)?;
        later(&mut machine);
        for _ in 0..3 {
            let said = machine.ended(CRASHED)?;
            ensure!(said.is_empty() && machine.version()? == "0.2.0", "{said}");
        }
        ensure!(!machine.folder().join("earlier").exists(), "the earlier program takes up room");
    }
    let mut machine = Machine::new("nearly")?;
    machine.upgrade("0.2.0")?;
    machine.uptime += 599;
    machine.ended(CRASHED)?;
    machine.ended(CRASHED)?;
    ensure!(machine.version()? == "0.1.0", "ten minutes were not over");
    Ok(())
}

#[test]
fn an_unproven_program_is_not_kept_in_place_of_a_proven_one_and_the_same_one_not_at_all() -> Result<()> {
    let machine = Machine::new("unproven")?;
    machine.upgrade("0.2.0")?;
    machine.upgrade("0.3.0")?;
    machine.ended(CRASHED)?;
    machine.ended(CRASHED)?;
    ensure!(machine.version()? == "0.1.0", "{} was not proven", machine.version()?);

    let machine = Machine::new("same")?;
    machine.upgrade("0.1.0")?;
    ensure!(!machine.folder().join("earlier").exists(), "the same program was kept");
    Ok(())
}

/// What a daemon runs that was taken over may be another program, in a folder that it can write.
#[test]
fn a_program_that_others_than_root_can_write_is_not_kept_and_never_runs_as_root() -> Result<()> {
    let machine = Machine::new("foreign")?;
    fs::set_permissions(machine.program(), fs::Permissions::from_mode(0o775))?;
    let said = machine.upgrade("0.2.0")?;
    ensure!(said.contains("is not a program of root's, and is not kept"), "{said}");
    machine.ended(CRASHED)?;
    machine.ended(CRASHED)?;
    ensure!(machine.version()? == "0.2.0" && machine.noted().is_err());
    Ok(())
}

#[test]
fn a_program_that_cannot_be_replaced_stays_and_that_is_said_once() -> Result<()> {
    let machine = Machine::new("stays")?;
    machine.upgrade("0.2.0")?;
    fs::remove_file(machine.folder().join("earlier/gateway"))?;
    machine.ended(CRASHED)?;
    let said = machine.ended(CRASHED)?;
    ensure!(said.contains("could not be replaced by 0.1.0; install that by hand"), "{said}");
    ensure!(machine.version()? == "0.2.0" && machine.noted().is_err());
    ensure!(!machine.ended(CRASHED)?.contains("could not"), "said again");
    Ok(())
}

#[test]
fn a_trial_that_is_damaged_counts_as_none() -> Result<()> {
    for text in
        ["", "nonsense", "boot x y z", "boot 99999999999999999999 0 0.1.0", "boot 2000 1$(exit) 0.1.0"]
    {
        let machine = Machine::new("damaged")?;
        machine.upgrade("0.2.0")?;
        fs::write(machine.folder().join("earlier/trial"), text)?;
        machine.ended(CRASHED)?;
        ensure!(machine.version()? == "0.2.0", "{text:?}");
    }
    Ok(())
}

/// A machine whose gateway is a stand-in; version 0.1.0 runs.
struct Machine {
    root: PathBuf,
    uptime: u32,
    boot: &'static str,
}

impl Machine {
    fn new(name: &str) -> Result<Self> {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("causeway-earlier-{name}-{number}-{}", std::process::id()));
        let machine = Self { root, uptime: 1_000, boot: "boot" };
        fs::create_dir_all(machine.folder())?;
        for folder in ["usr/bin", "usr/lib/causeway"] {
            fs::create_dir_all(machine.root.join(folder))?;
        }
        fs::copy(lab::workspace().join("configs/lib/earlier-version"), machine.script())?;
        stand_in(&machine.program(), "0.1.0")?;
        Ok(machine)
    }

    /// Puts a new program in the place of the one that runs, as a package does, and restarts; what
    /// the script says.
    fn upgrade(&self, version: &str) -> Result<String> {
        let running = self.root.join("running");
        fs::rename(self.program(), &running)?;
        stand_in(&self.program(), version)?;
        self.run("keep", Command::new(self.script()).env("EARLIER_RUNNING", &running))
    }

    /// What the script says when the daemon has ended so.
    fn ended(&self, [result, status]: [&str; 2]) -> Result<String> {
        let mut command = Command::new(self.script());
        self.run("ended", command.env("SERVICE_RESULT", result).env("EXIT_STATUS", status))
    }

    fn run(&self, verb: &str, command: &mut Command) -> Result<String> {
        let uptime = self.uptime.to_string();
        command.args([verb, "gateway"]).env("EARLIER_ROOT", &self.root);
        let output = command.env("EARLIER_UPTIME", uptime).env("EARLIER_BOOT", self.boot).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{verb}: {said}");
        Ok(said)
    }

    fn version(&self) -> Result<String> {
        let output = Command::new(self.program()).arg("--version").output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.trim().rsplit(' ').next().context("no version")?.to_owned())
    }

    fn noted(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder().join("went-back.json"))?)
    }

    fn folder(&self) -> PathBuf {
        self.root.join("var/lib/causeway-root")
    }

    fn program(&self) -> PathBuf {
        self.root.join("usr/bin/gateway")
    }

    fn script(&self) -> PathBuf {
        self.root.join("usr/lib/causeway/earlier-version")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn stand_in(path: &Path, version: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\necho gateway {version}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
