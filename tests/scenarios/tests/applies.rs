//! Changes while traffic flows: they do not disturb the flows of any other service.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Node, Signal, TcpServer, Topology, full_counts, pattern, scenario, until};
use scenarios::Site;

const PIECE: usize = 32 * 1024;

#[test]
fn a_download_goes_on_through_a_hundred_applies_and_only_changed_services_lose_their_flows() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let client = lab.node("client")?;
        let paced = Paced::serve(&site.origin, "127.0.0.1:5001")?;
        // A probe would be sent the pattern as well, and counted.
        site.forwarder_config
            .replace("upstream = \"127.0.0.1:5001\"", "upstream = \"127.0.0.1:5001\"\nhealth = \"off\"")?;
        let _echoes = [6001, 6002].map(|port| {
            let listener = site.origin.tcp_listener(&format!("127.0.0.1:{port}"));
            listener.and_then(|listener| TcpServer::start(listener, lab::echo))
        });
        for port in [6001, 6002] {
            site.forwarder_config.append(&format!(
                "[[service]]\nname = \"echo{port}\"\nmatch = \"192.168.88.2:{port}\"\nupstream = \"127.0.0.1:{port}\""
            ));
        }
        let common = site.gateway_config.text.clone();
        let variant = |target: u16, gone: bool| {
            let mut text = format!("{common}\n{}", publish("changing", 6000, target));
            if !gone {
                text.push_str(&publish("leaving", 6100, 6002));
            }
            text
        };
        site.gateway_config.text = variant(6001, false);
        site.start()?;

        let download = Download::start(&client)?;
        let bulk = until(Duration::from_secs(10), "the download's flow", || flows(&site.edge, 5001))?;
        let draft = site.edge.directory().join("draft.toml");
        let rounds = if full_counts() { 100 } else { 24 };
        for round in 0..rounds {
            let odd = round % 2 == 0;
            let mut sessions = Vec::new();
            // A flow of a service that this round changes, and of one that it removes or brings back.
            sessions.push(session(&client, 6000)?);
            if odd {
                sessions.push(session(&client, 6100)?);
            }
            std::fs::write(&draft, variant(if odd { 6002 } else { 6001 }, odd))?;
            site.gatewayctl(&["apply"])?.arg(&draft).run()?;
            ensure!(flows(&site.edge, 6000)?.is_none(), "a flow of the changed service is still there");
            ensure!(flows(&site.edge, 6100)?.is_none(), "a flow of the removed service is still there");
            ensure!(flows(&site.edge, 5001)?.as_ref() == Some(&bulk), "the download's flow is another");
            ensure!(download.is_running(), "the download ended in round {round}");
        }
        let sent = paced.finish();
        let (received, right) = download.end()?;
        ensure!(
            right && received == sent.load(Ordering::Relaxed),
            "{received} bytes came, content right: {right}"
        );
        ensure!(received > PIECE as u64, "the download was too short to prove anything");
        Ok(())
    })
}

#[test]
fn a_changed_file_is_applied_by_itself_where_it_is_watched_and_only_when_asked_where_it_is_not() -> Result<()>
{
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let has = |site: &Site<'_>, name: &str| -> Result<bool> {
            Ok(site.gatewayctl(&["services"])?.run()?.contains(name))
        };
        let waits = |site: &Site<'_>, name: &str| {
            until(Duration::from_secs(30), name, || Ok(has(site, name)?.then_some(())))
        };
        site.gateway_config.append(&publish("first", 6000, 6001)).write()?;
        std::thread::sleep(Duration::from_secs(5));
        ensure!(!has(&site, "first")?, "the change was applied without a request");
        site.gateway_config.append("[reload]\nwatch = true").write()?;
        site.gateway()?.signal(Signal::Hangup)?;
        waits(&site, "first")?;
        site.gateway_config.append(&publish("another", 6100, 6002)).write()?;
        waits(&site, "another")
    })
}

#[test]
fn a_plan_of_the_file_in_force_is_empty_though_the_gateway_was_started_with_its_relative_name() -> Result<()>
{
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        std::fs::write(site.edge.directory().join("partners.list"), "198.51.100.0/24\n")?;
        site.gateway_config.append("[[list]]\nname = \"partners\"\nfile = \"partners.list\"\n").write()?;
        let command = site.edge.command(lab::binary("gateway")?).args(["--config", "gateway.toml"]);
        let gateway = command.spawn("gateway")?;
        lab.judge(&gateway);
        until(Duration::from_secs(10), "the gateway's control socket", || site.peers().map(Some))?;
        site.gateway = Some(gateway);
        let planned = site.gatewayctl(&["plan"])?.arg(site.gateway_config.path()).run()?;
        ensure!(planned.trim() == "nothing would change", "{planned}");
        site.gatewayctl(&["reload"])?.run()?;
        Ok(())
    })
}

#[test]
fn a_plan_lists_rule_by_rule_what_the_apply_then_changes_and_changes_nothing_itself() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let draft = site.edge.directory().join("draft.toml");
        let allowed = publish("first", 6000, 6001) + "allow = [\"198.51.100.0/24\"]\n";
        std::fs::write(&draft, format!("{}\n{allowed}", site.gateway_config.text))?;
        let ask = |what: &str| site.gatewayctl(&[what])?.arg(&draft).run();
        let before = scenarios::table(&site.edge)?;
        let planned = ask("plan")?;
        for line in ["+ @publish_tcp4: 6000 → ", "→ 192.168.88.2", ". 198.51.100.0/24 (first)"] {
            ensure!(planned.contains(line), "{line} is not in the plan:\n{planned}");
        }
        ensure!(
            planned.lines().all(|line| line.contains(" + ")),
            "a plan that takes something away:\n{planned}"
        );
        ensure!(scenarios::table(&site.edge)? == before, "the plan changed rules");
        ensure!(ask("apply")? == planned, "the apply listed other changes than the plan");
        ensure!(scenarios::table(&site.edge)? != before, "the apply changed nothing");
        let after = ask("plan")?;
        ensure!(after.trim() == "nothing would change", "{after}");
        Ok(())
    })
}

fn publish(name: &str, port: u16, target: u16) -> String {
    format!("[[publish]]\nname = \"{name}\"\nlisten = \"{port}\"\ntarget = \"192.168.88.2:{target}\"\n")
}

/// A flow of one service that has carried a byte each way.
fn session(client: &Node, port: u16) -> Result<TcpStream> {
    let mut stream = client.tcp_connect(&format!("192.0.2.2:{port}"), Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// The id of the conntrack entry of the flow to a public port, as `id=N`.
fn flows(edge: &Node, port: u16) -> Result<Option<String>> {
    let output = edge.output(&format!("conntrack -L -p tcp --orig-port-dst {port} -o id"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let entry = text.lines().find(|line| line.contains("192.0.2.2") && !line.contains("TIME_WAIT"));
    Ok(entry.and_then(|line| line.split_whitespace().find(|word| word.starts_with("id="))).map(str::to_owned))
}

/// A server that sends the pattern slowly, until [`Paced::finish`] is called.
struct Paced {
    finished: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    _server: TcpServer,
}

impl Paced {
    fn serve(origin: &Node, address: &str) -> Result<Self> {
        let (finished, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ending, count) = (Arc::clone(&finished), Arc::clone(&sent));
        let server = TcpServer::start(origin.tcp_listener(address)?, move |mut stream| {
            let piece = pattern(7, PIECE);
            while !ending.load(Ordering::Relaxed) {
                stream.write_all(&piece)?;
                count.fetch_add(PIECE as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(4));
            }
            Ok(())
        })?;
        Ok(Self { finished, sent, _server: server })
    }

    fn finish(&self) -> Arc<AtomicU64> {
        self.finished.store(true, Ordering::Relaxed);
        Arc::clone(&self.sent)
    }
}

/// A client that compares every byte; an early end and a reset are errors.
struct Download(JoinHandle<io::Result<(u64, bool)>>);

impl Download {
    fn start(client: &Node) -> Result<Self> {
        let mut stream = client.tcp_connect("192.0.2.2:5001", Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(std::thread::spawn(move || {
            let expected = pattern(7, PIECE);
            let mut buffer = vec![0; 64 * 1024];
            let (mut count, mut right) = (0_u64, true);
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return Ok((count, right));
                }
                for byte in buffer.iter().take(length) {
                    let place = usize::try_from(count % PIECE as u64).unwrap_or(0);
                    right &= expected.get(place) == Some(byte);
                    count += 1;
                }
            }
        })))
    }

    fn is_running(&self) -> bool {
        !self.0.is_finished()
    }

    fn end(self) -> Result<(u64, bool)> {
        self.0.join().map_err(|_| anyhow!("the download panicked"))?.context("the download")
    }
}
