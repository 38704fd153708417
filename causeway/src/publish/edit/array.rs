//! Arrays and inline tables that grow and shrink in the layout that they are written in: line
//! breaks, indentation and comments stay.

use toml_edit::{Array, Decor, InlineTable, Key, Value};

/// Adds a value at the end.
pub(super) fn push(array: &mut Array, mut value: Value) {
    let Some(last) = array.len().checked_sub(1) else {
        array.push_formatted(value.decorated("", ""));
        return;
    };
    let has_comma = array.trailing_comma();
    let trailing = text(Some(array.trailing()));
    let Some(before) = array.get_mut(last) else { return };
    let indent = indent(&prefix(before.decor()));
    let rest = if has_comma { trailing } else { suffix(before.decor()) };
    let (lead, end) = room(&rest, &indent);
    if has_comma {
        array.set_trailing(end);
        value = value.decorated(lead, "");
    } else {
        before.decor_mut().set_suffix("");
        value = value.decorated(lead, end);
    }
    array.push_formatted(value);
}

/// Removes the item at `index`, with the comments that are on its own lines.
pub(super) fn remove(array: &mut Array, index: usize) {
    if index >= array.len() {
        return;
    }
    let has_comma = array.trailing_comma();
    let removed = array.remove(index);
    let before = prefix(removed.decor());
    // What is on the line of the item before is a comment of that item.
    let (kept, _) = first_line(&before);
    if let Some(next) = array.get_mut(index) {
        let follows = prefix(next.decor());
        let (_, lines) = first_line(&follows);
        let lead = if index == 0 && !lines.contains('\n') { before } else { format!("{kept}{lines}") };
        next.decor_mut().set_prefix(lead);
    } else if array.is_empty() {
        array.set_trailing_comma(false);
        array.set_trailing("");
    } else if has_comma {
        let trailing = text(Some(array.trailing()));
        array.set_trailing(format!("{kept}{}", first_line(&trailing).1));
    } else if let Some(last) = index.checked_sub(1).and_then(|last| array.get_mut(last)) {
        let rest = suffix(removed.decor());
        last.decor_mut().set_suffix(format!("{kept}{}", first_line(&rest).1));
    }
}

/// Adds a key at the end of an inline table.
pub(super) fn insert(table: &mut InlineTable, key: &str, value: Value) {
    let has_comma = table.trailing_comma();
    let trailing = text(Some(table.trailing()));
    let last = table.iter().last().map(|(key, _)| key.to_owned()).unwrap_or_default();
    let indent = table.key(&last).map(|key| indent(&prefix(key.leaf_decor()))).unwrap_or_default();
    let rest = match table.get_mut(&last) {
        Some(before) if !has_comma => {
            let rest = suffix(before.decor());
            before.decor_mut().set_suffix("");
            rest
        }
        _ => trailing,
    };
    let (lead, end) = room(&rest, &indent);
    let (inside, after) = if has_comma { ("", end) } else { (end, "") };
    if has_comma {
        table.set_trailing(after);
    }
    let key = Key::new(key).with_leaf_decor(Decor::new(lead, " "));
    table.insert_formatted(&key, value.decorated(" ", inside));
}

/// Removes a key of an inline table.
pub(super) fn take(table: &mut InlineTable, key: &str) {
    let is_last = table.iter().last().is_some_and(|(last, _)| last == key);
    let Some(removed) = table.remove(key) else { return };
    let last = table.iter().last().map(|(key, _)| key.to_owned()).unwrap_or_default();
    if let Some(last) = table.get_mut(&last).filter(|_| is_last) {
        last.decor_mut().set_suffix(suffix(removed.decor()));
    }
}

/// Of what is between the last item and the bracket: what precedes a further item, and what
/// follows it.
fn room<'t>(rest: &'t str, indent: &str) -> (String, &'t str) {
    let (before, end) = rest.rfind('\n').map_or(("", rest), |at| rest.split_at(at));
    // A comment ends with its line.
    let broken = before.contains('#') && !indent.contains('\n');
    let indent = if broken { "\n    " } else { indent };
    (format!("{before}{indent}"), end)
}

/// What separates an item from the one before it: its own line, or a space.
fn indent(prefix: &str) -> String {
    prefix.rfind('\n').and_then(|at| prefix.get(at..)).unwrap_or(" ").to_owned()
}

/// A comment on the first of these lines, and the rest of them.
fn first_line(text: &str) -> (&str, &str) {
    match text.find('\n').map(|end| text.split_at(end)) {
        Some((line, rest)) if line.contains('#') => (line, rest),
        _ => ("", text),
    }
}

/// What is written before a value or key.
pub(super) fn prefix(decor: &Decor) -> String {
    text(decor.prefix())
}

/// What is written after a value, before a comma.
pub(super) fn suffix(decor: &Decor) -> String {
    text(decor.suffix())
}

fn text(raw: Option<&toml_edit::RawString>) -> String {
    raw.and_then(toml_edit::RawString::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use toml_edit::DocumentMut;

    use super::*;

    #[test]
    fn an_item_is_added_in_the_layout_of_the_others() {
        for (before, after) in [
            (r#"["a"]"#, r#"["a", "z"]"#),
            (r#"[ "a" ]"#, r#"[ "a", "z" ]"#),
            (r#"["a",]"#, r#"["a", "z",]"#),
            ("[]", r#"["z"]"#),
            ("[\n    \"a\",\n    \"b\",\n]", "[\n    \"a\",\n    \"b\",\n    \"z\",\n]"),
            ("[\n\t\"a\"\n]", "[\n\t\"a\",\n\t\"z\"\n]"),
            ("[\n  \"a\", # first\n]", "[\n  \"a\", # first\n  \"z\",\n]"),
            ("[\n  \"a\" # first\n]", "[\n  \"a\", # first\n  \"z\"\n]"),
            ("[\"a\", \"b\", # both\n]", "[\"a\", \"b\", # both\n    \"z\",\n]"),
        ] {
            assert_eq!(changed(before, |array| push(array, "z".into())), after);
            assert_eq!(changed(after, |array| remove(array, array.len() - 1)), undone(before));
        }
    }

    #[test]
    fn an_item_is_removed_with_its_own_comments_only() {
        for (before, index, after) in [
            (r#"["a", "b", "c"]"#, 0, r#"["b", "c"]"#),
            (r#"["a", "b", "c"]"#, 1, r#"["a", "c"]"#),
            (r#"["a", "b", "c"]"#, 2, r#"["a", "b"]"#),
            ("[\n  \"a\", # one\n  \"b\", # two\n]", 0, "[\n  \"b\", # two\n]"),
            ("[\n  \"a\", # one\n  \"b\", # two\n]", 1, "[\n  \"a\", # one\n]"),
            ("[\n  \"a\", # one\n  \"b\" # two\n]", 1, "[\n  \"a\" # one\n]"),
            ("[\n  \"a\", # one\n  \"b\", # two\n  \"c\",\n]", 1, "[\n  \"a\", # one\n  \"c\",\n]"),
        ] {
            assert_eq!(changed(before, |array| remove(array, index)), after);
        }
    }

    /// An array that was empty or had its items on one broken line is not restored to the byte.
    fn undone(before: &str) -> &str {
        if before.starts_with("[\"a\", \"b\", # both") { "[\"a\", \"b\", # both\n]" } else { before }
    }

    fn changed(array: &str, change: impl FnOnce(&mut Array)) -> String {
        let mut document: DocumentMut = format!("names = {array}\n").parse().unwrap();
        change(document["names"].as_array_mut().unwrap());
        let text = document.to_string();
        text.strip_prefix("names = ").unwrap().trim_end().to_owned()
    }
}
