//! Templates of a location, rendered in memory: all or nothing.

use zeroize::Zeroizing;

use crate::config::Stack;
use crate::nearest::hint;
use crate::template::{fill, placeholders};
use crate::vars::Vars;

/// A template as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The rendered file's path below the location.
    pub path: String,
    /// The template's path below the tree's root, for messages.
    pub template: String,
    /// Its bytes.
    pub text: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it lies outside the location, shared with others.
    pub shared: bool,
}

/// A rendered file, not yet written.
pub struct Output {
    /// Its path below the location.
    pub path: String,
    /// Its template's path below the tree's root.
    pub template: String,
    /// Its bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The permission bits it must have.
    pub mode: u32,
    /// The owner it must have, when stack.toml says so.
    pub owner: Option<(u32, u32)>,
    /// Whether it carries a secret.
    pub secret: bool,
    /// Whether its template is shared with other locations.
    pub shared: bool,
    /// The variables it uses.
    pub uses: Vec<String>,
}

/// All placeholders without a value, one line for each name: its first place, nearest names, how many places more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Missing(pub Vec<String>);

/// Renders every template, or says everything that is missing.
pub fn render(sources: &[Source], vars: &Vars, stack: &Stack) -> Result<Vec<Output>, Missing> {
    let mut outputs = Vec::with_capacity(sources.len());
    let mut missing: Vec<(String, String, usize)> = Vec::new();
    for source in sources {
        match fill(&source.text, |name| vars.find(name).map(|var| var.rendered.expose())) {
            Ok(bytes) => outputs.push(output(source, bytes, vars, stack)),
            Err(unfilled) => unfilled.into_iter().for_each(|spot| {
                if let Some((.., more)) = missing.iter_mut().find(|(name, ..)| *name == spot.name) {
                    *more += 1;
                    return;
                }
                let near = if stack.secrets.contains_key(&spot.name) {
                    " yet: `stackctl setup` makes it".to_owned()
                } else {
                    hint(&vars.nearest(&spot.name))
                };
                let (line, column) = (spot.position.line, spot.position.column);
                let text =
                    format!("{}:{line}:{column}: {{{{{}}}}} has no value{near}", source.template, spot.name);
                missing.push((spot.name, text, 0));
            }),
        }
    }
    let line = |(_, text, more): (String, String, usize)| match more {
        0 => text,
        1 => format!("{text}, and in 1 more place"),
        _ => format!("{text}, and in {more} more places"),
    };
    if missing.is_empty() { Ok(outputs) } else { Err(Missing(missing.into_iter().map(line).collect())) }
}

fn output(source: &Source, bytes: Vec<u8>, vars: &Vars, stack: &Stack) -> Output {
    let mut uses: Vec<String> = placeholders(&source.text).iter().map(|p| p.name.to_owned()).collect();
    uses.sort();
    uses.dedup();
    let secret = uses.iter().any(|name| vars.find(name).is_some_and(|var| var.secret));
    let rule = stack.files.get(&source.path);
    let own = if secret { source.mode & 0o700 } else { source.mode };
    Output {
        path: source.path.clone(),
        template: source.template.clone(),
        bytes: Zeroizing::new(bytes),
        mode: rule.and_then(|rule| rule.mode).unwrap_or(own),
        owner: rule.and_then(|rule| rule.owner),
        secret,
        shared: source.shared,
        uses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envfile;

    #[test]
    fn a_file_with_a_secret_is_closed_unless_stack_toml_opens_it() {
        let vars = vars("GEN=1\n", "DB_PASSWORD=2\nPORT_NUMBER=3\n");
        let stack =
            crate::config::parse("[file.\"d\"]\nmode = \"0640\"\nowner = \"472:0\"\n").expect("valid");
        let sources = [
            source("a", "{{PORT_NUMBER}}", 0o644),
            source("b", "{{DB_PASSWORD}}", 0o755),
            source("c", "{{GEN}}", 0o664),
            source("d", "{{GEN}}", 0o664),
        ];
        let outputs = render(&sources, &vars, &stack).expect("complete");
        let modes: Vec<_> = outputs.iter().map(|o| (o.mode, o.secret, o.owner)).collect();
        assert_eq!(
            modes,
            [(0o644, false, None), (0o700, true, None), (0o600, true, None), (0o640, true, Some((472, 0)))]
        );
    }

    #[test]
    fn everything_that_is_missing_is_said_at_once() {
        let sources = [
            source("a", "{{PORT_NUMBR}}\n {{OTHER}}", 0o644),
            source("b", "{{THIRD}} {{OTHER}} {{OTHER}} {{THIRD}}", 0o644),
        ];
        let missing =
            render(&sources, &vars("", "PORT_NUMBER=3\n"), &Stack::default()).err().expect("missing");
        assert_eq!(
            missing.0,
            [
                "a.tmpl:1:1: {{PORT_NUMBR}} has no value (did you mean PORT_NUMBER?)",
                "a.tmpl:2:2: {{OTHER}} has no value, and in 2 more places",
                "b.tmpl:1:1: {{THIRD}} has no value, and in 1 more place"
            ]
        );
    }

    fn source(path: &str, text: &str, mode: u32) -> Source {
        Source { path: path.into(), template: format!("{path}.tmpl"), text: text.into(), mode, shared: false }
    }

    fn vars(generated: &str, user: &str) -> Vars {
        let parse = |text| envfile::parse(text).expect("readable");
        Vars::join(&parse(generated), &parse(user), &Stack::default()).expect("joined")
    }
}
