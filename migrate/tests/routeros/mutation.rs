//! One word of one carried rule changed: the result, or what is reported of the rule, must change.

use migrate::import::{FindingKind, Import};

/// A word of a carried rule, changed.
pub(crate) struct Mutant {
    pub(crate) what: String,
    pub(crate) text: String,
}

/// An export with one command on each line.
pub(crate) fn joined(text: &str) -> String {
    text.replace("\r\n", "\n").replace("\\\n    ", "").replace("\\\n", "")
}

/// Every change of one word of the rules at `lines`, two for each condition.
pub(crate) fn mutants(text: &str, lines: &[u32]) -> Vec<Mutant> {
    let mut all = Vec::new();
    for number in lines {
        let line = text.lines().nth(usize::try_from(*number).unwrap() - 1).unwrap();
        for word in words(line).filter(|word| word.contains('=') && !word.ends_with("=\"\"")) {
            let (key, value) = word.split_once('=').unwrap();
            // What leads to the router itself is not carried, wherever it leads there.
            let to_itself = line.contains("action=redirect") && ["to-ports", "action"].contains(&key);
            for changed in changes(key, value).into_iter().filter(|_| !to_itself) {
                let changed_line = line.replacen(word, &format!("{key}={changed}"), 1);
                let lines = text.lines().enumerate();
                let text: Vec<&str> = lines
                    .map(
                        |(at, line)| {
                            if at + 1 == usize::try_from(*number).unwrap() { &*changed_line } else { line }
                        },
                    )
                    .collect();
                all.push(Mutant { what: format!("{number}: {word} → {changed}"), text: text.join("\n") });
            }
        }
    }
    all
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    })
}

/// Other values of a property; none for one that decides nothing.
fn changes(key: &str, value: &str) -> Vec<String> {
    let negated = match value.strip_prefix('!') {
        Some(rest) => rest.to_owned(),
        None => format!("!{value}"),
    };
    let bare = value.trim_start_matches('!');
    let other = match key {
        "chain" => "elsewhere".to_owned(),
        "action" => {
            return vec![
                if value == "accept" { "drop" } else { "accept" }.to_owned(),
                "unheard-of".to_owned(),
            ];
        }
        "protocol" => if bare == "tcp" { "udp" } else { "tcp" }.to_owned(),
        "dst-port" => "61234".to_owned(),
        "to-ports" => return vec!["61234".to_owned(), "1-2".to_owned()],
        "src-address" | "dst-address" if bare.contains(':') => "2001:db8:99::/48".to_owned(),
        "src-address" | "dst-address" => "198.18.7.0/24".to_owned(),
        "to-addresses" => return vec!["198.18.7.9".to_owned(), "192.168.88.200".to_owned()],
        "to-address" => return vec!["2001:db8:99::9/128".to_owned(), "fd00:88::200/128".to_owned()],
        "src-address-list" | "dst-address-list" | "in-interface-list" | "out-interface-list" => {
            "nowhere".to_owned()
        }
        "in-interface" | "out-interface" => "ether9".to_owned(),
        "connection-state" => "invalid".to_owned(),
        "connection-nat-state" => "srcnat".to_owned(),
        "dst-address-type" => "multicast".to_owned(),
        "gateway" => return vec!["ether9".to_owned(), "192.0.2.9".to_owned()],
        "jump-target" => return vec!["elsewhere".to_owned()],
        // A name, a note, or how it is shown.
        _ => return Vec::new(),
    };
    vec![other, negated]
}

/// What an import says, without the words of the rules that it repeats.
pub(crate) fn said(import: &Import) -> String {
    let mut said = format!("{}{}", import.gateway, import.forwarder);
    import.lists.iter().for_each(|list| said.push_str(&list.text));
    for finding in &import.findings {
        let text = finding.text.split(": /").next().unwrap_or_default();
        said.push_str(&format!("{:?} {:?} {text}\n", finding.at, finding.kind));
    }
    said
}

/// The lines of the edge's routes to what is public.
pub(crate) fn routes(import: &Import, text: &str) -> Vec<u32> {
    let is_public = import.findings.iter().any(|finding| finding.kind == FindingKind::Public);
    let lines = (1..).zip(text.lines());
    let routes = lines.filter(|(_, line)| {
        is_public
            && line.contains("dst-address=192.168.88.0/24 gateway=")
            && !line.contains("disabled=yes")
            && !line.contains("distance=10")
    });
    routes.map(|(number, _)| number).collect()
}

/// The lines of one file's firewall rules that are carried.
pub(crate) fn carried(import: &Import, file: &str, text: &str) -> Vec<u32> {
    let mut menu = String::new();
    let mut rules = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match line.strip_prefix('/') {
            Some(path) => menu = path.to_owned(),
            None if menu.contains("firewall") && !menu.ends_with("address-list") => rules.push(number),
            None => {}
        }
    }
    rules.retain(|line| {
        import.findings.iter().any(|finding| {
            finding.kind == FindingKind::Carried && finding.at == Some((file.to_owned(), *line))
        })
    });
    rules
}
