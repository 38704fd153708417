//! Two machines that are paired by `causeway pair` and `causeway join`, one "yes" each.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, NodeCommand, Process, until};
use serde_json::Value;

use crate::KeyPair;
use crate::site::WRITING;

/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_secs(30);
/// What the edge's file begins with.
const EDGE_COMMENT: &str = "# The Pi in Kyiv.";

/// The edge's machine with a running gateway and a file without peers.
#[derive(Debug)]
pub struct Edge {
    /// The machine.
    pub node: Node,
    /// Its gateway.toml.
    pub config: PathBuf,
    /// The key that it begins with.
    pub key: KeyPair,
    pairs: usize,
    /// The daemon.
    pub gateway: Process,
}

impl Edge {
    /// Starts the gateway on the node `edge` with this address in the tunnel.
    pub fn start(lab: &Lab, address: &str) -> Result<Self> {
        Self::start_at(lab, "edge", address, "192.0.2.2")
    }

    /// Starts a gateway on a node, with its address in the tunnel and its public one.
    pub fn start_at(lab: &Lab, node: &str, address: &str, public: &str) -> Result<Self> {
        let (key, node) = (KeyPair::of(node), lab.node(node)?);
        key.write(&node.directory().join("kyiv.key"))?;
        fs::create_dir_all(node.directory().join("state"))?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        let config = node.directory().join("gateway.toml");
        let text = format!(
            "{EDGE_COMMENT}\n[interface]   # the tunnel\naddress = [\"{address}\"]\nprivate_key_file = \"kyiv.key\"\n\n\
             [wan]\nname = \"{public}\"\naccept = [\"tcp/22\"]\n\n[state]\ndirectory = \"{}\"\n\n# The end.\n",
            node.directory().join("state").display()
        );
        fs::write(&config, text)?;
        let gateway = started(lab, &node, &config, &[])?;
        Ok(Self { node, config, key, pairs: 0, gateway })
    }

    /// Kills the daemon, and starts it again with these environment variables.
    pub fn restart(&mut self, lab: &Lab, environment: &[(String, String)]) -> Result<()> {
        self.gateway.kill()?;
        self.gateway = started(lab, &self.node, &self.config, environment)?;
        Ok(())
    }

    /// `gatewayctl` with these arguments.
    pub fn gatewayctl(&self, arguments: &[&str]) -> Result<NodeCommand> {
        let command = self.node.command(lab::binary("gatewayctl")?).args(arguments);
        let writes = arguments.first().is_some_and(|verb| WRITING.contains(verb));
        Ok(if writes { command.arg("--config").arg(&self.config) } else { command })
    }

    /// Starts `causeway pair`, which gets what [`Pairing::answer`] writes.
    pub fn pair(&mut self, arguments: &[&str]) -> Result<Pairing> {
        self.pairs += 1;
        let answers = fifo(&self.node, &format!("answers-{}", self.pairs))?;
        let command = self.node.command("sh").args(["-c", READS_FIFO, "pair"]).arg(&answers);
        let command = command.arg(lab::binary("causeway")?).arg("pair").args(arguments);
        let process = command.arg("--config").arg(&self.config).spawn(&format!("pair-{}", self.pairs))?;
        Ok(Pairing { process, answers })
    }

    /// Pairs a machine, with one "yes".
    pub fn paired(&mut self, node: &Node, arguments: &[&str], join: &[&str]) -> Result<Joining> {
        let mut pair = self.pair(arguments)?;
        let mut join = Joining::start(node, &pair.code()?, join)?;
        pair.words()?;
        pair.answer("yes")?;
        ensure!(pair.process.wait(LIMIT)?.success(), "{}", pair.process.log()?);
        ensure!(join.process.wait(LIMIT)?.success(), "{}", join.process.log()?);
        Ok(join)
    }

    /// Waits until so many pairings are over.
    pub fn wait_until_no_pairing(&self, count: usize) -> Result<()> {
        until(LIMIT, "the end of the pairing", || {
            Ok((self.gateway.log()?.matches("the pairing is over").count() == count).then_some(()))
        })
    }

    /// A peer, as `peers --json` shows it.
    pub fn peer(&self, name: &str) -> Result<Value> {
        let text = self.node.command(lab::binary("gatewayctl")?).args(["peers", "--json"]).run()?;
        let peers: Value = serde_json::from_str(&text)?;
        let peers = peers.get("peers").and_then(Value::as_array).context("no peers")?;
        peers
            .iter()
            .find(|peer| peer.get("name").is_some_and(|found| found == name))
            .cloned()
            .with_context(|| format!("no {name} in {text}"))
    }

    /// The public key of a peer.
    pub fn key_of(&self, name: &str) -> Result<String> {
        Ok(self.peer(name)?.get("public_key").and_then(Value::as_str).context("no key")?.to_owned())
    }

    /// Bytes that came from a peer.
    pub fn received_of(&self, name: &str) -> Result<u64> {
        self.peer(name)?.get("rx_bytes").and_then(Value::as_u64).context("no count")
    }

    /// Waits until a peer is up.
    pub fn wait_until_up(&self, name: &str) -> Result<()> {
        until(LIMIT, "the tunnel", || {
            Ok(self.peer(name)?.get("state").filter(|state| *state == "up").map(drop))
        })
    }
}

/// A running `causeway pair`.
#[derive(Debug)]
pub struct Pairing {
    /// The command.
    pub process: Process,
    answers: PathBuf,
}

impl Pairing {
    /// The code, once it is printed.
    pub fn code(&mut self) -> Result<String> {
        let process = &mut self.process;
        until(LIMIT, "the code", || {
            let log = process.log()?;
            ensure!(process.is_running(), "pair ended:\n{log}");
            let is_code = |line: &&str| line.starts_with("causeway1-");
            Ok(log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .map(str::trim)
                .find(is_code)
                .map(str::to_owned))
        })
    }

    /// The four words, once they are printed.
    pub fn words(&mut self) -> Result<String> {
        words_of(&mut self.process)
    }

    /// Answers the question once it is asked.
    pub fn answer(&self, text: &str) -> Result<()> {
        answer(&self.process, &self.answers, text)
    }

    /// Waits for the question.
    pub fn process_asks(&self) -> Result<()> {
        asks(&self.process)
    }
}

/// Runs a command whose standard input is a FIFO that does not end.
const READS_FIFO: &str = "input=$1; shift; exec \"$@\" <> \"$input\"";

fn fifo(node: &Node, name: &str) -> Result<PathBuf> {
    let path = node.directory().join(name);
    node.run(&format!("mkfifo {}", path.display()))?;
    Ok(path)
}

fn asks(process: &Process) -> Result<()> {
    until(LIMIT, "the question", || Ok(process.log()?.contains("yes or no").then_some(())))
}

/// Answers the question of a command that reads a FIFO.
fn answer(process: &Process, fifo: &Path, text: &str) -> Result<()> {
    asks(process)?;
    let mut answers = fs::OpenOptions::new().read(true).write(true).open(fifo)?;
    Ok(writeln!(answers, "{text}")?)
}

/// A running `causeway join`.
#[derive(Debug)]
pub struct Joining {
    /// The command.
    pub process: Process,
    /// Where forwarder.toml, keys and state are.
    pub folder: PathBuf,
    answers: Option<PathBuf>,
}

impl Joining {
    /// Starts it with this code.
    pub fn start(node: &Node, code: &str, arguments: &[&str]) -> Result<Self> {
        Self::with(node, None, (code, arguments), None)
    }

    /// Starts it as another user than root.
    pub fn start_as(node: &Node, user: Option<(u32, u32)>, code: &str, arguments: &[&str]) -> Result<Self> {
        Self::with(node, user, (code, arguments), None)
    }

    /// Starts it with an operator who can be asked.
    pub fn start_asked(node: &Node, code: &str, arguments: &[&str]) -> Result<Self> {
        let count = fs::read_dir(node.directory())?.count();
        let answers = fifo(node, &format!("join-answers-{count}"))?;
        Self::with(node, None, (code, arguments), Some(answers))
    }

    fn with(
        node: &Node,
        user: Option<(u32, u32)>,
        (code, arguments): (&str, &[&str]),
        answers: Option<PathBuf>,
    ) -> Result<Self> {
        let folder = node.directory().join("home");
        fs::create_dir_all(&folder)?;
        let file = node.directory().join("code");
        fs::write(&file, code)?;
        let causeway = lab::binary("causeway")?;
        let command = match &answers {
            Some(fifo) => node.command("sh").args(["-c", READS_FIFO, "join"]).arg(fifo).arg(causeway),
            None => node.command(causeway),
        };
        let command = command.env("STATE_DIRECTORY", folder.join("state"));
        let command = match user {
            Some((uid, gid)) => {
                chown(&folder, Some(uid), Some(gid))?;
                command.user(uid, gid)
            }
            None => command,
        };
        let command = command.arg("join").arg("--code-file").arg(&file);
        let command = command.arg("--config").arg(folder.join("forwarder.toml")).args(arguments);
        Ok(Self { process: command.spawn("join")?, folder, answers })
    }

    /// Answers the question once it is asked.
    pub fn answer(&self, text: &str) -> Result<()> {
        answer(&self.process, self.answers.as_deref().context("no operator")?, text)
    }

    /// The four words, once they are printed.
    pub fn words(&mut self) -> Result<String> {
        words_of(&mut self.process)
    }
}

fn words_of(process: &mut Process) -> Result<String> {
    until(LIMIT, "the four words", || {
        let log = process.log()?;
        ensure!(process.is_running(), "it ended:\n{log}");
        let words = |line: &str| line.trim().strip_prefix("four words:").map(|words| words.trim().to_owned());
        Ok(log.lines().find_map(words).filter(|words| words.split(' ').count() == 4))
    })
}

/// Starts the forwarder of a machine that has joined.
pub fn forwarder(lab: &Lab, node: &Node, folder: &Path) -> Result<Process> {
    forwarder_as(lab, node, None, folder)
}

/// Starts it as another user than root.
pub fn forwarder_as(lab: &Lab, node: &Node, user: Option<(u32, u32)>, folder: &Path) -> Result<Process> {
    let command = node.command(lab::binary("forwarder")?).env("STATE_DIRECTORY", folder.join("state"));
    let command = match user {
        Some((uid, gid)) => command.user(uid, gid),
        None => command,
    };
    let process = command.arg("--config").arg(folder.join("forwarder.toml")).spawn("forwarder")?;
    lab.judge(&process);
    Ok(process)
}

fn started(lab: &Lab, node: &Node, config: &Path, environment: &[(String, String)]) -> Result<Process> {
    let mut command = node.command(lab::binary("gateway")?).arg("--config").arg(config);
    for (key, value) in environment {
        command = command.env(key, value);
    }
    let gateway = command.spawn("gateway")?;
    lab.judge(&gateway);
    until(LIMIT, "the gateway's control socket", || {
        Ok(node.command(lab::binary("gatewayctl")?).arg("peers").output()?.status.success().then_some(()))
    })?;
    Ok(gateway)
}
