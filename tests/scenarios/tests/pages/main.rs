//! Failures and their pages: the pack's own rules and Alertmanager's file on a pair that really
//! runs, and a receiver outside both sites that counts what it is sent. Each failure is one page,
//! and it says what failed.
//!
//! In `make test` the rules' waits are shortened and everything is asked every second; `make soak`
//! runs the files as they are. A collector of VictoriaMetrics replaces Alloy, and the receiver
//! replaces the service that hears the watchdogs.

#![allow(clippy::print_stdout, clippy::indexing_slicing)] // Figures are printed; a JSON value has an answer to any index.

mod receiver;
mod watch;

use std::io::{BufRead as _, BufReader, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, scenario, until};
use receiver::{Page, Receiver};
use scenarios::Site;
use watch::{Job, Pace, Watch, page, probe};

/// As wroclaw.alloy.tmpl has it; the published port 5001 is the service's public name.
const WROCLAW: [Job; 6] = [
    page("alloy", "127.0.0.1:8428", "component: alloy"),
    page("forwarder", "127.0.0.1:9587", "component: forwarder"),
    probe("emby_inside", "http", "http://127.0.0.1:5001/", "service: emby"),
    probe("emby", "http", "http://192.0.2.2:5001/", "component: caddy, service: emby, through: kyiv"),
    probe("kyiv_outside", "echo", "192.0.2.2", "location: kyiv, sign: outside"),
    probe("line", "echo", "203.0.113.10", "sign: line"),
];

/// As kyiv.alloy.tmpl has it: what goes to the store in Wrocław.
const KYIV: [Job; 3] = [
    page("alloy", "127.0.0.1:8429", "component: alloy"),
    page("gateway", "127.0.0.1:9586", "component: gateway"),
    probe("nfs", "tcp", "127.0.0.1:2049", "component: nfs"),
];

/// What goes to Kyiv's own watch.
const KYIVS_WATCH: [Job; 2] = [
    page("gateway", "127.0.0.1:9586", "component: gateway"),
    probe(
        "watchdog_of_wroclaw",
        "says_up",
        "http://203.0.113.10:8080/status/wroclaw",
        "location: wroclaw, sign: watchdog",
    ),
];

#[test]
fn a_dead_service_is_one_page() -> Result<()> {
    watched("for: 4s", |sites| {
        sites.service = None;
        let page = sites.one_page("/page/wroclaw", "emby at wroclaw is down")?;
        // The edge reports the entry that leads there, as a ticket.
        sites.nothing_more_comes("wroclaw", &["PublishedServiceFailing", "ServiceDown"], &page)
    })
}

#[test]
fn a_lost_tunnel_between_two_living_sites_is_one_page_that_says_so() -> Result<()> {
    // A service may fail for longer than the 15 seconds in which no end knows yet.
    watched("for: 25s", |sites| {
        sites.lab.node("inet")?.nft(
            "table ip cut { chain forward { type filter hook forward priority 0;
               udp dport 51820 drop; udp sport 51820 drop; }
             }",
        )?;
        let page = sites.one_page("/page/wroclaw", "no tunnel to kyiv")?;
        sites.nothing_more_comes("wroclaw", &["TunnelDown"], &page)?;
        // Kyiv lives, has lost the tunnel as well, and leaves it to Wrocław, whose watchdog it
        // hears of.
        sites.only_has("kyiv", &["Watchdog"])?;
        if lab::full_counts() {
            // What Kyiv's collector kept meanwhile arrives late, and begins no other page.
            sites.lab.node("inet")?.nft("delete table ip cut")?;
            sites.only_has("wroclaw", &["Watchdog"])?;
            sites.all_is_well(1)?;
        }
        Ok(())
    })
}

#[test]
fn a_dead_far_site_is_one_page() -> Result<()> {
    watched("for: 25s", |sites| {
        sites.kyiv = None;
        sites.site.gateway()?.kill()?;
        sites.lab.node("inet")?.ip("link set edge0 down")?;
        let page = sites
            .one_page("/page/wroclaw", "kyiv is down: no tunnel, and its public address does not answer")?;
        sites.nothing_more_comes("wroclaw", &["LocationDown"], &page)
    })
}

#[test]
fn a_dead_site_with_the_stores_is_one_page_of_the_other_sites_own_watch() -> Result<()> {
    watched("for: 25s", |sites| {
        sites.wroclaw = None;
        sites.site.forwarder()?.kill()?;
        sites.lab.node("cgnat")?.ip("link set lan0 down")?;
        let page =
            sites.one_page("/page/kyiv", "wroclaw is down: no tunnel, and its watchdog has stopped")?;
        sites.nothing_more_comes("kyiv", &["LocationDown"], &page)
    })
}

/// Both sites, each with what watches there, and the receiver outside.
struct Sites<'lab> {
    lab: &'lab Lab,
    site: Site<'lab>,
    receiver: Receiver,
    wroclaw: Option<Watch>,
    kyiv: Option<Watch>,
    service: Option<TcpServer>,
    /// What the other published service leads to.
    _other: TcpServer,
    failed: Instant,
    pace: Pace,
}

/// Runs a failure on a pair where everything works and nothing was reported.
fn watched(services: &'static str, failure: impl Fn(&mut Sites<'_>) -> Result<()>) -> Result<()> {
    let pace = if lab::full_counts() { Pace::Full } else { Pace::Short { services } };
    scenario(Topology::standard(), |lab| {
        let started = Instant::now();
        let mut sites = Sites::start(lab, pace)?;
        sites.all_is_well(0)?;
        println!("all is well after {:.0} s", started.elapsed().as_secs_f64());
        sites.failed = Instant::now();
        failure(&mut sites)
    })
}

impl<'lab> Sites<'lab> {
    fn start(lab: &'lab Lab, pace: Pace) -> Result<Self> {
        let timeout = Duration::from_secs(if lab::full_counts() { 600 } else { 8 });
        let receiver = Receiver::start(&lab.node("client")?, timeout)?;
        let mut site = Site::new(lab)?;
        let service = serve_page(&site.origin, "127.0.0.1:5001")?;
        let other = TcpServer::start(site.origin.tcp_listener("127.0.0.1:8443")?, lab::echo)?;
        let disk = TcpServer::start(site.edge.tcp_listener("127.0.0.1:2049")?, lab::echo)?;
        site.start()?;
        let wroclaw = Watch::start(&site.origin, "wroclaw", "rules/causeway.yml", &WROCLAW, pace)?;
        let mut kyiv = Watch::start(&site.edge, "kyiv", "watch/kyiv.yml", &KYIVS_WATCH, pace)?;
        kyiv.push(&KYIV, pace)?;
        kyiv.hold(disk);
        let (wroclaw, kyiv, service) = (Some(wroclaw), Some(kyiv), Some(service));
        Ok(Self { lab, site, receiver, wroclaw, kyiv, service, _other: other, failed: Instant::now(), pace })
    }

    fn watch(&self, site: &str) -> Result<&Watch> {
        let watch = if site == "kyiv" { &self.kyiv } else { &self.wroclaw };
        watch.as_ref().with_context(|| format!("{site} is down"))
    }

    /// Every page of metrics and every probe has arrived where its rules are, and all say that it
    /// works; so many messages were sent.
    fn all_is_well(&self, sent: usize) -> Result<()> {
        let signs = [
            ("wroclaw", "up == 1", WROCLAW.len() + KYIV.len()),
            ("wroclaw", "probe_success == 1", 5),
            ("wroclaw", "forwarder_peer_up == 1", 1),
            ("kyiv", "gateway_peer_up == 1", 1),
            ("kyiv", "probe_success == 1", 1),
        ];
        for (site, expression, rows) in signs {
            until(Duration::from_secs(300), &format!("{rows} × {expression} at {site}"), || {
                let found = self.watch(site)?.rows(expression)?;
                ensure!(found == rows, "{found}");
                Ok(Some(()))
            })?;
        }
        for site in ["wroclaw", "kyiv"] {
            self.only_has(site, &["Watchdog"])?;
            until(Duration::from_secs(180), &format!("the watchdog of {site}"), || {
                ensure!(self.receiver.watchdogs(site) > 0, "the watchdog was not heard");
                ensure!(self.watch(site)?.all_run(), "a program has ended");
                Ok(Some(()))
            })?;
        }
        ensure!(self.receiver.pages().len() == sent, "{:?}", self.receiver.pages());
        Ok(())
    }

    /// Waits for a page; it must come from this side and say this.
    fn one_page(&self, path: &str, summary: &str) -> Result<String> {
        let limit = Duration::from_secs(if lab::full_counts() { 1500 } else { 60 });
        let page = self.receiver.first_page(limit).with_context(|| {
            let alerts = ["wroclaw", "kyiv"].map(|site| self.watch(site).and_then(Watch::alerts).ok());
            format!("alerts at wroclaw and kyiv: {alerts:?}")
        })?;
        let seconds = (page.at - self.failed).as_secs_f64();
        println!("{seconds:.0} s after the failure: {} {:?}", page.path, page.summaries);
        ensure!(page.path == path, "{page:?}");
        let [only] = page.summaries.as_slice() else { anyhow::bail!("{page:?}") };
        ensure!(only.starts_with(summary), "{page:?}");
        Ok(only.clone())
    }

    /// Waits until a site's rules have these alerts and no other, not even one that is waiting.
    fn only_has(&self, site: &str, alerts: &[&str]) -> Result<()> {
        until(Duration::from_secs(300), &format!("only {alerts:?} at {site}"), || {
            let found = self.watch(site)?.alerts()?;
            ensure!(found.iter().eq(alerts), "{found:?}");
            Ok(Some(()))
        })
    }

    /// No other alert is waiting, and no other message comes while what sends them goes on working.
    fn nothing_more_comes(&self, site: &str, alerts: &[&str], page: &str) -> Result<()> {
        self.only_has(site, &[alerts, &["Watchdog"]].concat())?;
        let more = if matches!(self.pace, Pace::Full) { 1 } else { 2 };
        let heard = self.receiver.watchdogs(site) + more;
        until(Duration::from_secs(600), "the watchdog to be heard again", || {
            Ok((self.receiver.watchdogs(site) >= heard).then_some(()))
        })?;
        let (tickets, pages): (Vec<_>, Vec<_>) = self.receiver.pages().into_iter().partition(Page::is_ticket);
        ensure!(pages.len() == 1 && tickets.len() < alerts.len(), "{pages:?} {tickets:?}");
        println!("and nothing else: 1 page, {page:?}");
        Ok(())
    }
}

/// A service with one page.
fn serve_page(node: &Node, address: &str) -> Result<TcpServer> {
    TcpServer::start(node.tcp_listener(address)?, |mut stream| {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n")
    })
}
