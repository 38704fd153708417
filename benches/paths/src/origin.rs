//! The origin's programs: servers and a forwarder.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use lab::until;
use scenarios::{PlainPeer, Site, preshared_key, serve_bulk};

use crate::smoltcp_cubic::SmoltcpOrigin;
use crate::way::{Origin, RELAY};

/// The forwarder, and the kernel's TCP between it and the service.
pub(crate) fn forwarder(site: &mut Site<'_>) -> Result<Origin> {
    let servers = vec![serve_bulk(&site.origin, "127.0.0.1:5001")?];
    site.forwarder_config.replace("192.0.2.2:51820", RELAY)?;
    site.start_forwarder()?;
    Ok(Origin { _processes: Vec::new(), _servers: servers, _smoltcp: None })
}

/// A routing end: the service's own TCP goes through the tunnel.
pub(crate) fn kernel(site: &Site<'_>) -> Result<Origin> {
    let node = &site.origin;
    let engine = node.command(lab::binary("causeway-wg")?).args(["-f", "wg0"]).spawn("causeway-wg")?;
    until(Duration::from_secs(10), "the interface", || Ok(node.run("wg show wg0").ok()))?;
    let peer = PlainPeer {
        private_key: &site.wroclaw.private,
        listen_port: None,
        public_key: &site.kyiv.public,
        preshared_key: Some(&preshared_key("wroclaw")),
        allowed_ips: "0.0.0.0/0",
        endpoint: Some(RELAY),
        keepalive: Some(5),
    };
    let file = node.directory().join("wg0.wg");
    fs::write(&file, peer.to_string())?;
    node.command("wg").args(["setconf", "wg0"]).arg(&file).run()?;
    node.ip(
        "address add 10.77.88.2/30 dev wg0\nlink set wg0 mtu 1420 up\nroute add default dev wg0 table 100\n\
         rule add from 192.168.88.2 lookup 100",
    )?;
    let servers = vec![serve_bulk(node, "192.168.88.2:5001")?];
    Ok(Origin { _processes: vec![engine], _servers: servers, _smoltcp: None })
}

/// smoltcp in this process, on a tunnel of its own.
pub(crate) fn smoltcp(site: &Site<'_>) -> Result<Origin> {
    let smoltcp = SmoltcpOrigin::start(site)?;
    Ok(Origin { _processes: Vec::new(), _servers: Vec::new(), _smoltcp: Some(smoltcp) })
}
