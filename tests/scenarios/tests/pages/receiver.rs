//! What is outside both sites: who is paged, and the service that hears each site's watchdog and
//! shows "up" or "down".

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::{Node, TcpServer, until};
use serde_json::Value;

/// Where it listens.
pub(crate) const ADDRESS: &str = "203.0.113.10:8080";

/// One message of an Alertmanager that says that something is wrong.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// When it came.
    pub(crate) at: Instant,
    /// `page/SITE`, and `?ticket=1` for what need not wake a person.
    pub(crate) path: String,
    /// The summary of each alert in it.
    pub(crate) summaries: Vec<String>,
}

impl Page {
    /// Whether it need not wake a person.
    pub(crate) fn is_ticket(&self) -> bool {
        self.path.contains("?ticket")
    }
}

#[derive(Debug, Default)]
struct Heard {
    pages: Vec<Page>,
    watchdogs: BTreeMap<String, (Instant, u64)>,
}

/// The receiver; it ends with this value.
#[derive(Debug)]
pub(crate) struct Receiver {
    heard: Arc<Mutex<Heard>>,
    _server: TcpServer,
}

impl Receiver {
    /// Starts it; a site's watchdog that was not heard for `timeout` is "down".
    pub(crate) fn start(node: &Node, timeout: Duration) -> Result<Self> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let own = Arc::clone(&heard);
        let server = TcpServer::start(node.tcp_listener(ADDRESS)?, move |mut stream| {
            let (path, body) = request(&mut stream)?;
            let answer = own.lock().unwrap_or_else(PoisonError::into_inner).answer(&path, &body, timeout);
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
            stream.write_all(format!("{head} {}\r\n\r\n{answer}", answer.len()).as_bytes())
        })?;
        Ok(Self { heard, _server: server })
    }

    /// Every message so far.
    pub(crate) fn pages(&self) -> Vec<Page> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).pages.clone()
    }

    /// Waits for the first message that wakes a person.
    pub(crate) fn first_page(&self, limit: Duration) -> Result<Page> {
        until(limit, "a page", || Ok(self.pages().into_iter().find(|page| !page.is_ticket())))
    }

    /// How often a site's watchdog was heard.
    pub(crate) fn watchdogs(&self, site: &str) -> u64 {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.watchdogs.get(site).map_or(0, |(_, count)| *count)
    }
}

impl Heard {
    fn answer(&mut self, path: &str, body: &str, timeout: Duration) -> String {
        let now = Instant::now();
        if let Some(site) = path.strip_prefix("/watchdog/") {
            let entry = self.watchdogs.entry(site.to_owned()).or_insert((now, 0));
            *entry = (now, entry.1 + 1);
        } else if let Some(site) = path.strip_prefix("/status/") {
            let is_up = self.watchdogs.get(site).is_some_and(|(at, _)| now - *at < timeout);
            return format!(r#"{{"status": "{}"}}"#, if is_up { "up" } else { "down" });
        } else if let Some(message) = firing(body) {
            self.pages.push(Page { at: now, path: path.to_owned(), summaries: message });
        }
        String::new()
    }
}

/// The summaries of the alerts in a message, unless it says that all is over.
fn firing(body: &str) -> Option<Vec<String>> {
    let message: Value = serde_json::from_str(body).ok()?;
    let alerts = message["alerts"].as_array()?.iter().filter(|alert| alert["status"] == "firing");
    let text = |alert: &Value| alert["annotations"]["summary"].as_str().unwrap_or_default().to_owned();
    let summaries: Vec<String> = alerts.map(text).collect();
    (message["status"] == "firing").then_some(summaries)
}

/// The path and the body of one request.
fn request(stream: &mut TcpStream) -> io::Result<(String, String)> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned())
            });
            if body.len() >= length.and_then(|n| n.parse().ok()).unwrap_or(0) {
                let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
                return Ok((path, body.to_owned()));
            }
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
}

/// The answer of a site's own program, as JSON.
pub(crate) fn ask(node: &Node, url: &str) -> Result<Value> {
    let text = node.command("curl").args(["-sS", "--fail", "--max-time", "5", "-g", url]).run()?;
    serde_json::from_str(&text).context(text)
}
