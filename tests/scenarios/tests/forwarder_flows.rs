//! Many flows, hostile clients and broken upstreams: nothing hangs, nothing leaks, nothing spins.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, PacketSocket, Process, Signal, TcpServer, Topology, echo, full_counts, scenario, until};
use scenarios::{EchoService, Site, download, raise_descriptors, serve_bulk};
use socket2::SockRef;
use tunnel::packet::{Sum, protocol, tcp_flags};

const BULK: &str = "192.0.2.2:5001";
/// Short connections at the same time.
const PARALLEL: usize = 16;
/// Bytes per second of the flow that is watched during a flood. It is well below what the machine
/// carries, so that a loss is an effect of the flood and not of the load that making it causes.
const STEADY: u64 = 6_250_000;

#[test]
fn thousands_of_idle_flows_take_little_memory_and_no_time_and_none_of_them_starves() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let count = if full_counts() { 10_000 } else { 2_000 };
        // This process has both ends of every flow, each end with its own table of descriptors.
        let count = count.min(raise_descriptors(count + 500)? - 500);
        let mut site = site(lab)?;
        let service = EchoService::apart(site.origin.tcp_listener("127.0.0.1:5001")?)?;
        site.start()?;
        let before = memory(site.forwarder()?)?;
        let mut flows = Vec::new();
        for _ in 0..count {
            flows.push(connect(lab)?);
        }
        until(Duration::from_secs(30), "all to be carried", || Ok((service.count() >= count).then_some(())))?;
        let after = memory(site.forwarder()?)?;
        println!("{count} idle flows: {before} KiB before, {after} KiB after");
        let allowed = 300 * 1024 * count as u64 / 10_000 + 30 * 1024;
        ensure!(after < allowed, "{after} KiB, {allowed} are allowed");
        let (cpu, start) = (processor(site.forwarder()?)?, Instant::now());
        std::thread::sleep(Duration::from_secs(if full_counts() { 20 } else { 3 }));
        let share = (processor(site.forwarder()?)? - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("idle: {:.2} % of a core", share * 100.0);
        for round in 0..if full_counts() { 3 } else { 1 } {
            // One kilobyte each, spread over ten seconds when there are ten thousand.
            let slowest =
                ask_all(&mut flows, Duration::from_millis(1)).with_context(|| format!("round {round}"))?;
            println!("round {round}: the last of {count} answers came after {slowest:?}");
            std::thread::sleep(Duration::from_secs(if full_counts() { 10 } else { 0 }));
        }
        // All at once is more than the queues on the way hold: lost segments are sent again after a
        // timeout.
        let slowest = ask_all(&mut flows, Duration::ZERO).context("all at once")?;
        println!("all at once: the last of {count} answers came after {slowest:?}");
        Ok(())
    })
}

#[test]
fn short_connections_leave_neither_memory_nor_descriptors_behind() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let count = if full_counts() { 1_000_000 } else { 3_000 };
        let mut site = site(lab)?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        // A connection that ends in order keeps its port for a minute.
        lab.node("client")?.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let rounds = |count: usize, workers: usize| -> Result<()> {
            let worker = |_| -> Result<()> {
                for at in 0..count / workers {
                    let mut flow = connect(lab)?;
                    exchange(&mut flow)?;
                    if at % 8 != 0 {
                        // Most end by a reset: an orderly end keeps the client's port for a minute.
                        SockRef::from(&flow).set_linger(Some(Duration::ZERO))?;
                    }
                }
                Ok(())
            };
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..workers).map(|n| scope.spawn(move || worker(n))).collect();
                workers
                    .into_iter()
                    .try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("panicked")))
            })
        };
        // Enough to fill the table of finished flows, which then grows no more.
        rounds(if full_counts() { 60_000 } else { 1_000 }, PARALLEL)?;
        let quiet = |site: &mut Site<'_>| settled(site.forwarder()?);
        let (memory_before, descriptors_before) = quiet(&mut site)?;
        // A part one after another, which takes longer, and the rest in parallel.
        for (count, workers) in [(count / 20, 1), (count - count / 20, PARALLEL)] {
            let start = Instant::now();
            let done = rounds(count, workers);
            if done.is_err() {
                println!("{}", refusals(&site)?);
            }
            done?;
            let took = start.elapsed();
            let (memory_after, descriptors_after) = quiet(&mut site)?;
            println!(
                "{count} connections, {workers} at a time, in {took:?}: {memory_before} -> {memory_after} KiB, \
                 {descriptors_before} -> {descriptors_after} descriptors"
            );
            ensure!(descriptors_after <= descriptors_before, "descriptors leaked");
            ensure!(memory_after * 10 <= memory_before * 11, "memory grew");
        }
        Ok(())
    })
}

#[test]
fn a_slow_reader_gets_every_byte_and_holds_up_no_other_flow() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let bytes: usize = 16 << 20;
        let mut slow = connect(lab)?;
        slow.write_all(format!("down {bytes}\n").as_bytes())?;
        std::thread::sleep(Duration::from_secs(1));
        download(&lab.node("client")?, BULK, 4 << 20)?;
        let held = memory(site.forwarder()?)?;
        println!("{held} KiB while a client does not read");
        let mut got = vec![0; 1 << 20];
        let mut total = 0;
        while total < bytes {
            let count = slow.read(&mut got)?;
            ensure!(count > 0, "the end came after {total} bytes");
            total += count;
            if total < 2 << 20 {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    })
}

#[test]
fn resets_pass_through_both_ways() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        // Each connection that the listener takes is a client's.
        site.forwarder_config
            .replace("upstream = \"127.0.0.1:5001\"", "upstream = \"127.0.0.1:5001\"\nhealth = \"off\"")?;
        let listener = site.origin.tcp_listener("127.0.0.1:5001")?;
        site.start()?;
        let client = connect(lab)?;
        let (mut service, _) = listener.accept()?;
        service.set_read_timeout(Some(Duration::from_secs(10)))?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        ensure!(is_reset(service.read(&mut [0])), "the service got no reset");
        let mut client = connect(lab)?;
        let (service, _) = listener.accept()?;
        SockRef::from(&service).set_linger(Some(Duration::ZERO))?;
        drop(service);
        ensure!(is_reset(client.read(&mut [0])), "the client got no reset");
        Ok(())
    })
}

#[test]
fn an_upstream_that_accepts_and_says_nothing_costs_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        let _silent = site.origin.tcp_listener("127.0.0.1:5001")?;
        site.start()?;
        let mut flows: Vec<TcpStream> = (0..50).map(|_| connect(lab)).collect::<Result<_>>()?;
        for flow in &mut flows {
            flow.write_all(b"anybody there?")?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let before = rounds(&site)?;
        std::thread::sleep(Duration::from_secs(2));
        let spent = rounds(&site)? - before;
        ensure!(spent < 200, "{spent} rounds of the loop in two idle seconds");
        Ok(())
    })
}

#[test]
fn a_client_of_an_upstream_that_never_answers_is_refused_within_the_dial_timeout() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        // An address that no host has: nothing answers.
        site.forwarder_config.replace("upstream = \"127.0.0.1:5001\"", "upstream = \"198.18.77.77:5001\"")?;
        site.forwarder_config.replace("[limits]", "[limits]\ndial_timeout = \"2s\"")?;
        lab.node("inet")?.ip("route add blackhole 198.18.77.0/24")?;
        site.start()?;
        let start = Instant::now();
        let refused = lab.node("client")?.tcp_connect(BULK, Duration::from_secs(60));
        ensure!(refused.is_err(), "connected to an address that no host has");
        println!("refused after {:?}", start.elapsed());
        ensure!(start.elapsed() < Duration::from_secs(30));
        Ok(())
    })
}

#[test]
fn an_upstream_that_restarts_under_many_flows_ends_them_and_takes_new_ones() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let count = if full_counts() { 1_000 } else { 200 };
        raise_descriptors(2 * count + 500)?;
        let mut site = site(lab)?;
        let service = EchoService::start(site.origin.tcp_listener("127.0.0.1:5001")?)?;
        site.start()?;
        let mut flows: Vec<TcpStream> = (0..count).map(|_| connect(lab)).collect::<Result<_>>()?;
        until(Duration::from_secs(30), "all to be carried", || Ok((service.count() >= count).then_some(())))?;
        drop(service);
        for flow in &mut flows {
            let ended = flow.read(&mut [0]);
            ensure!(matches!(ended, Ok(0)) || is_reset(ended), "a flow outlived its upstream");
        }
        let _service = EchoService::start(site.origin.tcp_listener("127.0.0.1:5001")?)?;
        drop(flows);
        exchange(&mut connect(lab)?)?;
        settled(site.forwarder()?).map(drop)
    })
}

#[test]
fn a_forwarder_that_was_stopped_for_a_while_goes_on_where_it_was() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        let mut flow = connect(lab)?;
        exchange(&mut flow)?;
        let pauses: &[u64] = if full_counts() { &[5, 60, 200] } else { &[5] };
        for seconds in pauses {
            site.forwarder()?.signal(Signal::Stop)?;
            flow.write_all(b"client")?;
            std::thread::sleep(Duration::from_secs(*seconds));
            site.forwarder()?.signal(Signal::Continue)?;
            flow.set_read_timeout(Some(Duration::from_secs(90)))?;
            flow.read_exact(&mut [0; 6]).with_context(|| format!("nothing came back after {seconds} s"))?;
            exchange(&mut flow)?;
        }
        Ok(())
    })
}

#[test]
fn with_64_descriptors_new_flows_are_refused_at_once_and_old_ones_go_on() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        let _server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        let pid = site.forwarder()?.pid().to_string();
        // Only the owner of a process, or root with every capability, may set its limits.
        let owner = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "prlimit"];
        let mut limit = Command::new(if site.is_unprivileged() { "setpriv" } else { "prlimit" });
        limit.args(if site.is_unprivileged() { owner.as_slice() } else { &[] });
        let status = limit.args(["--pid", &pid, "--nofile=64:64"]).status()?;
        ensure!(status.success(), "prlimit: {status}");
        lab.expect_warning("because every file descriptor was in use");
        let mut flows = Vec::new();
        let client = lab.node("client")?;
        let refused = loop {
            let start = Instant::now();
            match client.tcp_connect(BULK, Duration::from_millis(1_500)) {
                Ok(flow) => {
                    flow.set_read_timeout(Some(Duration::from_secs(30)))?;
                    flows.push(flow);
                    ensure!(flows.len() < 100, "64 descriptors for 100 flows");
                }
                Err(error) => break (error.downcast_ref().map(std::io::Error::kind), start.elapsed()),
            }
        };
        println!("{} flows fit, the next ended {refused:?}", flows.len());
        ensure!(refused.0 == Some(ErrorKind::ConnectionRefused), "{refused:?}");
        ensure!((10..64).contains(&flows.len()), "{} flows with 64 descriptors", flows.len());
        for flow in &mut flows {
            exchange(flow)?;
        }
        // Without a free descriptor no scrape is answered: the kernel's count of processor time
        // shows whether anything spins.
        let before = processor(site.forwarder()?)?;
        std::thread::sleep(Duration::from_secs(2));
        let spent = processor(site.forwarder()?)? - before;
        ensure!(spent < Duration::from_millis(500), "{spent:?} of a processor in two idle seconds: it spins");
        let logged = |site: &Site<'_>| -> Result<usize> {
            let log = site.forwarder.as_ref().context("no forwarder")?.log()?;
            Ok(log.matches("because every file descriptor was in use").count())
        };
        until(Duration::from_secs(20), "a warning", || Ok((logged(&site)? > 0).then_some(())))?;
        drop(flows);
        until(Duration::from_secs(20), "a new flow", || Ok(exchange(&mut connect(lab)?).ok()))?;
        let output = site.ask_forwarder(&["status"])?.output()?;
        let status = String::from_utf8_lossy(&output.stdout);
        ensure!(status.contains("because every file descriptor was in use"), "{status}");
        ensure!(logged(&site)? == 1, "the warning was not logged once");
        Ok(())
    })
}

#[test]
fn a_flood_of_spoofed_syns_leaves_old_flows_alone_and_lets_an_honest_client_in() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = site(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let (client, inet) = (lab.node("client")?, lab.node("inet")?);
        let packets = client.packet_socket("eth0", Some((&inet, "client0")))?;
        let length = Duration::from_secs(if full_counts() { 30 } else { 5 });
        let mut old = steady_flow(lab)?;
        let quiet = steady_download(&mut old, Duration::from_secs(3))?;
        let (ending, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let start = Instant::now();
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&packets, length + Duration::from_secs(30), &ending, &sent));
            let honest = scope.spawn(move || {
                std::thread::sleep(length / 2);
                let start = Instant::now();
                connect(lab).map(|_| start.elapsed())
            });
            let flooded = steady_download(&mut old, length);
            let honest = honest.join().map_err(|_| anyhow::anyhow!("the honest client panicked"))?;
            let lasted = start.elapsed();
            ending.store(true, Ordering::Relaxed);
            flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
            let (flooded, took) = (flooded?, honest.context("an honest client did not get in")?);
            println!(
                "{:.0} SYNs per second for {lasted:?}; goodput {:.1} -> {:.1} Mbit/s; an honest client connected after {took:?}",
                sent.load(Ordering::Relaxed) as f64 / lasted.as_secs_f64(),
                quiet / 1e6,
                flooded / 1e6
            );
            // A machine that is too slow for this flow without the flood proves nothing with it.
            ensure!(!full_counts() || flooded >= quiet * 0.9, "the flow lost more than a tenth");
            ensure!(!full_counts() || took < Duration::from_secs(3), "the honest client waited");
            Ok(())
        })?;
        let page = site.origin.run("curl -sS --max-time 10 http://127.0.0.1:9587/metrics")?;
        let wanted = [
            "forwarder_dropped_packets_total{stage=\"admission\",reason=\"greylisted\"}",
            "forwarder_half_open",
        ];
        page.lines()
            .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
            .for_each(|line| println!("{line}"));
        Ok(())
    })
}

/// Why the forwarder took no more flows, and what became of its dials.
fn refusals(site: &Site<'_>) -> Result<String> {
    let page = site.origin.run("curl -sS --max-time 10 http://127.0.0.1:9587/metrics")?;
    let names = ["forwarder_dropped_packets_total", "forwarder_dials_total", "forwarder_resets_total"];
    let counts = |line: &&str| names.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0");
    Ok(page.lines().filter(counts).collect::<Vec<_>>().join("\n"))
}

/// Sends a kilobyte into each flow, `pause` apart, and waits for every answer; how long that took.
fn ask_all(flows: &mut [TcpStream], pause: Duration) -> Result<Duration> {
    let start = Instant::now();
    for flow in &mut *flows {
        flow.write_all(&[7; 1024])?;
        std::thread::sleep(pause);
    }
    for flow in &mut *flows {
        flow.set_read_timeout(Some(Duration::from_secs(60)))?;
        flow.read_exact(&mut [0; 1024]).context("a flow starved")?;
    }
    Ok(start.elapsed())
}

/// The worked example with room for many flows of one client.
fn site(lab: &Lab) -> Result<Site<'_>> {
    let mut site = Site::new(lab)?;
    site.forwarder_config
        .append("[limits]\nflows_per_client = 16384\npending_per_client = 1024\nflows = 16384");
    Ok(site)
}

fn connect(lab: &Lab) -> Result<TcpStream> {
    let stream = lab.node("client")?.tcp_connect(BULK, Duration::from_secs(30))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"client")?;
    stream.read_exact(&mut [0; 6]).context("the echo did not come")
}

fn is_reset(answer: std::io::Result<usize>) -> bool {
    answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Resident memory in KiB.
fn memory(process: &Process) -> Result<u64> {
    let text = process.status_field("VmRSS")?;
    text.split_whitespace().next().context("no VmRSS")?.parse().context("VmRSS")
}

/// Time on a processor so far.
fn processor(process: &Process) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // User and system time; the kernel counts in hundredths of a second here.
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

fn descriptors(process: &Process) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", process.pid()))?.count())
}

/// Memory and descriptors once finished flows are forgotten, which takes ten seconds: until then
/// late segments are answered.
fn settled(process: &Process) -> Result<(u64, usize)> {
    until(Duration::from_secs(60), "finished flows to be forgotten", || {
        let first = descriptors(process)?;
        std::thread::sleep(Duration::from_secs(1));
        Ok((descriptors(process)? == first).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(11));
    Ok((memory(process)?, descriptors(process)?))
}

/// Rounds of the forwarder's loop so far.
fn rounds(site: &Site<'_>) -> Result<u64> {
    let page = site.origin.run("curl -sS --max-time 10 http://127.0.0.1:9587/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix("forwarder_loop_rounds_total "));
    line.context("no rounds are counted")?.parse().context("rounds")
}

/// A download that is about to begin.
fn steady_flow(lab: &Lab) -> Result<TcpStream> {
    let mut flow = connect(lab)?;
    flow.write_all(b"down 100000000000\n")?;
    Ok(flow)
}

/// Bits per second of a flow whose client takes no more than [`STEADY`], over this time.
fn steady_download(flow: &mut TcpStream, span: Duration) -> Result<f64> {
    let (mut buffer, mut count, start) = (vec![0; 64 * 1024], 0, Instant::now());
    while start.elapsed() < span {
        count += flow.read(&mut buffer)? as u64;
        let due = start + Duration::from_nanos(count * 1_000_000_000 / STEADY);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(count as f64 * 8.0 / start.elapsed().as_secs_f64())
}

/// Sends SYNs from addresses that no host has, 50,000 a second or as many as the machine can.
fn flood(packets: &PacketSocket, limit: Duration, ending: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let start = Instant::now();
    let mut number = 0u32;
    while start.elapsed() < limit && !ending.load(Ordering::Relaxed) {
        for _ in 0..50 {
            // An address of the benchmark network, which no host of the lab has.
            let source = (Ipv4Addr::from(0xc612_0000 | (number & 0xffff)), 1_024 + (number >> 16) as u16);
            // A full queue on the way is to be expected in a flood.
            let _ = packets.send(&syn(source, number));
            number += 1;
        }
        sent.store(u64::from(number), Ordering::Relaxed);
        let due = start + Duration::from_millis(u64::from(number) / 50);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// A whole SYN to the published port.
fn syn((address, port): (Ipv4Addr, u16), sequence: u32) -> Vec<u8> {
    let to = Ipv4Addr::new(192, 0, 2, 2);
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol::TCP, 0, 0];
    ip.extend([address.octets(), to.octets()].concat());
    let sum = Sum::new().bytes(&ip).checksum().to_be_bytes();
    ip.splice(10..12, sum);
    let mut tcp = [port.to_be_bytes(), 5_001u16.to_be_bytes()].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x50, tcp_flags::SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = Sum::new().pseudo_header(address.into(), to.into(), protocol::TCP, tcp.len()).bytes(&tcp);
    tcp.splice(16..18, sum.checksum().to_be_bytes());
    [ip, tcp].concat()
}
