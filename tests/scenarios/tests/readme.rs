//! INSTALL's steps and OPERATIONS' upgrade and uninstalling, line by line as they are written.
//!
//! Each machine is a namespace with an `/etc`, `/usr/local` and `/var/lib` of its own. What begins
//! with `sudo` runs as root, all else as a user without any privilege. There is no systemd in a
//! namespace: of `systemctl` lines the test does what the installed units say, as their users. A
//! line that the test does not know fails it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, Topology, scenario};
use scenarios::installed::{separate, start_unit, stop_unit};

/// The user who types the lines that need no privilege.
const USER: (u32, u32) = (65_534, 65_534);
/// INSTALL's placeholders for the other machine's public key.
const FAR_KEYS: [&str; 2] = ["<the Mac's public key>", "<the Pi's public key>"];

/// What this test does with a line.
#[derive(Clone, Copy)]
enum Step {
    /// Not run: the programs are built already.
    Elsewhere,
    /// Runs to its end with status 0, as root when it begins with `sudo`.
    Runs,
    /// Starts these units, in this order.
    Starts(&'static [&'static str]),
    /// Ends these units and starts them again.
    Restarts(&'static str),
    /// Ends these units.
    Stops(&'static [&'static str]),
    /// Not run, as it would ask the internet. The user of its service can read what it reads.
    AsAgent,
    /// A daemon in the foreground, started by hand.
    ByHand,
}
use Step::{AsAgent, ByHand, Elsewhere, Restarts, Runs, Starts, Stops};

/// INSTALL's steps: machine, line, what this test does with it.
const INSTALLATION: &[(&str, &str, Step)] = &[
    ("edge", "cargo build --release --workspace", Elsewhere),
    ("edge", "sudo scripts/install gateway", Runs),
    ("edge", "sudo gatewayctl keygen /etc/causeway/keys --name kyiv --owner causeway", Runs),
    ("origin", "sudo scripts/install forwarder", Runs),
    ("origin", "sudo gatewayctl keygen /etc/causeway/keys --name wroclaw --owner causeway-forwarder", Runs),
    ("edge", "gateway check --config /etc/causeway/gateway.toml", Runs),
    ("edge", "sudo systemctl enable --now causeway-guard gateway", Starts(&["causeway-guard", "gateway"])),
    ("edge", "sudo systemctl enable --now causeway-agent", AsAgent),
    ("origin", "forwarder check --config /etc/causeway/forwarder.toml", Runs),
    ("origin", "sudo systemctl enable --now forwarder", Starts(&["forwarder"])),
    ("origin", "sudo forwarder wait kyiv", Runs),
    ("origin", "gatewayctl keygen ~/.config/causeway/keys --name wroclaw", Runs),
    ("origin", "forwarder --config ~/.config/causeway/forwarder.toml", ByHand),
];

/// OPERATIONS' "Upgrade and uninstall".
const UPGRADE: &[(&str, &str, Step)] = &[
    ("edge", "cargo build --release --workspace", Elsewhere),
    ("edge", "sudo scripts/install gateway", Runs),
    ("edge", "gateway check --config /etc/causeway/gateway.toml", Runs),
    ("edge", "sudo systemctl restart gateway", Restarts("gateway")),
    ("edge", "sudo systemctl disable --now gateway causeway-guard causeway-agent", Stops(&["gateway"])),
    ("edge", "sudo gateway down --config /etc/causeway/gateway.toml", Runs),
    ("edge", "sudo scripts/install --remove", Runs),
    ("edge", "sudo rm -rf /etc/causeway /var/lib/causeway /var/lib/causeway-root", Runs),
    ("origin", "sudo systemctl disable --now forwarder", Stops(&["forwarder"])),
    ("origin", "sudo scripts/install --remove", Runs),
    (
        "origin",
        "sudo rm -rf /etc/causeway /var/lib/causeway-forwarder /var/lib/causeway-forwarder-root",
        Runs,
    ),
];

#[test]
fn every_line_of_the_installation_works_as_written_and_so_do_upgrade_and_uninstalling() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root has other users").map(drop);
        }
        let mut site = Machines::new(lab)?;
        let installation = chapter("docs/INSTALL.md", "## Step by step")?;
        let upgrade = chapter("docs/OPERATIONS.md", "## Upgrade and uninstall")?;
        compare(&installation, INSTALLATION)?;
        compare(&upgrade, UPGRADE)?;

        site.files = toml_blocks(&installation);
        for (machine, line, step) in INSTALLATION {
            site.step(machine, line, *step).with_context(|| format!("INSTALL: {line}"))?;
            if *line == "sudo forwarder wait kyiv" {
                site.both_ends_are_up()?;
            }
        }
        for (machine, line, step) in UPGRADE {
            site.step(machine, line, *step).with_context(|| format!("OPERATIONS: {line}"))?;
        }
        site.nothing_is_left()
    })
}

/// Both machines, and what runs on them.
struct Machines<'lab> {
    lab: &'lab Lab,
    edge: Node,
    origin: Node,
    /// INSTALL's configuration files, by the program that reads them.
    files: BTreeMap<&'static str, String>,
    running: BTreeMap<&'static str, Process>,
}

impl<'lab> Machines<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let (edge, origin) = (lab.node("edge")?, lab.node("origin")?);
        for node in [&edge, &origin] {
            separate(node, "192.0.2.2 kyiv.example.com")?;
            node.shell(&format!("mkdir -m 0700 /run/home && chown {}:{} /run/home", USER.0, USER.1))?;
        }
        Ok(Self { lab, edge, origin, files: BTreeMap::new(), running: BTreeMap::new() })
    }

    fn node(&self, machine: &str) -> &Node {
        if machine == "edge" { &self.edge } else { &self.origin }
    }

    fn step(&mut self, machine: &str, line: &str, step: Step) -> Result<()> {
        // The configuration is written before the line that first reads it.
        for (program, keys) in [("gateway", "edge"), ("forwarder", "origin")] {
            if line.starts_with(&format!("{program} check")) && machine == keys {
                self.write_configuration(program)?;
            }
        }
        match step {
            Elsewhere => Ok(()),
            Runs => self.run(machine, line).map(drop),
            Starts(units) => units.iter().try_for_each(|unit| self.start(machine, unit)),
            Restarts(unit) => {
                self.stop(unit)?;
                self.start(machine, unit)
            }
            Stops(units) => units.iter().try_for_each(|unit| self.stop(unit)),
            AsAgent => self.agents_user_reads(),
            ByHand => self.start_by_hand(line),
        }
    }

    fn run(&self, machine: &str, line: &str) -> Result<String> {
        let node = self.node(machine);
        let (line, is_root) = line.strip_prefix("sudo ").map_or((line, false), |line| (line, true));
        let command = node.command("sh");
        let tree = lab::workspace();
        let command = command.args(["-euc", &format!("cd {}; {line}", tree.display())]);
        let programs = lab::binary("gateway")?.parent().context("no folder")?.to_owned();
        let command = command.env("PATH", PATH).env("HOME", "/run/home").env("BINARIES", programs);
        if is_root { command } else { command.user(USER.0, USER.1) }.run()
    }

    /// Writes INSTALL's file as an editor of root's does: mode 0644.
    fn write_configuration(&self, program: &'static str) -> Result<()> {
        let (machine, far, key) =
            if program == "gateway" { ("edge", "origin", "wroclaw") } else { ("origin", "edge", "kyiv") };
        let path = format!("/etc/causeway/{program}.toml");
        if self.node(machine).output(&format!("test -e {path}"))?.status.success() {
            return Ok(());
        }
        let public = self.node(far).run(&format!("cat /etc/causeway/keys/{key}.pub"))?;
        let text = self.files.get(program).with_context(|| format!("INSTALL has no {program}.toml"))?;
        let text = FAR_KEYS.iter().fold(text.clone(), |text, far| text.replace(far, public.trim()));
        let script = format!("umask 022; cat > {path}");
        self.node(machine).command("sh").args(["-euc", &script]).run_with_input(text.as_bytes()).map(drop)
    }

    /// Starts what the installed unit says; systemd must find nothing wrong with it.
    fn start(&mut self, machine: &str, unit: &'static str) -> Result<()> {
        let node = self.node(machine);
        let text = node.run(&format!("cat /etc/systemd/system/{unit}.service"))?;
        let said = node.output(&format!("systemd-analyze verify --man=no {unit}.service"))?;
        ensure!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
        for document in text.lines().filter_map(|line| line.strip_prefix("Documentation=file://")) {
            node.run(&format!("test -r {document}"))?;
        }
        if let Some(process) = start_unit(self.lab, node, unit)? {
            self.running.insert(unit, process);
        }
        Ok(())
    }

    fn stop(&mut self, unit: &str) -> Result<()> {
        stop_unit(unit, self.running.remove(unit))
    }

    fn agents_user_reads(&self) -> Result<()> {
        let as_user = "setpriv --reuid causeway-agent --regid causeway-agent --clear-groups";
        self.edge.run(&format!("{as_user} test -r /etc/causeway/gateway.toml"))?;
        self.edge.run(&format!("{as_user} test -w /etc/causeway/lists/cloudflare.list"))?;
        let key = self.edge.output(&format!("{as_user} test -r /etc/causeway/keys/kyiv.key"))?;
        ensure!(!key.status.success(), "the agent's user can read the private key");
        Ok(())
    }

    /// Starts the forwarder with the same file as another user, without a session, when only root
    /// may write to `/run`.
    fn start_by_hand(&mut self, line: &str) -> Result<()> {
        let denied = self.run("origin", "forwarder status").err().context("status as another user")?;
        ensure!(denied.to_string().contains("exit status: 5"), "{denied}");
        self.stop("forwarder")?;
        self.origin.run("cp /etc/causeway/forwarder.toml /run/home/.config/causeway/")?;
        let script = format!("exec {line}");
        let command = self.origin.command("sh").args(["-euc", &script]).user(USER.0, USER.1);
        let process = command.env("PATH", PATH).env("HOME", "/run/home").spawn("by-hand")?;
        self.running.insert("by-hand", process);
        lab::until(Duration::from_secs(15), "the forwarder that was started by hand", || {
            Ok(self.run("origin", "forwarder status").ok())
        })?;
        self.stop("by-hand")?;
        self.start("origin", "forwarder")
    }

    fn both_ends_are_up(&self) -> Result<()> {
        let peers = self.run("edge", "sudo gatewayctl peers --json")?;
        ensure!(peers.contains("\"state\":\"up\""), "{peers}");
        for (machine, user, unit, key) in [
            ("edge", "causeway", "gateway", "kyiv"),
            ("origin", "causeway-forwarder", "forwarder", "wroclaw"),
        ] {
            let uid = self.node(machine).run(&format!("id -u {user}"))?;
            let process = self.running.get(unit).context("not started")?;
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
            let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no Uid")?;
            ensure!(uids.split_whitespace().all(|found| found == uid.trim()), "{unit} runs as {uids}");
            let key = format!("/etc/causeway/keys/{key}.key");
            let file = self.node(machine).run(&format!("stat -c %U:%a {key}"))?;
            ensure!(file.trim() == format!("{user}:600"), "{key} is {file}");
        }
        Ok(())
    }

    fn nothing_is_left(&self) -> Result<()> {
        for node in [&self.edge, &self.origin] {
            // What only the namespace has of its own; 0/0 devices are what an overlay keeps for
            // removed files.
            let found =
                node.run("find /run/own/etc /run/own/usr /run/own/var -name *causeway* -not -type c")?;
            ensure!(found.is_empty(), "left on {}: {found}", node.name());
        }
        ensure!(!self.edge.run("nft list tables")?.contains("causeway"));
        ensure!(!self.edge.output("ip link show gw0")?.status.success(), "gw0 is still there");
        Ok(())
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn the_installer_names_every_file_that_a_unit_needs_and_touches_nothing_else_when_it_stages() -> Result<()> {
    let staged = std::env::temp_dir().join(format!("causeway-staged-{}", std::process::id()));
    let programs = lab::binary("gateway")?.parent().context("no folder")?.to_owned();
    for end in ["gateway", "forwarder"] {
        let status = std::process::Command::new(lab::workspace().join("scripts/install"))
            .arg(end)
            .env("DESTDIR", &staged)
            .env("BINARIES", &programs)
            .stdout(std::process::Stdio::null())
            .status()?;
        ensure!(status.success(), "{end}: {status}");
    }
    for (file, mode) in [
        ("usr/local/bin/gateway", 0o755),
        ("usr/local/bin/forwarder", 0o755),
        ("usr/local/lib/causeway/earlier-version", 0o755),
        ("etc/systemd/system/gateway.service", 0o644),
        ("etc/systemd/system/causeway-agent.service", 0o644),
        ("etc/systemd/system/causeway-forwarder-agent.service", 0o644),
        ("etc/sysusers.d/causeway.conf", 0o644),
        ("etc/modules-load.d/causeway.conf", 0o644),
        ("etc/causeway/keys", 0o755),
    ] {
        let metadata = fs::metadata(staged.join(file)).with_context(|| file.to_owned())?;
        ensure!(metadata.permissions().mode() & 0o777 == mode, "{file}: {:o}", metadata.permissions().mode());
    }
    fs::remove_dir_all(&staged).context("the staged tree")
}

/// The text between a heading and the next of its level.
fn chapter(file: &str, heading: &str) -> Result<String> {
    let text = fs::read_to_string(lab::workspace().join(file))?;
    let (_, after) =
        text.split_once(&format!("\n{heading}\n")).with_context(|| format!("{file} has no {heading}"))?;
    Ok(after.split("\n## ").next().unwrap_or_default().to_owned())
}

/// The fenced blocks of a language.
fn blocks<'t>(chapter: &'t str, language: &str) -> Vec<&'t str> {
    let opening = format!("```{language}\n");
    chapter.split(opening.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The command lines without their comments.
fn lines(chapter: &str) -> Vec<&str> {
    let code = |line: &'_ str| line.split("  #").next().unwrap_or_default().trim().len();
    let lines = blocks(chapter, "sh").into_iter().flat_map(str::lines);
    lines.map(|line| line.get(..code(line)).unwrap_or(line)).filter(|line| !line.is_empty()).collect()
}

fn compare(chapter: &str, known: &[(&str, &str, Step)]) -> Result<()> {
    let written = lines(chapter);
    let known: Vec<&str> = known.iter().map(|(_, line, _)| *line).collect();
    ensure!(written == known, "written are\n{written:#?}\nand the test knows\n{known:#?}");
    Ok(())
}

fn toml_blocks(chapter: &str) -> BTreeMap<&'static str, String> {
    let program = |text: &str| if text.contains("[wan]") { "gateway" } else { "forwarder" };
    blocks(chapter, "toml").into_iter().map(|text| (program(text), text.to_owned())).collect()
}
