//! The boot guard when something is broken: the configuration, the kernel, `nft`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Node, Topology, scenario};
use scenarios::Site;

/// Where the guard looks for the last good tables.
const KEPT: &str = "/var/lib/causeway";

#[test]
fn where_the_kernel_refuses_maps_a_minimal_table_closes_the_edge_until_the_daemon_replaces_it() -> Result<()>
{
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.write()?;
        refuse(&site.edge, "\"map\"")?;
        let output = guard(&site)?;
        let said = text(&output.stderr);
        ensure!(output.status.code() == Some(10), "{}: {said}", output.status);
        for part in
            ["refused is: add map ", "nftables v", ", Linux ", "a minimal drop table is in place instead"]
        {
            ensure!(said.contains(part), "{part:?} is not in {said}");
        }
        let table = site.edge.run("nft list table inet causeway")?;
        ensure!(
            table.contains("chain forged") && !table.contains("map ") && !table.contains("set "),
            "{table}"
        );
        refuse_nothing(&site.edge)?;
        site.start()?;
        let table = site.edge.run("nft list table inet causeway")?;
        ensure!(table.contains("map publish_tcp4") && !table.contains("chain forged"), "{table}");
        Ok(())
    })
}

#[test]
fn without_a_configuration_the_last_good_tables_are_loaded_and_without_those_a_single_rule() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.edge.shell(&format!("mkdir -p {KEPT} && mount -t tmpfs tmpfs {KEPT}"))?;
        let own = site.edge.directory().join("state").display().to_string();
        site.gateway_config.text = site.gateway_config.text.replace(&own, KEPT);
        let good = site.gateway_config.clone();
        let bad = || fs::write(good.path(), "[interface]\nname = 7\n");

        bad()?;
        let said = loads_instead(&site, "nothing passes through this machine")?;
        ensure!(said.contains("gateway.toml:2"), "the fault of the configuration is not named: {said}");
        let table = site.edge.run("nft list table inet causeway")?;
        ensure!(table.contains("hook forward") && table.matches("drop").count() == 1, "{table}");

        site.edge.run("nft delete table inet causeway")?;
        site.start_gateway()?;
        site.gateway()?.stop(Duration::from_secs(10))?;
        bad()?;
        site.edge.run("nft delete table inet causeway")?;
        loads_instead(&site, "the drop table of the last good configuration is in place instead")?;

        site.edge.run("nft delete table inet causeway")?;
        refuse(&site.edge, "\"map\"")?;
        loads_instead(&site, "a minimal drop table of the last good configuration is in place instead")
            .map(drop)
    })
}

#[test]
fn a_guard_that_can_load_nothing_tries_again_and_then_says_what_is_open() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = Site::new(lab)?;
        site.gateway_config.write()?;
        site.edge.sysctl("net/ipv4/ip_forward", "0")?;
        site.edge.sysctl("net/ipv6/conf/all/forwarding", "0")?;
        refuse(&site.edge, "causeway")?;
        let output = guard(&site)?;
        let said = text(&output.stderr);
        ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
        for part in ["trying again in 4 s", "Open now: every program that listens", "forwarding is off"] {
            ensure!(said.contains(part), "{part:?} is not in {said}");
        }
        Ok(())
    })
}

#[test]
fn a_guard_waits_for_an_nft_that_takes_longer_than_the_daemon_would_wait() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = Site::new(lab)?;
        site.gateway_config.write()?;
        // The kernel loads ten modules at the first use, which takes this long on a slow machine.
        wrap(&site.edge, "sleep 21")?;
        let output = guard(&site)?;
        ensure!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
        ensure!(text(&output.stdout).contains("the drop table is in place"));
        Ok(())
    })
}

#[test]
fn a_gateway_whose_rules_are_refused_names_the_rule_and_leaves_forwarding_off() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let site = Site::new(lab)?;
        site.gateway_config.write()?;
        site.edge.sysctl("net/ipv4/ip_forward", "0")?;
        refuse(&site.edge, "\"masquerade\":null")?;
        let command = site.edge.command(lab::binary("gateway")?).arg("--config");
        let output = command.arg(site.gateway_config.path()).output()?;
        let said = text(&output.stdout) + &text(&output.stderr);
        ensure!(!output.status.success(), "{said}");
        ensure!(said.contains("refused is: add rule in chain srcnat: "), "{said}");
        ensure!(site.edge.read_sysctl("net/ipv4/ip_forward")? == "0", "forwarding is on without rules");
        Ok(())
    })
}

/// Runs the guard, which must say which table it loaded instead.
fn loads_instead(site: &Site<'_>, wanted: &str) -> Result<String> {
    let output = guard(site)?;
    let said = text(&output.stderr);
    ensure!(output.status.code() == Some(10) && said.contains(wanted), "{}: {said}", output.status);
    Ok(said)
}

fn guard(site: &Site<'_>) -> Result<Output> {
    let command = site.edge.command(lab::binary("gateway")?).args(["guard", "--config"]);
    command.arg(site.gateway_config.path()).output()
}

/// Has the edge's `nft` refuse every transaction with these words in it, as a kernel would.
fn refuse(edge: &Node, words: &str) -> Result<()> {
    wrap(
        edge,
        &format!(
            "if grep -qF '{words}' \"$input\"; then
               echo 'internal:0:0-0: Error: Could not process rule: Operation not supported' >&2
               exit 1
             fi"
        ),
    )
}

/// Replaces `nft` by a program that runs this before each transaction.
fn wrap(edge: &Node, first: &str) -> Result<()> {
    let (real, wrapper) = (edge.directory().join("nft-real"), edge.directory().join("nft-wrapper"));
    fs::copy("/usr/sbin/nft", &real)?;
    let script = format!(
        "#!/bin/sh
         for last; do :; done
         [ \"$last\" = - ] || exec {real} \"$@\"
         input={input}
         cat >\"$input\"
         {first}
         exec {real} \"$@\" <\"$input\"\n",
        real = real.display(),
        input = edge.directory().join("nft-input").display()
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    mount(edge, &wrapper)
}

fn mount(edge: &Node, wrapper: &Path) -> Result<()> {
    edge.shell(&format!("mount --bind {} /usr/sbin/nft", wrapper.display())).map(drop)
}

fn refuse_nothing(edge: &Node) -> Result<()> {
    edge.shell("umount /usr/sbin/nft").map(drop)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
