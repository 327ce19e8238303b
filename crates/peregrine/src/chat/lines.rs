//! What is typed, or comes by a pipe, line by line.

use super::commands;
use crate::output::print;
use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};
use std::io::{IsTerminal, stdin, stdout};
use std::sync::mpsc;
use std::thread::Builder;
use tokio::sync::oneshot;

const PROMPT: &str = "> ";
/// Ends what a line editor has begun: that pasted text is marked as such.
const NO_PASTE_MARKS: &str = "\x1b[?2004l";

/// What was entered.
#[derive(Debug)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-c, instead of a line.
    Interrupted,
    /// There is no more.
    End,
}

/// Lines of the standard input. A thread of its own waits for each, since nothing else can end such a wait.
pub struct Lines {
    wanted: mpsc::Sender<oneshot::Sender<Result<Line>>>,
    terminal: Option<Terminal>,
}

/// A terminal, and how it was set.
struct Terminal {
    before: Termios,
    /// A line is being edited.
    is_editing: bool,
}

impl Lines {
    /// Those of a terminal are edited, if the answers go there, too.
    pub fn start() -> Result<Self> {
        let (wanted, asked) = mpsc::channel::<oneshot::Sender<Result<Line>>>();
        let is_terminal = stdin().is_terminal() && stdout().is_terminal();
        let terminal = match is_terminal {
            true => Some(Terminal { before: tcgetattr(stdin()).context("the terminal")?, is_editing: false }),
            false => None,
        };
        let mut read: Box<dyn FnMut() -> Result<Line> + Send> =
            if is_terminal { Box::new(edited()?) } else { Box::new(plain) };
        let work = move || {
            for reader in asked {
                // Nobody waits any more if the program ends.
                let _ = reader.send(read());
            }
        };
        Builder::new().name("lines".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { wanted, terminal })
    }

    /// Whether somebody sees what is printed.
    pub fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// The next one.
    pub async fn next(&mut self) -> Result<Line> {
        self.set_editing(true);
        let (reader, line) = oneshot::channel();
        self.wanted.send(reader).ok().context("no line can be read any more")?;
        let line = line.await.context("no line can be read any more")?;
        self.set_editing(false);
        line
    }

    fn set_editing(&mut self, is_editing: bool) {
        if let Some(terminal) = &mut self.terminal {
            terminal.is_editing = is_editing;
        }
    }
}

/// Where a signal ends the program while a line is edited, nobody else puts the terminal back.
impl Drop for Terminal {
    fn drop(&mut self) {
        if self.is_editing {
            // There is nothing to be done about a terminal that is gone.
            let _ = print(&format!("{NO_PASTE_MARKS}\n"));
            let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
        }
    }
}

fn plain() -> Result<Line> {
    let mut line = String::new();
    let bytes = stdin().read_line(&mut line).context("cannot read the standard input")?;
    let text = line.trim_end_matches(['\r', '\n']);
    Ok(if bytes == 0 { Line::End } else { Line::Text(text.to_owned()) })
}

fn edited() -> Result<impl FnMut() -> Result<Line> + Send> {
    let mut editor: Editor<Names, MemHistory> = Editor::with_history(Config::default(), MemHistory::new())?;
    editor.set_helper(Some(Names(commands::names())));
    Ok(move || match editor.readline(PROMPT) {
        Ok(line) => {
            editor.add_history_entry(&line)?;
            Ok(Line::Text(line))
        }
        Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
        Err(ReadlineError::Eof) => Ok(Line::End),
        Err(error) => Err(error).context("the terminal"),
    })
}

/// Completes names of commands.
struct Names(Vec<String>);

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..at];
        let fit = self.0.iter().filter(|name| typed.starts_with('/') && name.starts_with(typed));
        Ok((0, fit.map(|name| format!("{name} ")).collect()))
    }
}

impl Hinter for Names {
    type Hint = String;
}

impl Highlighter for Names {}
impl Validator for Names {}
impl Helper for Names {}
