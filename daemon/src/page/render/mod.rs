//! The page as HTML: complete without a script. Every text is escaped, whoever wrote it.

use std::fmt::Write as _;

use super::model::{Document, Headline, Name, Port, Tunnel};
use super::past::{Day, Event};
use super::time::{for_people, moment};
use crate::text::{bytes, period, rate};

/// The page, with places for what is shown.
const PAGE: &str = include_str!("../page.html");

/// The text between two marks of the page, for its hash.
fn between(begin: &str, end: &str) -> &'static str {
    let from = PAGE.find(begin).map_or(0, |at| at + begin.len());
    let rest = PAGE.get(from..).unwrap_or_default();
    rest.split(end).next().unwrap_or_default()
}

/// The style of the page.
#[must_use]
pub fn style() -> &'static str {
    between("<style>", "</style>")
}

/// The script of the page.
#[must_use]
pub fn script() -> &'static str {
    between("<script>", "</script>")
}

/// The whole page.
#[must_use]
pub fn page(document: &Document) -> String {
    let values = [
        ("title", title(document)),
        ("role", escaped(document.role)),
        ("machine", escaped(&document.machine)),
        ("main", main(document)),
        ("version", escaped(&document.version)),
    ];
    // One pass, so that a value is never searched for places.
    let mut page = String::with_capacity(PAGE.len() + 16_384);
    let mut rest = PAGE;
    for (place, value) in values {
        let Some((before, after)) = rest.split_once(&format!("{{{place}}}")) else { continue };
        page.push_str(before);
        page.push_str(&value);
        rest = after;
    }
    page + rest
}

fn title(document: &Document) -> String {
    let Document { state, role, headline, .. } = document;
    let state = if *state == "ok" { "OK" } else { "Failing" };
    format!("{state}: {} – Causeway {role}", escaped(&headline.what))
}

fn main(document: &Document) -> String {
    let mut html = String::new();
    first(&mut html, document);
    names(&mut html, &document.names);
    certificates(&mut html, document);
    ports(&mut html, &document.services);
    tunnels(&mut html, &document.peers);
    days(&mut html, &document.days);
    lines(&mut html, ("problems", "Problems"), &document.problems);
    lines(&mut html, ("notes", "Notes"), &document.notes);
    events(&mut html, &document.events);
    html
}

/// What is most important.
fn first(html: &mut String, document: &Document) {
    let Document { headline, state, at, .. } = document;
    add(html, &format!("<section class=\"first {state}\" aria-labelledby=\"what\">\n<p>"));
    add(html, &mark(state, if *state == "ok" { "Works" } else { "Failing" }));
    add(html, &format!(" <span class=\"soft\">at {}</span></p>\n", time(*at)));
    add(html, &format!("<h1 id=\"what\">{}</h1>\n", escaped(&headline.what)));
    let facts = facts(headline);
    if !facts.is_empty() {
        add(html, "<dl>\n");
        facts.iter().for_each(|fact| add(html, fact));
        add(html, "</dl>\n");
    }
    add(html, "</section>\n");
}

fn facts(headline: &Headline) -> Vec<String> {
    let mut facts = Vec::new();
    let mut fact = |term: &str, class: &str, text: String| {
        facts.push(format!("<dt>{term}</dt><dd{class}>{text}</dd>\n"));
    };
    if let (Some(since), Some(seconds)) = (headline.since, headline.seconds) {
        fact("Since", "", format!("{}, for {}", time(since), period(seconds)));
    }
    let cause = [headline.place.clone(), headline.reason.as_deref().map(words)];
    let cause: Vec<String> = cause.iter().flatten().map(|text| escaped(text)).collect();
    if !cause.is_empty() {
        fact("Cause", "", cause.join(": "));
    }
    if let Some(evidence) = &headline.evidence {
        fact("Seen", "", quoted(evidence));
    }
    if let Some(before) = &headline.before {
        fact("Before", "", format!("{}: {}", time(before.at), escaped(&before.text)));
    }
    if let Some(fix) = &headline.fix {
        fact("Fix", " class=\"fix\"", with_code(fix));
    }
    if headline.more > 0 {
        fact("More", "", format!("{} below", headline.more));
    }
    facts
}

/// One word of a report as words.
fn words(label: &str) -> String {
    label.replace('_', " ")
}

fn names(html: &mut String, names: &[Name]) {
    if names.is_empty() {
        return;
    }
    begin_table(html, ("names", "Names"), &["Name", "State", "For", "From the internet", "Certificate"]);
    for name in names {
        let why = why(name.reason.as_deref().filter(|_| name.state == "failing"), None, name.fix.as_deref());
        let path = name.path.as_deref().map_or_else(|| "not probed".to_owned(), words);
        let cells = [
            ("Name", escaped(&name.name)),
            ("State", mark(name.state, name.state)),
            ("For", since(name.seconds)),
            ("From the internet", escaped(&path)),
            ("Certificate", certificate(name.certificate_days)),
        ];
        row(html, &cells, why);
    }
    add(html, "</tbody>\n</table>\n</section>\n");
}

fn since(seconds: Option<u64>) -> String {
    seconds.map_or_else(dash, largest)
}

/// A length of time in its largest unit.
fn largest(seconds: u64) -> String {
    period(seconds).split(", ").next().unwrap_or_default().to_owned()
}

fn dash() -> String {
    "<span class=\"soft\">–</span>".to_owned()
}

fn certificate(days: Option<i32>) -> String {
    match days {
        None => dash(),
        Some(days @ ..0) => format!("expired {} ago", of_days(-days)),
        Some(0) => "less than 1 day".to_owned(),
        Some(days) => of_days(days),
    }
}

fn of_days(days: i32) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

fn certificates(html: &mut String, document: &Document) {
    if document.certificates.is_empty() {
        return;
    }
    let line = |certificate: &super::model::Certificate| {
        let state = if certificate.days < 0 { "failing" } else { "unknown" };
        let word = if certificate.days < 0 { "expired" } else { "expires soon" };
        let (name, text) = (escaped(&certificate.name), escaped(&certificate.text));
        format!("<li>{} {name}: {text}</li>\n", mark(state, word))
    };
    let items: String = document.certificates.iter().map(line).collect();
    let list = format!("<ul class=\"plain\">\n{items}</ul>\n");
    section(html, ("certificates", "Certificates that expire soon"), &list);
}

fn ports(html: &mut String, services: &[Port]) {
    if services.is_empty() {
        return;
    }
    begin_table(html, ("ports", "Ports"), &["Service", "State", "Opens", "Leads to", "In / out"]);
    for service in services {
        let reason = service.hop.as_deref().map(|hop| match &service.reason {
            Some(reason) => format!("{}: {}", words(hop), words(reason)),
            None => words(hop),
        });
        let mut why = why(reason.as_deref(), service.evidence.as_deref(), service.fix.as_deref());
        for port in &service.publish {
            let line = escaped(&port.line());
            why.get_or_insert_default().push_str(&format!("<div>{line}</div>"));
        }
        let private =
            if service.is_public == Some(false) { " <span class=\"soft\">private</span>" } else { "" };
        let cells = [
            ("Service", escaped(&service.name) + private),
            ("State", mark(service.state, service.state)),
            ("Opens", listed(&service.from)),
            ("Leads to", listed(&service.to)),
            ("In / out", carried(service)),
        ];
        row(html, &cells, why);
    }
    add(html, "</tbody>\n</table>\n</section>\n");
}

/// A list of a report, whose lines may break after a comma.
fn listed(text: &str) -> String {
    escaped(&text.replace(',', ", "))
}

fn carried(service: &Port) -> String {
    let text = match service.bytes_per_second {
        Some((into, out)) => format!("{}/s / {}/s", rate(into), rate(out)),
        None => format!("{} / {}", bytes(service.bytes_in), bytes(service.bytes_out)),
    };
    format!("<span class=\"number\">{}</span>", escaped(&text))
}

fn tunnels(html: &mut String, peers: &[Tunnel]) {
    if peers.is_empty() {
        return;
    }
    let header = ["Peer", "Tunnel", "Link", "Round trip", "Loss", "In / out"];
    begin_table(html, ("tunnels", "Tunnels"), &header);
    for peer in peers {
        let state = match peer.state.as_str() {
            "up" => "ok",
            "stale" | "down" => "failing",
            _ => "unknown",
        };
        let version = peer.version.as_ref().map(|version| format!(" ({})", escaped(version)));
        let link = peer.link.map_or_else(dash, |link| format!("{link}{}", version.unwrap_or_default()));
        let rates = format!("{}/s / {}/s", rate(peer.rx_bytes_per_second), rate(peer.tx_bytes_per_second));
        let cells = [
            ("Peer", escaped(&peer.name)),
            ("Tunnel", mark(state, &escaped(&peer.state))),
            ("Link", link),
            ("Round trip", peer.round_trip_ms.map_or_else(dash, |ms| format!("{ms:.1} ms"))),
            ("Loss", peer.loss.map_or_else(dash, |loss| format!("{:.0} %", loss * 100.0))),
            ("In / out", format!("<span class=\"number\">{}</span>", escaped(&rates))),
        ];
        row(html, &cells, None);
    }
    add(html, "</tbody>\n</table>\n</section>\n");
}

/// The strip: a bar for each day, whose height shows the state as well as its colour does.
fn days(html: &mut String, days: &[Day]) {
    let title = ("days", "Last 30 days");
    if days.is_empty() {
        return section(html, title, "<p class=\"soft\">No history yet.</p>\n");
    }
    let text = in_words(days);
    let mut bars = String::new();
    for (place, day) in days.iter().enumerate() {
        let (y, height) = match day.state {
            "failing" => (0, 32),
            "ok" => (14, 18),
            _ => (28, 4),
        };
        let label = day_text(day);
        let (x, state) = (place * 20, day.state);
        // Writing to a String cannot fail.
        let _ = writeln!(
            bars,
            "<rect class=\"{state}\" x=\"{x}\" y=\"{y}\" width=\"16\" height=\"{height}\" rx=\"2\"><title>{label}</title></rect>"
        );
    }
    let width = days.len() * 20 - 4;
    let ends = [days.first(), days.last()].map(|day| day.map(|day| day.date.as_str()).unwrap_or_default());
    section(
        html,
        title,
        &format!(
            "<svg class=\"strip\" viewBox=\"0 0 {width} 32\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{text}\">\n{bars}</svg>\n<p class=\"ends\" aria-hidden=\"true\"><span>{}</span>\
             <span>{} (UTC)</span></p>\n<p>{text}</p>\n",
            ends[0], ends[1]
        ),
    );
}

fn day_text(day: &Day) -> String {
    match day.state {
        "failing" => format!("{}: failing for {}", day.date, period(day.failing_seconds)),
        "ok" => format!("{}: nothing was failing", day.date),
        _ => format!("{}: not recorded", day.date),
    }
}

/// The strip in words.
fn in_words(days: &[Day]) -> String {
    let count = |state| days.iter().filter(|day| day.state == state).count();
    let of = |count: usize| if count == 1 { "1 day".to_owned() } else { format!("{count} days") };
    let mut words = vec![format!("{} without an outage", of(count("ok")))];
    let failing = days.iter().rev().filter(|day| day.state == "failing");
    let failing: Vec<String> =
        failing.map(|day| format!("{} for {}", day.date, period(day.failing_seconds))).collect();
    if !failing.is_empty() {
        let more = if failing.len() > 5 { ", …" } else { "" };
        let listed = failing.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ");
        words.push(format!("{} with one: {listed}{more}", of(failing.len())));
    }
    if count("unknown") > 0 {
        words.push(format!("{} not recorded", of(count("unknown"))));
    }
    words.join(". ") + "."
}

fn lines(html: &mut String, title: (&str, &str), lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let items: String = lines.iter().map(|line| format!("<li>{}</li>\n", with_code(line))).collect();
    section(html, title, &format!("<ul>\n{items}</ul>\n"));
}

fn events(html: &mut String, events: &[Event]) {
    if events.is_empty() {
        return;
    }
    add(html, "<details id=\"events\">\n<summary id=\"events-title\">What happened last</summary>\n<ul>\n");
    for event in events {
        add(html, &format!("<li>{}: {}</li>\n", time(event.at), escaped(&event.text)));
    }
    add(html, "</ul>\n</details>\n");
}

fn section(html: &mut String, (id, title): (&str, &str), body: &str) {
    add(
        html,
        &format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n{body}</section>\n"),
    );
}

/// The roles are those that the elements have; on a narrow screen the style would take them away.
fn begin_table(html: &mut String, (id, title): (&str, &str), header: &[&str]) {
    add(html, &format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n"));
    add(html, "<table role=\"table\">\n<thead role=\"rowgroup\"><tr role=\"row\">");
    for cell in header {
        add(html, &format!("<th role=\"columnheader\" scope=\"col\">{cell}</th>"));
    }
    add(html, "</tr></thead>\n<tbody role=\"rowgroup\">\n");
}

/// A row, with a line below it about why it is as it is.
fn row(html: &mut String, cells: &[(&str, String)], why: Option<String>) {
    let class = if why.is_some() { " class=\"has-why\"" } else { "" };
    add(html, &format!("<tr role=\"row\"{class}>"));
    for (place, (label, cell)) in cells.iter().enumerate() {
        // The first one needs no label: it is the name of the row.
        let label = if place == 0 { String::new() } else { format!(" data-label=\"{label}\"") };
        add(html, &format!("<td role=\"cell\"{label}>{cell}</td>"));
    }
    add(html, "</tr>\n");
    if let Some(why) = why {
        let span = cells.len();
        add(
            html,
            &format!(
                "<tr role=\"row\" class=\"whys\"><td role=\"cell\" class=\"why\" colspan=\"{span}\">{why}</td></tr>\n"
            ),
        );
    }
}

fn why(reason: Option<&str>, evidence: Option<&str>, fix: Option<&str>) -> Option<String> {
    let mut parts: Vec<String> = reason.map(|reason| escaped(&words(reason))).into_iter().collect();
    parts.extend(evidence.map(quoted));
    parts.extend(fix.map(|fix| format!("Fix: {}", with_code(fix))));
    (!parts.is_empty()).then(|| parts.iter().map(|part| format!("<div>{part}</div>")).collect())
}

/// A symbol with a word, so that colour is never the only sign.
fn mark(state: &str, word: &str) -> String {
    format!(
        "<span class=\"state {state}\"><svg class=\"mark\" aria-hidden=\"true\" focusable=\"false\"><use href=\"#{state}\"/></svg>{word}</span>"
    )
}

fn time(at: u64) -> String {
    format!("<time datetime=\"{}\">{}</time>", moment(at), for_people(at))
}

fn quoted(text: &str) -> String {
    format!("<q>{}</q>", escaped(text))
}

/// A text of this machine's own, in which commands and keys are between backticks.
fn with_code(text: &str) -> String {
    let escaped = escaped(text);
    let parts: Vec<&str> = escaped.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escaped;
    }
    let part = |(place, part): (usize, &&str)| match place % 2 {
        0 => (*part).to_owned(),
        _ => format!("<code>{part}</code>"),
    };
    parts.iter().enumerate().map(part).collect()
}

fn add(html: &mut String, text: &str) {
    html.push_str(text);
}

/// A text that is nothing but text in an element and in a quoted attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Neither control characters nor what turns the direction of text around.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
