//! `gateway check`: what it warns of, and how long it and an apply take with a very large
//! configuration.
#![allow(clippy::print_stdout, reason = "figures that are quoted come from here")]

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};
use lab::{Topology, scenario};
use scenarios::{KeyPair, Site};

#[test]
fn a_name_that_leads_to_the_proxy_and_a_missing_way_to_manage_are_warned_of() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge.shadow_file(
            "/etc/hosts",
            "127.0.0.1 localhost\n104.16.0.1 kyiv.example.com\n192.0.2.2 direct.example.com\n",
        )?;
        let far = site.edge.directory().join("forwarder.toml");
        let forwarder = site.forwarder_config.text.clone();
        let check = |site: &Site<'_>, endpoint: &str| -> Result<String> {
            site.gateway_config.write()?;
            fs::write(&far, forwarder.replace("192.0.2.2:51820", endpoint))?;
            let command = site.edge.command(lab::binary("gateway")?).args(["check", "--config"]);
            let output = command.arg(site.gateway_config.path()).arg("--with").arg(&far).output()?;
            Ok(String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let proxied = check(&site, "kyiv.example.com:51820")?;
        ensure!(proxied.contains("104.16.0.1, which is @cloudflare"), "{proxied}");
        ensure!(!check(&site, "direct.example.com:51820")?.contains("@cloudflare"));
        ensure!(!check(&site, "192.0.2.2:51820")?.contains("management"));
        site.gateway_config.replace("accept = [\"tcp/22\"]", "accept = []")?;
        site.gateway_config.replace("prefixes = [\"192.168.1.0/24\"]", "prefixes = []")?;
        site.gateway_config.replace(", \"192.168.1.50\"]", "]")?.replace(", \"192.168.1.0/24\"]", "]")?;
        let closed = check(&site, "192.0.2.2:51820")?;
        ensure!(closed.contains("no management path is left"), "{closed}");
        Ok(())
    })
}

#[test]
fn a_thousand_services_prefixes_and_peers_are_checked_and_applied() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let mut text = site.gateway_config.text.clone();
        let mut list = String::new();
        for number in 0..1_000_u32 {
            let (high, low) = (number / 250, number % 250);
            let key = KeyPair::of(&format!("peer {number}")).public;
            writeln!(
                text,
                "[[peer]]\nname = \"p{number}\"\npublic_key = \"{key}\"\nallowed_ips = [\"10.{}.{low}.0/24\"]",
                100 + high
            )?;
            writeln!(
                text,
                "[[publish]]\nname = \"s{number}\"\nlisten = \"{}\"\ntarget = \"10.{}.{low}.2:80\"\n\
                 allow = [\"@many\", \"198.18.{high}.{low}\"]",
                10_000 + number,
                100 + high
            )?;
            writeln!(list, "{}.{low}.0.0/16", 60 + high)?;
        }
        text.push_str("[[list]]\nname = \"many\"\nfile = \"many.list\"\n");
        fs::write(site.edge.directory().join("many.list"), list)?;
        let draft = site.edge.directory().join("large.toml");
        fs::write(&draft, &text)?;

        let begun = Instant::now();
        site.edge.command(lab::binary("gateway")?).args(["check", "--config"]).arg(&draft).run()?;
        let checked = begun.elapsed();
        let begun = Instant::now();
        site.gatewayctl(&["apply"])?.arg(&draft).run()?;
        let applied = begun.elapsed();
        println!("1,000 services, prefixes and peers: check {checked:?}, apply {applied:?}");
        let rules = site.edge.run("nft list table inet causeway")?;
        let chains = rules.lines().filter(|line| line.starts_with("\tchain ")).count();
        ensure!(chains < 40, "{chains} chains: they grow with the services");
        let services = site.gatewayctl(&["services"])?.run()?;
        ensure!(services.contains("s999") && services.lines().count() > 1_000, "not all are there");
        let begun = Instant::now();
        site.gatewayctl(&["apply"])?.arg(&draft).run()?;
        println!("the same again: {:?}", begun.elapsed());
        fs::write(&draft, text.replacen("10.100.0.2:80", "10.100.0.3:80", 1))?;
        let begun = Instant::now();
        let changed = site.gatewayctl(&["apply"])?.arg(&draft).run()?;
        println!("one of them changed: {:?}", begun.elapsed());
        ensure!(changed.contains("10.100.0.3"), "{changed}");
        Ok(())
    })
}
