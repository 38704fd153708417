//! The shell commands of a hook: words with their places, and what joins them.
//!
//! Only simple commands are read. A loop, a pipe, a substitution or a subshell becomes one opaque
//! command, so that nothing in it is taken for what it is not.

/// A line and a column in characters, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) struct Place {
    pub(in crate::import) line: u32,
    pub(in crate::import) column: u32,
}

/// One word after quotes and escapes were taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) struct Word {
    pub(in crate::import) text: String,
    pub(in crate::import) place: Place,
    /// Whether the shell would put something else in its place.
    pub(in crate::import) is_expanded: bool,
}

/// Whether a command runs, by how the one before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) enum When {
    Always,
    AfterSuccess,
    AfterFailure,
}

/// A command as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) struct Command {
    pub(in crate::import) when: When,
    pub(in crate::import) body: Body,
    pub(in crate::import) place: Place,
    /// The text as it is in the file.
    pub(in crate::import) text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) enum Body {
    /// Words, at least one, and the file that the output goes to.
    Simple { words: Vec<Word>, output: Option<Word> },
    /// What this does cannot be read; why.
    Opaque(&'static str),
}

#[derive(Clone, Debug)]
enum Token {
    Word(Word),
    /// The next word is where the output goes.
    Output,
    /// `;`, `&&`, `||`, `|`, `&`, `(`, `)` or `<`.
    Operator(&'static str),
}

/// A token and the characters it was made of.
type Spanned = (Token, std::ops::Range<usize>);

/// Reads the commands of a hook, each character with its place.
pub(in crate::import) fn commands(chars: &[(char, Place)]) -> Vec<Command> {
    match (Lexer { chars, at: 0, tokens: Vec::new() }).tokens() {
        Some(tokens) => grouped(chars, segments(tokens)),
        None => vec![opaque(chars, 0..chars.len(), When::Always, "a quote is not closed")],
    }
}

struct Lexer<'c> {
    chars: &'c [(char, Place)],
    at: usize,
    tokens: Vec<Spanned>,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).map(|(c, _)| *c)
    }

    /// `None` when a quote is not closed.
    fn tokens(mut self) -> Option<Vec<Spanned>> {
        while let Some(next) = self.peek(0) {
            let start = self.at;
            let (token, length) = match (next, self.peek(1)) {
                (c, _) if c.is_whitespace() && c != '\n' => {
                    self.at += 1;
                    continue;
                }
                ('&', Some('>')) => (Token::Output, 2),
                ('&', Some('&')) => (Token::Operator("&&"), 2),
                ('|', Some('|')) => (Token::Operator("||"), 2),
                (';' | '\n', _) => (Token::Operator(";"), 1),
                ('&', _) => (Token::Operator("&"), 1),
                ('|', _) => (Token::Operator("|"), 1),
                ('(', _) => (Token::Operator("("), 1),
                (')', _) => (Token::Operator(")"), 1),
                ('<', _) => (Token::Operator("<"), 1),
                ('>', Some('>' | '&' | '|')) => (Token::Output, 2),
                ('>', _) => (Token::Output, 1),
                _ => {
                    self.word()?;
                    continue;
                }
            };
            self.at += length;
            if matches!(token, Token::Output) {
                self.drop_descriptor(start);
            }
            self.tokens.push((token, start..self.at));
        }
        Some(self.tokens)
    }

    /// The `2` of `2>` is no word of the command.
    fn drop_descriptor(&mut self, start: usize) {
        let is_descriptor = self.tokens.last().is_some_and(|(token, span)| match token {
            Token::Word(word) => span.end == start && word.text.bytes().all(|byte| byte.is_ascii_digit()),
            Token::Output | Token::Operator(_) => false,
        });
        if is_descriptor {
            self.tokens.pop();
        }
    }

    fn word(&mut self) -> Option<()> {
        let start = self.at;
        let place = self.chars.get(start).map(|(_, place)| *place)?;
        let mut word = Word { text: String::new(), place, is_expanded: false };
        while let Some(next) = self.peek(0) {
            match next {
                c if c.is_whitespace() || ";&|()<>".contains(c) => break,
                '\'' => self.single_quoted(&mut word.text)?,
                '"' => self.double_quoted(&mut word)?,
                '\\' => {
                    word.text.extend(self.peek(1));
                    self.at += 2;
                }
                _ => {
                    let is_list = next == '{' && self.is_brace_expansion();
                    word.is_expanded |= matches!(next, '$' | '`' | '*' | '?') || is_list;
                    word.text.push(next);
                    self.at += 1;
                }
            }
        }
        self.at = self.at.min(self.chars.len());
        self.tokens.push((Token::Word(word), start..self.at));
        Some(())
    }

    /// `{80,443}`, which the shell makes two words of.
    fn is_brace_expansion(&self) -> bool {
        let rest = self.chars.get(self.at..).unwrap_or_default().iter().map(|(c, _)| *c);
        let inside: String = rest.take_while(|c| !c.is_whitespace() && *c != '}').collect();
        inside.contains(',') || inside.contains("..")
    }

    fn single_quoted(&mut self, text: &mut String) -> Option<()> {
        self.at += 1;
        while self.peek(0)? != '\'' {
            text.extend(self.peek(0));
            self.at += 1;
        }
        self.at += 1;
        Some(())
    }

    fn double_quoted(&mut self, word: &mut Word) -> Option<()> {
        self.at += 1;
        loop {
            match (self.peek(0)?, self.peek(1)) {
                ('"', _) => break,
                ('\\', Some(escaped)) if "\"\\$`".contains(escaped) => {
                    word.text.push(escaped);
                    self.at += 2;
                }
                (c, _) => {
                    word.is_expanded |= matches!(c, '$' | '`');
                    word.text.push(c);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        Some(())
    }
}

/// Tokens between two separators.
struct Segment {
    when: When,
    tokens: Vec<Spanned>,
    /// The separator behind it is a pipe or sends it to the background.
    is_linked: bool,
}

fn segments(tokens: Vec<Spanned>) -> Vec<Segment> {
    let mut segments = vec![Segment { when: When::Always, tokens: Vec::new(), is_linked: false }];
    for (token, span) in tokens {
        let when = match &token {
            Token::Operator(";" | "&" | "|") => When::Always,
            Token::Operator("&&") => When::AfterSuccess,
            Token::Operator("||") => When::AfterFailure,
            Token::Word(_) | Token::Output | Token::Operator(_) => {
                segments
                    .last_mut()
                    .into_iter()
                    .for_each(|last| last.tokens.push((token.clone(), span.clone())));
                continue;
            }
        };
        let is_linked = matches!(token, Token::Operator("&" | "|"));
        segments.last_mut().into_iter().for_each(|last| last.is_linked = is_linked);
        segments.push(Segment { when, tokens: Vec::new(), is_linked: false });
    }
    segments
}

/// Joins the parts of loops, subshells and pipes to one opaque command each.
fn grouped(chars: &[(char, Place)], segments: Vec<Segment>) -> Vec<Command> {
    let (mut commands, mut depth) = (Vec::new(), 0_i32);
    let mut group: Option<(When, std::ops::Range<usize>)> = None;
    for segment in segments {
        let (Some((_, first)), Some((_, last))) = (segment.tokens.first(), segment.tokens.last()) else {
            continue;
        };
        let span = first.start..last.end;
        depth += nesting(&segment.tokens);
        let is_open = depth > 0 || segment.is_linked;
        match (group.take(), is_open) {
            (None, false) => commands.push(simple(chars, &segment, span)),
            (Some((when, begun)), is_open) => {
                let whole = begun.start..span.end;
                if is_open {
                    group = Some((when, whole));
                } else {
                    commands.push(opaque(chars, whole, when, COMPOUND));
                }
            }
            (None, true) => group = Some((segment.when, span)),
        }
        depth = depth.max(0);
    }
    commands.extend(group.map(|(when, whole)| opaque(chars, whole, when, COMPOUND)));
    commands
}

const COMPOUND: &str = "loops, conditions, pipes and subshells are not read";

/// How many compound commands begin in a segment, less those that end.
fn nesting(tokens: &[Spanned]) -> i32 {
    let mut depth = 0;
    let mut is_first = true;
    for (token, _) in tokens {
        match token {
            Token::Operator("(") => depth += 1,
            Token::Operator(")") => depth -= 1,
            Token::Word(word) if is_first => match word.text.as_str() {
                "for" | "while" | "until" | "if" | "case" | "{" => depth += 1,
                "done" | "fi" | "esac" | "}" => depth -= 1,
                // A command follows.
                "do" | "then" | "else" | "elif" | "!" => continue,
                _ => {}
            },
            Token::Word(_) | Token::Output | Token::Operator(_) => {}
        }
        is_first = false;
    }
    depth
}

fn simple(chars: &[(char, Place)], segment: &Segment, span: std::ops::Range<usize>) -> Command {
    let (mut words, mut output, mut is_output, mut is_plain) = (Vec::new(), None, false, true);
    for (token, _) in &segment.tokens {
        match token {
            Token::Word(word) if is_output => {
                // A descriptor and the null device lose the output.
                let is_lost = word.text == "/dev/null" || word.text.bytes().all(|byte| byte.is_ascii_digit());
                output = output.or_else(|| Some(word.clone()).filter(|_| !is_lost));
                is_output = false;
            }
            Token::Word(word) => words.push(word.clone()),
            Token::Output => is_output = true,
            Token::Operator(_) => is_plain = false,
        }
    }
    let reserved = ["do", "then", "else", "elif", "!", "done", "fi", "esac", "}"];
    let is_reserved = words.first().is_none_or(|word| reserved.contains(&word.text.as_str()));
    if !is_plain || is_output || is_reserved {
        return opaque(chars, span, segment.when, COMPOUND);
    }
    let command = opaque(chars, span, segment.when, COMPOUND);
    Command { body: Body::Simple { words, output }, ..command }
}

fn opaque(chars: &[(char, Place)], span: std::ops::Range<usize>, when: When, why: &'static str) -> Command {
    let chars = chars.get(span).unwrap_or_default();
    let place = chars.first().map(|(_, place)| *place).unwrap_or_default();
    let text = chars.iter().map(|(c, _)| *c).collect();
    Command { when, body: Body::Opaque(why), place, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Command> {
        let chars: Vec<(char, Place)> =
            text.chars().zip(1..).map(|(c, column)| (c, Place { line: 1, column })).collect();
        commands(&chars)
    }

    fn words(command: &Command) -> Vec<&str> {
        match &command.body {
            Body::Simple { words, .. } => words.iter().map(|word| word.text.as_str()).collect(),
            Body::Opaque(why) => vec!["opaque", why],
        }
    }

    #[test]
    fn quotes_hold_what_would_end_a_command() {
        let commands = read("a \"b; c\" 'd && e' f\\;g; h && i || j;");

        assert_eq!(words(&commands[0]), ["a", "b; c", "d && e", "f;g"]);
        let when: Vec<When> = commands.iter().map(|command| command.when).collect();
        assert_eq!(when, [When::Always, When::Always, When::AfterSuccess, When::AfterFailure]);
        assert_eq!(commands.len(), 4, "nothing follows the last semicolon");
    }

    #[test]
    fn each_word_has_the_column_where_it_begins() {
        let Body::Simple { words, .. } = &read("ab  \"c d\" e")[0].body else { panic!() };

        let columns: Vec<u32> = words.iter().map(|word| word.place.column).collect();
        assert_eq!(columns, [1, 5, 11]);
    }

    #[test]
    fn output_that_is_lost_is_no_word() {
        let commands = read("a b 2>/dev/null; c >/dev/null 2>&1; d &>/dev/null; echo 1 > /proc/x");

        assert_eq!(
            commands.iter().map(words).collect::<Vec<_>>(),
            [vec!["a", "b"], vec!["c"], vec!["d"], vec!["echo", "1"]]
        );
        let Body::Simple { output: Some(output), .. } = &commands[3].body else { panic!() };
        assert_eq!(output.text, "/proc/x");
    }

    #[test]
    fn what_is_no_simple_command_is_one_opaque_command() {
        for text in [
            "for p in 1 2; do while a $p; do :; done; done",
            "if a; then b; fi",
            "(a; b)",
            "a | b",
            "a &",
            "a 'b",
            "{ a; b; }",
            "a < b",
        ] {
            let commands = read(text);
            assert_eq!(commands.len(), 1, "{text}: {commands:?}");
            assert!(matches!(commands[0].body, Body::Opaque(_)), "{text}");
        }
        assert_eq!(read("for p in 1; do :; done; a b").len(), 2);
    }

    #[test]
    fn words_that_the_shell_would_change_are_marked() {
        for text in ["a $b", "a \"$(c)\"", "a `b`", "a {1,2}", "a *"] {
            let Body::Simple { words, .. } = &read(text)[0].body else { panic!("{text}") };
            assert!(words[1].is_expanded, "{text}");
        }
        let Body::Simple { words, .. } = &read("a '$b' { 1, 2 }")[0].body else { panic!() };
        assert!(words.iter().all(|word| !word.is_expanded));
    }
}
