//! One edge with a thousand origins, each with its link and a service that is watched.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, TcpServer, Topology, echo, full_counts, scenario, time_until};
use scenarios::{KeyPair, Site, memory};
use serde_json::Value;

/// Origins in the soak; in `make test` it does not run.
const ORIGINS: usize = 1_000;
/// The first public port.
const FIRST_PORT: usize = 20_000;
/// How long an idle edge is measured.
const IDLE: Duration = Duration::from_secs(30);
/// What the edge may take in MiB; what was measured is printed.
const MOST_MEMORY: u64 = 160;
/// How long a change of the configuration may take.
const LONGEST_APPLY: Duration = Duration::from_secs(20);

#[test]
fn an_edge_with_a_thousand_origins_links_and_services_takes_bounded_memory_and_applies_within_seconds()
-> Result<()> {
    if !full_counts() {
        println!("only in the soak: a thousand origins are a thousand processes");
        return Ok(());
    }
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.text = gateway_toml(&site.edge)?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        let begin = Instant::now();
        site.start_gateway()?;
        println!("{ORIGINS} peers and services: the edge answers {:?} after its start", begin.elapsed());
        println!("without origins: {} KiB", memory(site.gateway()?)?);

        let _origins = start_origins(&site)?;
        let up = time_until(Duration::from_secs(600), "every service to be up", || {
            Ok(services_up(&site)? == ORIGINS)
        })?;
        println!("every link and service is up {up:?} after the last origin was started");
        is_bounded(&mut site, lab)
    })
}

/// Memory, idle time of the processor, a reload, and a change that adds a service.
fn is_bounded(site: &mut Site<'_>, lab: &Lab) -> Result<()> {
    let (before, begin) = (processor(site.gateway()?)?, Instant::now());
    std::thread::sleep(IDLE);
    let share = (processor(site.gateway()?)? - before) / begin.elapsed().as_secs_f64();
    let resident = memory(site.gateway()?)?;
    println!("idle with {ORIGINS} origins: {:.1} % of a core, {resident} KiB", share * 100.0);

    let file = site.gateway_config.path().to_string_lossy().into_owned();
    let begin = Instant::now();
    site.gatewayctl(&["apply", &file])?.run()?;
    println!("apply of the same file: {:?}", begin.elapsed());
    let more = "[[publish]]\nname = \"more\"\nlisten = \"19999\"\ntarget = \"10.96.4.1:5001\"";
    site.gateway_config.append(more).write()?;
    let begin = Instant::now();
    site.gatewayctl(&["apply", &file])?.run()?;
    let apply = begin.elapsed();
    println!("apply of one more service: {apply:?}");

    for number in [0, ORIGINS / 2, ORIGINS - 1] {
        let mut stream = lab
            .node("client")?
            .tcp_connect(&format!("192.0.2.2:{}", FIRST_PORT + number), Duration::from_secs(10))?;
        std::io::Write::write_all(&mut stream, b"hello")?;
        let mut answer = [0; 5];
        std::io::Read::read_exact(&mut stream, &mut answer)?;
        ensure!(&answer == b"hello");
    }
    ensure!(resident < MOST_MEMORY * 1_024, "{resident} KiB");
    ensure!(apply < LONGEST_APPLY, "{apply:?}");
    Ok(())
}

/// Seconds of the processor that a process and its only child have used.
fn processor(process: &Process) -> Result<f64> {
    let mut ticks = 0.0;
    for pid in [process.pid(), process.only_child()?] {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let rest = text.rsplit(')').next().context("no fields")?;
        let fields: Vec<f64> =
            rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        ticks += fields.iter().sum::<f64>();
    }
    Ok(ticks / 100.0)
}

/// The services that the edge shows as well to the end.
fn services_up(site: &Site<'_>) -> Result<usize> {
    let shown = site.gatewayctl(&["services", "--json"])?.run()?;
    let document: Value = serde_json::from_str(&shown)?;
    let services = document["services"].as_array().context("no services")?;
    Ok(services.iter().filter(|service| service["health"]["state"] == "ok").count())
}

fn address(number: usize) -> String {
    format!("10.96.{}.{}", 4 + number / 250, 1 + number % 250)
}

fn gateway_toml(edge: &Node) -> Result<String> {
    let mut text = format!(
        "[interface]\nname = \"gw0\"\naddress = [\"10.96.0.1/16\"]\nlisten_port = 51820\n\
         private_key_file = \"kyiv.key\"\n[wan]\ninterface = \"eth0\"\n[lan]\nprefixes = [\"192.168.1.0/24\"]\n\
         [control]\nsocket = \"/run/causeway/gateway.sock\"\n[state]\ndirectory = \"{}\"\n",
        edge.directory().join("state").display()
    );
    for number in 0..ORIGINS {
        let (key, address, port) =
            (KeyPair::of(&format!("origin {number}")).public, address(number), FIRST_PORT + number);
        write!(
            text,
            "[[peer]]\nname = \"o{number}\"\npublic_key = \"{key}\"\nallowed_ips = [\"{address}/32\"]\n\
             [[publish]]\nname = \"s{number}\"\nlisten = \"{port}\"\ntarget = \"{address}:5001\"\n"
        )?;
    }
    Ok(text)
}

/// A forwarder for each origin, all on one machine behind one address.
fn start_origins(site: &Site<'_>) -> Result<Vec<Process>> {
    let mut origins = Vec::with_capacity(ORIGINS);
    for number in 0..ORIGINS {
        let folder = site.origin.directory().join(format!("o{number}"));
        fs::create_dir_all(folder.join("state"))?;
        KeyPair::of(&format!("origin {number}")).write(&folder.join("own.key"))?;
        let (config, folder) = (folder.join("forwarder.toml"), folder.display());
        fs::write(
            &config,
            format!(
                "[interface]\naddress = [\"{0}/16\"]\nprivate_key_file = \"own.key\"\n\
                 [[peer]]\nname = \"kyiv\"\npublic_key = \"{1}\"\nendpoint = \"192.0.2.2:51820\"\nprobe = \"10.96.0.1\"\n\
                 [[service]]\nname = \"echo\"\nmatch = \"{0}:5001\"\nupstream = \"127.0.0.1:5001\"\n\
                 [control]\nsocket = \"{folder}/state/forwarder.sock\"\n[state]\ndirectory = \"{folder}/state\"\n",
                address(number),
                site.kyiv.public
            ),
        )?;
        let command = site.origin.command(lab::binary("forwarder")?).arg("--config").arg(&config);
        origins.push(command.spawn(&format!("forwarder-{number}"))?);
    }
    Ok(origins)
}
