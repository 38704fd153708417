//! A compromised daemon, and files that it may have written, do not make root's commands or
//! its helper do anything.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Topology, scenario};
use scenarios::Site;
use serde_json::{Value, json};

/// A text that `nft` refuses as JSON and then reads in its own language, from the first byte that
/// it has not read yet.
fn polyglot(native: &str) -> String {
    let head = r#"{"nftables":[{"metainfo":{"a":99999999999999999999999,"x":""#;
    format!("{head}{}{native}#\"}}}}]}}\n", "A".repeat(4096 - head.len()))
}

#[test]
fn a_daemon_that_lies_makes_root_write_neither_its_path_nor_its_text() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = Site::new(lab)?;
        site.gateway_config.write()?;
        let folder = site.edge.directory();
        let (socket, victim) = (folder.join("fake.sock"), folder.join("crontab"));
        fs::write(&victim, "SHELL=/bin/sh\n")?;
        let _fake = answer_everything_with_lies(&socket, &victim)?;
        let draft = folder.join("draft.toml");
        fs::write(&draft, site.gateway_config.text.replace("\"5001\"", "\"5002\""))?;
        for command in [&["rollback"][..], &["confirm"], &["reload"], &["apply", "draft.toml"]] {
            let output = site.gatewayctl(command)?.arg("--socket").arg(&socket).output()?;
            ensure!(output.status.code() != Some(0), "{command:?} succeeded");
            let said = [output.stdout, output.stderr].concat();
            ensure!(
                !said.contains(&0x1b) && !said.contains(&7),
                "{command:?}: {:?}",
                String::from_utf8_lossy(&said)
            );
            ensure!(
                fs::read_to_string(&victim)? == "SHELL=/bin/sh\n",
                "{command:?} wrote what the daemon named"
            );
            let file = fs::read_to_string(site.gateway_config.path())?;
            ensure!(file == site.gateway_config.text, "{command:?} changed the configuration");
        }
        let status = site.gatewayctl(&["bans"])?.arg("--socket").arg(&socket).output()?;
        ensure!(!status.stderr.contains(&0x1b), "an escape sequence reaches the terminal");
        Ok(())
    })
}

#[test]
fn a_wider_configuration_is_applied_when_root_asks_and_refused_when_only_the_daemon_does() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root can start a process as nobody").map(drop);
        }
        let mut site = Site::new(lab)?;
        site.as_unit = true;
        site.start_gateway()?;
        let wide = |prefix: &str| {
            site.gateway_config
                .text
                .replace("\"192.168.88.0/24\"]", &format!("\"192.168.88.0/24\", \"{prefix}\"]"))
        };
        // What the daemon's own user sends, which root never wrote anywhere.
        let socket = format!(
            "/proc/{}/root/run/causeway/gateway.sock",
            site.gateway.as_ref().context("no gateway")?.pid()
        );
        let request = json!({"command": "apply", "name": "/draft.toml", "text": wide("192.168.99.0/24")});
        let reply = ask(Path::new(&socket), &request)?;
        ensure!(reply.pointer("/failed/exit") == Some(&json!(6)), "{reply}");
        let routes = || site.edge.run("ip route show table 4357");
        ensure!(!routes()?.contains("192.168.99.0/24"), "the helper took it");
        let draft = site.edge.directory().join("draft.toml");
        fs::write(&draft, wide("192.168.77.0/24"))?;
        site.gatewayctl(&["apply"])?.arg(&draft).run()?;
        ensure!(routes()?.contains("192.168.77.0/24"), "root's own apply needs a restart");
        site.gatewayctl(&["rollback"])?.run()?;
        ensure!(!routes()?.contains("192.168.77.0/24"));
        site.gatewayctl(&["apply"])?.arg(&draft).args(["--confirm", "600s"]).run()?;
        site.gatewayctl(&["confirm"])?.run()?;
        ensure!(routes()?.contains("192.168.77.0/24"));
        ensure!(fs::read_to_string(site.gateway_config.path())? == wide("192.168.77.0/24"));
        Ok(())
    })
}

#[test]
fn down_and_guard_do_not_believe_files_of_the_daemons_user() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        site.gateway()?.stop(Duration::from_secs(10))?;
        site.edge.run("ip tuntap add ovpn0 mode tun")?;
        site.edge.sysctl("net/ipv4/conf/all/accept_source_route", "0")?;
        let state = site.edge.directory().join("state");
        let foreign =
            ["ip rule", "ip route show table main", "ip route show table local", "ip -brief link show ovpn0"];
        let look = || foreign.iter().map(|line| site.edge.run(line)).collect::<Result<Vec<_>>>();
        let before = look()?;
        for applied in [json!({"device": "eth0", "protocol": 2}), json!({"device": "ovpn0", "protocol": 157})]
        {
            fs::write(state.join("applied.json"), applied.to_string())?;
            let switches = json!({"net/ipv4/conf/all/accept_source_route": "1"});
            fs::write(state.join("sysctls.json"), switches.to_string())?;
            let down = site.edge.command(lab::binary("gateway")?).args(["down", "--config"]);
            down.arg(site.gateway_config.path()).output()?;
            let ours: Vec<_> = look()?.iter().map(|text| without_ours(text)).collect();
            ensure!(ours == before.iter().map(|text| without_ours(text)).collect::<Vec<_>>(), "{applied}");
            ensure!(site.edge.read_sysctl("net/ipv4/conf/all/accept_source_route")? == "0");
        }
        guard_refuses_a_polyglot(&site)
    })
}

/// The guard of a boot with an unreadable configuration and a kept table that was made to be read
/// twice.
fn guard_refuses_a_polyglot(site: &Site<'_>) -> Result<()> {
    let folder = site.edge.directory();
    fs::write(folder.join("guard.json"), polyglot(";delete table inet docker;add table ip evil;"))?;
    fs::write(folder.join("broken.toml"), "broken")?;
    site.edge.nft("add table inet docker")?;
    site.edge.shell(
        "mount -t tmpfs none /var/lib && mkdir /var/lib/causeway && cp guard.json /var/lib/causeway/",
    )?;
    let guard = site.edge.command(lab::binary("gateway")?).args(["guard", "--config", "broken.toml"]);
    guard.output()?;
    let tables = site.edge.run("nft list tables")?;
    ensure!(tables.contains("docker") && !tables.contains("evil"), "{tables}");
    Ok(())
}

/// Lines about what is not the gateway's own.
fn without_ours(text: &str) -> String {
    text.lines()
        .filter(|line| !line.contains("proto 157") && !line.contains("proto 158") && !line.contains("gw0"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A daemon that names a file of root's and gives it a text, with escape sequences in every word.
fn answer_everything_with_lies(socket: &Path, victim: &Path) -> Result<std::thread::JoinHandle<()>> {
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    chown(socket, Some(65_534), Some(65_534)).ok();
    let victim = victim.to_owned();
    Ok(std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(read) = stream.try_clone() else { continue };
            let mut write = stream;
            for line in BufReader::new(read).lines().map_while(Result::ok) {
                let lie = match serde_json::from_str::<Value>(&line)
                    .ok()
                    .and_then(|asked| asked.get("command").cloned())
                {
                    Some(Value::String(command)) if command == "own_file" => {
                        json!({"own_file": {"path": victim, "in_force": true, "waits_seconds": null}})
                    }
                    Some(Value::String(command)) if command == "bans" => {
                        json!({"failed": {"exit": 1, "message": "\u{1b}]0;pwned\u{7}"}})
                    }
                    _ => json!({"in_force": {"text": "* * * * * root id > /tmp/pwned\n"}}),
                };
                if writeln!(write, "{lie}").is_err() {
                    break;
                }
            }
        }
    }))
}

fn ask(socket: &Path, request: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| line)
}
