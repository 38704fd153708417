//! Answers of the one who runs the command, read next to other work.

use std::io::{self, BufRead as _};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use daemon::command_line::print_to_stderr;

/// Lines of standard input, read next to other work.
pub(crate) struct Lines(Receiver<String>);

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
        let (sender, receiver) = mpsc::channel();
        // It may wait for a line when the program ends.
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(line.trim().to_owned()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(receiver))
    }

    /// The next line, if there is one.
    pub(crate) fn next(&self) -> Line {
        match self.0.try_recv() {
            Ok(line) => Line::Text(line),
            Err(TryRecvError::Empty) => Line::None,
            Err(TryRecvError::Disconnected) => Line::End,
        }
    }

    /// Waits for the next line; `None` at the end of the input.
    pub(crate) fn wait(&self) -> Option<String> {
        self.0.recv().ok()
    }

    /// Forgets lines that came before a question was asked: they are no answers to it.
    pub(crate) fn forget(&self) {
        while let Ok(line) = self.0.try_recv() {
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
