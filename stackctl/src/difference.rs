//! A line difference between what is on disk and what would be written.

/// One line of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'t> {
    /// In the old text only.
    Gone(&'t str),
    /// In the new text only.
    New(&'t str),
}

/// Files of more lines than this are compared as a whole.
const LIMIT: usize = 2000;

/// The changed lines, in order; common lines are left out.
#[must_use]
pub fn changes<'t>(old: &'t str, new: &'t str) -> Vec<Change<'t>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if old.len() > LIMIT || new.len() > LIMIT {
        let gone = old.into_iter().map(Change::Gone);
        return gone.chain(new.into_iter().map(Change::New)).collect();
    }
    let common = common_lengths(&old, &new);
    let at = |i: usize, j: usize| common.get(i).and_then(|row| row.get(j)).copied().unwrap_or_default();
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(left), Some(right)) if left == right => (i, j) = (i + 1, j + 1),
            (Some(left), right) if right.is_none() || at(i + 1, j) >= at(i, j + 1) => {
                out.push(Change::Gone(left));
                i += 1;
            }
            (_, Some(right)) => {
                out.push(Change::New(right));
                j += 1;
            }
            _ => return out,
        }
    }
}

/// For every pair of places, how many lines both tails have in common.
fn common_lengths(old: &[&str], new: &[&str]) -> Vec<Vec<u32>> {
    let mut table = vec![vec![0; new.len() + 1]];
    for left in old.iter().rev() {
        let below = table.last().cloned().unwrap_or_default();
        let mut row = vec![0; new.len() + 1];
        for (j, right) in new.iter().enumerate().rev() {
            let cell = |line: &[u32], at: usize| line.get(at).copied().unwrap_or_default();
            let value =
                if left == right { cell(&below, j + 1) + 1 } else { cell(&below, j).max(cell(&row, j + 1)) };
            if let Some(place) = row.get_mut(j) {
                *place = value;
            }
        }
        table.push(row);
    }
    table.reverse();
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_lines_are_shown() {
        let changed = changes("a\nb\nc\n", "a\nx\nc\nd\n");
        assert_eq!(changed, [Change::Gone("b"), Change::New("x"), Change::New("d")]);
        assert!(changes("same\n", "same\n").is_empty());
        assert_eq!(changes("", "a\n"), [Change::New("a")]);
        assert_eq!(changes("a\n", ""), [Change::Gone("a")]);
    }

    #[test]
    fn a_huge_file_is_compared_as_a_whole() {
        let long = "x\n".repeat(LIMIT + 1);
        assert_eq!(changes(&long, "y\n").len(), LIMIT + 2);
    }
}
