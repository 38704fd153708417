//! Repairs that fail are reported and repeated until they succeed. Changes that fail half way are
//! undone.
#![allow(clippy::print_stdout, reason = "figures that are quoted come from here")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Node, Topology, scenario, until};
use scenarios::{OtherNft, Site, own_table, table};

/// The warning while checks of the kernel fail.
const WARNING: &str = "cannot be checked or put back";

#[test]
fn a_repair_that_fails_is_reported_everywhere_and_done_seconds_after_nft_works_again() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let nft = OtherNft::prepare(&site.edge)?;
        site.start()?;
        let (code, said) = status(&site)?;
        ensure!(code == Some(0), "to begin with: {said}");
        let whole = kernel_state(&site.edge)?;
        lab.expect_warning(WARNING);

        // nft lists, but refuses every change.
        nft.begin("case \"$*\" in *-f*) exit 1;; esac; exec $real \"$@\"")?;
        nft.run("flush ruleset")?;
        until(Duration::from_secs(15), "status to say it", || {
            let (code, said) = status(&site)?;
            ensure!(code == Some(11), "exit code {code:?}: {said}");
            ensure!(said.contains(WARNING) && said.contains("the table inet causeway is missing"), "{said}");
            Ok(Some(()))
        })?;
        let (ready, line) = readiness(&site.edge)?;
        ensure!(ready == "503" && line.contains(WARNING), "{ready}: {line}");
        until(Duration::from_secs(30), "a few tries", || {
            Ok((metric(&site.edge, "gateway_reconcile_failures_total")? > 3.0).then_some(()))
        })?;
        ensure!(metric(&site.edge, "gateway_reconcile_failing")? == 1.0);
        is_repaired_once_it_works(&mut site, &nft, &whole, Duration::from_secs(13))?;
        let log = site.gateway()?.log()?;
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        ensure!((count("WARN"), count("put back again")) == (1, 1), "{log}");

        // nft fails completely until a check has failed.
        let failures = metric(&site.edge, "gateway_reconcile_failures_total")?;
        nft.begin("exit 1")?;
        nft.run("flush ruleset")?;
        until(Duration::from_secs(30), "a check to fail", || {
            Ok((metric(&site.edge, "gateway_reconcile_failures_total")? > failures).then_some(()))
        })?;
        is_repaired_once_it_works(&mut site, &nft, &whole, Duration::from_secs(5))
    })
}

#[test]
fn a_check_of_the_rules_gives_back_the_memory_it_needed() -> Result<()> {
    /// Resident kilobytes of an edge that carries nothing, without the program: it holds 3,300, and
    /// 4,900 if it keeps what a check needed.
    const MOST: u64 = 4_000;
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        let whole = kernel_state(&site.edge)?;
        site.edge.run("nft flush ruleset")?;
        until(Duration::from_secs(15), "the rules to be put back", || {
            Ok(kernel_state(&site.edge).is_ok_and(|now| now == whole).then_some(()))
        })?;
        until(Duration::from_secs(15), "the memory to be given back", || {
            let held = site.gateway()?.status_field("RssAnon")?;
            println!("resident without the program: {held}");
            let kilobytes: u64 = held.split_whitespace().next().context("no RssAnon")?.parse()?;
            Ok((kilobytes < MOST).then_some(()))
        })
    })
}

#[test]
fn nft_that_hangs_is_stopped_and_reported_with_its_fix_and_status_does_not_wait_for_it() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let nft = OtherNft::prepare(&site.edge)?;
        site.start()?;
        let whole = kernel_state(&site.edge)?;
        lab.expect_warning(WARNING);
        nft.begin("exec sleep 1000")?;
        nft.run("flush ruleset")?;
        std::thread::sleep(Duration::from_secs(2));
        let asked = Instant::now();
        let (code, said) = status(&site)?;
        ensure!(asked.elapsed() < Duration::from_secs(12), "status took {:?}", asked.elapsed());
        ensure!(code != Some(0) && said.contains("nft has not answered for 5 s"), "{code:?}: {said}");
        until(Duration::from_secs(60), "the reason", || {
            let (code, said) = status(&site)?;
            let fix = "did not end within 20 s and was stopped; run `nft list tables` by hand";
            ensure!(code == Some(11) && said.contains(fix), "{said}");
            Ok(Some(()))
        })?;
        ensure!(readiness(&site.edge)?.0 == "503");
        is_repaired_once_it_works(&mut site, &nft, &whole, Duration::from_secs(60))
    })
}

#[test]
fn a_renamed_device_ends_the_daemon_with_the_reason_and_the_next_start_works() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        lab.expect_warning("the device gw0 was renamed");
        site.edge.run("ip link set gw0 name foo0")?;
        let ended = site.gateway()?.wait(Duration::from_secs(15))?;
        ensure!(ended.code() == Some(1), "{ended}");
        ensure!(site.gateway()?.log()?.contains("the device gw0 was renamed"));
        ensure!(!site.edge.output("ip link show foo0")?.status.success(), "the old device is still there");
        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(60))?;
        let (code, said) = status(&site)?;
        ensure!(code == Some(0), "{said}");
        Ok(())
    })
}

#[test]
fn a_table_that_another_process_owns_is_named_with_what_to_do_at_the_start_and_later() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.gateway_config.write()?;
        let owned = "the table inet causeway is owned by another process";
        let mut owner = own_table(&site.edge, "add table inet causeway { flags owner; }")?;
        until(Duration::from_secs(10), "the owned table", || {
            site.edge.run("nft list table inet causeway").map(Some)
        })?;
        let start =
            site.edge.command(lab::binary("gateway")?).arg("--config").arg(site.gateway_config.path());
        let refused = start.output()?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(6) && said.contains(owned), "{}: {said}", refused.status);
        owner.kill()?;
        fs::remove_file(site.edge.directory().join("nft.fifo"))?;

        lab.expect_warning(owned);
        site.start()?;
        let whole = kernel_state(&site.edge)?;
        let line = "delete table inet causeway; add table inet causeway { flags owner; }";
        let mut owner = own_table(&site.edge, line)?;
        until(Duration::from_secs(15), "status to say it", || {
            let (code, said) = status(&site)?;
            ensure!(code == Some(11) && said.contains(owned) && said.contains("end that process"), "{said}");
            Ok(Some(()))
        })?;
        ensure!(readiness(&site.edge)?.0 == "503");
        owner.kill()?;
        until(Duration::from_secs(20), "the table to come back", || {
            Ok((kernel_state(&site.edge)? == whole && status(&site)?.0 == Some(0)).then_some(()))
        })
    })
}

#[test]
fn a_table_of_firewalld_is_never_to_be_changed_by_nft() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        // As firewalld 2.x makes it: it owns the table.
        let _firewalld = own_table(
            &site.edge,
            "table inet firewalld { flags owner; \
             chain filter_INPUT { type filter hook input priority 10; policy accept; ct state { established, related } accept; \
             iifname lo accept; tcp dport 22 accept; reject with icmpx admin-prohibited; }; \
             chain filter_FORWARD { type filter hook forward priority 10; policy accept; \
             ct state { established, related } accept; ct status dnat accept; reject with icmpx admin-prohibited; }; }",
        )?;
        until(Duration::from_secs(10), "the table", || {
            site.edge.run("nft list table inet firewalld").map(Some)
        })?;
        site.start_gateway()?;
        let (_, said) = status(&site)?;
        for chain in ["filter_INPUT", "filter_FORWARD"] {
            let line = said.lines().find(|line| line.contains(chain)).with_context(|| said.clone())?;
            ensure!(
                line.contains("run: firewall-cmd --permanent --zone=trusted --add-interface=gw0"),
                "{line}"
            );
        }
        ensure!(!said.contains("nft insert"), "{said}");
        Ok(())
    })
}

#[test]
fn a_helper_that_stalls_ends_the_daemon_with_the_reason_and_a_restarted_one_works() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        site.start()?;
        lab.expect_warning("the kernel helper is lost: it did not answer within 40s");
        let helper = site.gateway()?.only_child()?;
        signal(helper, "-STOP")?;
        let asked = site.gatewayctl(&["bans"])?.limit(Duration::from_secs(100)).output()?;
        ensure!(!asked.status.success(), "a stopped helper answered");
        let ended = site.gateway()?.wait(Duration::from_secs(30))?;
        ensure!(ended.code() == Some(1), "{ended}");
        ensure!(site.gateway()?.log()?.contains("did not answer within 40s; the daemon ends"));
        ensure!(!fs::exists(format!("/proc/{helper}"))?, "the stopped helper is still there");

        site.start_gateway()?;
        site.wait_until_up(Duration::from_secs(60))?;
        site.gatewayctl(&["bans"])?.run()?;
        site.edge.run("nft flush ruleset")?;
        until(Duration::from_secs(10), "the rules to be put back", || {
            site.edge.run("nft list table inet causeway").map(Some)
        })?;
        Ok(())
    })
}

#[test]
fn a_change_that_fails_half_way_is_reported_as_undone_only_when_it_is() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut site = Site::new(lab)?;
        let nft = OtherNft::prepare(&site.edge)?;
        // With a rule of another program there are tables of the way back as well.
        site.edge.run("ip rule add to 203.0.113.99 lookup main")?;
        site.start()?;
        let whole = kernel_state(&site.edge)?;
        ensure!(whole.contains("default via 192.0.2.1"), "{whole}");
        let text = site.gateway_config.text.replace("\"5001\"", "\"5002\"");
        let text = text.replace("\"192.168.88.0/24\"]", "\"192.168.88.0/24\", \"192.168.99.0/24\"]");
        let draft = site.edge.directory().join("draft.toml");
        fs::write(&draft, text)?;
        let apply = || -> Result<(Option<i32>, String)> {
            let output = site.gatewayctl(&["apply"])?.arg(&draft).output()?;
            Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
        };

        // The second call of nft that is to change something fails: that is the apply after the
        // check.
        nft.begin("case \"$*\" in '-j -f -') exit 1;; esac; exec $real \"$@\"")?;
        let (code, said) = apply()?;
        ensure!(code == Some(1) && !said.contains("as it was"), "{code:?} {said}");
        ensure!(kernel_state(&site.edge)? == whole);
        nft.end()?;

        // The next apply succeeds, but the first check of the table after it fails: the change is
        // undone, as a second check confirms.
        let failures = site.edge.directory().join("failures");
        let fails = format!(
            "file={}; case \"$*\" in
             '-j -f -') $real \"$@\" || exit; echo >$file.begun; exit 0;;
             '-j list table inet causeway') test -e $file.begun || exec $real \"$@\"
               read left <$file; test $left = 0 || {{ echo $((left - 1)) >$file; exit 1; }};;
             esac; exec $real \"$@\"",
            failures.display()
        );
        fs::write(&failures, "1\n")?;
        nft.begin(&fails)?;
        let (code, said) = apply()?;
        ensure!(code == Some(7) && said.contains("; everything is as it was"), "{code:?} {said}");
        ensure!(kernel_state(&site.edge)? == whole);
        nft.end()?;

        // While all checks of the table fail, what is in force is unknown, and that is reported.
        lab.expect_warning(WARNING);
        fs::remove_file(failures.with_extension("begun"))?;
        fs::write(&failures, "1000\n")?;
        nft.begin(&fails)?;
        let (code, said) = apply()?;
        ensure!(code == Some(1) && said.contains("is not known"), "{code:?} {said}");
        ensure!(!said.contains("; everything is as it was"), "{said}");
        until(Duration::from_secs(10), "status to say it", || {
            Ok((status(&site)?.0 == Some(11)).then_some(()))
        })?;
        nft.end()?;
        until(Duration::from_secs(15), "what was before", || {
            Ok((kernel_state(&site.edge)? == whole).then_some(()))
        })
    })
}

fn is_repaired_once_it_works(
    site: &mut Site<'_>,
    nft: &OtherNft,
    whole: &str,
    limit: Duration,
) -> Result<()> {
    nft.end()?;
    let begun = Instant::now();
    until(limit, "the repair", || Ok((kernel_state(&site.edge)? == whole).then_some(())))?;
    println!("repaired {:?} after nft worked again", begun.elapsed());
    until(Duration::from_secs(5), "status to be well", || {
        let (code, said) = status(site)?;
        ensure!(code == Some(0), "{said}");
        Ok(Some(()))
    })?;
    ensure!(readiness(&site.edge)?.0 == "200" && metric(&site.edge, "gateway_reconcile_failing")? == 0.0);
    Ok(())
}

fn status(site: &Site<'_>) -> Result<(Option<i32>, String)> {
    let output = site.gatewayctl(&["status"])?.output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The status code and the text of `/readyz`.
fn readiness(edge: &Node) -> Result<(String, String)> {
    let said = edge.shell("curl -sS --max-time 10 -w '\\n%{http_code}' http://127.0.0.1:9586/readyz")?;
    let (line, code) = said.rsplit_once('\n').context("no answer")?;
    Ok((code.to_owned(), line.to_owned()))
}

fn metric(edge: &Node, name: &str) -> Result<f64> {
    let page = edge.run("curl -sS --max-time 20 http://127.0.0.1:9586/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
}

/// Everything of ours in the kernel, without packet counters and the numbers that the kernel gives.
fn kernel_state(edge: &Node) -> Result<String> {
    let rules = table(edge)?;
    let lists = ["ip route show table all proto 157", "ip route show table all proto 158"];
    let mut routes = String::new();
    for list in lists {
        // A route that was added again is at another place.
        let text = edge.run(list)?;
        let mut lines: Vec<_> = text.lines().map(str::trim).collect();
        lines.sort_unstable();
        routes += &lines.join("\n");
    }
    let others = ["ip rule", "ip -6 rule", "ip -brief address show gw0"].map(|question| edge.run(question));
    let others: Result<Vec<_>> = others.into_iter().collect();
    Ok([rules, routes, others?.join("\n")].join("\n"))
}

fn signal(pid: u32, which: &str) -> Result<()> {
    let status = Command::new("kill").args([which, &pid.to_string()]).status()?;
    ensure!(status.success(), "kill {which} {pid}: {status}");
    Ok(())
}
