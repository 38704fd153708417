//! Pictures of the page for the documents, of real daemons: `scripts/page-pictures`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{TcpServer, Topology, echo, scenario, until, workspace};
use scenarios::{Caddy, Site};

use super::chromium::Chromium;

/// The most bytes of a picture.
const MOST: u64 = 160_000;

#[test]
#[ignore = "it writes pictures into docs: scripts/page-pictures"]
fn of_an_edge_where_all_works_and_where_something_is_down() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.append("[page]");
        site.forwarder_config.replace(
            "proxy_protocol = \"v2\"",
            "proxy_protocol = \"v2\"\nnames = [\"emby.example.com\", \"photos.example.com\"]\nvisitor = \"off\"",
        )?;
        let site_of = |name: &str| {
            format!(
                "https://{name}.example.com:8443 {{\n    bind 127.0.0.1\n    tls internal\n    respond \"{name}\"\n}}\n"
            )
        };
        let _caddy = Caddy::start_sites(&site.origin, true, &["emby", "photos"].map(site_of).concat())?;
        let _bulk = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8428")?, echo)?;
        let bulk = TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, echo)?;
        site.start()?;
        let mut browser = Chromium::start(&site.edge)?;
        browser.call("Emulation.setTimezoneOverride", serde_json::json!({"timezoneId": "Europe/Kyiv"}))?;
        let mut take = |name: &str, scheme: &str, (width, height, scale): (u32, u32, f64), down: bool| {
            browser.resize(width, height, scale)?;
            browser.prefer(scheme)?;
            until(Duration::from_secs(60), "the page to show the state", || {
                browser.open("http://127.0.0.1:9590/")?;
                let text = browser.text("document.querySelector('main').innerText")?;
                let is_known = text.contains("emby.example.com") && text.contains("B/s");
                Ok((is_known && text.contains("down for visitors") == down).then_some(()))
            })?;
            let file = folder().join(name);
            browser.picture(&file)?;
            let bytes = std::fs::metadata(&file)?.len();
            ensure!(bytes < MOST, "{name} has {bytes} bytes");
            anyhow::Ok(())
        };
        take("page-light.png", "light", (960, 900, 1.0), false)?;
        drop(bulk);
        take("page-dark.png", "dark", (960, 900, 1.0), true)?;
        take("page-phone.png", "dark", (390, 844, 2.0), true)
    })
}

fn folder() -> PathBuf {
    std::env::var_os("CAUSEWAY_PICTURES").map_or_else(|| workspace().join("target"), PathBuf::from)
}
