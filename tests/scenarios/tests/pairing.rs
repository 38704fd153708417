//! `causeway pair` and `causeway join`: two machines that know nothing of each other, one code, one
//! "yes".

#![allow(clippy::print_stdout)] // Figures are printed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::{Node, Process, TcpServer, Topology, scenario, until};
use scenarios::pairing::{Edge, Joining, forwarder, forwarder_as};
use scenarios::{BootClock, KeyPair, preshared_key, write_secret};

/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the edge waits for a machine that is gone, and some.
const GONE_WITHIN: Duration = Duration::from_secs(90);
/// How long a code that is of no use is tried.
const SHORT: &str = "12s";
/// A user and group that are not root's.
const USER: (u32, u32) = (65_534, 65_534);

#[test]
fn one_yes_pairs_two_machines_and_no_private_key_leaves_its_own() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origin = lab.node("origin")?;
        let capture = Capture::start(&edge.node)?;
        let before = fs::read_to_string(&edge.config)?;
        let mut pair = edge.pair(&["wroclaw"])?;
        let code = pair.code()?;
        let mut join = Joining::start(&origin, &code, &[])?;
        let words = pair.words()?;
        ensure!(join.words()? == words, "the words differ: {words:?} and {:?}", join.words()?);
        ensure!(!everywhere_in_proc(&code)?, "the code is in an argument list or an environment");
        ensure!(fs::read_to_string(&edge.config)? == before, "the file was changed before the yes");
        pair.answer("yes")?;
        ensure!(join.process.wait(LIMIT)?.success(), "{}", join.process.log()?);
        ensure!(pair.process.wait(LIMIT)?.success(), "{}", pair.process.log()?);

        let after = fs::read_to_string(&edge.config)?;
        let (head, tail) = before.split_at(before.find("\n# The end").context("no end")?);
        ensure!(after.starts_with(head) && after.ends_with(tail), "comments or order changed:\n{after}");
        ensure!(after.contains("may_publish = [\"80\", \"443\", \"443/udp\"]"), "{after}");
        let key = fs::read_to_string(join.folder.join("keys/forwarder.key"))?;
        let mode = fs::metadata(join.folder.join("keys/forwarder.key"))?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "the key's mode is {mode:o}");

        let _forwarder = forwarder(lab, &origin, &join.folder)?;
        edge.wait_until_up("wroclaw")?;
        let secrets = [key.trim(), edge.key.private.as_str()];
        ensure!(capture.end()?.lacks(&secrets)?, "a private key was on the wire");
        for secret in secrets {
            ensure!(!everywhere_in_proc(secret)?, "a private key is in an argument list");
        }
        Ok(())
    })
}

#[test]
fn four_commands_lead_from_two_bare_machines_to_a_page_with_the_clients_address() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origin = lab.node("origin")?;
        let _site = TcpServer::start(origin.tcp_listener("127.0.0.1:8080")?, client_of_proxy_header)?;
        let start = Instant::now();
        let join = edge.paired(&origin, &["wroclaw"], &[])?;
        let _forwarder = forwarder(lab, &origin, &join.folder)?;
        edge.wait_until_up("wroclaw")?;
        let command =
            origin.command(lab::binary("causeway")?).env("STATE_DIRECTORY", join.folder.join("state"));
        let command = command.args(["publish", "web", "80", "--upstream", "127.0.0.1:8080"]);
        let command = command.args(["--proxy-protocol", "v1", "--wait", "30s", "--config"]);
        let published = command.arg(join.folder.join("forwarder.toml")).run()?;
        ensure!(published.contains("grants 80"), "{published}");
        let page = lab.node("client")?.run("curl -sS --fail --max-time 10 http://192.0.2.2/")?;
        ensure!(page.trim() == "203.0.113.10", "the page: {page}");
        println!("pair, join, the forwarder, publish and the page took {:?}", start.elapsed());
        Ok(())
    })
}

#[test]
fn a_no_an_expected_key_and_an_ended_command_change_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origin = lab.node("origin")?;
        let before = fs::read_to_string(&edge.config)?;
        let mut pair = edge.pair(&["wroclaw"])?;
        let mut join = Joining::start(&origin, &pair.code()?, &[])?;
        pair.words()?;
        pair.answer("no")?;
        ensure!(pair.process.wait(LIMIT)?.code() == Some(1), "{}", pair.process.log()?);
        ensure!(join.process.wait(LIMIT)?.code() == Some(1), "{}", join.process.log()?);
        ensure!(join.process.log()?.contains("the operator at the edge said no"), "{}", join.process.log()?);

        let other = KeyPair::of("gdansk").public;
        let mut pair = edge.pair(&["wroclaw", "--yes", "--expect", &other])?;
        let mut join = Joining::start(&origin, &pair.code()?, &[])?;
        ensure!(pair.process.wait(LIMIT)?.code() == Some(6), "{}", pair.process.log()?);
        ensure!(join.process.wait(LIMIT)?.code() == Some(1), "{}", join.process.log()?);
        ensure!(join.process.log()?.contains("expects another key"), "{}", join.process.log()?);

        let mut pair = edge.pair(&["wroclaw"])?;
        let mut join = Joining::start(&origin, &pair.code()?, &[])?;
        join.words()?;
        ensure!(join.process.stop(LIMIT)?.code() == Some(1), "{}", join.process.log()?);
        ensure!(pair.process.wait(LIMIT)?.code() == Some(1), "{}", pair.process.log()?);
        let log = pair.process.log()?;
        ensure!(log.contains("`causeway join` was ended at the other machine"), "{log}");

        let mut pair = edge.pair(&["wroclaw"])?;
        let code = pair.code()?;
        pair.process.kill()?;
        edge.wait_until_no_pairing(4)?;
        let mut join = Joining::start(&origin, &code, &["--timeout", SHORT])?;
        ensure!(join.process.wait(LIMIT)?.code() == Some(1), "{}", join.process.log()?);
        ensure!(join.process.log()?.contains("no answer from 192.0.2.2:51820"), "{}", join.process.log()?);
        ensure!(fs::read_to_string(&edge.config)? == before, "the edge's file was changed");
        ensure!(!join.folder.join("forwarder.toml").exists(), "the origin's file was written");
        Ok(())
    })
}

#[test]
fn a_second_machine_with_the_code_ends_the_pairing_and_both_ends_say_so() -> Result<()> {
    scenario(Topology::standard().with_second_origin(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let (origin, thief) = (lab.node("origin")?, lab.node("gdansk")?);
        let before = fs::read_to_string(&edge.config)?;
        let mut pair = edge.pair(&["wroclaw"])?;
        let code = pair.code()?;
        let mut join = Joining::start(&origin, &code, &[])?;
        pair.words()?;
        let mut second = Joining::start(&thief, &code, &["--timeout", SHORT])?;
        ensure!(pair.process.wait(LIMIT)?.code() == Some(1), "{}", pair.process.log()?);
        ensure!(
            pair.process.log()?.contains("a second machine came with the code"),
            "{}",
            pair.process.log()?
        );
        for join in [&mut join, &mut second] {
            ensure!(join.process.wait(LIMIT)?.code() == Some(1), "{}", join.process.log()?);
            ensure!(join.process.log()?.contains("a second machine came"), "{}", join.process.log()?);
            ensure!(!join.folder.join("forwarder.toml").exists(), "a machine has joined");
        }
        ensure!(fs::read_to_string(&edge.config)? == before, "the file was changed");
        Ok(())
    })
}

#[test]
fn a_code_works_once_and_an_altered_one_never() -> Result<()> {
    scenario(Topology::standard().with_second_origin(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let (origin, other) = (lab.node("origin")?, lab.node("gdansk")?);
        let mut pair = edge.pair(&["wroclaw"])?;
        let code = pair.code()?;
        let groups: Vec<&str> = code.split('-').collect();
        let typed = code.replacen(groups.get(3).context("no third group")?, "00000000", 1);
        let mut join = Joining::start(&origin, &typed, &[])?;
        ensure!(join.process.wait(LIMIT)?.code() == Some(2), "{}", join.process.log()?);
        ensure!(join.process.log()?.contains("group 3"), "{}", join.process.log()?);

        let mut join = Joining::start(&origin, &code, &[])?;
        pair.words()?;
        pair.answer("yes")?;
        ensure!(pair.process.wait(LIMIT)?.success(), "{}", pair.process.log()?);
        ensure!(join.process.wait(LIMIT)?.success(), "{}", join.process.log()?);
        let mut again = Joining::start(&other, &code, &["--timeout", SHORT])?;
        ensure!(again.process.wait(LIMIT)?.code() == Some(1), "{}", again.process.log()?);
        ensure!(again.process.log()?.contains("no answer"), "{}", again.process.log()?);
        Ok(())
    })
}

#[test]
fn a_second_origin_joins_next_to_the_first_and_keeps_to_free_ports() -> Result<()> {
    scenario(Topology::standard().with_second_origin(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let mut forwarders = Vec::new();
        for (machine, peer) in [("origin", "wroclaw"), ("gdansk", "gdansk")] {
            let node = lab.node(machine)?;
            let join = edge.paired(&node, &[peer], &[])?;
            forwarders.push(forwarder(lab, &node, &join.folder)?);
            edge.wait_until_up(peer)?;
        }
        edge.wait_until_up("wroclaw")?;
        let text = fs::read_to_string(&edge.config)?;
        ensure!(text.contains("10.77.88.2/32") && text.contains("10.77.88.3/32"), "{text}");
        ensure!(
            text.matches("may_publish").count() == 1,
            "the second one has the first one's ports:\n{text}"
        );
        Ok(())
    })
}

#[test]
fn a_second_edge_is_added_to_a_running_forwarder() -> Result<()> {
    scenario(Topology::two_edges(), |lab| {
        let mut kyiv = Edge::start(lab, "10.77.88.1/24")?;
        let mut oracle = Edge::start_at(lab, "oracle", "10.88.99.1/24", "198.18.66.2")?;
        let origin = lab.node("origin")?;
        let join = kyiv.paired(&origin, &["wroclaw"], &[])?;
        let _forwarder = forwarder(lab, &origin, &join.folder)?;
        kyiv.wait_until_up("wroclaw")?;
        let first = fs::read_to_string(join.folder.join("forwarder.toml"))?;
        only_who_compared_the_words_adds_another_edge(&mut oracle, &origin, &first)?;
        let mut pair = oracle.pair(&["wroclaw"])?;
        let mut join = Joining::start_asked(&origin, &pair.code()?, &["--name", "oracle"])?;
        ensure!(join.words()? == pair.words()?, "the words differ: {}", join.process.log()?);
        pair.answer("yes")?;
        ensure!(
            fs::read_to_string(join.folder.join("forwarder.toml"))? == first,
            "written without a yes here"
        );
        join.answer("yes")?;
        ensure!(join.process.wait(LIMIT)?.success(), "{}", join.process.log()?);
        ensure!(pair.process.wait(LIMIT)?.success(), "{}", pair.process.log()?);
        ensure!(
            join.process.log()?.contains("the running forwarder has taken it"),
            "{}",
            join.process.log()?
        );
        oracle.wait_until_up("wroclaw")?;
        kyiv.wait_until_up("wroclaw")?;
        let both = fs::read_to_string(join.folder.join("forwarder.toml"))?;
        ensure!(first.lines().all(|line| both.lines().any(|other| other == line)), "{both}");
        ensure!(kyiv.key_of("wroclaw")? == oracle.key_of("wroclaw")?, "the machine has two keys");
        Ok(())
    })
}

#[test]
fn pairing_again_changes_the_key_and_keeps_address_and_file() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origin = lab.node("origin")?;
        let join = edge.paired(&origin, &["wroclaw"], &[])?;
        let _forwarder = forwarder(lab, &origin, &join.folder)?;
        edge.wait_until_up("wroclaw")?;
        let (old_key, before) = (edge.key_of("wroclaw")?, fs::read_to_string(&edge.config)?);

        lab.expect_warning("private key");
        let again = edge.paired(&origin, &["wroclaw"], &["--new-key"])?;
        let log = again.process.log()?;
        ensure!(log.contains("the running forwarder has taken it"), "{log}");
        let new_key = edge.key_of("wroclaw")?;
        ensure!(new_key != old_key, "the key is the same");
        let after = fs::read_to_string(&edge.config)?;
        ensure!(after == before.replace(&old_key, &new_key), "more than the key changed:\n{after}");
        let folder = &again.folder;
        ensure!(folder.join("keys/forwarder.key").exists(), "the old key is gone");
        let text = fs::read_to_string(folder.join("forwarder.toml"))?;
        ensure!(text.contains("keys/forwarder-2.key"), "{text}");
        let traffic = edge.received_of("wroclaw")?;
        until(LIMIT, "packets by the new key", || {
            Ok((edge.received_of("wroclaw")? > traffic + 500).then_some(()))
        })
    })
}

#[test]
fn a_machine_that_is_gone_before_it_has_written_leaves_the_edge_with_the_old_key() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origin = lab.node("origin")?;
        let join = edge.paired(&origin, &["wroclaw"], &[])?;
        let _forwarder = forwarder(lab, &origin, &join.folder)?;
        edge.wait_until_up("wroclaw")?;
        let (old_key, before) = (edge.key_of("wroclaw")?, fs::read_to_string(&edge.config)?);

        // While the edge has the new key, the origin's daemon still comes with the old one.
        lab.expect_warning("came with a key that no [[peer]] has");
        let mut pair = edge.pair(&["wroclaw"])?;
        let mut join = Joining::start(&origin, &pair.code()?, &["--new-key"])?;
        join.words()?;
        join.process.kill()?;
        pair.answer("yes")?;
        ensure!(pair.process.wait(GONE_WITHIN)?.code() == Some(7), "{}", pair.process.log()?);
        ensure!(edge.key_of("wroclaw")? == old_key, "the edge has the new key");
        ensure!(fs::read_to_string(&edge.config)? == before, "the file was changed");
        let traffic = edge.received_of("wroclaw")?;
        until(LIMIT, "packets by the old key", || Ok((edge.received_of("wroclaw")? > traffic).then_some(())))
    })
}

#[test]
fn a_network_without_a_free_address_is_refused_with_the_wider_one() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/30")?;
        let mut pair = edge.pair(&["wroclaw"])?;
        ensure!(pair.process.wait(LIMIT)?.code() == Some(6), "{}", pair.process.log()?);
        ensure!(pair.process.log()?.contains("10.77.88.1/24"), "{}", pair.process.log()?);
        ensure!(!pair.process.log()?.contains("causeway1-"), "there is a code");
        Ok(())
    })
}

/// Without a yes at the machine that has a configuration, another edge is not added to it.
fn only_who_compared_the_words_adds_another_edge(edge: &mut Edge, origin: &Node, text: &str) -> Result<()> {
    let mut pair = edge.pair(&["wroclaw"])?;
    let code = pair.code()?;
    for (more, exit) in [(None, 2), (Some(KeyPair::of("gdansk").public), 6)] {
        let mut arguments = vec!["--name", "oracle"];
        arguments.extend(more.iter().flat_map(|key| ["--expect", key.as_str()]));
        let mut join = Joining::start(origin, &code, &arguments)?;
        ensure!(join.process.wait(LIMIT)?.code() == Some(exit), "{}", join.process.log()?);
        ensure!(join.process.log()?.contains(&edge.key.public), "{}", join.process.log()?);
    }
    let mut join = Joining::start_asked(origin, &code, &["--name", "oracle"])?;
    pair.words()?;
    join.answer("no")?;
    ensure!(join.process.wait(LIMIT)?.code() == Some(1), "{}", join.process.log()?);
    ensure!(pair.process.wait(LIMIT)?.code() == Some(1), "{}", pair.process.log()?);
    ensure!(
        pair.process.log()?.contains("the operator at the other machine said no"),
        "{}",
        pair.process.log()?
    );
    ensure!(fs::read_to_string(join.folder.join("forwarder.toml"))? == text, "the file was changed");
    Ok(())
}

#[test]
fn a_code_that_is_older_than_fifteen_minutes_is_refused_and_both_ends_say_so() -> Result<()> {
    scenario(Topology::standard().with_second_origin(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let clock = BootClock::new(&edge.node)?;
        edge.restart(lab, &clock.environment())?;
        let before = fs::read_to_string(&edge.config)?;
        let mut pair = edge.pair(&["wroclaw"])?;
        let code = pair.code()?;
        let mut join = Joining::start(&lab.node("origin")?, &code, &[])?;
        pair.words()?;
        clock.suspend(Duration::from_secs(14 * 60))?;
        pair.process_asks()?;
        ensure!(pair.process.is_running() && join.process.is_running(), "{}", pair.process.log()?);

        clock.suspend(Duration::from_secs(15 * 60))?;
        ensure!(pair.process.wait(LIMIT)?.code() == Some(1), "{}", pair.process.log()?);
        ensure!(pair.process.log()?.contains("the time of the code is over"), "{}", pair.process.log()?);
        ensure!(join.process.wait(LIMIT)?.code() == Some(1), "{}", join.process.log()?);
        ensure!(join.process.log()?.contains("the time of the code is over"), "{}", join.process.log()?);
        edge.wait_until_no_pairing(1)?;
        let mut late = Joining::start(&lab.node("gdansk")?, &code, &["--timeout", SHORT])?;
        ensure!(late.process.wait(LIMIT)?.code() == Some(1), "{}", late.process.log()?);
        ensure!(late.process.log()?.contains("15 minutes"), "{}", late.process.log()?);
        ensure!(fs::read_to_string(&edge.config)? == before, "the edge's file was changed");
        for join in [join, late] {
            ensure!(!join.folder.join("forwarder.toml").exists(), "a machine has joined");
        }
        Ok(())
    })
}

#[test]
fn a_preshared_key_is_set_by_pairing_again_once_both_machines_have_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origin = lab.node("origin")?;
        let join = edge.paired(&origin, &["wroclaw"], &["--name", "kyiv"])?;
        let _forwarder = forwarder(lab, &origin, &join.folder)?;
        edge.wait_until_up("wroclaw")?;
        let config = join.folder.join("forwarder.toml");
        let before = fs::read_to_string(&config)?;

        write_secret(&edge.node.directory().join("wroclaw.psk"), &preshared_key("wroclaw"))?;
        let text = fs::read_to_string(&edge.config)?;
        let name = "name = \"wroclaw\"\n";
        fs::write(
            &edge.config,
            text.replace(name, &format!("{name}preshared_key_file = \"wroclaw.psk\"\n")),
        )?;
        edge.gatewayctl(&["reload"])?.run()?;
        let mut pair = edge.pair(&["wroclaw"])?;
        let mut without = Joining::start(&origin, &pair.code()?, &["--name", "kyiv"])?;
        ensure!(without.process.wait(LIMIT)?.code() == Some(4), "{}", without.process.log()?);
        ensure!(without.process.log()?.contains("keys/kyiv.psk, mode 0600"), "{}", without.process.log()?);
        ensure!(pair.process.wait(LIMIT)?.code() == Some(1), "{}", pair.process.log()?);
        ensure!(pair.process.log()?.contains("does not have the preshared key"), "{}", pair.process.log()?);
        ensure!(fs::read_to_string(&config)? == before, "the origin's file was changed");

        write_secret(&join.folder.join("keys/kyiv.psk"), &preshared_key("wroclaw"))?;
        let again = edge.paired(&origin, &["wroclaw"], &["--name", "kyiv"])?;
        let log = again.process.log()?;
        ensure!(log.contains("the running forwarder has taken it"), "{log}");
        let after = fs::read_to_string(&config)?;
        ensure!(after.replace("preshared_key_file = \"keys/kyiv.psk\"\n", "") == before, "{after}");
        let traffic = edge.received_of("wroclaw")?;
        until(LIMIT, "packets by the preshared key", || {
            Ok((edge.received_of("wroclaw")? > traffic + 500).then_some(()))
        })
    })
}

#[test]
fn a_forwarder_of_another_user_than_root_joins_and_changes_its_key() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root becomes another user").map(drop);
        }
        lab.expect_warning("private key");
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origin = lab.node("origin")?;
        let mut joined = |arguments: &[&str]| -> Result<Joining> {
            let mut pair = edge.pair(&["wroclaw"])?;
            let mut join = Joining::start_as(&origin, Some(USER), &pair.code()?, arguments)?;
            pair.words()?;
            pair.answer("yes")?;
            ensure!(join.process.wait(LIMIT)?.success(), "{}", join.process.log()?);
            ensure!(pair.process.wait(LIMIT)?.success(), "{}", pair.process.log()?);
            Ok(join)
        };
        let join = joined(&[])?;
        let key = fs::metadata(join.folder.join("keys/forwarder.key"))?;
        ensure!((key.uid(), key.mode() & 0o777) == (USER.0, 0o600), "the key is {key:?}");
        let _forwarder = forwarder_as(lab, &origin, Some(USER), &join.folder)?;
        let again = joined(&["--new-key"])?;
        let log = again.process.log()?;
        ensure!(log.contains("the running forwarder has taken it"), "{log}");
        let text = fs::read_to_string(join.folder.join("forwarder.toml"))?;
        ensure!(text.contains("keys/forwarder-2.key"), "{text}");
        edge.wait_until_up("wroclaw")
    })
}

/// A web server that replies with the client that the PROXY header names.
fn client_of_proxy_header(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4_096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned();
    let client =
        request.strip_prefix("PROXY TCP4 ").and_then(|rest| rest.split(' ').next()).unwrap_or("none");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", client.len());
    stream.write_all(format!("{head}{client}").as_bytes())
}

/// Everything that crosses the edge's WAN.
struct Capture {
    process: Process,
    path: PathBuf,
}

struct Captured(Vec<u8>);

impl Capture {
    fn start(node: &Node) -> Result<Self> {
        let path = node.directory().join("whole.pcap");
        let command = node.command("tcpdump").args(["-Z", "root", "-U", "-n", "-i", "any", "-s", "0", "-w"]);
        let mut process = command.arg(&path).spawn("whole")?;
        process.wait_for_log("listening on", LIMIT)?;
        Ok(Self { process, path })
    }

    fn end(mut self) -> Result<Captured> {
        self.process.stop(LIMIT)?;
        Ok(Captured(fs::read(&self.path)?))
    }
}

impl Captured {
    /// Whether none of these keys is in it, as text or as bytes.
    fn lacks(&self, keys: &[&str]) -> Result<bool> {
        ensure!(self.0.len() > 3_000, "only {} bytes were captured", self.0.len());
        for key in keys {
            let bytes = STANDARD.decode(key)?;
            if contains(&self.0, key.as_bytes()) || contains(&self.0, &bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a text is in the arguments or the environment of any process.
fn everywhere_in_proc(text: &str) -> Result<bool> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        for name in ["cmdline", "environ"] {
            // A process may have ended meanwhile.
            if fs::read(path.join(name)).is_ok_and(|found| contains(&found, text.as_bytes())) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}
