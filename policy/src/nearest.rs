//! The name that was probably meant.

/// Of `candidates` the one nearest to `written`, when it is near enough to be a slip of the hand.
///
/// Near enough is one edit in three characters; an edit inserts, removes or changes one character or swaps two
/// neighbours. Names longer than 64 characters have no neighbour.
pub(crate) fn nearest<'c>(written: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if written.len() > 64 {
        return None;
    }
    let limit = (written.chars().count() / 3).max(1);
    candidates
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| (distance(written, candidate), candidate))
        .filter(|&(edits, _)| edits <= limit)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, candidate)| candidate)
}

/// Edits from `a` to `b`, a swap of neighbours counted once (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (row, from) in a.to_lowercase().chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, &to) in b.iter().enumerate() {
            let cell = |line: &[usize], at: usize| line.get(at).copied().unwrap_or(usize::MAX / 2);
            let change = cell(&above, column) + usize::from(from != to);
            let mut least = change.min(cell(&above, column + 1) + 1).min(cell(&current, column) + 1);
            let swapped = column > 0 && previous == Some(to) && b.get(column - 1) == Some(&from);
            if swapped {
                least = least.min(cell(&before, column - 1) + 1);
            }
            current.push(least);
        }
        before = std::mem::replace(&mut above, current);
        previous = Some(from);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_as_a_person_makes_them() {
        for (a, b, edits) in [
            ("", "", 0),
            ("mtu", "mtu", 0),
            ("mut", "mtu", 1),
            ("adress", "address", 1),
            ("listen", "target", 5),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn a_slip_of_the_hand_is_mended_and_another_word_is_not() {
        let keys = ["listen_port", "private_key_file", "mtu"];
        assert_eq!(nearest("listenport", keys.into_iter()), Some("listen_port"));
        assert_eq!(nearest("colour", keys.into_iter()), None);
    }
}
