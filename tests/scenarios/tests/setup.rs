//! `causeway setup`: a machine without a configuration becomes an edge.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, TcpServer, Topology, scenario, until};
use serde_json::Value;

/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_secs(30);
/// The edge's public name, in the lab's name server.
const NAME: &str = "kyiv.example.com";
/// The name leads to the edge; another one to a proxy of Cloudflare's.
const HOSTS: &str = "127.0.0.1 localhost\n192.0.2.2 kyiv.example.com\n104.16.0.1 proxied.example.com\n";
/// The user who is not root.
const USER: (u32, u32) = (65_534, 65_534);

#[test]
fn one_command_makes_a_bare_machine_an_edge_that_serves_a_page_after_pairing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let edge = Bare::new(lab)?;
        let answers = edge.write("answers.toml", &format!("[wan]\nname = \"{NAME}\"\n"))?;
        let done = edge.setup(&["--yes", "--answers", &answers])?;
        ensure!(done.status.success(), "{}", said(&done));
        ensure!(said(&done).contains("if the provider has a firewall"), "{}", said(&done));
        let text = fs::read_to_string(&edge.config)?;
        ensure!(text.contains("prefixes = [\"192.168.1.0/24\"]"), "{text}");
        for (file, mode) in
            [("gateway.toml", 0o644), ("keys/gateway.key", 0o600), ("keys/gateway.pub", 0o644)]
        {
            let found = fs::metadata(edge.folder.join(file)).context(file)?.permissions().mode() & 0o777;
            ensure!(found == mode, "{file} has mode {found:o}");
        }
        let check = edge.node.command(lab::binary("gateway")?).arg("check").arg("--config").arg(&edge.config);
        let check = check.output()?;
        ensure!(check.status.success() && check.stderr.is_empty(), "{}", said(&check));

        let _gateway = edge.start(lab)?;
        let origin = lab.node("origin")?;
        let _site = TcpServer::start(origin.tcp_listener("127.0.0.1:8080")?, lab::echo)?;
        let _forwarder = edge.paired(lab, &origin)?;
        edge.wait_until_up()?;
        let before = edge.everything()?;
        let again = edge.setup(&["--yes", "--answers", &answers])?;
        ensure!(again.status.success(), "{}", said(&again));
        ensure!(said(&again).contains("nothing is to be done"), "{}", said(&again));
        ensure!(edge.everything()? == before, "the second run changed a file");
        publish(&origin)?;
        let mut page = lab.node("client")?.tcp_connect("192.0.2.2:80", LIMIT)?;
        std::io::Write::write_all(&mut page, b"through the edge")?;
        let mut back = [0; 16];
        std::io::Read::read_exact(&mut page, &mut back)?;
        ensure!(back == *b"through the edge");
        Ok(())
    })
}

#[test]
fn wrong_uses_are_refused_with_the_fix_and_change_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let edge = Bare::new(lab)?;
        let unknown = edge.write("unknown.toml", "[wan]\nnam = \"kyiv.example.com\"\n")?;
        let proxied = edge.write("proxied.toml", "[wan]\nname = \"proxied.example.com\"\n")?;
        let used = edge.write("used.toml", "[interface]\naddress = [\"192.168.1.9/24\"]\n")?;
        for (answers, code, words) in [
            (&unknown, 4, "unknown.toml:2:1: [wan] has no key \"nam\""),
            (&proxied, 4, "which is @cloudflare"),
            (&used, 6, "this machine uses already"),
        ] {
            let refused = edge.setup(&["--yes", "--answers", answers])?;
            ensure!(refused.status.code() == Some(code), "{answers}: {}", said(&refused));
            ensure!(said(&refused).contains(words), "{answers}: {}", said(&refused));
        }
        let shown = edge.setup(&["--dry-run"])?;
        ensure!(shown.status.success(), "{}", said(&shown));
        ensure!(String::from_utf8_lossy(&shown.stdout).contains("name = \"192.0.2.2\""), "{}", said(&shown));
        if lab::has_real_root() {
            let user = edge.command(&["--yes"])?.user(USER.0, USER.1).output()?;
            ensure!(
                user.status.code() == Some(5) && said(&user).contains("sudo causeway setup"),
                "{}",
                said(&user)
            );
        }
        ensure!(edge.everything()?.is_empty(), "something was written: {:?}", edge.everything()?);

        // Without a terminal the end of the input is no "yes".
        let unanswered = edge.setup(&[])?;
        ensure!(unanswered.status.code() == Some(1), "{}", said(&unanswered));
        ensure!(edge.everything()?.is_empty(), "something was written: {:?}", edge.everything()?);

        ensure!(edge.setup(&["--yes"])?.status.success(), "no proposal was taken");
        let before = edge.everything()?;
        let other = edge.write("other.toml", "[interface]\nlisten_port = 51821\n")?;
        let refused = edge.setup(&["--yes", "--answers", &other])?;
        ensure!(refused.status.code() == Some(6), "{}", said(&refused));
        ensure!(
            said(&refused).contains("listen_port is 51820, and the answer is 51821"),
            "{}",
            said(&refused)
        );
        ensure!(edge.everything()? == before, "the file was changed");
        Ok(())
    })
}

#[test]
fn the_units_are_started_once_and_a_start_that_failed_is_repeated_by_running_it_again() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root mounts an overlay").map(drop);
        }
        let edge = lab.node("edge")?;
        // In place of systemd: it notes what it is asked, and fails while /run/refuse is there.
        let systemctl = "#!/bin/sh\necho \"$*\" >> /run/asked\n\
            case $1 in enable) test ! -e /run/refuse && touch /run/started;; *) test -e /run/started;; esac\n";
        edge.shell(
            "mkdir -p /run/own/etc /run/own/work /run/programs /run/systemd/system
             mount -t overlay -o lowerdir=/etc,upperdir=/run/own/etc,workdir=/run/own/work own /etc
             mount -t tmpfs -o mode=0755 tmpfs /var/lib
             mkdir -p /etc/systemd/system && touch /etc/systemd/system/gateway.service /run/refuse",
        )?;
        let write = edge
            .command("sh")
            .args(["-euc", "cat > /run/programs/systemctl; chmod +x /run/programs/systemctl"]);
        write.run_with_input(systemctl.as_bytes())?;
        let path = format!("/run/programs:{}", std::env::var("PATH")?);
        let setup =
            || edge.command(lab::binary("causeway")?).env("PATH", &path).args(["setup", "--yes"]).output();
        let refused = setup()?;
        ensure!(refused.status.code() == Some(1), "{}", said(&refused));
        ensure!(said(&refused).contains("journalctl -u gateway"), "{}", said(&refused));
        let before = edge.run("cat /etc/causeway/gateway.toml /etc/causeway/keys/gateway.key")?;
        edge.run("rm /run/refuse")?;
        // Its public name is missing: the router's address is not known here.
        for words in ["starts at each boot", "the gateway runs\n"] {
            let done = setup()?;
            ensure!(done.status.code() == Some(10) && said(&done).contains(words), "{}", said(&done));
        }
        ensure!(edge.run("cat /etc/causeway/gateway.toml /etc/causeway/keys/gateway.key")? == before);
        let asked = edge.run("grep -c ^enable /run/asked")?;
        ensure!(asked.trim() == "2", "the units were enabled {asked} times");
        Ok(())
    })
}

/// A machine with the programs and nothing else.
struct Bare {
    node: Node,
    /// What would be `/etc/causeway`.
    folder: PathBuf,
    config: PathBuf,
}

impl Bare {
    fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("edge")?;
        // The daemon's state has its usual place, in this machine alone.
        node.shell("mount -t tmpfs -o mode=0755 tmpfs /var/lib")?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        for node in [&node, &lab.node("origin")?] {
            node.shadow_file("/etc/hosts", HOSTS)?;
        }
        let folder = node.directory().join("etc-causeway");
        Ok(Self { node, config: folder.join("gateway.toml"), folder })
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.node.directory().join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn command(&self, arguments: &[&str]) -> Result<lab::NodeCommand> {
        let command = self.node.command(lab::binary("causeway")?).arg("setup");
        Ok(command.arg("--config").arg(&self.config).args(arguments))
    }

    fn setup(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)?.output()
    }

    fn start(&self, lab: &Lab) -> Result<Process> {
        let gateway = lab.daemon(&self.node, "gateway", ["--config", &self.config.to_string_lossy()])?;
        until(LIMIT, "the gateway's control socket", || {
            let peers = self.node.command(lab::binary("gatewayctl")?).arg("peers").output()?;
            Ok(peers.status.success().then_some(()))
        })?;
        Ok(gateway)
    }

    /// Pairs the origin by the key that it makes first, and starts its forwarder.
    fn paired(&self, lab: &Lab, origin: &Node) -> Result<Process> {
        let home = origin.directory().join("home");
        let keys = home.join("keys");
        let keygen = origin.command(lab::binary("gatewayctl")?).arg("keygen").arg(&keys);
        let key = keygen.args(["--name", "forwarder"]).run()?;
        let pair = self.node.command(lab::binary("causeway")?).args(["pair", "wroclaw", "--yes", "--expect"]);
        let mut pair = pair.arg(key.trim()).arg("--config").arg(&self.config).spawn("pair")?;
        let code = until(LIMIT, "the code", || {
            let log = pair.log()?;
            ensure!(pair.is_running(), "pair ended:\n{log}");
            let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::trim);
            Ok(whole.into_iter().find(|line| line.starts_with("causeway1-")).map(str::to_owned))
        })?;
        let join = origin.command(lab::binary("causeway")?).env("STATE_DIRECTORY", home.join("state"));
        let join = join.arg("join").arg("--config").arg(home.join("forwarder.toml"));
        join.run_with_input(code.as_bytes())?;
        ensure!(pair.wait(LIMIT)?.success(), "{}", pair.log()?);
        let forwarder = origin.command(lab::binary("forwarder")?).env("STATE_DIRECTORY", home.join("state"));
        let forwarder = forwarder.arg("--config").arg(home.join("forwarder.toml")).spawn("forwarder")?;
        lab.judge(&forwarder);
        Ok(forwarder)
    }

    fn wait_until_up(&self) -> Result<()> {
        until(LIMIT, "the tunnel", || {
            let peers = self.node.command(lab::binary("gatewayctl")?).args(["peers", "--json"]).run()?;
            let peers: Value = serde_json::from_str(&peers)?;
            Ok(peers.pointer("/peers/0/state").filter(|state| *state == "up").map(drop))
        })
    }

    /// Every file of the edge with its content.
    fn everything(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut found = Vec::new();
        for folder in [self.folder.clone(), self.folder.join("keys")] {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry?.path();
                if path.is_file() {
                    found.push((path.clone(), fs::read(path)?));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

fn publish(origin: &Node) -> Result<()> {
    let home = origin.directory().join("home");
    let command = origin.command(lab::binary("causeway")?).env("STATE_DIRECTORY", home.join("state"));
    let command = command.args(["publish", "web", "80", "--upstream", "127.0.0.1:8080", "--wait", "30s"]);
    let published = command.arg("--config").arg(home.join("forwarder.toml")).run()?;
    ensure!(published.contains("grants 80"), "{published}");
    Ok(())
}

/// What a command printed.
fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}
