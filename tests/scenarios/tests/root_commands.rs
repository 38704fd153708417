//! Root's commands at the same moment, killed, and on a full disk: any difference between the file
//! and the edge is reported.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Topology, full_counts, scenario};
use scenarios::Site;
use serde_json::Value;

#[test]
fn applies_at_the_same_moment_leave_one_text_in_the_file_and_in_force() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let place = Place::start(lab)?;
        let rounds = if full_counts() { 20 } else { 2 };
        for round in 0..rounds {
            let codes: Vec<_> = thread::scope(|scope| {
                let apply = |number: usize| {
                    let place = &place;
                    scope.spawn(move || place.ctl(&["apply", Place::draft(number % 2)]))
                };
                let running: Vec<_> = (0..20).map(apply).collect();
                running.into_iter().map(thread::ScopedJoinHandle::join).collect()
            });
            for code in codes {
                let (code, said) = code.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
                ensure!(code == Some(0), "round {round}: {code:?} {said}");
            }
            place.agrees().with_context(|| format!("round {round}"))?;
        }
        place.has_no_leftovers()
    })
}

#[test]
fn a_killed_apply_leaves_one_of_both_texts_and_status_says_when_the_other_is_in_force() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let place = Place::start(lab)?;
        let rounds = if full_counts() { 200 } else { 16 };
        for round in 0..rounds {
            let mut command =
                place.site.gatewayctl(&["apply"])?.arg(Place::draft(round % 2)).spawn("killed")?;
            thread::sleep(Duration::from_millis(u64::try_from(round * 7 % 90)?));
            command.kill()?;
            let file = fs::read_to_string(place.site.gateway_config.path())?;
            let which = place.texts.iter().position(|text| *text == file).context("the file is neither")?;
            // The daemon may still be at work for the killed command.
            lab::until(Duration::from_secs(20), "status to say whether the file is in force", || {
                let services = place.site.gatewayctl(&["services"])?.run()?;
                let in_force = usize::from(services.contains("another"));
                let said = place.status()?.pointer("/config_in_force").and_then(Value::as_bool);
                Ok((said == Some(which == in_force)).then_some(()))
            })?;
        }
        for number in [0, 1] {
            ensure!(place.ctl(&["apply", Place::draft(number)])?.0 == Some(0));
            place.agrees()?;
        }
        ensure!(place.ctl(&["rollback"])?.0 == Some(0));
        place.agrees()?;
        ensure!(
            fs::read_to_string(place.site.gateway_config.path())? == place.texts[0],
            "another text is back"
        );
        place.has_no_leftovers()
    })
}

#[test]
fn a_full_disk_refuses_before_anything_is_changed_and_loses_nothing() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let place = Place::start(lab)?;
        place
            .site
            .edge
            .shell("mkdir -m 0750 state-root && mount -t tmpfs -o size=64k,mode=0750 none state-root")?;
        let fill = "dd if=/dev/zero of=state-root/filler bs=4k 2>/dev/null || true";
        ensure!(place.ctl(&["apply", Place::draft(1)])?.0 == Some(0));
        place.site.edge.shell(fill)?;
        for refused in
            [&["apply", Place::draft(0)][..], &["apply", Place::draft(0), "--confirm", "60s"], &["rollback"]]
        {
            let (code, said) = place.ctl(refused)?;
            ensure!(code == Some(1), "{refused:?}: {code:?} {said}");
            place.agrees()?;
            ensure!(fs::read_to_string(place.site.gateway_config.path())? == place.texts[1]);
        }

        // A confirmation that cannot be written is refused before the daemon is asked, and succeeds
        // later, still in time.
        place.site.edge.shell("rm state-root/filler")?;
        ensure!(place.ctl(&["apply", Place::draft(0), "--confirm", "600s"])?.0 == Some(0));
        place.site.edge.shell(fill)?;
        let (code, said) = place.ctl(&["confirm"])?;
        ensure!(code == Some(1), "{code:?} {said}");
        ensure!(
            place.status()?.pointer("/confirm_within_seconds").is_some_and(Value::is_u64),
            "it was confirmed"
        );
        place.site.edge.shell("rm state-root/filler")?;
        ensure!(place.ctl(&["confirm"])?.0 == Some(0));
        ensure!(fs::read_to_string(place.site.gateway_config.path())? == place.texts[0]);
        place.agrees()?;
        place.has_no_leftovers()
    })
}

#[test]
fn a_rollback_after_an_edit_in_place_leads_to_what_root_had_put_in_force() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let place = Place::start(lab)?;
        ensure!(place.ctl(&["apply", Place::draft(0)])?.0 == Some(0));
        fs::write(place.site.gateway_config.path(), &place.texts[1])?;
        ensure!(place.ctl(&["reload"])?.0 == Some(0));
        place.agrees()?;
        ensure!(place.ctl(&["rollback"])?.0 == Some(0));
        ensure!(fs::read_to_string(place.site.gateway_config.path())? == place.texts[0]);
        place.agrees()?;
        ensure!(place.ctl(&["rollback"])?.0 == Some(0));
        ensure!(fs::read_to_string(place.site.gateway_config.path())? == place.texts[1]);
        place.agrees()
    })
}

/// An edge and two texts, of which the second has one service more.
struct Place<'lab> {
    site: Site<'lab>,
    texts: [String; 2],
}

impl<'lab> Place<'lab> {
    fn start(lab: &'lab lab::Lab) -> Result<Self> {
        let mut site = Site::new(lab)?;
        site.start_gateway()?;
        let first = site.gateway_config.text.clone();
        let more = "[[publish]]\nname = \"another\"\nlisten = \"6000\"\ntarget = \"192.168.88.2:6001\"\n";
        let texts = [first.clone(), format!("{first}\n{more}")];
        for (number, text) in texts.iter().enumerate() {
            fs::write(site.edge.directory().join(Self::draft(number)), text)?;
        }
        Ok(Self { site, texts })
    }

    fn draft(number: usize) -> &'static str {
        if number == 0 { "first.toml" } else { "second.toml" }
    }

    fn ctl(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let output = self.site.gatewayctl(arguments)?.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn status(&self) -> Result<Value> {
        let output = self.site.gatewayctl(&["status", "--json"])?.output()?;
        serde_json::from_slice(&output.stdout).context("status is no JSON")
    }

    /// The file, the kernel and `status` say the same.
    fn agrees(&self) -> Result<()> {
        let file = fs::read_to_string(self.site.gateway_config.path())?;
        let which = self.texts.iter().position(|text| *text == file).context("the file is neither text")?;
        let table = self.site.edge.run("nft list table inet causeway")?;
        ensure!(
            table.contains("publish_in_another") == (which == 1),
            "the file is {which}, the kernel is not"
        );
        ensure!(self.status()?.pointer("/config_in_force") == Some(&Value::Bool(true)));
        Ok(())
    }

    fn has_no_leftovers(&self) -> Result<()> {
        let folder = self.site.edge.directory();
        for folder in [folder.to_owned(), folder.join("state-root")] {
            for entry in fs::read_dir(&folder)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                ensure!(!name.ends_with(".new") && name != "draft.toml", "{name} was left behind");
            }
        }
        Ok(())
    }
}
