//! Reads the facts: the only part of `causeway setup` that looks at the machine.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use daemon::exit::{Exit, ExitError};
use gateway::commands::all_rules;
use gateway::firewalls::firewalls;
use gateway::foreign::redirected_ports;
use gateway::kernel::{nft, read_system};
use gateway::listening::{listeners, programs};
use policy::gateway::Kernel;
use policy::gateway::Policy;

use super::hops::hops;
use super::machine::{Clock, Listening, Machine, Reach};

/// The facts about this machine, without what the edge of `own` has on it.
///
/// # Errors
/// When the kernel does not list its interfaces.
pub(super) fn machine(own: Option<&Policy>) -> Result<Machine, ExitError> {
    let protocol =
        own.map_or_else(|| Kernel::default().route_protocol, |policy| policy.kernel.route_protocol);
    let system = read_system(&[protocol, protocol.saturating_add(1)])
        .map_err(|failure| ExitError::new(Exit::Failed, failure))?;
    let rules = all_rules().unwrap_or_default();
    let mut machine = Machine {
        system,
        wireless: interfaces(|folder| folder.join("phy80211").exists() || folder.join("wireless").exists()),
        tunnels: interfaces(carries_no_ethernet),
        listening: listening(&rules),
        ssh_session: ssh_session(),
        firewalls: firewalls(&rules),
        has_legacy_rules: has_legacy_rules(),
        hops: Vec::new(),
        name_servers: name_servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        clock: clock(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        nft: nft::version(),
        has_tun: Path::new("/dev/net/tun").exists(),
    };
    if let Some(policy) = own {
        machine = machine.without(policy);
    }
    if let Reach::Router { own: IpAddr::V4(own), .. } = machine.reach(false) {
        machine.hops = hops(own);
    }
    Ok(machine)
}

/// The interfaces whose folder in `/sys` is so.
fn interfaces(is_so: impl Fn(&Path) -> bool) -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let found = entries.filter(|entry| is_so(&entry.path()));
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Another type than `ARPHRD_ETHER` of linux/if_arp.h.
fn carries_no_ethernet(folder: &Path) -> bool {
    fs::read_to_string(folder.join("type")).is_ok_and(|kind| kind.trim() != "1")
}

/// Sockets, and ports that rules lead to containers.
fn listening(rules: &str) -> Vec<Listening> {
    let programs = programs();
    let own = listeners().into_iter();
    let own = own.map(|socket| Listening { program: programs.get(&socket).cloned(), socket });
    let containers = redirected_ports(rules).into_iter();
    own.chain(containers.map(|socket| Listening { socket, program: Some("container".to_owned()) })).collect()
}

/// The port of this machine that the SSH session came to: the variable of one of the processes that
/// started this one, since `sudo` takes it out.
fn ssh_session() -> Option<u16> {
    let mut process = std::process::id();
    while process > 1 {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        let found = variables.find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="));
        if let Some(found) = found.and_then(|found| std::str::from_utf8(found).ok()) {
            return found.split_whitespace().nth(3)?.parse().ok();
        }
        // After the name, which is in brackets: the state, and the number of the parent (proc(5)).
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        process = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    }
    None
}

fn has_legacy_rules() -> bool {
    let names = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
    names.iter().any(|path| fs::read_to_string(path).is_ok_and(|names| !names.trim().is_empty()))
}

fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let of_line = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        address.split('%').next()?.parse().ok()
    };
    resolv_conf.lines().filter_map(of_line).collect()
}

fn clock() -> Clock {
    let program = std::env::current_exe().and_then(fs::metadata).and_then(|file| file.modified());
    let synchronised = Path::new("/run/systemd/timesync");
    Clock {
        is_behind: program.is_ok_and(|put_here| SystemTime::now() < put_here),
        is_set: synchronised.is_dir().then(|| synchronised.join("synchronized").exists()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_with_and_without_a_zone() {
        let text = "# by hand\nnameserver 192.168.1.1\nsearch lan\nnameserver fe80::1%eth0\nnameserver x\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.168.1.1", "fe80::1"]);
    }
}
