//! `causeway-wg` at both ends of a path, set up with `wg` and `ip` as usual.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, Process, until};

use crate::KeyPair;

/// A `causeway-wg` that serves one interface of a node.
#[derive(Debug)]
pub struct Plain {
    /// Where it runs.
    pub node: Node,
    /// The interface's key.
    pub keys: KeyPair,
    /// The running program.
    pub process: Process,
    interface: String,
}

/// Two nodes, `one` and `two`, joined by a cable, with `wg0` on each: inside 10.9.0.1 and 10.9.0.2,
/// `fd00:9::1` and `fd00:9::2`; outside 192.0.2.1 and 192.0.2.2, `2001:db8:2::1` and
/// `2001:db8:2::2`; ports 5001 and 5002.
#[derive(Debug)]
pub struct Pair {
    /// The end with the lower numbers.
    pub one: Plain,
    /// The end with the higher numbers.
    pub two: Plain,
}

impl Plain {
    /// Starts it and waits for its socket; the interface has its key, but no addresses and no
    /// peers, and is down.
    pub fn start(lab: &Lab, node: &Node, interface: &str, key: &str) -> Result<Self> {
        let command = node.command(lab::binary("causeway-wg")?).args(["-f", interface]);
        let process = command.spawn(&format!("causeway-wg-{interface}"))?;
        lab.judge(&process);
        until(Duration::from_secs(15), "causeway-wg's socket", || {
            node.run(&format!("wg show {interface}")).map(Some)
        })?;
        let end =
            Self { node: node.clone(), keys: KeyPair::of(key), process, interface: interface.to_owned() };
        let file = end.secret(key, &end.keys.private)?;
        end.set(&format!("private-key {file}"))?;
        Ok(end)
    }

    /// `wg set` with these words after the interface's name.
    pub fn set(&self, words: &str) -> Result<()> {
        self.node.run(&format!("wg set {} {words}", self.interface)).map(drop)
    }

    /// `wg show` of one thing, trimmed.
    pub fn show(&self, what: &str) -> Result<String> {
        Ok(self.node.run(&format!("wg show {} {what}", self.interface))?.trim().to_owned())
    }

    /// The second column of `wg show` for a peer: an endpoint, allowed-ips, a time.
    pub fn of_peer(&self, what: &str, peer: &Self) -> Result<String> {
        let text = self.show(what)?;
        let line = text.lines().find_map(|line| line.strip_prefix(&peer.keys.public));
        Ok(line.with_context(|| format!("the peer is not there:\n{text}"))?.trim().to_owned())
    }

    /// Bytes received and sent, as `wg show transfer` has them for a peer.
    pub fn transfer(&self, peer: &Self) -> Result<(u64, u64)> {
        let text = self.of_peer("transfer", peer)?;
        let (received, sent) = text.split_once('\t').context("two columns")?;
        Ok((received.parse()?, sent.parse()?))
    }

    /// Brings the interface up and gives it addresses, which are usable at once.
    pub fn bring_up(&self, addresses: &[&str]) -> Result<()> {
        self.node.run(&format!("ip link set {} up", self.interface))?;
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.node.run(&format!("ip address add {address} dev {} {nodad}", self.interface))?;
            own_address(&self.node, address)?;
        }
        Ok(())
    }

    /// Sets the MTU of the interface.
    pub fn mtu(&self, mtu: u32) -> Result<()> {
        self.node.run(&format!("ip link set {} mtu {mtu}", self.interface)).map(drop)
    }

    /// Writes a file that only root may read, for `wg` to take a key from.
    pub fn secret(&self, name: &str, text: &str) -> Result<String> {
        let path = self.node.directory().join(format!("{}-{name}", self.interface));
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// One answered echo request; `words` are the options and the target.
    pub fn ping(&self, words: &str) -> Result<()> {
        self.node.run(&format!("ping -n -q -c 1 -W 5 {words}")).map(drop)
    }

    /// Whether the address answers one echo request within a second.
    pub fn answers(&self, words: &str) -> Result<bool> {
        Ok(self.node.output(&format!("ping -n -q -c 1 -W 1 {words}"))?.status.success())
    }

    /// Waits until an echo request is answered.
    pub fn reaches(&self, words: &str) -> Result<()> {
        until(Duration::from_secs(30), &format!("{} to reach {words}", self.node.name()), || {
            Ok(self.answers(words)?.then_some(()))
        })
    }

    /// Fails unless the peer's endpoint is this.
    pub fn expect_endpoint(&self, peer: &Self, endpoint: &str) -> Result<()> {
        let there = self.of_peer("endpoints", peer)?;
        ensure!(there == endpoint, "{} has the peer at {there}, not at {endpoint}", self.node.name());
        Ok(())
    }
}

/// Waits until a node takes packets for an address of its own: the kernel adds the route for an
/// IPv6 one later.
pub fn own_address(node: &Node, address: &str) -> Result<()> {
    let bare = address.split('/').next().unwrap_or_default();
    until(Duration::from_secs(10), &format!("{} to own {bare}", node.name()), || {
        Ok(node.run(&format!("ip route get {bare}"))?.starts_with("local").then_some(()))
    })
}

impl Pair {
    /// Both ends configured, up, and knowing each other's IPv4 address; nothing has been sent.
    pub fn start(lab: &Lab) -> Result<Self> {
        let (one, two) = (lab.add_node("one")?, lab.add_node("two")?);
        lab.connect((&one, "eth0"), (&two, "eth0"))?;
        one.ip("address add 192.0.2.1/24 dev eth0\naddress add 2001:db8:2::1/64 dev eth0 nodad")?;
        two.ip("address add 192.0.2.2/24 dev eth0\naddress add 2001:db8:2::2/64 dev eth0 nodad")?;
        own_address(&one, "2001:db8:2::1")?;
        own_address(&two, "2001:db8:2::2")?;
        let pair = Self::between(lab, &one, &two)?;
        pair.one.set(&format!("peer {} endpoint 192.0.2.2:5002", pair.two.keys.public))?;
        pair.two.set(&format!("peer {} endpoint 192.0.2.1:5001", pair.one.keys.public))?;
        Ok(pair)
    }

    /// The same on two existing nodes; neither knows the other's endpoint.
    pub fn between(lab: &Lab, one: &Node, two: &Node) -> Result<Self> {
        let pair =
            Self { one: Plain::start(lab, one, "wg0", "one")?, two: Plain::start(lab, two, "wg0", "two")? };
        for (end, other, number, far) in [(&pair.one, &pair.two, 1, 2), (&pair.two, &pair.one, 2, 1)] {
            end.set(&format!(
                "listen-port 500{number} peer {} allowed-ips 10.9.0.{far}/32,fd00:9::{far}/128",
                other.keys.public
            ))?;
            end.bring_up(&[&format!("10.9.0.{number}/24"), &format!("fd00:9::{number}/64")])?;
        }
        Ok(pair)
    }

    /// Both ends ping each other over both families.
    pub fn pings(&self) -> Result<()> {
        for (end, far) in [(&self.one, 2), (&self.two, 1)] {
            end.ping(&format!("10.9.0.{far}"))?;
            end.ping(&format!("fd00:9::{far}"))?;
        }
        Ok(())
    }
}
