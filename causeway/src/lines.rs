//! Answers of the one who runs the command, read next to other work.

use std::io::{self, BufRead};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use daemon::command_line::print_to_stderr;

/// How long a standard input that is at its end may take to show it.
const ENDS_WITHIN: Duration = Duration::from_millis(200);

/// Lines of standard input, read next to other work.
pub(crate) struct Lines {
    receiver: Receiver<String>,
    reader: JoinHandle<()>,
}

/// What came so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without white space around it.
    Text(String),
    /// No line yet.
    None,
    /// Standard input has ended.
    End,
}

/// An answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The whole word "yes".
    Yes,
    /// The whole word "no", or the end of the input.
    No,
}

impl Lines {
    /// Begins to read.
    pub(crate) fn read() -> io::Result<Self> {
        Self::of(|| io::stdin().lock())
    }

    fn of<R: BufRead>(input: impl FnOnce() -> R + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        // It may wait for a line when the program ends.
        let reader = thread::Builder::new().name("input".to_owned()).spawn(move || {
            for line in input().lines().map_while(Result::ok) {
                if sender.send(line.trim().to_owned()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { receiver, reader })
    }

    /// Whether the input has ended, so that no answer to a later question can come.
    pub(crate) fn is_over(&self) -> bool {
        let begun = Instant::now();
        while !self.reader.is_finished() && begun.elapsed() < ENDS_WITHIN {
            thread::sleep(ENDS_WITHIN / 20);
        }
        self.reader.is_finished()
    }

    /// The next line, if there is one.
    pub(crate) fn next(&self) -> Line {
        match self.receiver.try_recv() {
            Ok(line) => Line::Text(line),
            Err(TryRecvError::Empty) => Line::None,
            Err(TryRecvError::Disconnected) => Line::End,
        }
    }

    /// Waits for the next line; `None` at the end of the input.
    #[cfg(target_os = "linux")]
    pub(crate) fn wait(&self) -> Option<String> {
        self.receiver.recv().ok()
    }

    /// Forgets lines that came before a question was asked: they are no answers to it.
    pub(crate) fn forget(&self) {
        while let Ok(line) = self.receiver.try_recv() {
            drop(line);
        }
    }

    /// The answer to a question, if there is one; any other line than a whole word asks again.
    pub(crate) fn answer(&self, question: &str) -> Option<Answer> {
        match self.next() {
            Line::None => None,
            Line::End => Some(Answer::No),
            Line::Text(word) if word == "yes" => Some(Answer::Yes),
            Line::Text(word) if word == "no" => Some(Answer::No),
            Line::Text(_) => {
                print_to_stderr(question);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn an_input_at_its_end_is_known_before_a_question_is_asked() {
        for text in ["", "yes\n"] {
            assert!(Lines::of(move || text.as_bytes()).unwrap().is_over(), "{text:?}");
        }
        let (reader, writer) = io::pipe().unwrap();
        let lines = Lines::of(move || BufReader::new(reader)).unwrap();
        assert!(!lines.is_over());
        drop(writer);
        assert!(lines.is_over());
    }
}
