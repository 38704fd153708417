//! The real parts by themselves: what the other scenarios take for granted about them.

use std::fs;

use anyhow::{Result, ensure};
use lab::{Topology, pattern, scenario};
use scenarios::{Caddy, KeyPair, NfsServer, Nginx, PlainPeer, WireGuardGo, preshared_key, read_nfs};

#[test]
fn caddy_believes_proxy_headers_on_loopback_only_and_requires_them_there() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (origin, cgnat) = (lab.node("origin")?, lab.node("cgnat")?);
        let caddy = Caddy::start(&origin)?;
        ensure!(caddy.fetch(&cgnat, "100.64.0.2", "/whoami")? == "100.64.0.1");
        let headerless =
            caddy.curl(&origin, "127.0.0.1:8443", &["--connect-to", "::127.0.0.1:8443"], "/whoami");
        ensure!(headerless.is_err(), "a connection without a header was served");
        let with_header = ["--haproxy-protocol", "--connect-to", "::127.0.0.1:8443"];
        ensure!(caddy.curl(&origin, "127.0.0.1", &with_header, "/whoami")? == "127.0.0.1");
        let forged = caddy.curl(&cgnat, "100.64.0.2", &["--haproxy-protocol"], "/whoami");
        ensure!(forged.is_err(), "a header from the network was believed");
        Ok(())
    })
}

#[test]
fn nginx_takes_uploads_behind_a_proxy_header() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let origin = lab.node("origin")?;
        let nginx = Nginx::start(&origin)?;
        let file = origin.directory().join("upload");
        fs::write(&file, pattern(3, 1 << 20))?;
        let file = file.to_string_lossy().into_owned();
        let arguments = ["--haproxy-protocol", "--connect-to", "::127.0.0.1:8443", "-T", &file];
        nginx.curl(&origin, "127.0.0.1", &arguments, "/upload/file")?;
        ensure!(fs::read(nginx.root().join("upload/file"))? == pattern(3, 1 << 20));
        nginx.logs("PUT /upload/file")
    })
}

#[test]
fn an_nfs_server_is_read_by_a_client_in_user_space() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (edge, lan) = (lab.node("edge")?, lab.node("lan")?);
        let server = NfsServer::start(&lan)?;
        let content = pattern(5, 300_000);
        fs::write(server.export().join("film"), &content)?;
        ensure!(read_nfs(&edge, "192.168.1.50", 2049, "film")? == content);
        Ok(())
    })
}

#[test]
fn two_wireguard_go_talk_through_the_carriers_nat() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let (edge, origin) = (lab.node("edge")?, lab.node("origin")?);
        let (kyiv, wroclaw, psk) = (KeyPair::of("kyiv"), KeyPair::of("wroclaw"), preshared_key("wroclaw"));
        let near = WireGuardGo::start(&edge, "wg0")?;
        near.configure(&PlainPeer {
            private_key: &kyiv.private,
            listen_port: Some(51_820),
            public_key: &wroclaw.public,
            preshared_key: Some(&psk),
            allowed_ips: "10.77.88.2/32",
            endpoint: None,
            keepalive: None,
        })?;
        near.bring_up(&["10.77.88.1/30"], &[])?;
        let far = WireGuardGo::start(&origin, "wg0")?;
        far.configure(&PlainPeer {
            private_key: &wroclaw.private,
            listen_port: None,
            public_key: &kyiv.public,
            preshared_key: Some(&psk),
            allowed_ips: "0.0.0.0/0",
            endpoint: Some("192.0.2.2:51820"),
            keepalive: Some(25),
        })?;
        far.bring_up(&["10.77.88.2/30"], &[])?;
        origin.run("ping -c 1 -W 3 10.77.88.1")?;
        edge.run("ping -c 1 -W 3 10.77.88.2").map(drop)
    })
}
