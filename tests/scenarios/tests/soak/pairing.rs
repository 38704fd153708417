//! `causeway pair` of one release with `causeway join` of another.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Process, Release, TcpServer, until};
use scenarios::KeyPair;
use serde_json::Value;

use crate::releases::client_of_proxy_header;

/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_secs(30);

/// Whether the earlier release has both commands.
pub(crate) fn is_known(lab: &Lab) -> Result<bool> {
    let Ok(causeway) = Release::Previous.binary("causeway") else { return Ok(false) };
    let help = lab.node("edge")?.command(causeway).arg("--help").output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let has = |verb: &str| help.lines().any(|line| line.split_whitespace().next() == Some(verb));
    Ok(has("pair") && has("join"))
}

/// Pairs an edge and a machine, starts the forwarder with the file that was written, publishes a
/// port, and has a client get a page from it.
pub(crate) fn pair(lab: &Lab, [of_edge, of_origin]: [Release; 2]) -> Result<()> {
    let (edge, origin) = (lab.node("edge")?, lab.node("origin")?);
    let gateway_toml = edge.directory().join("gateway.toml");
    KeyPair::of("kyiv").write(&edge.directory().join("kyiv.key"))?;
    fs::write(
        &gateway_toml,
        format!(
            "[interface]\naddress = [\"10.77.88.1/24\"]\nprivate_key_file = \"kyiv.key\"\n\n[wan]\nname = \"192.0.2.2\"\n\n\
             [state]\ndirectory = \"{}\"\n",
            edge.directory().join("state").display()
        ),
    )?;
    edge.sysctl("net/ipv4/ip_forward", "1")?;
    let gateway =
        edge.command(of_edge.binary("gateway")?).arg("--config").arg(&gateway_toml).spawn("gateway")?;
    lab.judge(&gateway);
    until(LIMIT, "the gateway's control socket", || {
        let peers = edge.command(of_edge.binary("gatewayctl")?).arg("peers").output()?;
        Ok(peers.status.success().then_some(()))
    })?;
    let answers = edge.directory().join("answers");
    edge.run(&format!("mkfifo {}", answers.display()))?;
    let pair = edge.command("sh").args(["-c", "input=$1; shift; exec \"$@\" <> \"$input\"", "pair"]);
    let pair = pair.arg(&answers).arg(of_edge.binary("causeway")?).args(["pair", "wroclaw", "--config"]);
    let mut pair = pair.arg(&gateway_toml).spawn("pair")?;
    let code = line_of(&mut pair, "causeway1-")?;
    let home = origin.directory().join("home");
    fs::create_dir_all(&home)?;
    fs::write(home.join("code"), format!("causeway1-{code}"))?;
    let causeway = || -> Result<_> {
        Ok(origin.command(of_origin.binary("causeway")?).env("STATE_DIRECTORY", home.join("state")))
    };
    let join = causeway()?.args(["join", "--code-file"]).arg(home.join("code"));
    let mut join = join.arg("--config").arg(home.join("forwarder.toml")).spawn("join")?;
    let words = [line_of(&mut pair, "four words:")?, line_of(&mut join, "four words:")?];
    ensure!(words[0] == words[1], "the words differ: {words:?}");
    say_yes(&pair, &answers)?;
    ensure!(pair.wait(LIMIT)?.success(), "{}", pair.log()?);
    ensure!(join.wait(LIMIT)?.success(), "{}", join.log()?);

    let _web = TcpServer::start(origin.tcp_listener("127.0.0.1:8080")?, client_of_proxy_header)?;
    let forwarder = origin.command(of_origin.binary("forwarder")?).env("STATE_DIRECTORY", home.join("state"));
    let forwarder = forwarder.arg("--config").arg(home.join("forwarder.toml")).spawn("forwarder")?;
    lab.judge(&forwarder);
    let publish = causeway()?.args(["publish", "web", "80", "--upstream", "127.0.0.1:8080"]);
    let publish = publish.args(["--proxy-protocol", "v1", "--wait", "30s", "--config"]);
    until(LIMIT, "the tunnel", || {
        let text = edge.command(of_edge.binary("gatewayctl")?).args(["peers", "--json"]).run()?;
        let peers: Value = serde_json::from_str(&text)?;
        Ok((peers["peers"][0]["state"] == "up").then_some(()))
    })?;
    publish.arg(home.join("forwarder.toml")).run()?;
    let page = lab.node("client")?.run("curl -sS --fail --max-time 10 http://192.0.2.2/")?;
    ensure!(page.trim() == "203.0.113.10", "the page: {page}");
    Ok(())
}

/// What follows these words on a whole line of a process's output.
fn line_of(process: &mut Process, begin: &str) -> Result<String> {
    until(LIMIT, begin, || {
        let log = process.log()?;
        ensure!(process.is_running(), "it ended:\n{log}");
        let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        Ok(whole.map(str::trim).find_map(|line| line.strip_prefix(begin)).map(|rest| rest.trim().to_owned()))
    })
}

fn say_yes(pair: &Process, answers: &Path) -> Result<()> {
    until(LIMIT, "the question", || Ok(pair.log()?.contains("yes or no").then_some(())))?;
    let mut answers = fs::OpenOptions::new().read(true).write(true).open(answers).context("the answers")?;
    Ok(writeln!(answers, "yes")?)
}
