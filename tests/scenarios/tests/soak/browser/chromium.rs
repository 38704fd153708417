//! A headless Chromium, driven by the DevTools protocol over two pipes: messages end with a zero
//! byte.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::{Node, Process, until};
use serde_json::{Value, json};

/// How long a page may take.
const LOADED: Duration = Duration::from_secs(20);

/// A browser with one page.
pub(super) struct Chromium {
    _process: Process,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    sent: u64,
    /// What the page reported as an error, refused contents included.
    pub(super) errors: Vec<String>,
}

impl Chromium {
    /// Starts it on a node.
    pub(super) fn start(node: &Node) -> Result<Self> {
        let folder = node.directory().join("chromium");
        std::fs::create_dir_all(&folder)?;
        let [to, from] = ["to", "from"].map(|name| folder.join(name));
        let paths = [&to, &from, &folder].map(|path| path.display().to_string());
        node.run(&format!("mkfifo {} {}", paths[0], paths[1]))?;
        let script = format!(
            "exec chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --no-first-run \
             --disable-background-networking --disable-component-update --disable-sync \
             --user-data-dir={}/profile --remote-debugging-pipe about:blank 3<{} 4>{}",
            paths[2], paths[0], paths[1]
        );
        let process = node.command("sh").args(["-c", &script]).env("HOME", &folder).spawn("chromium")?;
        let to = OpenOptions::new().write(true).open(to)?;
        let from = BufReader::new(File::open(from)?);
        let mut browser = Self { _process: process, to, from, session: None, sent: 0, errors: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach)?;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        browser.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true}))?;
        Ok(browser)
    }

    /// Calls a method of the protocol.
    pub(super) fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes)?;
        loop {
            let mut bytes = Vec::new();
            ensure!(self.from.read_until(0, &mut bytes)? > 0, "chromium ended");
            bytes.pop();
            let reply: Value = serde_json::from_slice(&bytes)?;
            if reply["id"] == self.sent {
                ensure!(reply["error"].is_null(), "{method}: {}", reply["error"]);
                return Ok(reply["result"].clone());
            }
            self.note(&reply);
        }
    }

    fn note(&mut self, event: &Value) {
        match event["method"].as_str() {
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => {
                self.errors.push(event["params"]["entry"]["text"].to_string());
            }
            Some("Runtime.exceptionThrown") => self.errors.push(event["params"].to_string()),
            _ => {}
        }
    }

    /// Opens a page and waits until it is there.
    pub(super) fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({"url": url}))?;
        ensure!(opened["errorText"].is_null(), "{url}: {opened}");
        until(LOADED, "the page to be loaded", || {
            let state = self.value("document.readyState + location.href")?;
            Ok((state == format!("complete{url}")).then_some(()))
        })
    }

    /// What an expression is in the page.
    pub(super) fn value(&mut self, expression: &str) -> Result<Value> {
        let what = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let got = self.call("Runtime.evaluate", what)?;
        if !got["exceptionDetails"].is_null() {
            bail!("{expression}: {}", got["exceptionDetails"]);
        }
        Ok(got["result"]["value"].clone())
    }

    /// The same, where it is a text.
    pub(super) fn text(&mut self, expression: &str) -> Result<String> {
        let value = self.value(expression)?;
        value.as_str().map(str::to_owned).with_context(|| format!("{expression} is {value}"))
    }

    /// Presses a key.
    pub(super) fn press(&mut self, key: &str, code: u32) -> Result<()> {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code,
                "text": if kind == "keyDown" { text } else { "" }});
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// Has the page as wide, on a screen with as many points for each of its pixels.
    pub(super) fn resize(&mut self, width: u32, height: u32, scale: f64) -> Result<()> {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).map(drop)
    }

    /// Has it light or dark.
    pub(super) fn prefer(&mut self, scheme: &str) -> Result<()> {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// Writes a picture of the page from its top.
    pub(super) fn picture(&mut self, file: &Path) -> Result<()> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}))?;
        let data = shot["data"].as_str().context("no picture")?;
        std::fs::write(file, STANDARD.decode(data)?).with_context(|| file.display().to_string())
    }
}
