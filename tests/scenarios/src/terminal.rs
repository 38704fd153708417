//! Machines at whose terminals lines are typed, as a reader of a document types them.
//!
//! What a namespace has not is done by the test in its place: `apt`, `brew`, `systemctl` and
//! `docker` leave their words for it and wait for the status. `sudo` is not needed for root.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lab::{Node, Process};

use crate::installed::separate;

/// The user who types, `anna`.
pub const USER: (u32, u32) = (1_000, 1_000);
/// That user's folder.
pub const HOME: &str = "/run/home";
/// Where the package of the origin has its examples.
const EXAMPLES: &str = "/usr/share/doc/causeway-forwarder/examples";
/// Programs that the test does the work of.
const STAND_INS: [&str; 4] = ["apt", "brew", "systemctl", "docker"];

/// A machine with the terminal at which its user types.
#[derive(Debug)]
pub struct Machine {
    /// The machine.
    pub node: Node,
    /// The command at its terminal.
    pub terminal: Option<Terminal>,
    /// Where stand-ins leave their words.
    asked: PathBuf,
}

/// A command at a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// As it was typed.
    pub line: String,
    /// The terminal with the command.
    pub process: Process,
    /// Which of the printed lines were read.
    pub read: BTreeSet<usize>,
    keys: PathBuf,
}

impl Machine {
    /// A machine with nothing of Causeway, that knows these hosts (lines of `/etc/hosts`, joined by
    /// `\n` as text). It has the folders of a Mac, and Caddy's program.
    pub fn new(node: Node, hosts: &str) -> Result<Self> {
        separate(&node, hosts)?;
        let asked = node.directory().join("asked");
        fs::create_dir_all(&asked)?;
        fs::set_permissions(&asked, fs::Permissions::from_mode(0o1777))?;
        for name in STAND_INS {
            executable(&asked.join(name), &STAND_IN.replace("ASKED", &asked.display().to_string()))?;
        }
        executable(&asked.join("sudo"), SUDO)?;
        let caddy = lab::newer("caddy")?;
        let (uid, gid) = USER;
        node.shell(&format!(
            "echo 'anna:x:{uid}:{gid}::{HOME}:/bin/sh' >> /etc/passwd
             echo 'anna:x:{gid}:' >> /etc/group
             echo 'nameserver 127.0.0.1' > /etc/resolv.conf
             mkdir -m 0700 {HOME} /run/root && mkdir -p /run/systemd/system /etc/caddy
             for folder in /opt /srv /usr/share/doc; do mount -t tmpfs -o mode=0755 tmpfs $folder; done
             mkdir -p /usr/local/etc /opt/homebrew/bin /opt/homebrew/etc
             ln -s /etc/causeway /usr/local/etc/causeway && ln -s /opt/homebrew/bin/caddy /usr/local/bin/caddy
             touch /opt/homebrew/bin/caddy && mount --bind {} /opt/homebrew/bin/caddy
             chown -R anna:anna {HOME} /opt/homebrew",
            caddy.display()
        ))?;
        Ok(Self { node, terminal: None, asked })
    }

    /// Types a line at the prompt: as root when it begins with `sudo`, else as the user. `authority`
    /// is whose certificates curl believes.
    pub fn start(&mut self, line: &str, authority: &Path) -> Result<()> {
        let (of_user, is_root) = line.strip_prefix("sudo ").map_or((line, false), |rest| (rest, true));
        let number = fs::read_dir(self.node.directory())?.count();
        let keys = self.node.directory().join(format!("keys-{number}"));
        self.node.run(&format!("mkfifo -m 0666 {}", keys.display()))?;
        let command = self.node.command("sh").args(["-c", AT_A_TERMINAL, "sh"]).arg(&keys).arg(of_user);
        let path = format!("{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.asked.display());
        let command = command.env("PATH", path).env("NO_COLOR", "1").env("LC_ALL", "C.UTF-8");
        let command = command.env("CURL_CA_BUNDLE", authority);
        let command = if is_root {
            command.env("HOME", "/run/root")
        } else {
            command.env("HOME", HOME).user(USER.0, USER.1)
        };
        let process = command.spawn(&format!("terminal-{number}"))?;
        self.terminal = Some(Terminal { line: line.to_owned(), process, read: BTreeSet::new(), keys });
        Ok(())
    }

    /// The command at the terminal.
    pub fn terminal(&mut self) -> Result<&mut Terminal> {
        self.terminal.as_mut().context("no command was typed before")
    }

    /// Writes a file, or adds to its end, as its owner's editor does.
    pub fn write(&self, path: &str, is_added: bool, text: &str) -> Result<()> {
        let how = if is_added { ">>" } else { ">" };
        let script = format!("mkdir -p \"$(dirname {path})\"; cat {how} {path}");
        let command = self.node.command("sh").args(["-euc", &script]);
        let is_annas = path.starts_with("/opt/homebrew/");
        let command = if is_annas { command.user(USER.0, USER.1) } else { command };
        command.run_with_input(text.as_bytes()).map(drop)
    }

    /// Puts one end's programs, units, users and examples in place of its package.
    pub fn install(&self, end: &str) -> Result<()> {
        let programs = lab::binary("gateway")?.parent().context("no folder")?.to_owned();
        let script = format!("cd {}; scripts/install {end}", lab::workspace().display());
        let path = format!("{}:{}", self.asked.display(), std::env::var("PATH")?);
        let command = self.node.command("sh").args(["-euc", &script]).env("BINARIES", programs);
        command.env("PATH", path).run()?;
        let sample = fs::read_to_string(lab::workspace().join("configs/caddy/Caddyfile"))?;
        self.write(&format!("{EXAMPLES}/caddy/Caddyfile"), false, &with_own_authority(&sample))
    }

    /// What stand-ins ask, each with where it waits for the status.
    pub fn requests(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.asked)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "request") {
                found.push((path.with_extension("reply"), fs::read_to_string(&path)?));
                fs::remove_file(&path)?;
            }
        }
        Ok(found)
    }

    /// What `systemctl is-active` and `is-enabled` say of a unit from now on.
    pub fn mark(&self, unit: &str, is_started: bool) -> Result<()> {
        let mark = self.asked.join(format!("started-{unit}"));
        Ok(if is_started { fs::write(mark, "") } else { fs::remove_file(mark) }?)
    }
}

impl Terminal {
    /// Every line that was printed, typed ones included; the last one only when it is whole, unless
    /// the command `is_over`.
    pub fn lines(&self, is_over: bool) -> Result<Vec<String>> {
        let log = self.process.log()?;
        let lines = log.split_inclusive('\n').filter(|line| is_over || line.ends_with('\n'));
        Ok(lines.map(|line| line.trim_end().to_owned()).collect())
    }

    /// Types a line while the command waits for one.
    pub fn press(&self, text: &str) -> Result<()> {
        let mut keys = fs::OpenOptions::new().read(true).write(true).open(&self.keys)?;
        Ok(writeln!(keys, "{text}")?)
    }
}

/// A Caddyfile whose certificates are of an authority of its own, as a lab has no other.
pub fn with_own_authority(text: &str) -> String {
    text.replacen("\n{\n", "\n{\n\tlocal_certs\n\tskip_install_trust\n", 1)
}

/// Runs a line with a terminal, at which is typed what comes by a FIFO.
const AT_A_TERMINAL: &str =
    "keys=$1; shift; exec script --quiet --return --flush --command \"$*\" /dev/null <> \"$keys\"";
/// In place of a program: leaves its words for the test, and waits for the status.
const STAND_IN: &str = "#!/bin/sh
name=$(basename \"$0\")
case \"$name $*\" in
  'systemctl daemon-reload') exit 0 ;;
  'systemctl is-active '*|'systemctl is-enabled '*) for unit; do :; done; test -e \"ASKED/started-${unit%.service}\"; exit ;;
  'docker exec caddy caddy '*) shift 2; exec \"$@\" ;;
esac
mkfifo ASKED/$$.reply
echo \"$name $*\" > ASKED/$$.new && mv ASKED/$$.new ASKED/$$.request
read -r status < ASKED/$$.reply
exit \"$status\"
";
/// For commands that root runs as another user.
const SUDO: &str = "#!/bin/sh
if test \"$1 $2\" = '-H -u'; then
  user=$3; shift 3; HOME=$(getent passwd \"$user\" | cut -d: -f6); export HOME
  exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups \"$@\"
fi
exec \"$@\"
";

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
