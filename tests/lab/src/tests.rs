use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::logs::is_alarming;
use crate::{Counter, LeakWatch, TcpServer, Topology, UdpEcho, echo, pattern, scenario, until};

#[test]
fn the_client_reaches_the_edge_but_nothing_behind_the_carriers_nat() -> anyhow::Result<()> {
    scenario(Topology::standard(), |lab| {
        let (client, origin) = (lab.node("client")?, lab.node("origin")?);
        client.run("ping -c 1 -W 2 192.0.2.2")?;
        client.run("ping -6 -c 1 -W 2 2001:db8:192::2")?;
        origin.run("ping -c 1 -W 2 192.0.2.2")?;
        let inward = client.output("ping -c 1 -W 1 198.51.100.7")?;
        assert!(!inward.status.success(), "the carrier's NAT answered a WAN client");
        Ok(())
    })
}

#[test]
fn a_rebound_nat_gives_the_flow_a_new_source_port() -> anyhow::Result<()> {
    scenario(Topology::standard(), |lab| {
        let edge = lab.node("edge")?.udp_socket("192.0.2.2:7000")?;
        edge.set_read_timeout(Some(Duration::from_secs(2)))?;
        let origin = lab.node("origin")?.udp_socket("0.0.0.0:7001")?;
        let seen = |port| -> anyhow::Result<u16> {
            lab.rebind_cgnat(port)?;
            origin.send_to(b"here", "192.0.2.2:7000")?;
            Ok(edge.recv_from(&mut [0; 16])?.1.port())
        };
        assert_eq!((seen(41_001)?, seen(41_002)?), (41_001, 41_002));
        Ok(())
    })
}

#[test]
fn counters_count_what_crosses_and_the_leak_watch_sees_only_the_tunnels_prefixes() -> anyhow::Result<()> {
    scenario(Topology::standard(), |lab| {
        let (inet, client) = (lab.node("inet")?, lab.node("client")?);
        let leaks = LeakWatch::start(&inet)?;
        let pings = Counter::arriving(&inet, "pings", "icmp type echo-request")?;
        client.run("ping -c 3 -i 0.01 192.0.2.2")?;
        assert_eq!((pings.packets()?, leaks.packets()?), (3, 0));
        client.udp_socket("0.0.0.0:0")?.send_to(b"lost", "192.168.88.2:9")?;
        assert_eq!(leaks.packets()?, 1);
        Ok(())
    })
}

#[test]
fn streams_and_datagrams_come_back_from_a_server_in_another_node() -> anyhow::Result<()> {
    scenario(Topology::standard(), |lab| {
        let (client, edge) = (lab.node("client")?, lab.node("edge")?);
        let _server = TcpServer::start(edge.tcp_listener("192.0.2.2:7000")?, echo)?;
        let _datagrams = UdpEcho::start(edge.udp_socket("192.0.2.2:7000")?)?;
        let sent = pattern(7, 100_000);
        let mut stream = client.tcp_connect("192.0.2.2:7000", Duration::from_secs(2))?;
        let mut writer = stream.try_clone()?;
        let upload = sent.clone();
        let sending = std::thread::spawn(move || {
            writer.write_all(&upload).and_then(|()| writer.shutdown(Shutdown::Write))
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        sending.join().unwrap()?;
        assert!(received == sent);
        let socket = client.udp_socket("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"ping", "192.0.2.2:7000")?;
        assert_eq!(socket.recv(&mut [0; 16])?, 4);
        Ok(())
    })
}

#[test]
fn an_edge_with_one_interface_is_reached_through_its_router() -> anyhow::Result<()> {
    scenario(Topology::one_armed(), |lab| {
        let _server = TcpServer::start(lab.node("edge")?.tcp_listener("192.168.1.2:443")?, echo)?;
        lab.node("client")?.tcp_connect("192.0.2.2:443", Duration::from_secs(2))?;
        lab.node("lan")?.run("ping -c 1 -W 2 192.168.1.2").map(drop)
    })
}

#[test]
fn every_node_has_a_run_folder_and_loopback_of_its_own() -> anyhow::Result<()> {
    scenario(Topology::empty(), |lab| {
        let (one, other) = (lab.add_node("one")?, lab.add_node("other")?);
        one.shell("mkdir /run/wireguard && touch /run/here && ping -c 1 127.0.0.1 >/dev/null")?;
        assert!(other.run("ls /run/here").is_err());
        Ok(())
    })
}

#[test]
fn a_process_that_detached_itself_ends_with_its_lab() -> anyhow::Result<()> {
    let mut pid = String::new();
    scenario(Topology::empty(), |lab| {
        let node = lab.add_node("one")?;
        // By a name of its own: the numbers of processes are other ones outside of the lab.
        let folder = node.directory().display().to_string();
        node.shell(&format!("ln -s $(command -v sleep) {folder}/detached"))?;
        node.shell(&format!("setsid sh -c 'exec {folder}/detached 300' >/dev/null 2>&1 &"))?;
        pid = until(Duration::from_secs(5), "the detached process", || {
            let found = node.shell(&format!("pgrep -f '{folder}/[d]etached 300' || true"))?;
            Ok(Some(found.trim().to_owned()).filter(|pid| pid.lines().count() == 1))
        })?;
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        Ok(())
    })?;
    let gone = || Ok((!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    until(Duration::from_secs(5), "the detached process to end", gone)
}

#[test]
fn an_unannounced_warning_fails_a_scenario_and_an_announced_one_does_not() -> anyhow::Result<()> {
    scenario(Topology::empty(), |lab| {
        let node = lab.add_node("one")?;
        let script = "echo '2026-11-22T21:00:00Z  WARN forwarder: the upstream is gone'";
        let mut loud = node.command("sh").args(["-c", script]).spawn("loud")?;
        loud.wait(Duration::from_secs(5))?;
        lab.judge(&loud);
        assert!(lab.judge_logs().is_err());
        lab.expect_warning("the upstream is gone");
        lab.judge_logs()
    })
}

#[test]
fn levels_are_distinguished_from_words_in_messages() {
    assert!(is_alarming("2026-11-22T21:00:00Z ERROR gateway: no"));
    assert!(is_alarming("thread 'cw-rx' panicked at src/x.rs:1:1:"));
    assert!(!is_alarming("2026-11-22T21:00:00Z INFO gateway: a reader logged ERROR once"));
}

#[test]
fn a_command_that_fails_is_quoted_and_one_that_hangs_is_ended() -> anyhow::Result<()> {
    scenario(Topology::empty(), |lab| {
        let node = lab.add_node("one")?;
        let failed = node.shell("echo why >&2; exit 3").unwrap_err().to_string();
        assert!(failed.contains("why") && failed.contains("exit status: 3"), "{failed}");
        let hung = node.command("sleep").arg("60").limit(Duration::from_millis(200)).run();
        assert!(hung.unwrap_err().to_string().contains("not finished"));
        Ok(())
    })
}
