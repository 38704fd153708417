//! `causeway-agent` reports what is down, and what is over, to a mail server and to an HTTP receiver.

// Figures are printed; a JSON value has an answer to any index.
#![allow(clippy::print_stdout, clippy::indexing_slicing)]

mod outages;
mod place;
mod receivers;

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Topology, scenario, until};
use scenarios::{Caddy, write_secret};
use serde_json::Value;

use place::{Place, REPORTED};
use receivers::restart_exim;

#[test]
fn a_dead_caddy_is_one_mail_at_the_origin_and_a_dead_gateway_one_request_at_the_edge() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let mut caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;

        caddy.process.kill()?;
        // Killed in the middle of it, nothing is lost and nothing is sent twice.
        place.restart_origin_agent()?;
        let after = place.wait_for_mail(1)?;
        place.origin_agent.wait_for_log("task: sent: ", Duration::from_secs(10))?;
        println!("the mail came {after:?} after the end of Caddy");
        let mail = place.mails()?.concat();
        for part in
            ["(upstream)", "Down since ", "Cause: upstream (refused): ", "Fix: start the program", "Works: "]
        {
            ensure!(mail.contains(part), "no {part:?} in:\n{mail}");
        }
        ensure!(mail.contains("Auto-Submitted: auto-generated"), "{mail}");
        ensure!(!mail.contains("203.0.113.") && place.requests.all().is_empty(), "{mail}");

        place.restart_origin_agent()?;
        drop(caddy);
        let _caddy = place.new_caddy()?;
        place.site.gateway()?.kill()?;
        let after = place.requests.wait_for(1)?;
        println!("the request came {after:?} after the end of the gateway");
        let request = place.requests.all().concat();
        let message: Value = serde_json::from_str(&request)?;
        ensure!(
            message["kind"] == "down" && message["hop"] == "daemon" && message["end"] == "edge",
            "{request}"
        );
        ensure!(request.contains("systemctl restart gateway"), "{request}");
        place.wait_for_mail(2)?;
        let over = place.mails()?.last().cloned().unwrap_or_default();
        ensure!(over.contains(": over after ") && place.mails()?.len() == 2, "{:?}", place.mails()?);
        place.site.start_gateway()?;
        Ok(())
    })
}

#[test]
fn a_test_message_shows_what_each_receiver_says_and_quiet_is_set_shown_and_ended() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let broken = "[[notify]]\nname = \"broken\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:7/\"\n";
        place.site.gateway_config.append(broken);
        place.start()?;
        place.wait_until_all_works()?;
        let edge = |arguments: &[&str]| place.causeway(&place.site.edge, arguments);
        let (code, said) = edge(&["notify", "test"])?;
        ensure!(code == Some(1) && said.contains("hook: sent"), "{code:?} {said}");
        ensure!(said.contains("broken: not sent: 127.0.0.1:7: "), "{said}");
        ensure!(place.requests.all().len() == 1 && place.requests.all()[0].contains("nothing is down"));
        ensure!(place.requests.headers()[0].contains("authorization: bearer top-secret"), "no token");
        // The mail is encrypted by a certificate that this machine trusts.
        let (code, said) = place.causeway(&place.site.origin, &["notify", "test"])?;
        ensure!(code == Some(0) && said.trim() == "mail: sent", "{code:?} {said}");
        place.wait_for_mail(1)?;
        ensure!(place.mails()?.concat().contains("This is a test"), "{:?}", place.mails()?);

        let (code, said) = edge(&["quiet"])?;
        ensure!(code == Some(0) && said.starts_with("Nothing is quiet"), "{said}");
        let (code, said) = edge(&["quiet", "8h", "https"])?;
        ensure!(code == Some(0) && said.contains("about https for 7 hours, 59 minutes"), "{code:?} {said}");
        for (wrong, says) in [
            (&["quiet", "8h", "htps"][..], "did you mean https?"),
            (&["quiet", "8", "https"], "is no time"),
            (&["quiet", "31d"], "a time from 1s to 30d"),
            (&["quiet", "off", "bulk"], "nothing is quiet by that name"),
        ] {
            let (code, said) = edge(wrong)?;
            ensure!(code == Some(2) && said.contains(says), "{wrong:?}: {code:?} {said}");
        }
        // It survives the agent.
        place.restart_edge_agent()?;
        until(Duration::from_secs(10), "the agent", || {
            let (code, said) = place.causeway(&place.site.edge, &["quiet"])?;
            Ok((code == Some(0) && said.contains("about https")).then_some(()))
        })?;
        let (code, said) = place.causeway(&place.site.edge, &["quiet", "off"])?;
        ensure!(code == Some(0) && said.starts_with("Nothing is quiet"), "{said}");
        Ok(())
    })
}

/// Mail that Exim does not take waits, and is there once when it does.
#[test]
fn mail_waits_for_a_server_that_is_away_and_one_that_refuses_the_password_says_so() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "Exim delivers as a user of its own").map(drop);
        }
        let mut place = Place::new(lab)?;
        let caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        place.mail_server.process.kill()?;
        drop(caddy);
        lab.expect_warning("not sent, to be tried again: 127.0.0.1:2525: ");
        place.origin_agent.wait_for_log("not sent, to be tried again: ", REPORTED)?;
        write_secret(&place.site.origin.directory().join("mail.password"), "wrong\n")?;
        place.restart_origin_agent()?;
        place.mail_server.process = restart_exim(&place.site.origin)?;
        let refused = "Incorrect authentication data; check `user`, and the password in `password_file`";
        place.origin_agent.wait_for_log(refused, Duration::from_secs(60))?;
        let (code, said) = place.causeway(&place.site.origin, &["notify", "test"])?;
        ensure!(code == Some(1) && said.contains(refused), "{code:?} {said}");
        ensure!(place.mails()?.is_empty(), "{:?}", place.mails()?);

        write_secret(&place.site.origin.directory().join("mail.password"), "top-secret\n")?;
        place.restart_origin_agent()?;
        println!("the mail came {:?} after the password was right", place.wait_for_mail(1)?);
        place.origin_agent.wait_for_log("sent: causeway", Duration::from_secs(10))?;
        let (code, said) = place.causeway(&place.site.origin, &["notify", "test"])?;
        ensure!(code == Some(0), "{code:?} {said}");
        place.wait_for_mail(2)?;
        ensure!(
            place.mails()?.len() == 2 && place.mails()?[0].contains("(upstream)"),
            "{:?}",
            place.mails()?
        );
        Ok(())
    })
}
