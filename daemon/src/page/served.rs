//! The pages as they are served: made when they are requested, at most once a second.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policy::Host;
use ring::digest::{SHA256, digest};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tunnel::io::clock;
use tunnel::time::Instant;

use super::model::{Document, Seen, document};
use super::past::Past;
use super::render;
use crate::history::{self, History};
use crate::http::{Page, Pages, Requests, Status, TEXT};
use crate::rates::Rates;
use crate::status::Side;

/// How long a page is served before it is made again.
const AGE: Duration = Duration::from_secs(1);
/// It is served for at least so many times as long as it took to make it, so that no flood of
/// requests takes more than this share of a processor for that.
const SHARE: u32 = 20;
/// The most replies of the history that are taken for one page; the next page takes the rest.
const MOST_REPLIES: usize = 100;
/// The longest name of a machine that is shown.
const MOST_LETTERS: usize = 64;

/// Whom the page is about.
pub trait Source {
    /// How the daemon is now.
    fn side(&self) -> impl Future<Output = Side>;
    /// What happened.
    fn history(&self) -> History;
    /// Names besides addresses and `localhost` under which the page may be requested.
    fn hosts(&self) -> Vec<Host>;
    /// Where requests are counted.
    fn requests(&self) -> &Requests;
}

/// The status page of a daemon.
pub struct StatusPage<S> {
    source: S,
    fields: Rc<str>,
    machine: String,
    kept: Mutex<Kept>,
}

/// What is kept from one page to the next.
#[derive(Default)]
struct Kept {
    past: Past,
    rates: Rates<String>,
    made: Option<Made>,
}

struct Made {
    until: Instant,
    html: Rc<str>,
    json: Rc<str>,
}

impl<S: Source> StatusPage<S> {
    /// The page of this daemon.
    #[must_use]
    pub fn new(source: S) -> Self {
        let fields = Rc::from(fields());
        Self { source, fields, machine: machine(), kept: Mutex::default() }
    }

    /// The page as HTML and as JSON; those who ask while it is made wait for it.
    async fn made(&self) -> (Rc<str>, Rc<str>) {
        let mut kept = self.kept.lock().await;
        let begun = clock::instant();
        if let Some(made) = kept.made.as_ref().filter(|made| begun < made.until) {
            return (Rc::clone(&made.html), Rc::clone(&made.json));
        }
        let document = self.document(&mut kept).await;
        let html: Rc<str> = Rc::from(render::page(&document));
        let json: Rc<str> = Rc::from(serde_json::to_string(&document).unwrap_or_default());
        let ended = clock::instant();
        let age = AGE.max(ended.since(begun) * SHARE);
        kept.made = Some(Made { until: ended.after(age), html: Rc::clone(&html), json: Rc::clone(&json) });
        (html, json)
    }

    async fn document(&self, kept: &mut Kept) -> Document {
        read(&mut kept.past, &self.source.history()).await;
        let side = self.source.side().await;
        let now = clock::now();
        let counts = side.services.iter().map(|service| {
            let bytes = (service.bytes_in, service.bytes_out);
            (service.name.clone(), bytes)
        });
        kept.rates.handle_sample(now.instant, counts.collect());
        let has_rates = kept.rates.samples() > 1;
        let services = side.services.iter().filter(|_| has_rates);
        let rates: BTreeMap<_, _> =
            services.map(|service| (service.name.clone(), kept.rates.of(&service.name))).collect();
        let at = u64::try_from(now.wall.as_millis()).unwrap_or(u64::MAX);
        document(&side, &kept.past, Seen { at, machine: &self.machine, rates: &rates })
    }
}

/// Takes what is new of the history; reading it may wait for the disk.
async fn read(past: &mut Past, history: &History) {
    for _ in 0..MOST_REPLIES {
        let (history, query) = (history.clone(), past.query());
        let Ok(page) = spawn_blocking(move || -> history::Page { history.read(&query) }).await else {
            return;
        };
        if !past.handle_page(&page, &query) {
            return;
        }
    }
}

/// The header lines of every page: nothing but its own style and script is used, no other page may
/// read or embed it, and no cache keeps it.
fn fields() -> String {
    let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
    let (style, script) = (hash(render::style()), hash(render::script()));
    format!(
        "Content-Security-Policy: default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; \
         connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n\
         Referrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n\
         Cross-Origin-Opener-Policy: same-origin\r\n\
         X-Frame-Options: DENY\r\n\
         Cache-Control: no-store\r\n"
    )
}

/// The name of this machine.
fn machine() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().chars().take(MOST_LETTERS).collect()
}

impl<S: Source> Pages for StatusPage<S> {
    const SECTION: &'static str = "page";
    const PATHS: &'static str = "/ or /status.json";

    async fn page(&self, path: &str) -> Option<Page> {
        let (kind, body) = match path {
            "/" => ("text/html; charset=utf-8", self.made().await.0),
            "/status.json" => ("application/json", self.made().await.1),
            _ => return None,
        };
        Some(Page { status: Status::Ok, kind, fields: Rc::clone(&self.fields), body })
    }

    fn refused(&self, status: Status, text: &str) -> Page {
        Page { fields: Rc::clone(&self.fields), ..Page::new(status, TEXT, text) }
    }

    fn hosts(&self) -> Vec<Host> {
        self.source.hosts()
    }

    fn requests(&self) -> Option<&Requests> {
        Some(self.source.requests())
    }
}
