//! The text of the configuration that is proposed: every value with why it is so.

use std::fmt::Write as _;

use policy::Host;

use super::machine::{Listening, Machine};
use super::proposal::{METRICS, Settings};

/// The most characters of a line.
const WIDTH: usize = 100;
/// Where the key is, from the configuration's folder.
pub(super) const KEY: &str = "keys/gateway.key";

/// The whole text.
pub(super) fn of(machine: &Machine, settings: &Settings) -> String {
    let mut text = String::new();
    comment(
        &mut text,
        "Causeway's edge, proposed by `causeway setup` for this machine. The example gateway.toml of Causeway \
         explains every key. After a change: `gatewayctl plan FILE` shows what it does, `gatewayctl reload` \
         puts it in force.",
    );
    interface(&mut text, settings);
    wan(&mut text, settings);
    lan(&mut text, machine, settings);
    metrics(&mut text, settings);
    page(&mut text);
    text.push('\n');
    comment(
        &mut text,
        "`causeway pair NAME` adds the other machine here, as a [[peer]]. What it may publish by itself is in \
         `may_publish`; a [[publish]] or an [[allow]] of this file opens more.",
    );
    text
}

fn interface(text: &mut String, settings: &Settings) {
    text.push_str("\n[interface]\n");
    comment(
        text,
        "This edge in the tunnel. Nothing else on this machine uses the network; `causeway pair` gives each \
         machine an address of it.",
    );
    let _ = writeln!(text, "address = {}", array(&settings.address));
    comment(text, "WireGuard's UDP port.");
    let _ = writeln!(text, "listen_port = {}", settings.listen_port);
    comment(text, "Made by `causeway setup` on this machine, which it never leaves.");
    let _ = writeln!(text, "private_key_file = \"{KEY}\"");
}

fn wan(text: &mut String, settings: &Settings) {
    text.push_str("\n[wan]\n");
    match &settings.name {
        Some(name) => {
            let what = match name {
                Host::Name(_) => "The public name of this edge: its DNS record leads here, past any proxy.",
                Host::Address(_) => "The public address of this edge; a name is better, as it can move.",
            };
            comment(text, &format!("{what} `causeway pair` puts it into its codes."));
            let _ = writeln!(text, "name = \"{name}\"");
        }
        None => {
            comment(
                text,
                "The public name of this edge, by which the other machine finds it; `causeway pair` needs it.",
            );
            text.push_str("# name = \"edge.example.com\"\n");
        }
    }
    let purpose = if settings.accept.is_empty() { "None is open" } else { "Those by which you reach it" };
    comment(
        text,
        &format!(
            "Ports of this machine itself that the internet may open. {purpose}; all others are closed."
        ),
    );
    let _ = writeln!(text, "accept = {}", array(&settings.accept));
    if !settings.closed.is_empty() {
        let closed: Vec<String> = settings.closed.iter().map(described).collect();
        comment(
            text,
            &format!("Programs wait on these ports, which are closed by that: {}.", closed.join(", ")),
        );
    }
}

fn lan(text: &mut String, machine: &Machine, settings: &Settings) {
    let lan = &settings.lan;
    text.push_str("\n[lan]\n");
    if lan.prefixes.is_empty() {
        comment(
            text,
            "No local network: every host but peers and containers comes from the internet. One is named so: \
             prefixes = [\"192.168.1.0/24\"].",
        );
        text.push_str("prefixes = []\n");
        return;
    }
    let by = lan.interfaces.join(" and ");
    comment(
        text,
        &format!(
            "The local network, by {by}. Its hosts may open the ports of this machine; leave out what others share."
        ),
    );
    let _ = writeln!(text, "prefixes = {}", array(&lan.prefixes));
    if !lan.named.is_empty() {
        let router = machine.uplink(false).and_then(|uplink| uplink.next_hop);
        let router = router.map_or_else(|| "the router".to_owned(), |router| format!("the router {router}"));
        comment(
            text,
            &format!(
                "{by} leads to the internet as well, so it has to be named: what {router} sends is from the internet."
            ),
        );
        let _ = writeln!(text, "interfaces = {}", array(&lan.named));
    }
}

fn metrics(text: &mut String, settings: &Settings) {
    text.push_str("\n[metrics]\n");
    if settings.has_metrics {
        comment(text, "The page for Prometheus, on this machine alone.");
        let _ = writeln!(text, "listen = [\"127.0.0.1:{METRICS}\"]");
    } else {
        comment(
            text,
            &format!(
                "The page for Prometheus. Another program has its usual port {METRICS}; choose one: listen = \
                 [\"127.0.0.1:{}\"].",
                METRICS + 2
            ),
        );
    }
}

fn page(text: &mut String) {
    text.push('\n');
    comment(
        text,
        "The status page for people, at http://127.0.0.1:9590/: what is down for visitors, since when, and how to \
         fix it. Every user of this machine may then read it. To have it, remove the # from the next line, and run \
         `gatewayctl reload`.",
    );
    text.push_str("# [page]\n");
}

/// A port with its program, such as `tcp/111 (rpcbind)`.
pub(super) fn described(found: &Listening) -> String {
    let port = format!("{}/{}", found.socket.protocol, found.socket.port);
    match found.program.as_deref().map(printable).filter(|name| !name.is_empty()) {
        Some(program) => format!("{port} ({program})"),
        None => port,
    }
}

/// What of a program's name can be in a comment: programs name themselves as they like.
fn printable(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.:".contains(*c)).take(32).collect()
}

/// An array of values that print without a quotation mark or a backslash.
fn array<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

/// Lines that begin with `#`, as full as they may be.
fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
