//! Every word of every rule that is carried counts: changing it changes the result or the verdict.

use super::super::hooks::shown;
use super::both::{import_pair, pairs};
use super::{files, import};
use crate::import::{Finding, FindingKind, Import, ImportError};

#[test]
fn a_changed_word_of_a_carried_rule_changes_the_result_or_the_verdict() {
    let (mut changed, mut unchanged) = (0, Vec::new());
    for (name, text) in files() {
        let Ok(before) = import(&name, &text) else { continue };
        let (tried, idle) = mutated(&before, &name, &text, &|after| import(&name, after));
        changed += tried;
        unchanged.extend(idle);
    }
    assert!(unchanged.is_empty(), "{}", unchanged.join("\n"));
    assert!(changed > 1_000, "only {changed} mutations");
}

#[test]
fn a_changed_word_of_either_of_two_files_changes_the_result_or_the_verdict() {
    let (mut changed, mut unchanged) = (0, Vec::new());
    for (_, texts) in pairs() {
        let before = import_pair(&texts).unwrap_or_else(|error| panic!("{error}"));
        for (side, end) in ["edge", "origin"].iter().enumerate() {
            let after = |text: &str| {
                let mut texts = texts.clone();
                texts[side] = text.to_owned();
                import_pair(&texts)
            };
            let (tried, idle) = mutated(&before, &format!("{end}/wg0.conf"), &texts[side], &after);
            changed += tried;
            unchanged.extend(idle);
        }
    }
    assert!(unchanged.is_empty(), "{}", unchanged.join("\n"));
    assert!(changed > 200, "only {changed} mutations");
}

/// How many changes of a word of carried rules of a file changed the import, and those that did not.
fn mutated(
    before: &Import,
    name: &str,
    text: &str,
    again: &dyn Fn(&str) -> Result<Import, ImportError>,
) -> (usize, Vec<String>) {
    let (mut changed, mut unchanged) = (0, Vec::new());
    for (command, start) in carried(before, name, text) {
        for (at, word) in words(&command) {
            for mutant in mutants(&command, at, word) {
                let after = format!("{}{mutant}{}", &text[..start + at], &text[start + at + word.len()..]);
                match again(&after) {
                    Ok(import) if seen(&import) == seen(before) => {
                        unchanged.push(format!("{name}: {word:?} as {mutant:?} in `{command}`"));
                    }
                    _ => changed += 1,
                }
            }
        }
    }
    (changed, unchanged)
}

/// What counts of an import: the files, and what became of each line.
fn seen(import: &Import) -> (String, String, Vec<String>, Vec<(u32, FindingKind)>) {
    let mut lines: Vec<(u32, FindingKind)> =
        import.findings.iter().filter_map(|finding| Some((finding.at.as_ref()?.1, finding.kind))).collect();
    lines.sort();
    let lists = import.lists.iter().map(|list| list.text.clone()).collect();
    (import.gateway.clone(), import.forwarder.clone(), lists, lines)
}

/// The commands that are carried, and where each begins.
fn carried(import: &Import, name: &str, text: &str) -> Vec<(String, usize)> {
    let mut commands = Vec::new();
    let is_of_file = |finding: &&Finding| finding.at.as_ref().is_some_and(|(file, _)| file == name);
    let carried = import.findings.iter().filter(|finding| finding.kind == FindingKind::Carried);
    for finding in carried.filter(is_of_file) {
        let line = usize::try_from(finding.at.as_ref().unwrap().1).unwrap();
        let begin: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let rest = text[begin..].lines().next().unwrap();
        let value = begin + rest.find('=').unwrap() + 1;
        let whole = &text[value..begin + rest.len()];
        // A rule of nft is shown without its command, a long one cut off.
        let said = finding.text.split('`').nth(1).unwrap().trim_end_matches('…');
        let at = whole.find(said).filter(|_| !whole.contains("nft"));
        let one = match at {
            Some(at) => (said.to_owned(), value + at),
            None => (whole.to_owned(), value),
        };
        if !commands.contains(&one) {
            commands.push(one);
        }
    }
    assert!(shown("x") == "x");
    commands
}

/// Words with their offsets.
fn words(command: &str) -> Vec<(usize, &str)> {
    let start = command.as_ptr() as usize;
    command.split_whitespace().map(|word| (word.as_ptr() as usize - start, word)).collect()
}

/// Other words in the place of one; none for a word that decides nothing.
fn mutants(command: &str, at: usize, word: &str) -> Vec<String> {
    let before = command[..at].split_whitespace().next_back().unwrap_or_default();
    // Names of tables and chains, and what is the default; of a range, ports that are not asked for.
    let is_name = command.contains("nft")
        && (matches!(word, "to" | "inet" | "edge" | "fwd" | "pre" | "-100;" | "add")
            || (word == "ip" && matches!(before, "dnat" | "rule" | "'table")));
    let is_wider = before == "--to-destination" && word.contains('-');
    // What a comment says, how long to wait, and where a lone rule is inserted.
    let is_comment = command[..at].contains("comment") && !word.starts_with('-') && before != "-m";
    let is_neutral = is_name
        || (is_comment && (before == "--comment" || word.ends_with('"')))
        || matches!(before, "-w" | "PREROUTING") && word.parse::<u32>().is_ok()
        || matches!(word, "policy" | "counter" | ";" | "}" | "{" | "\\" | "type" | "filter" | "chain");
    if is_neutral {
        return Vec::new();
    }
    let mut mutants = vec!["xyzzy".to_owned()];
    let swapped = [
        ("tcp", "udp"),
        ("udp", "tcp"),
        ("ACCEPT", "DROP"),
        ("DROP", "ACCEPT"),
        ("accept", "drop"),
        ("eth0", "eth7"),
        ("\"eth0\"", "\"eth7\""),
        ("%i", "wg9"),
        ("NEW", "INVALID"),
        ("ESTABLISHED,RELATED", "INVALID"),
        ("DNAT", "REDIRECT"),
        ("PREROUTING", "OUTPUT"),
        ("FORWARD", "INPUT"),
        ("nat", "mangle"),
        ("raw", "filter"),
        ("saddr", "daddr"),
        ("-i", "-o"),
        ("-s", "-d"),
        ("--dport", "--sport"),
        ("!=", "=="),
    ];
    // `-m tcp` loads what `-p` means already.
    let is_match = matches!(before, "-m" | "--match");
    mutants.extend(
        swapped.iter().filter(|(from, _)| *from == word && !is_match).map(|(_, to)| (*to).to_owned()),
    );
    mutants.extend(bumped(word).filter(|_| !is_wider));
    if !matches!(word, "-w" | "sudo" | "--syn" | "-ieth0") {
        mutants.push(String::new());
    }
    mutants
}

/// The last number of a word, one higher.
fn bumped(word: &str) -> Option<String> {
    let end = word.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = word[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    let number: u32 = word[start..end].parse().ok()?;
    let is_name = word[..start].ends_with(|c: char| c.is_ascii_alphabetic());
    (!is_name).then(|| format!("{}{}{}", &word[..start], number + 1, &word[end..]))
}
