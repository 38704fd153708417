//! Names that a typing slip could have meant.

/// Up to three of `known` that lie within a third of `wanted`'s length, nearest first.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let limit = (wanted.chars().count() / 3).max(2);
    let mut close: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    close.sort_unstable();
    close.dedup();
    close.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// ` (did you mean A or B?)`, or nothing.
#[must_use]
pub fn hint(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" (did you mean {}?)", names.join(" or ")) }
}

/// Edit distance: insertions, deletions and replacements, each costing one.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row, vec![line + 1]);
        for (to, pair) in right.iter().zip(diagonal.windows(2)) {
            let [corner, above] = pair else { continue };
            let previous = row.last().copied().unwrap_or_default();
            row.push((corner + usize::from(from != *to)).min(above + 1).min(previous + 1));
        }
        diagonal.clear();
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        assert_eq!(nearest("GRAFNA_PASSWORD", ["GRAFANA_PASSWORD", "EMBY_PORT"]), ["GRAFANA_PASSWORD"]);
        assert!(nearest("ZZZZZ", ["GRAFANA_PASSWORD"]).is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
