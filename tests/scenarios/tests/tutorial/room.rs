//! The machines of a document with what runs there, and the steps that are done at them.

#![allow(clippy::print_stdout)] // What was printed is what a person compares with the text.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Lab, Process, TcpServer, until};
use scenarios::forwarded_for;
use scenarios::installed::{start_unit, stop_unit};
use scenarios::steps::{REST, Step, is_as_written, steps_of};
use scenarios::terminal::{HOME, Machine, USER, with_own_authority};

/// How long is waited for what must be printed, or for a command to end.
const LIMIT: Duration = Duration::from_secs(60);
/// What a command may end with: all is well, or the text shows what is still missing.
const ENDINGS: [i32; 2] = [0, 10];
/// Where Caddy keeps the authority that it makes.
const AUTHORITY: &str = "/run/home/.local/share/caddy/pki/authorities/local/root.crt";

/// The machines of a document, and a visitor.
pub(crate) struct Room<'lab> {
    pub(crate) lab: &'lab Lab,
    machines: BTreeMap<&'static str, Machine>,
    /// Daemons, by machine and name.
    running: BTreeMap<(&'static str, String), Option<Process>>,
    /// What commands printed that have ended.
    pub(crate) printed: String,
    _emby: TcpServer,
}

impl<'lab> Room<'lab> {
    pub(crate) fn new(lab: &'lab Lab, names: &[(&'static str, &str)]) -> Result<Self> {
        if let Ok(router) = lab.node("router") {
            // Of the four ports that the text has forwarded, the lab's router has two.
            router.nft(
                "add rule ip router in iifname wan0 tcp dport 80 dnat to 192.168.1.2
                 add rule ip router in iifname wan0 udp dport 443 dnat to 192.168.1.2",
            )?;
        }
        let hosts = ["kyiv", "edge", "hello", "emby"].map(|name| format!("192.0.2.2 {name}.example.com"));
        let mut machines = BTreeMap::new();
        for (name, node) in names.iter().copied().chain([("visitor", "client")]) {
            machines.insert(name, Machine::new(lab.node(node)?, &hosts.join("\\n"))?);
        }
        let emby = TcpServer::start(lab.node("origin")?.tcp_listener("127.0.0.1:8096")?, forwarded_for)?;
        Ok(Self { lab, machines, running: BTreeMap::new(), printed: String::new(), _emby: emby })
    }

    /// Does every step of a document.
    pub(crate) fn follow(&mut self, document: &str) -> Result<()> {
        let names: Vec<_> = self.machines.keys().copied().collect();
        let steps = steps_of(document)?;
        for (index, (machine, step)) in steps.iter().enumerate() {
            let known = names.iter().copied().find(|name| name == machine);
            let machine = known.with_context(|| format!("{document} has no machine {machine}: {step:?}"))?;
            if matches!(step, Step::Command(_) | Step::File { .. }) {
                // A reader goes on when a command has ended, unless the text goes on with it later.
                let rest = steps.get(index..).unwrap_or_default();
                names.iter().filter(|name| !goes_on(rest, name)).try_for_each(|name| self.finish(name))?;
            }
            self.take(machine, step).with_context(|| format!("{document}, at {machine}: {step:?}"))?;
        }
        names.into_iter().try_for_each(|machine| self.finish(machine))
    }

    pub(crate) fn take(&mut self, machine: &'static str, step: &Step) -> Result<()> {
        match step {
            Step::Command(line) => {
                self.finish(machine)?;
                let authority = self.share_authority()?;
                self.machine(machine)?.start(line, &authority)
            }
            Step::Output(written) => self.see(machine, written),
            Step::Answer(text) => {
                let text = self.completed(text)?;
                self.machine(machine)?.terminal()?.press(&text)
            }
            Step::File { path, is_added, text } => {
                self.finish(machine)?;
                let own = if path.ends_with("/Caddyfile") { with_own_authority(text) } else { text.clone() };
                self.machine(machine)?.write(path, *is_added, &own)
            }
        }
    }

    /// Types a line.
    pub(crate) fn command(&mut self, machine: &'static str, line: &str) -> Result<()> {
        self.take(machine, &Step::Command(line.to_owned()))
    }

    /// Types an answer once the question is printed.
    pub(crate) fn answer(&mut self, machine: &'static str, question: &str, text: &str) -> Result<()> {
        self.see(machine, question)?;
        self.machine(machine)?.terminal()?.press(text)
    }

    /// Types a line that must fail.
    pub(crate) fn refused(&mut self, machine: &'static str, line: &str) -> Result<()> {
        self.command(machine, line)?;
        let (_, code, printed) = self.end(machine)?.context("nothing was typed")?;
        ensure!(code != Some(0), "{line:?} is not refused:\n{printed}");
        Ok(())
    }

    /// Runs a part of it while a machine finds another address by a name.
    pub(crate) fn with_host(
        &mut self,
        machine: &'static str,
        host: &str,
        part: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let node = self.machine(machine)?.node.clone();
        let name = host.split(' ').next_back().unwrap_or_default();
        let edit = format!(
            "sed 's/.* {name}/{host}/' /etc/hosts > /run/hosts && mount --bind /run/hosts /etc/hosts"
        );
        node.shell(&edit)?;
        part(self)?;
        node.shell("umount /etc/hosts").map(drop)
    }

    /// Waits for a line, whatever comes before it, and does meanwhile what stand-ins are asked. No
    /// line is taken twice.
    pub(crate) fn see(&mut self, machine: &'static str, written: &str) -> Result<()> {
        self.wait(written, |room| {
            let terminal = room.machine(machine)?.terminal()?;
            let is_over = !terminal.process.is_running();
            let lines = terminal.lines(is_over)?;
            let mut unread = lines.iter().enumerate().filter(|(index, _)| !terminal.read.contains(index));
            let Some((index, _)) = unread.find(|(_, line)| is_as_written(line, written)) else {
                ensure!(!is_over, "{:?} has ended without it:\n{}", terminal.line, lines.join("\n"));
                return Ok(None);
            };
            terminal.read.insert(index);
            Ok(Some(()))
        })
    }

    /// Waits for the command at a terminal to end well.
    pub(crate) fn finish(&mut self, machine: &'static str) -> Result<()> {
        let Some((line, code, printed)) = self.end(machine)? else { return Ok(()) };
        ensure!(code.is_some_and(|code| ENDINGS.contains(&code)), "{line:?} ended with {code:?}:\n{printed}");
        // What the command itself names as the next one.
        let next = printed.lines().last().and_then(|last| last.strip_prefix("next: ")?.split_once(", then"));
        match next.filter(|(next, _)| next.starts_with("sudo systemctl ")) {
            Some((next, _)) => self.command(machine, next),
            None => Ok(()),
        }
    }

    /// Waits for the command at a terminal to end: its line, status and output.
    pub(crate) fn end(&mut self, machine: &'static str) -> Result<Option<(String, Option<i32>, String)>> {
        let Some(mut terminal) = self.machine(machine)?.terminal.take() else { return Ok(None) };
        let line = terminal.line.clone();
        self.wait(&format!("{line:?} to end"), |_| Ok((!terminal.process.is_running()).then_some(())))?;
        let code = terminal.process.wait(LIMIT)?.code();
        let printed = terminal.lines(true)?.join("\n");
        let shown = format!("{machine}$ {line}\n{printed}\n");
        println!("{shown}");
        self.printed.push_str(&shown);
        Ok(Some((line, code, printed)))
    }

    fn wait(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Result<Option<()>>) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.serve()?;
            if look(self)?.is_some() {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "waited for {what}; printed was:\n{}", self.at_terminals()?);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// An answer whose rest was printed before, such as a code.
    pub(crate) fn completed(&self, text: &str) -> Result<String> {
        if !text.contains(REST) {
            return Ok(text.to_owned());
        }
        let printed = self.at_terminals()?;
        let found = printed.lines().find(|line| is_as_written(line, text)).map(str::to_owned);
        found.with_context(|| format!("no such line was printed:\n{printed}"))
    }

    fn at_terminals(&self) -> Result<String> {
        let terminals = self.machines.values().filter_map(|machine| machine.terminal.as_ref());
        Ok(terminals.map(|terminal| terminal.lines(false)).collect::<Result<Vec<_>>>()?.concat().join("\n"))
    }

    pub(crate) fn machine(&mut self, name: &str) -> Result<&mut Machine> {
        self.machines.get_mut(name).with_context(|| format!("no machine {name}"))
    }

    /// Where every machine finds the authority of the lab's Caddy, once there is one.
    fn share_authority(&self) -> Result<PathBuf> {
        let path = self.lab.directory().join("authority.crt");
        for machine in self.machines.values() {
            let output = machine.node.command("cat").arg(AUTHORITY).output()?;
            if output.status.success() {
                fs::write(&path, output.stdout)?;
            }
        }
        Ok(path)
    }

    /// Does what stand-ins are asked.
    fn serve(&mut self) -> Result<()> {
        let names: Vec<_> = self.machines.keys().copied().collect();
        for machine in names {
            for (reply, line) in self.machine(machine)?.requests()? {
                let words: Vec<&str> = line.split_whitespace().collect();
                let done = self.act(machine, &words).with_context(|| format!("{machine}: {line}"));
                let status = if done.is_ok() { "0\n" } else { "1\n" };
                fs::OpenOptions::new().write(true).open(reply)?.write_all(status.as_bytes())?;
                done?;
            }
        }
        Ok(())
    }

    fn act(&mut self, machine: &'static str, words: &[&str]) -> Result<()> {
        let has = |packages: &[&str], name: &str| packages.iter().any(|package| package.contains(name));
        match words {
            ["apt", "install", packages @ ..] if has(packages, "causeway-gateway") => {
                self.machine(machine)?.install("gateway")
            }
            ["apt" | "brew", "install", packages @ ..] if has(packages, "causeway") => {
                self.machine(machine)?.install("forwarder")
            }
            ["apt" | "brew", "install" | "purge" | "uninstall", _, ..] => Ok(()),
            ["brew", "services", "start", "caddy"] => self.start_caddy(machine, "/opt/homebrew/etc"),
            ["systemctl", "restart", "caddy"] | ["docker", "compose", .., "up", "--detach"] => {
                self.start_caddy(machine, "/etc/caddy")
            }
            ["brew", "services", "stop", "caddy"] | ["docker", "compose", .., "down"] => {
                self.stop(machine, "caddy")
            }
            ["systemctl", "enable", "--now", units @ ..] => {
                units.iter().try_for_each(|unit| self.start(machine, unit.trim_end_matches(".service")))
            }
            ["systemctl", "disable", "--now", units @ ..] => {
                // What has no process of its own ends by itself.
                let mut daemons = units.iter().filter(|unit| ["gateway", "forwarder"].contains(unit));
                daemons.try_for_each(|unit| self.stop(machine, unit))
            }
            _ => bail!("no stand-in does this"),
        }
    }

    fn start(&mut self, machine: &'static str, unit: &str) -> Result<()> {
        if self.running.contains_key(&(machine, unit.to_owned())) {
            return Ok(());
        }
        let node = self.machine(machine)?.node.clone();
        let process = start_unit(self.lab, &node, unit)?;
        self.running.insert((machine, unit.to_owned()), process);
        self.machine(machine)?.mark(unit, true)
    }

    /// Starts Caddy with the configuration in a folder, as another user than root.
    pub(crate) fn start_caddy(&mut self, machine: &'static str, folder: &str) -> Result<()> {
        let node = self.machine(machine)?.node.clone();
        let command = node.command("/usr/local/bin/caddy").user(USER.0, USER.1).env("HOME", HOME);
        let process = command.arg("run").arg("--config").arg(format!("{folder}/Caddyfile")).spawn("caddy")?;
        self.running.insert((machine, "caddy".to_owned()), Some(process));
        until(LIMIT, "Caddy's admin endpoint", || {
            Ok(node.tcp_connect("127.0.0.1:2019", Duration::from_secs(1)).is_ok().then_some(()))
        })
    }

    fn stop(&mut self, machine: &'static str, unit: &str) -> Result<()> {
        stop_unit(unit, self.running.remove(&(machine, unit.to_owned())).flatten())?;
        if unit == "caddy" { Ok(()) } else { self.machine(machine)?.mark(unit, false) }
    }
}

/// Whether the next of these steps at a machine is one with the command that runs there.
fn goes_on(steps: &[(String, Step)], machine: &str) -> bool {
    let next = steps.iter().find(|(name, _)| name == machine);
    next.is_some_and(|(_, step)| matches!(step, Step::Output(_) | Step::Answer(_)))
}
