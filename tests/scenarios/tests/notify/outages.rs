//! Minutes of real time: `make soak` runs these.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Topology, scenario, until};
use scenarios::Caddy;

use crate::place::{Place, REPORTED};

/// How long an announced stop may take.
const ANNOUNCED: Duration = Duration::from_secs(300);
/// How long a flapping cause has not changed when it counts as settled.
const CALM: Duration = Duration::from_secs(600);

#[test]
fn a_killed_origin_is_one_message_of_the_edge_and_one_when_it_is_back() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let _caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        // The machine is gone, with its agent.
        place.origin_agent.kill()?;
        place.site.forwarder()?.kill()?;
        println!("the edge reported it {:?} after the end of the origin", place.requests.wait_for(1)?);
        ensure!(place.requests.all()[0].contains("tunnel to wroclaw"), "{:?}", place.requests.all());
        place.site.start_forwarder()?;
        place.restart_origin_agent()?;
        place.requests.wait_for(2)?;
        ensure!(place.requests.all()[1].contains("over after"), "{:?}", place.requests.all());
        place.nothing_more_comes(REPORTED, 2, 0)
    })
}

#[test]
fn a_killed_edge_is_one_message_of_the_origin_and_one_when_it_is_back() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let _caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        place.edge_agent.kill()?;
        place.site.gateway()?.kill()?;
        println!("the origin reported it {:?} after the end of the edge", place.wait_for_mail(1)?);
        ensure!(place.mails()?[0].contains("tunnel to kyiv"), "{:?}", place.mails()?);
        place.site.start_gateway()?;
        place.restart_edge_agent()?;
        place.wait_for_mail(2)?;
        ensure!(place.mails()?[1].contains("over after"), "{:?}", place.mails()?);
        place.nothing_more_comes(REPORTED, 0, 2)
    })
}

#[test]
fn a_tunnel_that_is_cut_between_living_sites_is_one_message_of_each() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let _caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        place.site.edge.nft(
            "table inet cut { chain cut { type filter hook prerouting priority -300;
               udp dport 51820 drop;
             }
             }",
        )?;
        let begun = Instant::now();
        println!("the edge reported the cut after {:?}", place.requests.wait_for(1)?);
        until(REPORTED.saturating_sub(begun.elapsed()), "the origin's mail", || {
            Ok((!place.mails()?.is_empty()).then_some(()))
        })?;
        println!("and the origin after {:?}", begun.elapsed());
        place.site.edge.run("nft delete table inet cut")?;
        place.requests.wait_for(2)?;
        place.wait_for_mail(2)?;
        place.nothing_more_comes(REPORTED, 2, 2)
    })
}

#[test]
fn an_announced_stop_that_ends_in_time_is_no_message() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let _caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        place.stop_origin()?;
        place.nothing_more_comes(Duration::from_secs(200), 0, 0)?;
        place.site.start_forwarder()?;
        place.restart_origin_agent()?;
        place.wait_for_link()?;
        place.nothing_more_comes(Duration::from_secs(120), 0, 0)
    })
}

#[test]
fn an_announced_stop_that_does_not_end_is_reported_after_five_minutes() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let _caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        let begun = Instant::now();
        place.stop_origin()?;
        place.nothing_more_comes(ANNOUNCED.saturating_sub(begun.elapsed()), 0, 0)?;
        println!("it was reported {:?} after its five minutes", place.requests.wait_for(1)?);
        ensure!(place.requests.all()[0].contains("tunnel to wroclaw"), "{:?}", place.requests.all());
        place.site.start_forwarder()?;
        place.restart_origin_agent()?;
        place.requests.wait_for(2)?;
        place.nothing_more_comes(REPORTED, 2, 0)
    })
}

#[test]
fn a_service_that_flaps_is_one_message_and_one_when_it_is_calm() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let mut caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        for _ in 0..3 {
            drop(caddy);
            place.wait_until_https("failing")?;
            caddy = place.new_caddy()?;
            place.wait_until_https("ok")?;
        }
        let calm = Instant::now();
        let flapping = |mails: &[String]| mails.iter().filter(|mail| mail.contains(": flapping: ")).count();
        until(REPORTED, "the mail that it flaps", || Ok((flapping(&place.mails()?) == 1).then_some(())))?;
        // Its first failure may have been reported before it came back, and nothing else was.
        let mails = place.mails()?.len();
        ensure!(mails <= 2, "{:?}", place.mails()?);
        place.nothing_more_comes(CALM.saturating_sub(calm.elapsed() + Duration::from_secs(30)), 0, mails)?;
        place.wait_for_mail(mails + 1)?;
        println!("its end was reported {:?} after the last change", calm.elapsed());
        let over = place.mails()?.pop().unwrap_or_default();
        ensure!(over.contains(": over after "), "{over}");
        drop(caddy);
        Ok(())
    })
}

#[test]
fn while_it_is_quiet_nothing_is_sent_and_then_what_is_still_down() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::new(lab)?;
        let caddy = Caddy::start(&place.site.origin)?;
        place.start()?;
        place.wait_until_all_works()?;
        let quiet = |arguments: &[&str]| {
            let (code, said) = place.causeway(&place.site.origin, arguments)?;
            ensure!(code == Some(0), "{arguments:?}: {code:?} {said}");
            Ok(())
        };
        // Over before it ends: no message.
        quiet(&["quiet", "1h", "https"])?;
        drop(caddy);
        place.nothing_more_comes(Duration::from_secs(60), 0, 0)?;
        let caddy = place.new_caddy()?;
        place.wait_until_https("ok")?;
        quiet(&["quiet", "off", "https"])?;
        place.nothing_more_comes(Duration::from_secs(30), 0, 0)?;

        quiet(&["quiet", "60s"])?;
        let begun = Instant::now();
        drop(caddy);
        place.nothing_more_comes(Duration::from_secs(55).saturating_sub(begun.elapsed()), 0, 0)?;
        place.wait_for_mail(1)?;
        println!("what is still down was reported {:?} after the quiet of a minute began", begun.elapsed());
        ensure!(place.mails()?[0].contains(": still down: "), "{:?}", place.mails()?);
        let _caddy = place.new_caddy()?;
        place.wait_for_mail(2)?;
        ensure!(place.mails()?[1].contains(": over after "), "{:?}", place.mails()?);
        place.nothing_more_comes(Duration::from_secs(30), 0, 2)
    })
}
