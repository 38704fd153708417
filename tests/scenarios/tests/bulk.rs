//! Large transfers: every byte arrives, whatever the tunnel does meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Topology, full_counts, pattern, scenario};
use scenarios::{Nginx, Site, download, serve_bulk, sha256, upload};

/// WireGuard's REKEY_AFTER_TIME (paper, section 6.1) and a little more.
const PAST_A_REKEY: u64 = 126;

#[test]
fn files_cross_a_published_port_both_ways_unharmed_while_the_tunnel_rekeys() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let size: usize = if full_counts() { 1 << 30 } else { 64 << 20 };
        let mut site = Site::new(lab)?;
        let nginx = Nginx::start(&site.origin)?;
        site.start()?;
        let client = lab.node("client")?;
        let (there, back) = (client.directory().join("upload"), client.directory().join("download"));
        fs::write(&there, pattern(11, size))?;
        fs::write(nginx.root().join("film"), pattern(12, size))?;

        let started = Instant::now();
        let rate = format!("{}", size as u64 / PAST_A_REKEY);
        let (upload, download) = (there.to_string_lossy(), back.to_string_lossy());
        let up = ["--limit-rate", &rate, "-T", &upload];
        std::thread::scope(|scope| -> Result<()> {
            let sending = scope.spawn(|| nginx.curl(&client, "192.0.2.2", &up, "/upload/file"));
            let down = ["--limit-rate", &rate, "-o", &download];
            nginx.curl(&client, "192.0.2.2", &down, "/film")?;
            sending.join().ok().context("the upload's thread ended")??;
            Ok(())
        })?;
        let age = site.peer_field("/latest_handshake_age_seconds")?.as_f64().context("no age")?;
        let elapsed = started.elapsed();
        ensure!(elapsed > Duration::from_secs(120), "too fast to meet a rekey: {elapsed:?}");
        ensure!(age < elapsed.as_secs_f64(), "no handshake in {elapsed:?}: the last is {age} s old");
        ensure!(sha256(&client, &there)? == sha256(&client, &nginx.root().join("upload/file"))?);
        ensure!(sha256(&client, &back)? == sha256(&client, &nginx.root().join("film"))?);
        Ok(())
    })
}

#[test]
fn a_gibibyte_each_way_crosses_at_full_speed_with_every_byte_right() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let size: u64 = if full_counts() { 1 << 30 } else { 128 << 20 };
        let mut site = Site::new(lab)?;
        let _bulk = serve_bulk(&site.origin, "127.0.0.1:5001")?;
        site.start()?;
        let client = lab.node("client")?;
        let down = download(&client, "192.0.2.2:5001", size)?;
        let up = upload(&client, "192.0.2.2:5001", size)?;
        println!(
            "{size} bytes: down {:.0} Mbit/s, up {:.0} Mbit/s",
            down.mbit_per_second(),
            up.mbit_per_second()
        );
        Ok(())
    })
}
