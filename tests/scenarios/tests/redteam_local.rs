//! Attacks from the edge itself: a local user, and a daemon that was taken over and may write the
//! daemon's own files.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Topology, scenario, until};
use scenarios::{Closed, Site, memory, page};
use serde_json::{Value, json};

/// A user who is neither root nor the daemon's.
const OTHER_USER: u32 = 65_533;
/// How long a connection that must fail is tried.
const SHORT: Duration = Duration::from_millis(700);

#[test]
fn another_local_user_reads_no_key_state_or_memory_and_opens_neither_socket() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root can start a process as nobody").map(drop);
        }
        let mut site = Site::new(lab)?;
        site.as_unit = true;
        site.start()?;
        let daemon = site.gateway()?.pid();
        let helper = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
        let state = site.edge.directory().join("state");
        let kept: Vec<String> = ["endpoints.json", "applied.json", "guard.json"]
            .map(|name| state.join(name).display().to_string())
            .into();
        until(Duration::from_secs(10), "the state to be written", || {
            Ok(kept.iter().all(|file| Path::new(file).exists()).then_some(()))
        })?;
        let mut files = vec![
            site.edge.directory().join("kyiv.key").display().to_string(),
            site.edge.directory().join("wroclaw.psk").display().to_string(),
        ];
        files.extend(kept);
        for pid in [daemon.to_string(), helper.trim().to_owned()] {
            files.extend(["environ", "mem", "maps", "fd/0"].map(|file| format!("/proc/{pid}/{file}")));
        }
        for file in files {
            let read =
                site.edge.command("head").args(["-c", "1", &file]).user(OTHER_USER, OTHER_USER).output()?;
            ensure!(!read.status.success(), "{file} can be read by another user");
        }
        for socket in ["/run/causeway/gateway.sock", "/run/wireguard/gw0.sock", "/var/run/wireguard/gw0.sock"]
        {
            let script = format!("import socket; s = socket.socket(socket.AF_UNIX); s.connect({socket:?})");
            let connect = site.edge.command("python3").args(["-c", &script]).user(OTHER_USER, OTHER_USER);
            ensure!(!connect.output()?.status.success(), "{socket} can be opened by another user");
        }
        for command in [&["status"][..], &["ban", "203.0.113.10"], &["rollback"]] {
            let output = site.gatewayctl(command)?.user(OTHER_USER, OTHER_USER).output()?;
            ensure!(!output.status.success(), "{command:?} is open to everybody");
        }
        // By the number that the same process has outside the lab.
        for process in [daemon.to_string(), helper.trim().to_owned()] {
            let other_user = ["--reuid", "65533", "--regid", "65533", "--clear-groups", "kill", "-TERM"];
            let sent = std::process::Command::new("setpriv").args(other_user).arg(&process).output()?;
            ensure!(!sent.status.success(), "another user ended {process}");
        }
        Ok(())
    })
}

#[test]
fn no_key_is_in_a_log_an_argument_an_answer_or_the_metrics() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append("[log]\nlevel = \"trace\"");
        site.forwarder_config.append("[log]\nlevel = \"trace\"");
        site.start()?;
        let mut said = vec![site.gateway()?.log()?, site.forwarder()?.log()?];
        for process in [site.gateway()?.pid(), site.forwarder.as_ref().context("no forwarder")?.pid()] {
            for file in ["cmdline", "environ"] {
                said.push(
                    String::from_utf8_lossy(&fs::read(format!("/proc/{process}/{file}"))?).into_owned(),
                );
            }
        }
        for command in [&["status", "--json"][..], &["peers", "--json"], &["peers", "--dump"], &["services"]]
        {
            said.push(site.gatewayctl(command)?.run()?);
        }
        for (node, port) in [(&site.edge, 9586), (&site.origin, 9587)] {
            said.push(node.run(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}/metrics"))?);
        }
        let checked = site.edge.command(lab::binary("gateway")?).args(["check", "--config"]);
        said.push(checked.arg(site.gateway_config.path()).run()?);
        let secrets =
            [site.kyiv.private.clone(), site.wroclaw.private.clone(), scenarios::preshared_key("wroclaw")];
        for text in said {
            ensure!(!text.is_empty());
            for secret in &secrets {
                ensure!(!text.contains(secret.trim_end_matches('=')), "a key is in: {text}");
            }
        }
        Ok(())
    })
}

#[test]
fn malformed_requests_and_bans_without_sense_are_refused_and_the_daemon_stays_small() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        let socket = control_socket(&site)?;
        let before = memory(site.gateway()?)?;
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let deep_toml = format!("a = {}{}", "[".repeat(50_000), "]".repeat(50_000));
        let requests: Vec<Vec<u8>> = vec![
            b"".to_vec(),
            b"\0".to_vec(),
            b"\xff\xfe{}".to_vec(),
            b"{}".to_vec(),
            b"null".to_vec(),
            b"[]".to_vec(),
            b"{\"command\":\"unknown\"}".to_vec(),
            b"{\"command\":\"status\",\"command\":\"reload\"}".to_vec(),
            b"{\"command\":7}".to_vec(),
            deep.into_bytes(),
            b"{\"command\":\"flows\",\"limit\":18446744073709551615}".to_vec(),
            b"{\"command\":\"flows\",\"limit\":-1}".to_vec(),
            b"{\"command\":\"ban\",\"address\":\"nowhere\"}".to_vec(),
            b"{\"command\":\"ban\",\"address\":\"203.0.113.10\",\"seconds\":0}".to_vec(),
            b"{\"command\":\"ban\",\"address\":\"203.0.113.10\",\"seconds\":18446744073709551615}".to_vec(),
            b"{\"command\":\"ban\",\"address\":\"203.0.113.10\",\"seconds\":99999999999999999999}".to_vec(),
            json!({"command": "apply", "name": "x", "text": deep_toml}).to_string().into_bytes(),
            json!({"command": "plan", "name": "x", "text": "\0".repeat(1_000)}).to_string().into_bytes(),
            json!({"command": "apply", "name": "/etc/shadow\n", "text": ""}).to_string().into_bytes(),
            json!({"command": "apply", "name": "x", "text": "a = 1\n".repeat(1_000_000)})
                .to_string()
                .into_bytes(),
            vec![b'a'; 33 << 20],
        ];
        for request in requests {
            let start = String::from_utf8_lossy(request.get(..40).unwrap_or(&request)).into_owned();
            match send(&socket, &request) {
                // The daemon closes the connection when a line is too long.
                Ok(None) => {}
                Ok(Some(reply)) => {
                    let is_flows = start.contains("\"flows\"") && reply.get("flows").is_some();
                    ensure!(is_flows || reply.get("failed").is_some(), "{start}: {reply}");
                }
                Err(error) => ensure!(request.len() > 1 << 20, "{start}: {error:#}"),
            }
            ensure!(site.gateway()?.is_running(), "{start} ended the daemon");
        }
        ensure!(
            site.gatewayctl(&["bans"])?.run()?.contains("203.0.113.10").eq(&false),
            "a senseless ban is in force"
        );
        // An IPv4-mapped IPv6 address is the IPv4 address.
        site.gatewayctl(&["ban", "::ffff:203.0.113.10", "--for", "1h"])?.run()?;
        let bans = site.edge.run("nft list set inet causeway bans4")?;
        ensure!(bans.contains("203.0.113.10"), "{bans}");
        let after = memory(site.gateway()?)?;
        ensure!(after < before + 100 * 1024, "{before} KiB became {after}");
        Ok(())
    })
}

#[test]
fn what_a_compromised_daemon_writes_into_its_state_opens_nothing_at_the_next_start_and_stops_no_command_of_root()
-> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let _page = lab::TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, lab::echo)?;
        let closed = Closed::start(&site.edge, "[::]", &[9999])?;
        site.start()?;
        claims_a_lan_source(lab)?;
        site.gateway()?.kill()?;
        let state = site.edge.directory().join("state");
        let lan = json!({"eth0": ["0.0.0.0/0", "192.168.1.0/24"], "\u{1b}[2Jeth1": ["::/0"], "gw0": ["10.77.88.0/30"]});
        write_all(&state, &lan.to_string())?;
        site.start_gateway()?;
        for from in ["192.168.1.77", "203.0.113.10"] {
            for to in ["192.0.2.2:9999", "192.168.1.2:9999", "192.168.88.2:5001"] {
                ensure!(connect_from(lab, from, to).is_err(), "{from} reached {to}");
            }
        }
        closed.holds("forged state")?;
        // The origin is found although its last endpoint was forged and the clock's mark is an
        // impossible time.
        site.wait_until_up(Duration::from_secs(40))?;
        page(&lab.node("client")?, "192.0.2.2:5001")?;
        site.gateway()?.kill()?;
        root_commands_end(&site, &state)
    })
}

#[test]
fn a_compromised_daemon_may_open_the_edge_by_its_own_table_and_lead_ports_into_the_tunnel_and_nothing_more()
-> Result<()> {
    let tunnel = ["192.168.88.0/24".parse()?].into();
    let passes = |command: Value| {
        policy::ruleset::admit(&json!({"nftables": [command]}).to_string(), &tunnel, &[0x4358].into()).is_ok()
    };
    let rule = |chain: &str, table: &str, expr: Value| json!({"add": {"rule": {"family": "inet", "table": table, "chain": chain, "expr": expr}}});
    let leads = |to: &str| json!({"add": {"element": {"family": "inet", "table": "causeway", "name": "target4", "elem": [[0x4357_0001, to]]}}});
    // What it can do, as SECURITY.md says.
    ensure!(
        passes(rule("input", "causeway", json!([{"accept": null}]))),
        "the documents say that it can open the guard"
    );
    ensure!(passes(rule("forward", "causeway", json!([{"accept": null}]))));
    ensure!(passes(leads("192.168.88.77")));
    // What it cannot do.
    ensure!(!passes(rule("input", "filter", json!([{"accept": null}]))), "a table of others");
    ensure!(!passes(leads("192.168.1.50")), "a target outside the tunnel");
    ensure!(!passes(rule("output", "causeway", json!([{"dnat": {"family": "ip", "addr": "192.168.88.2"}}]))));
    let own = json!([{"dnat": {"family": "ip", "addr": "192.168.88.2", "port": 443}}]);
    ensure!(!passes(rule("dstnat_own", "causeway", own)), "the edge's own packets to anywhere");
    ensure!(!passes(json!({"flush": {"ruleset": null}})));
    Ok(())
}

/// Writes every file of the state folder as an attacker would who wants more rights.
fn write_all(state: &Path, lan: &str) -> Result<()> {
    let far = "{\"highest_seconds\":9223372036854775808,\"highest_nanoseconds\":0}";
    let kept = fs::read_to_string(state.join("endpoints.json")).unwrap_or_default();
    fs::write(state.join("endpoints.json"), kept.replace("198.51.100.7", "203.0.113.10"))?;
    fs::write(state.join("lan.json"), lan)?;
    fs::write(state.join("clock.json"), far)?;
    fs::write(state.join("trial.json"), "{\"id\":\"../../etc\",\"outcome\":\"pending\"}")?;
    for name in ["guard.json", "guard-minimal.json"] {
        fs::write(state.join(name), "{\"nftables\":[{\"flush\":{\"ruleset\":null}}]}")?;
    }
    fs::write(state.join("sysctls.json"), "{\"net/ipv4/ip_forward\":{\"before\":\"77\",\"set\":\"1\"}}")?;
    Ok(())
}

/// The state folder has links to a file of root's, pipes that no process writes into, and folders.
/// `check`, `guard` and `down` end in time, print nothing of what the links lead to, and change
/// nothing there.
fn root_commands_end(site: &Site<'_>, state: &Path) -> Result<()> {
    let secret = site.edge.directory().join("secret");
    fs::write(&secret, "root:$y$secret:19000")?;
    for (number, name) in
        ["lan.json", "applied.json", "sysctls.json", "guard.json", "clock.json", "endpoints.json", "lock"]
            .into_iter()
            .enumerate()
    {
        let file = state.join(name);
        fs::remove_file(&file).ok();
        match number % 3 {
            0 => symlink(&secret, &file)?,
            1 => site.edge.run(&format!("mkfifo {}", file.display())).map(drop)?,
            _ => fs::create_dir(&file)?,
        }
    }
    for command in ["check", "guard", "down"] {
        let run = site.edge.command(lab::binary("gateway")?).args([command, "--config"]);
        let output = run.arg(site.gateway_config.path()).limit(Duration::from_secs(30)).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(!said.contains("$y$secret") && !said.contains('\u{1b}'), "{command} shows it: {said}");
    }
    ensure!(fs::read_to_string(&secret)? == "root:$y$secret:19000", "a link was followed");
    ensure!(!site.edge.run("nft list tables")?.contains("causeway"), "down left the table");
    Ok(())
}

/// Gives the client an address of the LAN as well, as a sender on the WAN can have.
fn claims_a_lan_source(lab: &Lab) -> Result<()> {
    lab.node("client")?.run("ip address add 192.168.1.77/32 dev lo")?;
    lab.node("inet")?
        .ip("route add 192.168.1.77/32 via 203.0.113.10\nroute add 192.168.1.2/32 via 192.0.2.2\n\
         route add 192.168.88.0/24 via 192.0.2.2")
}

fn connect_from(lab: &Lab, from: &str, to: &str) -> Result<TcpStream> {
    let (to, from): (SocketAddr, SocketAddr) = (to.parse()?, format!("{from}:0").parse()?);
    lab.node("client")?.within(|| -> Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), SHORT)?;
        Ok(socket.into())
    })?
}

/// The control socket, seen from outside the edge's mounts.
fn control_socket(site: &Site<'_>) -> Result<PathBuf> {
    let pid = site.gateway.as_ref().context("no gateway")?.pid();
    Ok(format!("/proc/{pid}/root/run/causeway/gateway.sock").into())
}

/// Sends one line; answers the reply, if there is one.
fn send(socket: &Path, line: &[u8]) -> Result<Option<Value>> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(line)?;
    stream.write_all(b"\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&answer).map(Some).with_context(|| answer)
}
