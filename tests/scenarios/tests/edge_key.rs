//! The edge's own key changes while origins are connected: each of them always has a key that works.

#![allow(clippy::print_stdout)] // Figures are printed.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Lab, Node, Process, TcpServer, Topology, pattern, scenario, until};
use scenarios::initiation;
use scenarios::pairing::{Edge, Joining, forwarder};

/// How long is waited for what must come.
const LIMIT: Duration = Duration::from_secs(30);
/// One block of what a download repeats.
const BLOCK: usize = 1 << 16;
/// More than what is on its way when the key changes.
const MORE: u64 = 512 << 10;

#[test]
fn downloads_from_every_origin_go_on_while_the_edge_changes_its_key() -> Result<()> {
    scenario(Topology::standard().with_second_origin(), |lab| {
        lab.expect_warning("peers must be given the new public key");
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let origins = [
            Origin::start(lab, &mut edge, ("origin", "wroclaw"), 80)?,
            Origin::start(lab, &mut edge, ("gdansk", "gdansk"), 81)?,
        ];
        let client = lab.node("client")?;
        let mut downloads = Vec::new();
        for origin in &origins {
            downloads.push(Download::start(&client, origin.port)?);
        }
        let next = NextKey::new(&edge)?;
        for origin in &origins {
            origin.pair_again(&mut edge, &next)?;
            ensure!(origin.status()?.contains("next_public_key waits"), "{}", origin.status()?);
        }

        next.apply(&edge)?;
        let applied = Instant::now();
        for (origin, download) in origins.iter().zip(&mut downloads) {
            download.goes_on()?;
            println!("{}: went on {:?} after the apply", origin.peer, applied.elapsed());
            origin.wait_for_status("the edge replies by next_public_key")?;
        }

        // Whoever has the old key alone.
        let thief = client.udp_socket("0.0.0.0:0")?;
        let at = edge
            .peer("gdansk")?
            .get("endpoint")
            .and_then(|at| at.as_str())
            .context("no endpoint")?
            .to_owned();
        let received = origins[1].dropped("receive/unknown_peer")?;
        for _ in 0..3 {
            thief.send_to(&initiation(&edge.key.private, &edge.key_of("gdansk")?)?, at.as_str())?;
        }
        until(LIMIT, "the thief's handshakes", || {
            Ok((origins[1].dropped("receive/unknown_peer")? >= received + 3).then_some(()))
        })?;
        ensure!(
            origins[1].status()?.contains("the edge replies by next_public_key"),
            "{}",
            origins[1].status()?
        );
        thief.set_nonblocking(true)?;
        ensure!(thief.recv(&mut [0; 256]).is_err(), "the thief was answered");

        for origin in &origins {
            origin.take_out_the_old_key(&next)?;
        }
        for mut download in downloads {
            download.goes_on()?;
            download.end()?;
        }
        Ok(())
    })
}

#[test]
fn killed_at_any_step_of_the_change_both_ends_have_a_key_that_works() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("peers must be given the new public key");
        lab.expect_warning("made for another key than this edge's");
        let mut edge = Edge::start(lab, "10.77.88.1/24")?;
        let mut origin = Origin::start(lab, &mut edge, ("origin", "wroclaw"), 80)?;
        let next = NextKey::new(&edge)?;

        // In the moment in which `join` has written.
        let mut pair = edge.pair(&["wroclaw", "--next-key", &next.file])?;
        let mut join = Joining::start_asked(&origin.node, &pair.code()?, &[])?;
        pair.words()?;
        join.answer("yes")?;
        pair.answer("yes")?;
        until(LIMIT, "the file", || Ok(origin.text()?.contains(&next.public).then_some(())))?;
        join.process.kill()?;
        pair.process.kill()?;
        origin.restart(lab)?;
        traffic(&edge, "wroclaw")?;
        // The command may have been killed with its change unconfirmed.
        edge.gatewayctl(&["rollback"])?.output()?;
        edge.wait_until_no_pairing(2)?;

        // After the pairing, before the apply.
        origin.pair_again(&mut edge, &next)?;
        edge.restart(lab, &[])?;
        origin.restart(lab)?;
        traffic(&edge, "wroclaw")?;

        // After the apply, before the origin has seen it.
        origin.forwarder.kill()?;
        next.apply(&edge)?;
        origin.restart(lab)?;
        let started = Instant::now();
        traffic(&edge, "wroclaw")?;
        println!("an origin that was started after the change is back after {:?}", started.elapsed());
        edge.restart(lab, &[])?;
        traffic(&edge, "wroclaw")?;

        // The edge goes back to the old key.
        edge.gatewayctl(&["rollback"])?.run()?;
        let started = Instant::now();
        traffic(&edge, "wroclaw")?;
        println!("after a rollback of the edge it is back after {:?}", started.elapsed());
        Ok(())
    })
}

/// The key that the edge is to have next.
struct NextKey {
    file: String,
    public: String,
}

impl NextKey {
    fn new(edge: &Edge) -> Result<Self> {
        let folder = edge.node.directory();
        edge.gatewayctl(&["keygen", &folder.display().to_string(), "--name", "kyiv-2"])?.run()?;
        let public = fs::read_to_string(folder.join("kyiv-2.pub"))?.trim().to_owned();
        Ok(Self { file: folder.join("kyiv-2.key").display().to_string(), public })
    }

    /// Makes it the edge's key.
    fn apply(&self, edge: &Edge) -> Result<()> {
        let text = fs::read_to_string(&edge.config)?;
        fs::write(&edge.config, text.replace("\"kyiv.key\"", "\"kyiv-2.key\""))?;
        let reloaded = edge.gatewayctl(&["reload"])?.run()?;
        ensure!(reloaded.contains(&self.public), "{reloaded}");
        Ok(())
    }
}

/// A machine that was paired and publishes an endless download.
struct Origin {
    node: Node,
    peer: &'static str,
    port: u16,
    folder: PathBuf,
    forwarder: Process,
    _service: TcpServer,
}

impl Origin {
    fn start(lab: &Lab, edge: &mut Edge, (machine, peer): (&str, &'static str), port: u16) -> Result<Self> {
        let node = lab.node(machine)?;
        let service = TcpServer::start(node.tcp_listener("127.0.0.1:8080")?, send)?;
        let join = edge.paired(&node, &[peer, "--may-publish", &port.to_string()], &[])?;
        let entry =
            format!("\n[[service]]\nname = \"web\"\npublish = [{port}]\nupstream = \"127.0.0.1:8080\"\n");
        let config = join.folder.join("forwarder.toml");
        fs::write(&config, fs::read_to_string(&config)? + &entry)?;
        let forwarder = forwarder(lab, &node, &join.folder)?;
        edge.wait_until_up(peer)?;
        Ok(Self { node, peer, port, folder: join.folder, forwarder, _service: service })
    }

    /// Pairs it again with the edge's next key, while the edge has the old one.
    fn pair_again(&self, edge: &mut Edge, next: &NextKey) -> Result<()> {
        let before = edge.key_of(self.peer)?;
        let join = edge.paired(
            &self.node,
            &[self.peer, "--next-key", &next.file],
            &["--expect-next", &next.public],
        )?;
        let log = join.process.log()?;
        ensure!(log.contains("the running forwarder has taken it"), "{log}");
        ensure!(log.contains(&format!("its next key: {}", next.public)), "{log}");
        ensure!(edge.key_of(self.peer)? == before, "the origin's key is another");
        let line = format!("next_public_key = \"{}\"\n", next.public);
        ensure!(self.text()?.contains(&line), "{}", self.text()?);
        Ok(())
    }

    /// Makes the next key the only one, by a reload.
    fn take_out_the_old_key(&self, next: &NextKey) -> Result<()> {
        let text = self.text()?;
        let kept = text.lines().filter(|line| !line.starts_with("next_public_key = ")).map(|line| {
            let is_key = line.starts_with("public_key = ");
            if is_key { format!("public_key = \"{}\"\n", next.public) } else { format!("{line}\n") }
        });
        fs::write(self.config(), kept.collect::<String>())?;
        let reloaded = self.command("reload")?;
        ensure!(reloaded.contains("public_key"), "{reloaded}");
        until(LIMIT, "one key", || Ok((!self.status()?.contains("public_key")).then_some(())))
    }

    fn restart(&mut self, lab: &Lab) -> Result<()> {
        self.forwarder.kill()?;
        self.forwarder = forwarder(lab, &self.node, &self.folder)?;
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.folder.join("forwarder.toml")
    }

    fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(self.config())?)
    }

    fn status(&self) -> Result<String> {
        self.command("status")
    }

    fn wait_for_status(&self, text: &str) -> Result<()> {
        until(LIMIT, text, || Ok(self.status()?.contains(text).then_some(())))
    }

    /// Packets that were dropped for this reason, as the status has it.
    fn dropped(&self, reason: &str) -> Result<u64> {
        let status = self.status()?;
        let line = format!("dropped {reason}: ");
        Ok(status.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or_default())
    }

    fn command(&self, command: &str) -> Result<String> {
        let state = self.folder.join("state");
        let run = self.node.command(lab::binary("forwarder")?).env("STATE_DIRECTORY", state).arg(command);
        let run = if command == "reload" { run.arg("--config").arg(self.config()) } else { run };
        let output = run.output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }
}

/// Waits for packets of a peer by a session of now.
fn traffic(edge: &Edge, peer: &str) -> Result<()> {
    let before = edge.received_of(peer)?;
    until(LIMIT, "packets of the origin", || Ok((edge.received_of(peer)? > before + 500).then_some(())))
}

/// Sends a block fifty times a second, until the client has gone.
fn send(mut stream: TcpStream) -> io::Result<()> {
    let block = pattern(1, BLOCK);
    loop {
        stream.write_all(&block)?;
        thread::sleep(Duration::from_millis(20));
    }
}

/// A client that reads, and checks what it reads.
struct Download {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Download {
    fn start(client: &Node, port: u16) -> Result<Self> {
        let address = format!("192.0.2.2:{port}");
        let stream = until(LIMIT, "the published port", || {
            Ok(client.tcp_connect(&address, Duration::from_secs(1)).ok())
        })?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (Arc::clone(&bytes), Arc::clone(&stop));
        let reader = Some(thread::spawn(move || read(stream, &count, &stopped)));
        let mut download = Self { bytes, stop, reader };
        download.goes_on()?;
        Ok(download)
    }

    /// Waits for more than was on its way.
    fn goes_on(&mut self) -> Result<()> {
        let before = self.bytes.load(Ordering::Relaxed);
        until(LIMIT, "more of the download", || {
            if let Some(reader) = self.reader.take_if(|reader| reader.is_finished()) {
                ensure!(reader.join().is_ok_and(|read| read.is_ok()), "the reader failed");
                bail!("the download has ended");
            }
            Ok((self.bytes.load(Ordering::Relaxed) > before + MORE).then_some(()))
        })
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.reader.take().map(JoinHandle::join) {
            Some(Ok(read)) => read,
            Some(Err(_)) => bail!("the reader panicked"),
            None => Ok(()),
        }
    }
}

fn read(mut stream: TcpStream, count: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let expected = pattern(1, BLOCK);
    let (mut buffer, mut offset) = (vec![0; BLOCK], 0);
    while !stop.load(Ordering::Relaxed) {
        let length = match stream.read(&mut buffer) {
            Ok(0) => bail!("the download was ended"),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error).context("the download"),
        };
        for byte in buffer.get(..length).unwrap_or_default() {
            ensure!(expected.get(offset) == Some(byte), "the content is wrong");
            offset = (offset + 1) % BLOCK;
        }
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
    Ok(())
}
