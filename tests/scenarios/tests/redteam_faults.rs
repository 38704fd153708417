//! Faults of the machine, one after another: each is repaired or reported, and a page comes again.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Signal, TcpServer, Topology, UdpServer, echo, full_counts, scenario, until};
use relay::Random;
use scenarios::{Site, page, table};

/// The echo server at the origin, as visitors know it.
const SERVICE: &str = "192.0.2.2:5001";

#[test]
fn a_page_comes_again_after_whatever_is_changed_under_the_running_edge() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (mut site, _page) = served(lab)?;
        let switches =
            |name: &str, value: u8| format!("for i in /proc/sys/net/{name}; do echo {value} > $i; done");
        let wan = "ip route replace default via 192.0.2.1";
        let harms = [
            ("rp_filter", switches("ipv4/conf/*/rp_filter", 1), String::new()),
            ("gw0 down", "ip link set gw0 down".into(), String::new()),
            ("gw0 without its address", "ip address flush dev gw0".into(), String::new()),
            ("gw0 with a small MTU", "ip link set gw0 mtu 576".into(), String::new()),
            (
                "routes and rules flushed",
                "ip route flush table 4357; ip rule flush; ip rule add lookup main priority 32766".into(),
                String::new(),
            ),
            ("conntrack flushed", "conntrack -F".into(), String::new()),
            (
                "the WAN's address gone",
                "ip address del 192.0.2.2/24 dev eth0".into(),
                format!("ip address add 192.0.2.2/24 dev eth0; {wan}"),
            ),
            ("the WAN's link down", "ip link set eth0 down".into(), format!("ip link set eth0 up; {wan}")),
            ("IPv6 off", switches("ipv6/conf/*/disable_ipv6", 1), switches("ipv6/conf/*/disable_ipv6", 0)),
        ];
        for (what, harm, repair) in harms {
            site.edge.shell(&harm).context(what)?;
            site.edge.shell(&repair).context(what)?;
            comes_again(lab, what)?;
            ensure!(site.gateway()?.is_running(), "{what}: the daemon ended");
        }
        lab.node("cgnat")?.output("conntrack -F")?;
        comes_again(lab, "the carrier's conntrack flushed")?;
        // The table was there all the time, or is again.
        until(Duration::from_secs(30), "the edge to be well", || {
            Ok((site.gatewayctl(&["status"])?.output()?.status.code() == Some(0)).then_some(()))
        })
    })
}

#[test]
fn a_deleted_device_ends_the_daemon_and_a_foreign_table_with_its_tables_name_is_replaced() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        // Either the thread that reads from it notices first, or the check whether it is there.
        lab.expect_warning("the TUN device was deleted");
        lab.expect_warning("the device gw0 was renamed, moved or replaced");
        let (mut site, _page) = served(lab)?;
        let own = site.edge.run("nft list table inet causeway")?;
        site.edge.run("ip link delete gw0")?;
        let ended = site.gateway()?.wait(Duration::from_secs(15))?;
        ensure!(!ended.success(), "it ended well without its device");
        site.edge.nft(
            "delete table inet causeway
             table inet causeway {
               set bans4 { type inet_service; }
               map target4 { type ipv4_addr : verdict; }
               chain forward { type filter hook output priority 50; policy drop; }
               chain foreign { type filter hook input priority -400; policy drop; }
             }",
        )?;
        site.start_gateway()?;
        comes_again(lab, "a foreign table")?;
        let now = site.edge.run("nft list table inet causeway")?;
        ensure!(!now.contains("foreign") && !now.contains("policy drop"), "{now}");
        ensure!(now.matches("hook").count() == own.matches("hook").count(), "{now}");
        Ok(())
    })
}

#[test]
fn a_state_that_is_full_damaged_or_read_only_and_a_file_that_is_gone_close_nothing_and_open_nothing()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("No space left on device");
        lab.expect_warning("gateway.toml");
        let (mut site, _page) = served(lab)?;
        let state = site.edge.directory().join("state");
        let edge = site.edge.clone();
        let whole = || table(&edge);
        let before = whole()?;

        fs::rename(site.gateway_config.path(), site.edge.directory().join("away.toml"))?;
        site.gateway()?.signal(Signal::Hangup)?;
        site.gateway()?.wait_for_log("gateway.toml", Duration::from_secs(10))?;
        let path = site.gateway_config.path().display().to_string();
        let apply = site.gatewayctl(&["apply", &path])?.output()?;
        ensure!(apply.status.code() != Some(0), "a missing file was applied");
        ensure!(whole()? == before, "a missing file changed the table");
        comes_again(lab, "the configuration gone")?;

        site.gateway()?.kill()?;
        for (folder, files) in [
            (
                state.clone(),
                &["endpoints.json", "clock.json", "sysctls.json", "applied.json", "lan.json"][..],
            ),
            (site.origin.directory().join("state"), &["clock"]),
        ] {
            files.iter().try_for_each(|file| fs::write(folder.join(file), ""))?;
        }
        site.start_gateway()?;
        site.forwarder()?.kill()?;
        site.start_forwarder()?;
        comes_again(lab, "every state file empty")?;

        site.gateway()?.kill()?;
        site.edge.shell(
            "mkdir full && mount -t tmpfs -o size=128k none full && cp -a state/. full/ && mount --move full state
             dd if=/dev/zero of=state/filler bs=4k 2>/dev/null || true",
        )?;
        site.start_gateway()?;
        comes_again(lab, "the state's disk full")?;
        site.gateway()?.kill()?;
        site.edge.shell("mount -o remount,ro state")?;
        let daemon =
            site.edge.command(lab::binary("gateway")?).arg("--config").arg(site.gateway_config.path());
        let output = daemon.limit(Duration::from_secs(30)).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("state"), "{}: {said}", output.status);
        ensure!(site.edge.run("nft list tables")?.contains("causeway"), "the table is gone");
        Ok(())
    })
}

#[test]
fn storms_of_reloads_and_of_wg_leave_neither_descriptors_nor_another_table_behind() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("session");
        let (mut site, _page) = served(lab)?;
        let descriptors = |site: &mut Site<'_>| -> Result<usize> {
            Ok(fs::read_dir(format!("/proc/{}/fd", site.gateway()?.pid()))?.count())
        };
        let before = (table(&site.edge)?, descriptors(&mut site)?);
        let keys = site.edge.run("wg showconf gw0")?;
        let file = site.edge.directory().join("wg.conf");
        scenarios::write_secret(&file, &keys)?;
        let (hangups, synced) = if full_counts() { (500, 200) } else { (50, 20) };
        for number in 0..hangups {
            site.gateway()?.signal(Signal::Hangup)?;
            if number % (hangups / synced) == 0 {
                site.edge.command("wg").args(["syncconf", "gw0"]).arg(&file).run()?;
            }
        }
        // With hardly a free descriptor a repair still works.
        let pid = site.gateway()?.pid().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=40:40"]).status()?;
        ensure!(limited.success());
        site.edge.run("nft flush table inet causeway")?;
        comes_again(lab, "the storms")?;
        until(Duration::from_secs(30), "the same table and descriptors", || {
            let now = (table(&site.edge)?, descriptors(&mut site)?);
            ensure!(now.1 <= before.1, "{} descriptors, {} before", now.1, before.1);
            Ok((now.0 == before.0).then_some(()))
        })
    })
}

#[test]
fn a_daemon_or_a_helper_killed_in_an_apply_leaves_the_file_and_the_table_one_text_after_the_next_start()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("helper");
        let (mut site, _page) = served(lab)?;
        let first = site.gateway_config.text.clone();
        let more = "[[publish]]\nname = \"second\"\nlisten = \"6000\"\ntarget = \"192.168.88.2:6001\"\n";
        let texts = [first.clone(), format!("{first}\n{more}")];
        let drafts = ["one.toml", "two.toml"];
        for (draft, text) in drafts.iter().zip(&texts) {
            fs::write(site.edge.directory().join(draft), text)?;
        }
        let mut random = Random::new(34);
        for round in 0..if full_counts() { 100 } else { 6 } {
            let draft = drafts[round % 2];
            let mut apply = site.gatewayctl(&["apply", draft])?.spawn("apply")?;
            std::thread::sleep(Duration::from_millis(random.below(60)));
            if round % 3 == 0 {
                signal("KILL", &helper(&mut site)?)?;
                // Without its helper the daemon cannot keep its guarantees, and ends.
                site.gateway()?.wait(Duration::from_secs(20)).context("a daemon without its helper")?;
            } else {
                site.gateway()?.kill()?;
            }
            apply.wait(Duration::from_secs(60))?;
            let file = fs::read_to_string(site.gateway_config.path())?;
            let which = texts.iter().position(|text| *text == file).context("the file is neither text")?;
            site.gateway_config.text = file;
            site.start_gateway()?;
            let table = site.edge.run("nft list table inet causeway")?;
            ensure!(
                table.contains("publish_in_second") == (which == 1),
                "round {round}: {which} is the file"
            );
            comes_again(lab, &format!("round {round}"))?;
        }
        Ok(())
    })
}

#[test]
fn a_helper_that_stood_still_answers_the_right_question_or_is_given_up_with_its_daemon() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("helper");
        let (mut site, _page) = served(lab)?;
        let helper = helper(&mut site)?;
        // Longer than the daemon waits, in the full run.
        let length = Duration::from_secs(if full_counts() { 63 } else { 3 });
        signal("STOP", &helper)?;
        let asked = site.gatewayctl(&["bans"])?.limit(Duration::from_secs(90)).spawn("asked")?;
        std::thread::sleep(length);
        // A helper that is given up may have been ended with its daemon.
        let goes_on = signal("CONT", &helper);
        ensure!(goes_on.is_ok() || full_counts(), "{goes_on:?}");
        drop(asked);
        if full_counts() {
            site.gateway()?.wait(Duration::from_secs(30)).context("a daemon whose helper was late")?;
            site.start_gateway()?;
        }
        for command in ["bans", "services", "peers", "bans"] {
            site.gatewayctl(&[command, "--json"])?.run()?;
        }
        site.edge.run("nft flush ruleset")?;
        until(Duration::from_secs(30), "the table to be back", || {
            site.edge.run("nft list chain inet causeway input_from_wan").map(Some)
        })?;
        comes_again(lab, "a helper that stood still")
    })
}

#[test]
fn whatever_a_resolver_says_the_forwarder_lives_keeps_its_session_and_finds_the_edge_once_it_is_answered()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        lab.expect_warning("kyiv.example.com");
        let mut site = Site::new(lab)?;
        let _page = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.forwarder_config.replace("192.0.2.2:51820", "kyiv.example.com:51820")?;
        site.origin
            .shadow_file("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        let resolver = Resolver::start(&site)?;
        site.start()?;
        comes_again(lab, "the right answer")?;

        resolver.answer_wrongly();
        for round in 0..if full_counts() { WRONG_ANSWERS } else { 3 } {
            site.forwarder()?.kill()?;
            let asked = resolver.asked();
            site.start_forwarder()?;
            until(Duration::from_secs(30), "the resolver to be asked", || {
                Ok((resolver.asked() >= asked + 2).then_some(()))
            })?;
            ensure!(site.forwarder()?.is_running(), "round {round}");
        }
        resolver.answer_correctly();
        comes_again(lab, "wrong answers")?;

        // A live session does not depend on the name.
        resolver.answer_wrongly();
        lab.rebind_cgnat(45_001)?;
        comes_again(lab, "wrong answers about a session that lives")
    })
}

/// How many wrong answers the resolver has.
const WRONG_ANSWERS: usize = 10;

/// A name server for the origin.
struct Resolver {
    next: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    _server: UdpServer,
}

impl Resolver {
    fn start(site: &Site<'_>) -> Result<Self> {
        let (next, asked) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(AtomicUsize::new(0)));
        let (which, count) = (Arc::clone(&next), Arc::clone(&asked));
        let server = UdpServer::start(site.origin.udp_socket("127.0.0.1:53")?, move |_, query| {
            count.fetch_add(1, Ordering::Relaxed);
            let wrong = which.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wrong| {
                (wrong != usize::MAX).then(|| (wrong + 1) % WRONG_ANSWERS)
            });
            wrong.map_or_else(|_| address(query, Ipv4Addr::new(192, 0, 2, 2)), |wrong| answer(wrong, query))
        })?;
        Ok(Self { next, asked, _server: server })
    }

    fn answer_wrongly(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    fn answer_correctly(&self) {
        self.next.store(usize::MAX, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn answer(wrong: usize, query: &[u8]) -> Vec<u8> {
    match wrong {
        0 => b"no name server at all".to_vec(),
        1 => Vec::new(),
        // SERVFAIL.
        2 => header(query, 0x8182, 0),
        // A name that is a pointer to itself.
        3 => {
            let mut looping = header(query, 0x8180, 1);
            looping.extend([
                0xc0,
                u8::try_from(looping.len()).unwrap_or(0),
                0,
                1,
                0,
                1,
                0,
                0,
                0,
                0,
                0,
                4,
                1,
                2,
                3,
                4,
            ]);
            looping
        }
        // More answers than there are bytes.
        4 => header(query, 0x8180, 60_000),
        5 => address(query, Ipv4Addr::LOCALHOST),
        6 => address(query, Ipv4Addr::UNSPECIFIED),
        7 => address(query, Ipv4Addr::BROADCAST),
        8 => address(query, Ipv4Addr::new(224, 0, 0, 1)),
        _ => address(query, Ipv4Addr::new(10, 77, 88, 1)),
    }
}

/// The start of an answer: the query's id and question, these flags, and the count of records that
/// follow.
fn header(query: &[u8], flags: u16, records: u16) -> Vec<u8> {
    let end = query.iter().skip(12).position(|byte| *byte == 0).map_or(query.len(), |at| 12 + at + 5);
    let mut answer = query.get(..2).unwrap_or_default().to_vec();
    answer.extend(flags.to_be_bytes());
    answer.extend([0, 1]);
    answer.extend(records.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(query.get(12..end).unwrap_or_default());
    answer
}

fn address(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let is_v4 = header(query, 0, 0).ends_with(&[0, 1, 0, 1]);
    let mut answer = header(query, 0x8180, u16::from(is_v4));
    if is_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// The worked example with an echo server at the origin, up.
fn served(lab: &Lab) -> Result<(Site<'_>, TcpServer)> {
    let mut site = Site::new(lab)?;
    let server = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
    site.start()?;
    comes_again(lab, "the start")?;
    Ok((site, server))
}

/// The process of the kernel helper, by its number outside the lab.
fn helper(site: &mut Site<'_>) -> Result<String> {
    let daemon = site.gateway()?.pid();
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
    Ok(children.trim().to_owned())
}

fn signal(name: &str, process: &str) -> Result<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), process]).status()?;
    ensure!(sent.success(), "{name} to {process}");
    Ok(())
}

fn comes_again(lab: &Lab, after: &str) -> Result<()> {
    let client = lab.node("client")?;
    until(Duration::from_secs(60), &format!("a page after {after}"), || page(&client, SERVICE).map(Some))
}
