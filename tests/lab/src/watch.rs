//! Packet counters outside the product's own table: the ground truth for what leaked and what was
//! tried.

use anyhow::{Context, Result};

use crate::node::Node;

/// The addresses that must never be seen outside the tunnel.
const INSIDE: &str = "{ 192.168.88.0/24, 10.77.88.0/30 }";

/// A named nftables counter in a table of the lab's own.
#[derive(Debug, Clone)]
pub struct Counter {
    node: Node,
    name: String,
}

impl Counter {
    /// Counts packets that match an nftables expression where they arrive at `node`, before any
    /// other rule.
    pub fn arriving(node: &Node, name: &str, expression: &str) -> Result<Self> {
        Self::hooked(node, name, "prerouting", -500, expression)
    }

    /// Counts packets that match an nftables expression where they leave `node`, after every other
    /// rule.
    pub fn leaving(node: &Node, name: &str, expression: &str) -> Result<Self> {
        Self::hooked(node, name, "postrouting", 500, expression)
    }

    fn hooked(node: &Node, name: &str, hook: &str, priority: i32, expression: &str) -> Result<Self> {
        node.nft(&format!(
            "table inet labwatch {{\n counter {name} {{ }}\n chain {name} {{ type filter hook {hook} priority {priority}; \
             {expression} counter name {name}; }}\n}}"
        ))?;
        Ok(Self { node: node.clone(), name: name.to_owned() })
    }

    /// How many packets matched so far.
    pub fn packets(&self) -> Result<u64> {
        let text = self.node.run(&format!("nft -j list counter inet labwatch {}", self.name))?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let objects = answer.get("nftables").and_then(|list| list.as_array()).context("no list from nft")?;
        let packets = objects.iter().find_map(|object| object.pointer("/counter/packets"));
        packets
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("no counter {} in {text}", self.name))
    }
}

/// Counts packets from or to the tunnel's prefixes where a node receives them.
#[derive(Debug)]
pub struct LeakWatch {
    from: Counter,
    to: Counter,
}

impl LeakWatch {
    /// Starts counting at `node`, usually the internet's router.
    pub fn start(node: &Node) -> Result<Self> {
        Ok(Self {
            from: Counter::arriving(node, "leaked_from", &format!("ip saddr {INSIDE}"))?,
            to: Counter::arriving(node, "leaked_to", &format!("ip daddr {INSIDE}"))?,
        })
    }

    /// How many packets were seen where none may be.
    pub fn packets(&self) -> Result<u64> {
        Ok(self.from.packets()? + self.to.packets()?)
    }
}
