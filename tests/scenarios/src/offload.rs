//! The offload mode in which the daemons run, and how many bytes took each path.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use lab::Node;

use crate::site::Site;

/// How packets cross the boundaries of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Joined, where the kernel can.
    On,
    /// One by one, by configuration.
    Off,
    /// Joined, until the kernel refuses to segment what is sent: both ends fall back by themselves.
    Falling,
}

/// What crossed the boundaries of an engine so far, by its metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Carried {
    bytes: BTreeMap<(String, String), f64>,
    /// Runs that the kernel refused.
    pub fallbacks: f64,
}

impl Offload {
    /// What `CAUSEWAY_OFFLOAD` says: `on` (also when it is not set), `off` or `falling`.
    pub fn chosen() -> Result<Self> {
        match std::env::var("CAUSEWAY_OFFLOAD").as_deref() {
            Err(_) | Ok("on") => Ok(Self::On),
            Ok("off") => Ok(Self::Off),
            Ok("falling") => Ok(Self::Falling),
            Ok(other) => bail!("CAUSEWAY_OFFLOAD is {other:?}: on, off or falling"),
        }
    }
}

impl Site<'_> {
    /// Writes both configurations so that nothing is joined; for daemons that are not started yet.
    pub fn without_offloads(&mut self) {
        self.gateway_config
            .append("[offload]\ntun_gso = \"off\"\ntun_gro = \"off\"\nudp_gso = \"off\"\nudp_gro = \"off\"\nbusy_poll = \"off\"");
        self.forwarder_config.append("[offload]\nudp_gso = \"off\"\nudp_gro = \"off\"\nbusy_poll = \"off\"");
    }

    /// Makes the kernel refuse every segmented send from now on, in mid-traffic as well: the links
    /// become narrower than the tunnel's datagrams, which the kernel then fragments one by one, but
    /// not in runs.
    pub fn refuse_segmented_sends(
        &self,
        router_at_edge: (&Node, &str),
        router_at_origin: (&Node, &str),
    ) -> Result<()> {
        let ends = [(&self.edge, "eth0"), router_at_edge, (&self.origin, "eth0"), router_at_origin];
        for (node, interface) in ends {
            node.run(&format!("ip link set {interface} mtu 1400"))?;
        }
        Ok(())
    }

    /// What crossed the boundaries of the edge's engine so far.
    pub fn carried(&self) -> Result<Carried> {
        let carried = self.read_carried(&self.edge, 9586, "gateway")?;
        ensure!(carried.bytes.len() == 8, "{} series of offloads", carried.bytes.len());
        Ok(carried)
    }

    /// What crossed the forwarder's socket so far.
    pub fn carried_at_the_origin(&self) -> Result<Carried> {
        let carried = self.read_carried(&self.origin, 9587, "forwarder")?;
        ensure!(carried.bytes.len() == 4, "{} series of offloads", carried.bytes.len());
        Ok(carried)
    }

    fn read_carried(&self, node: &Node, port: u16, program: &str) -> Result<Carried> {
        let page = node.run(&format!("curl -sS --max-time 10 http://127.0.0.1:{port}/metrics"))?;
        let mut carried = Carried::default();
        for line in page.lines() {
            let value = || line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
            if line.starts_with(&format!("{program}_offload_fallbacks_total{{")) {
                carried.fallbacks += value();
            } else if line.starts_with(&format!("{program}_offload_bytes_total{{")) {
                carried.bytes.insert((label(line, "path"), label(line, "mode")), value());
            }
        }
        Ok(carried)
    }
}

impl Carried {
    /// What was carried since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let past = |key: &(String, String)| earlier.bytes.get(key).copied().unwrap_or(0.0);
        let bytes = self.bytes.iter().map(|(key, bytes)| (key.clone(), bytes - past(key)));
        Self { bytes: bytes.collect(), fallbacks: self.fallbacks - earlier.fallbacks }
    }

    /// The share of a path's bytes that went joined, 0 to 1; `None` when fewer than a million bytes
    /// took it.
    #[must_use]
    pub fn joined(&self, path: &str) -> Option<f64> {
        let of = |mode: &str| self.bytes.get(&(path.to_owned(), mode.to_owned())).copied().unwrap_or(0.0);
        let total = of("joined") + of("single");
        (total > 1e6).then(|| of("joined") / total)
    }
}

fn label(line: &str, name: &str) -> String {
    let rest = line.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default().to_owned()
}
