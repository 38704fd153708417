//! Which process holds which capability, read from /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Topology, scenario};
use scenarios::{Site, download, serve_bulk};

/// The capabilities the committed list names, by their bit (capability.h).
const BITS: [(&str, u32); 5] =
    [("chown", 0), ("net_bind_service", 10), ("net_admin", 12), ("net_raw", 13), ("sys_admin", 21)];

#[test]
fn the_gateways_processes_hold_exactly_the_committed_capabilities() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "a user namespace's root has other bounding sets").map(drop);
        }
        let mut site = Site::new(lab)?;
        site.start()?;
        let daemon = site.gateway()?.pid();
        let helper = site.gateway()?.only_child()?;
        let list = fs::read_to_string(lab::workspace().join("gateway/capabilities.txt"))?;
        let mut compared = 0;
        for line in list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [process, field, wanted @ ..] = words.as_slice() else { continue };
            let pid = if *process == "helper" { helper } else { daemon };
            let found = status_field(pid, field)?;
            if *field == "NoNewPrivs" {
                ensure!(wanted == [found.as_str()], "{line}: /proc says {found}");
            } else {
                let set = u64::from_str_radix(&found, 16)?;
                ensure!(set == mask(wanted)?, "{line}: /proc says {found}");
            }
            compared += 1;
        }
        ensure!(compared >= 12, "the committed list has only {compared} lines");
        Ok(())
    })
}

#[test]
fn no_process_of_the_forwarders_user_can_read_its_memory_or_its_environment() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root can start a process as nobody").map(drop);
        }
        let mut site = Site::new(lab)?;
        site.start()?;
        let pid = site.forwarder()?.pid();
        for file in ["environ", "maps", "mem"] {
            let line = format!("head -c 1 /proc/{pid}/{file}");
            let as_nobody = site.origin.command("sh").args(["-c", &line]).user(65_534, 65_534).output()?;
            ensure!(!as_nobody.status.success(), "{file} can be read by its own user");
        }
        Ok(())
    })
}

#[test]
fn the_gateway_does_its_job_as_its_unit_runs_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root can start a process as nobody").map(drop);
        }
        let mut site = Site::new(lab)?;
        site.as_unit = true;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        download(&lab.node("client")?, "192.0.2.2:5001", 1 << 20)?;
        let daemon = site.gateway()?.pid();
        let net_admin = mask(&["net_admin"])?;
        for (pid, held, bounded) in
            [(daemon, 0, net_admin), (site.gateway()?.only_child()?, net_admin, net_admin)]
        {
            let set = |field| Ok::<_, anyhow::Error>(u64::from_str_radix(&status_field(pid, field)?, 16)?);
            ensure!(set("CapEff")? == held && set("CapPrm")? == held && set("CapBnd")? == bounded);
            ensure!(status_field(pid, "NoNewPrivs")? == "1");
            let user = status_field(pid, "Uid")?;
            ensure!(user.split_whitespace().all(|uid| uid == "65534"), "it runs as {user}");
        }
        // A second start meets what the first one left in place.
        site.gateway()?.stop(Duration::from_secs(10))?;
        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(10)).map(drop)
    })
}

#[test]
fn the_gateway_turns_forwarding_on_by_itself_where_its_unit_lets_it_write() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root can start a process as nobody").map(drop);
        }
        let mut site = Site::new(lab)?;
        site.as_unit = true;
        let unit = fs::read_to_string(lab::workspace().join("configs/systemd/gateway.service"))?;
        ensure!(unit.contains("\nProtectKernelTunables=yes\n"), "the unit may write any switch");
        let writable = unit.lines().find_map(|line| line.strip_prefix("ReadWritePaths=-/proc/sys"));
        let writable = writable.context("the unit may write no switch")?;
        site.edge.shell(&format!(
            "mount --bind /proc/sys /proc/sys && mount --bind /proc/sys{writable} /proc/sys{writable}
             mount -o remount,ro,bind /proc/sys"
        ))?;
        site.edge.sysctl("net/ipv4/ip_forward", "0")?;
        site.edge.sysctl("net/ipv4/conf/all/src_valid_mark", "0")?;
        // Any warning fails the scenario: no switch is left that could not be set.
        site.start()?;
        ensure!(site.edge.read_sysctl("net/ipv4/ip_forward")? == "1");
        ensure!(site.edge.read_sysctl("net/ipv4/conf/all/src_valid_mark")? == "1");
        ensure!(
            site.edge.shell("echo 1 >/proc/sys/vm/swappiness").is_err(),
            "all of /proc/sys can be written"
        );
        Ok(())
    })
}

#[test]
fn the_forwarder_carries_traffic_as_nobody_with_no_capability_at_all() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root can start a process as nobody").map(drop);
        }
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        download(&lab.node("client")?, "192.0.2.2:5001", 1 << 20)?;
        let pid = site.forwarder()?.pid();
        for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let set = status_field(pid, field)?;
            ensure!(u64::from_str_radix(&set, 16)? == 0, "{field} is {set}");
        }
        let user = status_field(pid, "Uid")?;
        ensure!(user.split_whitespace().all(|uid| uid == "65534"), "it runs as {user}");
        ensure!(status_field(pid, "NoNewPrivs")? == "1", "the forwarder could gain privileges");
        Ok(())
    })
}

#[test]
fn without_the_capability_the_gateway_says_so_and_changes_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root can start a process as nobody").map(drop);
        }
        let site = Site::new(lab)?;
        site.gateway_config.write()?;
        let before = site.edge.run("ip -brief link")?;
        let command =
            site.edge.command(lab::binary("gateway")?).arg("--config").arg(site.gateway_config.path());
        let output = command.user(65_534, 65_534).limit(Duration::from_secs(10)).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(5), "{}: {said}", output.status);
        ensure!(site.edge.run("ip -brief link")? == before);
        Ok(())
    })
}

fn status_field(pid: u32, field: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let prefix = format!("{field}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    Ok(line.with_context(|| format!("no {field}"))?.trim().to_owned())
}

fn mask(names: &[&str]) -> Result<u64> {
    names.iter().try_fold(0, |mask, name| {
        let bit = BITS
            .iter()
            .find(|(known, _)| known == name)
            .with_context(|| format!("unknown capability {name}"))?;
        Ok(mask | 1 << bit.1)
    })
}
