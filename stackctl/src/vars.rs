//! The variables of a location: `.env` as Compose reads it, over it `.env.generated`, over that `.env.user`.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Stack;
use crate::envfile::{Entry, quote_for_compose};
use crate::nearest::nearest;
use crate::secret::{Hidden, as_pem, named_like_a_secret};

/// The prefix under which Compose files get a key as PEM, while the bare name keeps its one line of base64.
const PEM_PREFIX: &str = "STACKCTL_PEM_";

/// Which file a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `.env.generated`.
    Generated,
    /// `.env.user`; it wins.
    User,
    /// A `.env` that Compose reads by itself; both others win.
    Dotenv,
}

impl Origin {
    /// The file's name.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Generated => ".env.generated",
            Self::User => ".env.user",
            Self::Dotenv => ".env",
        }
    }
}

/// One variable of a location.
#[derive(Clone)]
pub struct Var {
    /// The literal value.
    pub stored: Hidden,
    /// The value templates get: a declared key as PEM.
    pub rendered: Hidden,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether its value must not be seen.
    pub secret: bool,
    /// Whether `rendered` is PEM made of `stored`.
    pub pem: bool,
}

/// All variables of a location.
#[derive(Clone, Default)]
pub struct Vars(BTreeMap<String, Var>);

/// A declared key whose value is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is declared as a key, but its value is {1}")]
pub struct NotAKey(pub String, pub crate::secret::KeyError);

impl Vars {
    /// Joins both files and what stack.toml says of the names.
    pub fn join(generated: &[Entry], user: &[Entry], stack: &Stack) -> Result<Self, NotAKey> {
        let mut all = BTreeMap::new();
        let origins = [(Origin::Generated, generated), (Origin::User, user)];
        for (origin, entry) in
            origins.into_iter().flat_map(|(origin, list)| list.iter().map(move |e| (origin, e)))
        {
            all.insert(entry.name.clone(), var(entry, origin, stack)?);
        }
        Ok(Self(all))
    }

    /// These variables, with those of a `.env` where there is no other of the name.
    pub fn over(mut self, dotenv: &[Entry], stack: &Stack) -> Result<Self, NotAKey> {
        let mut below = BTreeMap::new();
        for entry in dotenv.iter().filter(|entry| !self.0.contains_key(&entry.name)) {
            below.insert(entry.name.clone(), var(entry, Origin::Dotenv, stack)?);
        }
        self.0.extend(below);
        Ok(self)
    }

    /// A variable by name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Var> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The names nearest to one that does not exist.
    #[must_use]
    pub fn nearest(&self, wanted: &str) -> Vec<String> {
        nearest(wanted, self.0.keys().map(String::as_str))
    }

    /// The one env file Compose gets: every variable, quoted so that it reads the literal bytes.
    #[must_use]
    pub fn compose_env(&self) -> Hidden {
        let mut text = String::new();
        for (name, var) in &self.0 {
            text.push_str(&quote_for_compose(name, var.stored.expose()));
            if var.pem {
                text.push_str(&quote_for_compose(&format!("{PEM_PREFIX}{name}"), var.rendered.expose()));
            }
        }
        Hidden::new(text)
    }

    /// The name under which a Compose file finds the value of `{{name}}`.
    #[must_use]
    pub fn compose_name(&self, name: &str) -> Option<String> {
        let var = self.0.get(name)?;
        Some(if var.pem { format!("{PEM_PREFIX}{name}") } else { name.to_owned() })
    }

    /// `text` with every secret value of four or more characters replaced by its name.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        let mut values: BTreeSet<(std::cmp::Reverse<usize>, &str, &str)> = BTreeSet::new();
        for (name, var) in self.0.iter().filter(|(_, var)| var.secret) {
            for value in [var.stored.expose(), var.rendered.expose()] {
                values.insert((std::cmp::Reverse(value.len()), value, name));
            }
        }
        let mut text = text.to_owned();
        for (_, value, name) in values.into_iter().filter(|(_, value, _)| value.len() >= 4) {
            if text.contains(value) {
                text = text.replace(value, &format!("<{name}>"));
            }
        }
        text
    }
}

fn var(entry: &Entry, origin: Origin, stack: &Stack) -> Result<Var, NotAKey> {
    let declared = stack.secrets.get(&entry.name);
    let pem = declared.is_some_and(|secret| secret.kind.is_key());
    let rendered = if pem {
        as_pem(entry.value.expose()).map_err(|error| NotAKey(entry.name.clone(), error))?
    } else {
        entry.value.clone()
    };
    let secret = declared.is_some() || origin == Origin::Generated || named_like_a_secret(&entry.name);
    Ok(Var { stored: entry.value.clone(), rendered, origin, secret, pem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envfile;
    use crate::secret::new_ed25519;

    #[test]
    fn a_dotenv_gives_only_what_no_other_file_has() {
        let below = [Entry::of("AAA", "0", 1), Entry::of("DDD", "old", 2), Entry::of("DDD", "new", 3)];
        let vars = join("AAA=1\n", "", "").over(&below, &Stack::default()).expect("joined");
        let seen: Vec<_> = vars.iter().map(|(n, v)| (n, v.stored.expose(), v.origin)).collect();
        assert_eq!(seen, [("AAA", "1", Origin::Generated), ("DDD", "new", Origin::Dotenv)]);
    }

    #[test]
    fn the_users_file_wins_and_generated_values_are_secret() {
        let vars = join("AAA=1\nBBB=2\n", "BBB=3\nCCC=4\nX_TOKEN=5\n", "");
        let seen: Vec<_> = vars.iter().map(|(n, v)| (n, v.stored.expose(), v.secret)).collect();
        assert_eq!(
            seen,
            [("AAA", "1", true), ("BBB", "3", false), ("CCC", "4", false), ("X_TOKEN", "5", true)]
        );
    }

    #[test]
    fn a_declared_key_is_pem_in_templates_and_one_line_in_env() {
        let key = new_ed25519(&[1; 32]);
        let vars =
            join(&format!("JWK={}\n", key.expose()), "", "[secrets.a]\nJWK = { kind = \"ed25519\" }\n");
        assert!(
            vars.find("JWK")
                .is_some_and(|var| var.rendered.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"))
        );
        assert_eq!(vars.compose_name("JWK").as_deref(), Some("STACKCTL_PEM_JWK"));
        assert!(vars.compose_env().expose().contains("STACKCTL_PEM_JWK=\"-----BEGIN PRIVATE KEY-----\\n"));
        let stack = crate::config::parse("[secrets.a]\nJWK = { kind = \"ed25519\" }\n").expect("valid");
        let entries = envfile::parse("JWK=nonsense\n").expect("readable");
        assert!(Vars::join(&entries, &[], &stack).is_err());
    }

    #[test]
    fn masking_replaces_the_longest_value_first() {
        let vars = join("SHORT=abcd\nLONG=abcdefgh\nTINY=ab\n", "", "");
        assert_eq!(vars.mask("x abcdefgh abcd ab"), "x <LONG> <SHORT> ab");
    }

    fn join(generated: &str, user: &str, stack: &str) -> Vars {
        let parse = |text| envfile::parse(text).expect("readable");
        Vars::join(&parse(generated), &parse(user), &crate::config::parse(stack).expect("valid"))
            .expect("joined")
    }
}
