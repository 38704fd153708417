//! The status page in a real browser. `scripts/packages browser` brings it.

mod chromium;
mod pictures;

use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use daemon::history::{History, What};
use daemon::http::{self, Requests};
use daemon::page::{Source, StatusPage};
use daemon::status::{Service, Side};
use lab::{Node, Topology, scenario, until};
use policy::Host;
use serde_json::{Value, json};

use chromium::Chromium;

/// What another end may say, and more than it can: everything that would be an element or leave an
/// attribute.
const HOSTILE: &str =
    "\"'><img src=x onerror=\"document.title='seized'\"><script>document.title='seized'</script>{main}";
/// Text whose contrast to its background is below that of WCAG 2.2, success criterion 1.4.3 (AA).
const TOO_FAINT: &str = r#"(() => {
  const part = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || node.closest("svg, script, style")) continue;
    const [one, other] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) faint.push(`${node.tagName} ${node.className}: ${ratio.toFixed(2)}`);
  }
  return faint.join("; ");
})()"#;
/// What is wider than the page.
const TOO_WIDE: &str = r#"(() => {
  const wide = [...document.querySelectorAll("body *")].filter((node) =>
    !node.closest(".hidden, thead, svg") && node.getBoundingClientRect().right > innerWidth + 0.5);
  const root = document.documentElement;
  return root.scrollWidth > innerWidth ? `all: ${root.scrollWidth}` : wide.map((node) => node.outerHTML).join("\n");
})()"#;

#[test]
fn the_page_is_readable_light_and_dark_on_a_phone_and_by_the_keyboard_with_a_hundred_services() -> Result<()>
{
    with_browser(side(100, "no answer"), |browser, served| {
        let begun = Instant::now();
        browser.resize(1280, 900, 1.0)?;
        browser.open(&served.url)?;
        println!("100 services after {:?}", begun.elapsed());
        ensure!(
            browser.value("document.querySelectorAll('#ports ~ table tbody tr:not(.whys)').length")? == 100
        );
        for (scheme, back) in [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 22, 27)")] {
            browser.prefer(scheme)?;
            ensure!(browser.text("getComputedStyle(document.body).backgroundColor")? == back);
            let faint = browser.text(TOO_FAINT)?;
            ensure!(faint.is_empty(), "{scheme}: {faint}");
            for (width, scale) in [(1280, 1.0), (360, 2.0), (320, 2.0)] {
                browser.resize(width, 740, scale)?;
                let wide = browser.text(TOO_WIDE)?;
                ensure!(wide.is_empty(), "{width} pixels, {scheme}: {wide}");
            }
        }
        keyboard(browser)?;
        ensure!(browser.errors.is_empty(), "{:?}", browser.errors);
        Ok(())
    })
}

#[test]
fn without_javascript_the_page_is_complete() -> Result<()> {
    with_browser(side(3, "no answer"), |browser, served| {
        browser.call("Emulation.setScriptExecutionDisabled", json!({"value": true}))?;
        browser.open(&served.url)?;
        let text = browser.text("document.body.innerText")?;
        let parts = ["down for visitors", "Since", "Fix", "start it", "service-2", "wroclaw", "Last 30 days"];
        for part in parts.into_iter().chain(["emby.example.com", "Without JavaScript"]) {
            ensure!(text.contains(part), "no {part:?} in {text}");
        }
        ensure!(browser.value("document.querySelector('#events').open")? == false);
        Ok(())
    })
}

#[test]
fn what_a_hostile_end_says_is_text_and_a_change_is_shown_without_a_new_page() -> Result<()> {
    with_browser(hostile(), |browser, served| {
        browser.open(&served.url)?;
        let title = browser.text("document.title")?;
        ensure!(title.starts_with("Failing: "), "{title}");
        ensure!(browser.text("document.querySelector('q').textContent")? == HOSTILE);
        for _ in 0..2 {
            ensure!(
                browser.value("document.querySelectorAll('img, iframe, object, base, form').length")? == 0
            );
            ensure!(browser.value("document.querySelectorAll('script').length")? == 1);
            ensure!(browser.value("document.title === 'seized'")? == false, "a script ran");
            // Once more after the page has shown itself again.
            thread::sleep(Duration::from_secs(6));
        }

        browser.value(
            "document.querySelector('#events').open = true; document.querySelector('#events-title').focus()",
        )?;
        browser.value("window.canary = 7")?;
        served.set(side(1, "other"))?;
        until(Duration::from_secs(15), "the change", || {
            let text = browser.text("document.querySelector('main').innerText")?;
            Ok(text.contains("other").then_some(()))
        })?;
        ensure!(browser.value("window.canary")? == 7, "the page was loaded again");
        ensure!(browser.value("document.querySelector('#events').open")? == true, "the list closed");
        ensure!(browser.text("document.activeElement.id")? == "events-title");
        ensure!(browser.text("document.querySelector('#said').textContent")?.contains("down for visitors"));
        ensure!(browser.errors.is_empty(), "{:?}", browser.errors);
        Ok(())
    })
}

/// Tab reaches every link and detail, each with an outline, and Enter opens a detail.
fn keyboard(browser: &mut Chromium) -> Result<()> {
    let all = "[...document.querySelectorAll('a[href], summary')].map((node) => node.id).join(' ')";
    let all = browser.text(all)?;
    let mut reached = Vec::new();
    for _ in all.split(' ') {
        browser.press("Tab", 9)?;
        let outline = browser.text("getComputedStyle(document.activeElement).outlineStyle")?;
        let id = browser.text("document.activeElement.id")?;
        ensure!(outline == "solid", "{id} has no outline");
        if id == "events-title" {
            browser.press("Enter", 13)?;
            ensure!(browser.value("document.querySelector('#events').open")? == true, "Enter opens nothing");
        }
        reached.push(id);
    }
    ensure!(reached.join(" ") == all, "{reached:?} of {all}");
    Ok(())
}

/// A page that is served, and whose daemon can become another.
struct Served {
    url: String,
    side: Arc<Mutex<Side>>,
}

impl Served {
    fn set(&self, side: Side) -> Result<()> {
        *self.side.lock().map_err(|_| anyhow!("the page panicked"))? = side;
        Ok(())
    }
}

fn with_browser(side: Side, test: impl FnOnce(&mut Chromium, &Served) -> Result<()>) -> Result<()> {
    scenario(Topology::empty(), |lab| {
        let node = lab.add_node("browser")?;
        node.ip("link set lo up")?;
        let served = serve(&node, side)?;
        test(&mut Chromium::start(&node)?, &served)
    })
}

/// Serves the page of a daemon on a thread that ends with the test.
fn serve(node: &Node, side: Side) -> Result<Served> {
    let side = Arc::new(Mutex::new(side));
    let (ready, address) = mpsc::channel();
    let (fixed, node) = (Fixed::new(Arc::clone(&side)), node.clone());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = node.within(|| std::net::TcpListener::bind("127.0.0.1:0"))??;
            listener.set_nonblocking(true)?;
            let listener = Rc::new(tokio::net::TcpListener::from_std(listener)?);
            ready.send(listener.local_addr()?)?;
            http::serve(Rc::downgrade(&listener), Rc::new(StatusPage::new(fixed))).await;
            anyhow::Ok(())
        })
    });
    let address = address.recv_timeout(Duration::from_secs(10)).context("the page is not served")?;
    Ok(Served { url: format!("http://{address}/"), side })
}

struct Fixed {
    side: Arc<Mutex<Side>>,
    history: History,
    requests: Requests,
}

impl Fixed {
    fn new(side: Arc<Mutex<Side>>) -> Self {
        let history = History::in_memory();
        history.note(What::Started { version: "0.1.0".to_owned(), failed: None });
        history.note(What::Applied {
            how: "reload".to_owned(),
            changes: 1,
            summary: vec![HOSTILE.to_owned()],
        });
        Self { side, history, requests: Requests::default() }
    }
}

impl Source for Fixed {
    async fn side(&self) -> Side {
        self.side.lock().map(|side| side.clone()).unwrap_or_else(|error| error.into_inner().clone())
    }

    fn history(&self) -> History {
        self.history.clone()
    }

    fn hosts(&self) -> Vec<Host> {
        Vec::new()
    }

    fn requests(&self) -> &Requests {
        &self.requests
    }
}

/// A side that has HOSTILE wherever a text can be.
fn hostile() -> Side {
    let mut side = side(2, HOSTILE);
    side.problems = vec![HOSTILE.to_owned()];
    side.notes = vec![HOSTILE.to_owned()];
    for service in &mut side.services {
        for text in [&mut service.name, &mut service.from, &mut service.to] {
            text.push_str(HOSTILE);
        }
        service.names.iter_mut().for_each(|name| name.name.push_str(HOSTILE));
    }
    side.peers.iter_mut().for_each(|peer| peer.name.push_str(HOSTILE));
    side
}

/// An edge with so many services, of which the first is failing with this evidence.
fn side(services: usize, evidence: &str) -> Side {
    let service = |number: usize| -> Service {
        let failing = (number == 0).then(|| {
            json!({"hop": "upstream", "state": "failing", "seconds": 754, "reason": "refused",
                "evidence": evidence, "fix": "at wroclaw: start it"})
        });
        let name = json!({"name": "emby.example.com", "state": "ok", "seconds": 7200, "reason": null,
            "certificate_days": 9, "certificate": {"hours": 220, "lifetime": 2160}, "fix": null});
        Service {
            name: format!("service-{number}"),
            is_public: Some(true),
            from: format!("{}", 1_000 + number),
            to: format!("[fd77:88:1234:5678:9abc:def0:1234:5678]:{}", 1_000 + number),
            peers: vec!["wroclaw".to_owned()],
            state: if failing.is_some() { "failing" } else { "ok" }.to_owned(),
            seconds: Some(754),
            hops: Vec::new(),
            failing: failing.and_then(|hop| serde_json::from_value(hop).ok()),
            names: serde_json::from_value(name).into_iter().collect(),
            publish: Vec::new(),
            bytes_in: 1_234_567_890,
            bytes_out: 98_765,
        }
    };
    Side {
        role: "edge",
        version: "0.1.0".to_owned(),
        peers: serde_json::from_value(peer()).into_iter().collect(),
        services: (0..services).map(service).collect(),
        problems: vec!["the list @cloudflare is 40 days old; fetch it again".to_owned()],
        notes: vec![],
    }
}

fn peer() -> Value {
    json!({"name": "wroclaw", "interface": {"name": "gw0", "public_key": null, "listen_port": 1, "mtu": 1420},
        "public_key": "", "endpoint": null, "allowed_ips": [], "state": "up",
        "latest_handshake_age_seconds": 41.2, "latest_handshake_timestamp_seconds": 1.0,
        "persistent_keepalive_seconds": null, "rx_bytes": 1, "tx_bytes": 1, "rx_packets": 1, "tx_packets": 1,
        "rx_bytes_per_second": 1.2e6, "tx_bytes_per_second": 3.4e7, "rtt_seconds": 0.0234, "loss_ratio": 0.01,
        "probes_lost": 0, "handshakes": 1, "endpoint_changes": 0, "recoveries": [0, 0, 0]})
}
