//! `nft`: one-liners and blocks, as far as rules of services and filters need.

mod rule;

use super::shell::{Place, Word};
use super::{Base, ChainId, Hook, Operation, Unread};

/// Reads the words of an `nft` command.
///
/// # Errors
/// [`Unread`], when it is not known which chain is changed, or how.
pub(in crate::import) fn operations(words: &[Word]) -> Result<Vec<Operation>, Unread> {
    if let Some(word) = words.iter().find(|word| word.is_expanded) {
        return Err(Unread::new(
            word.place,
            format!("`{}` depends on the shell: write the value", word.text),
        ));
    }
    let tokens = words.iter().skip(1).flat_map(tokens).collect::<Vec<_>>();
    let mut reader = Reader { tokens: &tokens, at: 0, operations: Vec::new() };
    while reader.peek().is_some() {
        reader.command()?;
    }
    Ok(reader.operations)
}

/// A word of the language of nft; quotes are taken away.
#[derive(Clone, Debug)]
pub(super) struct Token {
    text: String,
    place: Place,
}

/// The tokens of one word of the shell.
fn tokens(word: &Word) -> Vec<Token> {
    let (mut tokens, mut current, mut is_quoted): (Vec<Token>, Option<Token>, bool) =
        (Vec::new(), None, false);
    for (character, offset) in word.text.chars().zip(0_u32..) {
        let place = Place { column: word.place.column.saturating_add(offset), ..word.place };
        match character {
            '"' => {
                is_quoted = !is_quoted;
                current.get_or_insert(Token { text: String::new(), place });
            }
            _ if is_quoted => current.iter_mut().for_each(|token| token.text.push(character)),
            c if c.is_whitespace() && c != '\n' => tokens.extend(current.take()),
            '{' | '}' | ';' | ',' | '\n' => {
                tokens.extend(current.take());
                let text = if character == '\n' { ';' } else { character };
                tokens.push(Token { text: text.to_string(), place });
            }
            _ => current.get_or_insert(Token { text: String::new(), place }).text.push(character),
        }
    }
    tokens.extend(current);
    tokens
}

pub(super) struct Reader<'t> {
    tokens: &'t [Token],
    at: usize,
    operations: Vec<Operation>,
}

const FAMILIES: [(&str, &str); 3] = [("ip", "nft ip"), ("ip6", "nft ip6"), ("inet", "nft inet")];

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<&'t str> {
        self.tokens.get(self.at).map(|token| token.text.as_str())
    }

    fn next(&mut self) -> Option<&'t Token> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    fn take(&mut self, text: &str) -> bool {
        let is_there = self.peek() == Some(text);
        self.at += usize::from(is_there);
        is_there
    }

    fn place(&self) -> Place {
        let token = self.tokens.get(self.at).or_else(|| self.tokens.last());
        token.map(|token| token.place).unwrap_or_default()
    }

    fn unread<T>(&self) -> Result<T, Unread> {
        let word = self.peek().unwrap_or("the end");
        Err(Unread::new(self.place(), format!("`{word}` is not understood here")))
    }

    fn name(&mut self) -> Result<String, Unread> {
        match self.peek() {
            Some("{" | "}" | ";" | ",") | None => self.unread(),
            Some(name) => {
                self.at += 1;
                Ok(name.to_owned())
            }
        }
    }

    fn family(&mut self) -> Result<&'static str, Unread> {
        let known = FAMILIES.iter().find(|(name, _)| self.peek() == Some(name));
        if let Some((_, space)) = known {
            self.at += 1;
            return Ok(space);
        }
        if matches!(self.peek(), Some("bridge" | "arp" | "netdev")) {
            return self.unread();
        }
        Ok("nft ip")
    }

    fn command(&mut self) -> Result<(), Unread> {
        if self.take(";") {
            return Ok(());
        }
        let is_insertion = self.peek() == Some("insert");
        match self.peek() {
            Some("add" | "create" | "insert") => self.at += 1,
            Some("delete" | "destroy" | "flush") => return self.removal(),
            Some("list") => {
                while self.peek().is_some_and(|word| word != ";") {
                    self.at += 1;
                }
                return Ok(());
            }
            _ => {}
        }
        match self.peek() {
            Some("table") => self.table(),
            Some("chain") => {
                self.at += 1;
                let space = self.family()?;
                let (table, name) = (self.name()?, self.name()?);
                self.chain(id(space, table, name))
            }
            Some("rule") => {
                self.at += 1;
                let space = self.family()?;
                let (table, name) = (self.name()?, self.name()?);
                if matches!(self.peek(), Some("index" | "position" | "handle")) {
                    return self.unread();
                }
                self.rule(id(space, table, name), is_insertion);
                Ok(())
            }
            _ => self.unread(),
        }
    }

    fn removal(&mut self) -> Result<(), Unread> {
        let verb = self.name()?;
        let what = self.name()?;
        if what == "ruleset" && verb == "flush" {
            return self.unread();
        }
        let space = self.family()?;
        let table = self.name()?;
        let operation = match (verb.as_str(), what.as_str()) {
            ("flush", "table") => Operation::Flush(space, table, None),
            ("flush", "chain") => Operation::Flush(space, table, Some(self.name()?)),
            (_, "table") => Operation::Remove(space, table, None),
            (_, "chain") => Operation::Remove(space, table, Some(self.name()?)),
            _ => return self.unread(),
        };
        self.operations.push(operation);
        Ok(())
    }

    fn table(&mut self) -> Result<(), Unread> {
        self.at += 1;
        let space = self.family()?;
        let table = self.name()?;
        if !self.take("{") {
            return Ok(());
        }
        while !self.take("}") {
            if self.take(";") {
                continue;
            }
            if !self.take("chain") {
                return self.unread();
            }
            let name = self.name()?;
            self.chain(id(space, table.clone(), name))?;
        }
        Ok(())
    }

    /// A chain, and what is in its braces.
    fn chain(&mut self, id: ChainId) -> Result<(), Unread> {
        let (mut base, mut refuses, mut rules) = (None, None, Vec::new());
        if self.take("{") {
            while !self.take("}") {
                match self.peek() {
                    Some(";") => self.at += 1,
                    Some("type") => base = Some(self.base()?),
                    Some("policy") => {
                        self.at += 1;
                        refuses = match self.name()?.as_str() {
                            "drop" => Some(true),
                            "accept" => Some(false),
                            _ => return self.unread(),
                        };
                    }
                    Some(_) => rules.push(self.statement()),
                    None => return self.unread(),
                }
            }
        }
        self.operations.push(match (base, refuses) {
            (None, Some(refuses)) => Operation::Policy(id.clone(), refuses),
            _ => Operation::Make(id.clone(), base, refuses),
        });
        self.operations.extend(rules.into_iter().map(|rule| Operation::Append(id.clone(), rule)));
        Ok(())
    }

    /// `type nat hook prerouting priority dstnat`.
    fn base(&mut self) -> Result<Base, Unread> {
        self.at += 1;
        let is_nat = match self.peek() {
            Some(kind @ ("nat" | "filter" | "route")) => kind == "nat",
            _ => return self.unread(),
        };
        self.at += 1;
        if !self.take("hook") {
            return self.unread();
        }
        let Some(hook) = self.peek().and_then(super::hook_named) else { return self.unread() };
        self.at += 1;
        if !self.take("priority") {
            return self.unread();
        }
        let Some(priority) = self.priority(hook) else { return self.unread() };
        Ok(Base { hook, is_nat, priority })
    }

    fn priority(&mut self, hook: Hook) -> Option<i32> {
        let mut written = String::new();
        while self.peek().is_some_and(|word| !matches!(word, ";" | "}")) {
            written.push_str(self.next().map_or("", |token| token.text.as_str()));
        }
        let end = written.get(1..)?.find(['+', '-']).map_or(written.len(), |at| at + 1);
        let (name, offset) = written.split_at_checked(end)?;
        let start = match name {
            "raw" => -300,
            "mangle" => -150,
            "dstnat" => -100,
            "filter" => 0,
            "security" => 50,
            "srcnat" if hook == Hook::Postrouting => 100,
            number => number.parse().ok()?,
        };
        let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
        Some(start + offset)
    }

    fn rule(&mut self, id: ChainId, is_insertion: bool) {
        let rule = self.statement();
        self.operations.push(match is_insertion {
            true => Operation::Insert(id, 0, rule),
            false => Operation::Append(id, rule),
        });
    }
}

/// A chain; those of `iptables-nft` are that program's.
fn id(space: &'static str, table: String, name: String) -> ChainId {
    let program = match space {
        "nft ip" => "nft iptables",
        "nft ip6" => "nft ip6tables",
        other => other,
    };
    let known = ChainId { space: program, table, name };
    if program == space || super::iptables::base(&known).is_some() {
        known
    } else {
        ChainId { space, ..known }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shell::{Body, commands};
    use super::super::{Action, Rule};
    use super::*;

    fn read(text: &str) -> Result<Vec<Operation>, Unread> {
        let chars: Vec<(char, Place)> =
            text.chars().zip(1..).map(|(c, column)| (c, Place { line: 3, column })).collect();
        let Body::Simple { words, .. } = &commands(&chars)[0].body else { panic!("{text}") };
        operations(words)
    }

    fn rule(text: &str) -> Rule {
        match read(text).unwrap().pop() {
            Some(Operation::Append(_, rule) | Operation::Insert(_, _, rule)) => rule,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_rule_is_read_in_all_the_ways_it_is_written() {
        let usual = rule("nft add rule ip nat pre iifname \"eth0\" tcp dport 443 dnat to 10.0.0.2:443");
        for other in [
            "nft 'add rule ip nat pre iifname \"eth0\" tcp dport 443 counter dnat to 10.0.0.2:443'",
            "nft insert rule nat pre meta iifname eth0 tcp dport { 443 } dnat ip to 10.0.0.2:443 comment \"x\"",
            "nft 'table ip nat { chain pre { type nat hook prerouting priority dstnat; policy accept; iif == eth0 tcp dport 443 dnat to 10.0.0.2:443; } }'",
        ] {
            let other = rule(other);
            assert_eq!((&other.conditions, &other.action), (&usual.conditions, &usual.action));
        }
    }

    #[test]
    fn a_word_that_is_not_understood_makes_its_rule_unclear() {
        for (text, column) in [
            ("nft add rule ip nat pre tcp dport 443 ct mark 5 dnat to 10.0.0.2", 39),
            ("nft add rule ip nat pre meta skuid 0 accept", 30),
            ("nft add rule ip nat pre tcp dport http accept", 35),
            ("nft add rule ip nat pre ip saddr @blocked drop", 34),
        ] {
            let rule = rule(text);
            assert_eq!(rule.action, Action::Unclear, "{text}");
            assert_eq!(rule.unread.unwrap().place, Place { line: 3, column }, "{text}");
        }
        assert!(read("nft -f /etc/nftables.conf").is_err());
        assert!(read("nft add set ip nat blocked").is_err());
    }

    #[test]
    fn a_chain_has_the_place_that_its_braces_give() {
        let made =
            read("nft add chain inet t c '{ type filter hook forward priority filter - 5 ; policy drop ; }'");
        let Some(Operation::Make(_, Some(base), refuses)) = made.unwrap().pop() else { panic!() };
        assert_eq!((base.hook, base.is_nat, base.priority, refuses), (Hook::Forward, false, -5, Some(true)));
    }
}
