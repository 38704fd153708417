//! README and the tutorials, step by step as they are written: each command is typed at a terminal
//! of its machine, each answer where the text has it, and every line that the text shows must be
//! printed.
//!
//! What a namespace cannot do is done in its place: `apt` and `brew` put this tree's programs where
//! the packages have them, `systemctl` starts what the installed units say, `docker` runs Caddy
//! without a container, and Caddy has an authority of its own. The Mac is a Linux machine that has
//! the Mac's folders. The router, the DNS records and the provider's firewall are the lab's.

#![allow(clippy::print_stdout)] // What was printed is what a person compares with the text.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Lab, Process, TcpServer, Topology, scenario, until};
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

const PI_AND_MAC: &str = "docs/TUTORIAL-PI-MAC.md";
const VPS: &str = "docs/TUTORIAL-VPS.md";
const DOCKER: &str = "docs/TUTORIAL-DOCKER.md";

#[test]
fn the_readme_leads_from_two_bare_machines_to_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::one_armed(), |lab| follow(lab, "README.md", &[("edge", "edge"), ("origin", "origin")]))
}

#[test]
fn the_tutorial_for_a_pi_and_a_mac_ends_with_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::one_armed(), |lab| follow(lab, PI_AND_MAC, &[("pi", "edge"), ("mac", "origin")]))
}

#[test]
fn the_tutorial_for_a_rented_server_ends_with_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        without_lan(lab)?;
        follow(lab, VPS, &[("vps", "edge"), ("home", "origin")])
    })
}

#[test]
fn the_tutorial_for_docker_ends_with_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        without_lan(lab)?;
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root has other users").map(drop);
        }
        let mut room = Room::new(lab, &[("edge", "edge"), ("home", "origin")])?;
        // It begins with an edge that is set up.
        room.machine("edge")?.install("gateway")?;
        room.command("edge", "sudo causeway setup")?;
        for text in ["edge.example.com", "yes"] {
            room.see("edge", "…?…")?;
            room.take("edge", &Step::Answer(text.to_owned()))?;
        }
        room.follow(DOCKER)
    })
}

#[test]
fn what_the_tutorial_for_a_pi_and_a_mac_says_of_what_goes_wrong_is_what_is_printed_then() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root has other users").map(drop);
        }
        let mut room = Room::new(lab, &[("pi", "edge"), ("mac", "origin")])?;
        room.goes_wrong()?;
        room.has_printed(PI_AND_MAC)
    })
}

#[test]
fn what_the_other_tutorials_say_of_what_goes_wrong_is_what_is_printed_then() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root has other users").map(drop);
        }
        without_lan(lab)?;
        // A port that the edge does not open.
        lab.expect_warning("refuses a public port");
        let mut room = Room::new(lab, &[("vps", "edge"), ("home", "origin")])?;
        room.server_goes_wrong()?;
        room.docker_goes_wrong()?;
        room.has_printed(VPS)?;
        room.has_printed(DOCKER)
    })
}

/// Takes the edge's local network away, as a rented server has none.
fn without_lan(lab: &Lab) -> Result<()> {
    lab.node("edge")?.ip("address del 192.168.1.2/24 dev eth1\nlink set eth1 down")
}

/// Follows a document from its first step to its last, for the two machines that it names.
fn follow(lab: &Lab, document: &str, names: &[(&'static str, &str)]) -> Result<()> {
    if !lab::has_real_root() {
        return lab::skip(lab.name(), "only real root has other users").map(drop);
    }
    let mut room = Room::new(lab, names)?;
    room.follow(document)
}

/// Whether the next of these steps at a machine is one with the command that runs there.
fn goes_on(steps: &[(String, Step)], machine: &str) -> bool {
    let next = steps.iter().find(|(name, _)| name == machine);
    next.is_some_and(|(_, step)| matches!(step, Step::Output(_) | Step::Answer(_)))
}

/// The messages in the first column of the table of what can go wrong.
fn messages_of(document: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(lab::workspace().join(document))?;
    let (_, section) = text.split_once("\n## What can go wrong\n").context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let messages: Vec<String> = rows.map(|(message, _)| message.to_owned()).collect();
    ensure!(messages.len() >= 5, "only {} messages", messages.len());
    Ok(messages)
}

/// The machines of a document, and a visitor.
struct Room<'lab> {
    lab: &'lab Lab,
    machines: BTreeMap<&'static str, Machine>,
    /// Daemons, by machine and name.
    running: BTreeMap<(&'static str, String), Option<Process>>,
    /// What commands printed that have ended.
    printed: String,
    _emby: TcpServer,
}

impl<'lab> Room<'lab> {
    fn new(lab: &'lab Lab, names: &[(&'static str, &str)]) -> Result<Self> {
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
    fn follow(&mut self, document: &str) -> Result<()> {
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

    /// What a reader does wrong, in the order of the steps, until the page is there.
    fn goes_wrong(&mut self) -> Result<()> {
        self.machine("pi")?.install("gateway")?;
        self.machine("mac")?.install("forwarder")?;
        self.name_leads_to_a_proxy()?;
        self.pairs_badly()?;
        self.refused("mac", "sudo causeway publish hello.example.com")?;
        for (_, step) in steps_of(PI_AND_MAC)?.iter().filter(|(_, step)| matches!(step, Step::File { .. })) {
            self.take("mac", step)?;
        }
        self.refused("mac", "sudo causeway publish hello.example.com")?;
        self.command("mac", "sudo forwarder reload --config /etc/causeway/forwarder.toml")?;
        // Caddy does not run, and the name has no record.
        self.command("mac", "sudo causeway publish photos.example.com")?;
        self.command("mac", "sudo causeway status")?;
        self.finish("mac")?;

        self.start_caddy("mac", "/opt/homebrew/etc")?;
        self.command("mac", "sudo causeway publish hello.example.com --wait")?;
        self.finish("mac")?;
        let masquerades = "add rule ip router out ip daddr 192.168.1.2 tcp dport 443 masquerade";
        self.lab.node("router")?.nft(masquerades)?;
        self.command("visitor", "curl -sS https://hello.example.com/")?;
        self.finish("visitor")
    }

    /// The same for a rented server, until the two machines are paired.
    fn server_goes_wrong(&mut self) -> Result<()> {
        self.machine("vps")?.install("gateway")?;
        self.machine("home")?.install("forwarder")?;
        let node = self.machine("vps")?.node.clone();
        let web = TcpServer::start(node.tcp_listener("0.0.0.0:443")?, forwarded_for)?;
        node.nft(
            "table ip filter { chain INPUT { type filter hook input priority filter; policy accept
                 ct state established,related accept\n tcp dport 22 accept\n reject with icmp host-prohibited\n }\n }",
        )?;
        self.with_host("vps", "203.0.113.99 edge", |room| {
            room.command("vps", "sudo causeway setup")?;
            room.answer("vps", "what is the public name…", "edge.example.com")?;
            room.answer("vps", "…yes or no", "no")?;
            room.end("vps").map(drop)
        })?;
        drop(web);
        node.nft("delete table ip filter")?;
        self.command("vps", "sudo causeway setup")?;
        self.answer("vps", "what is the public name…", "edge.example.com")?;
        self.answer("vps", "…yes or no", "yes")?;
        self.finish("vps")?;

        let inet = self.lab.node("inet")?;
        inet.nft("table ip provider { chain forward { type filter hook forward priority 0; udp dport 51820 drop\n }\n }")?;
        self.command("vps", "sudo causeway pair home")?;
        self.answer("vps", "which public ports…", "80")?;
        self.see("vps", "causeway1-…")?;
        let code = self.completed("causeway1-…")?;
        self.command("home", "sudo causeway join")?;
        self.answer("home", "paste the code…", &code)?;
        self.see("vps", "0 packets…")?;
        inet.nft("delete table ip provider")?;
        self.answer("vps", "…yes or no", "yes")?;
        self.finish("vps")?;
        self.finish("home")
    }

    /// The same for the machine with Docker.
    fn docker_goes_wrong(&mut self) -> Result<()> {
        let steps = steps_of(DOCKER)?;
        let copies = |step: &Step| matches!(step, Step::Command(line) if line.contains("/etc/caddy"));
        for (_, step) in steps.iter().filter(|(_, step)| copies(step) || matches!(step, Step::File { .. })) {
            self.take("home", step)?;
        }
        self.finish("home")?;
        self.start_caddy("home", "/etc/caddy")?;
        self.command("home", "sudo forwarder reload --config /etc/causeway/forwarder.toml")?;
        self.refused("home", "causeway publish emby.example.com 8096")?;
        // 443 was not among the ports that the edge lets this machine open.
        self.refused("home", "sudo causeway publish emby.example.com 8096")?;
        let edit = "sed -i 's/may_publish = .*/may_publish = [80, 443]/' /etc/causeway/gateway.toml";
        self.machine("vps")?.node.shell(edit)?;
        self.command("vps", "sudo gatewayctl reload")?;
        self.finish("vps")?;

        let node = self.machine("home")?.node.clone();
        node.shell("cp /etc/caddy/Caddyfile /run/Caddyfile && sed -i /^import/d /etc/caddy/Caddyfile")?;
        self.refused("home", "sudo causeway publish emby.example.com 8096")?;
        node.shell("cp /run/Caddyfile /etc/caddy/Caddyfile")?;
        // No program is there.
        self.command("home", "sudo causeway publish emby.example.com 8099")?;
        self.finish("home")?;
        node.shell(
            "sed -i 's/reverse_proxy/encode\\n\\treverse_proxy/' /etc/caddy/sites/emby.example.com.caddy",
        )?;
        self.refused("home", "sudo causeway publish emby.example.com 8096")
    }

    /// Fails when the text has a message that nothing has printed.
    fn has_printed(&self, document: &str) -> Result<()> {
        let printed: Vec<&str> = self.printed.lines().map(str::trim).collect();
        for message in messages_of(document)? {
            let is_printed = printed.iter().any(|line| is_as_written(line, &message));
            ensure!(is_printed, "{document} has what was not printed: {message}\n{}", self.printed);
        }
        Ok(())
    }

    /// Runs a part of it while a machine finds another address by a name.
    fn with_host(
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

    fn command(&mut self, machine: &'static str, line: &str) -> Result<()> {
        self.take(machine, &Step::Command(line.to_owned()))
    }

    fn name_leads_to_a_proxy(&mut self) -> Result<()> {
        self.with_host("pi", "104.16.0.1 kyiv", |room| {
            room.command("pi", "sudo causeway setup")?;
            room.answer("pi", "what is the public name…", "kyiv.example.com")?;
            room.see("pi", "…@cloudflare…")
        })?;
        self.answer("pi", "what is the public name…", "kyiv.example.com")?;
        self.answer("pi", "…yes or no", "yes")?;
        self.finish("pi")
    }

    /// A code with a mistake, then a router that does not forward; then both commands go on.
    fn pairs_badly(&mut self) -> Result<()> {
        self.command("pi", "sudo causeway pair wroclaw")?;
        self.answer("pi", "which public ports…", "")?;
        self.see("pi", "causeway1-…")?;
        let code = self.completed("causeway1-…")?;
        let groups: Vec<&str> = code.split('-').collect();
        self.join(&code.replacen(groups.get(3).context("no third group")?, "00000000", 1))?;
        self.end("mac")?;

        let router = self.lab.node("router")?;
        let rules = router.run("nft list chain ip router in")?;
        router.nft("flush chain ip router in")?;
        self.join(&code)?;
        self.see("pi", "0 packets…")?;
        self.see("mac", "no answer…")?;
        router.nft(&rules)?;
        // What a router tracks it does not forward elsewhere.
        router.output("conntrack -F")?;
        self.answer("pi", "…yes or no", "yes")?;
        self.finish("pi")?;
        self.finish("mac")
    }

    fn join(&mut self, code: &str) -> Result<()> {
        self.command("mac", "sudo causeway join")?;
        self.answer("mac", "paste the code…", code)
    }

    fn answer(&mut self, machine: &'static str, question: &str, text: &str) -> Result<()> {
        self.see(machine, question)?;
        self.machine(machine)?.terminal()?.press(text)
    }

    /// Types a line that must fail.
    fn refused(&mut self, machine: &'static str, line: &str) -> Result<()> {
        self.command(machine, line)?;
        let (_, code, printed) = self.end(machine)?.context("nothing was typed")?;
        ensure!(code != Some(0), "{line:?} is not refused:\n{printed}");
        Ok(())
    }

    fn take(&mut self, machine: &'static str, step: &Step) -> Result<()> {
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

    /// Waits for a line, and does meanwhile what stand-ins are asked.
    fn see(&mut self, machine: &'static str, written: &str) -> Result<()> {
        self.wait(written, |room| {
            let terminal = room.machine(machine)?.terminal()?;
            let is_over = !terminal.process.is_running();
            let lines = terminal.lines(is_over)?;
            let mut unread = lines.iter().enumerate().skip(terminal.read);
            let Some((index, _)) = unread.find(|(_, line)| is_as_written(line, written)) else {
                ensure!(!is_over, "{:?} has ended without it:\n{}", terminal.line, lines.join("\n"));
                return Ok(None);
            };
            terminal.read = index + 1;
            Ok(Some(()))
        })
    }

    /// Waits for the command at a terminal to end well.
    fn finish(&mut self, machine: &'static str) -> Result<()> {
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
    fn end(&mut self, machine: &'static str) -> Result<Option<(String, Option<i32>, String)>> {
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
    fn completed(&self, text: &str) -> Result<String> {
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

    fn machine(&mut self, name: &str) -> Result<&mut Machine> {
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
    fn start_caddy(&mut self, machine: &'static str, folder: &str) -> Result<()> {
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
