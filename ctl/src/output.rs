//! The only place that prints: data to standard output, words and progress to standard error.

mod progress;
mod table;
mod words;

use std::fmt;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

pub(crate) use self::progress::Bar;
pub(crate) use self::table::{Cell, Color, Table};
pub(crate) use self::words::{clean, duration, size};
use crate::args::Format;
use crate::failure::{Failure, Result};
use crate::options::Environment;

/// Moves to the top left corner.
const HOME: &str = "\x1b[H";
/// Clears what is left of the line, or of the screen.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Below this a table is unreadable anyhow; a terminal that claims less is not believed.
const COLUMNS_MIN: usize = 20;

/// Where things are printed, and what the other end can show.
pub(crate) struct Output {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Standard output is a terminal.
    screen: bool,
    /// Standard error is a terminal.
    talk: bool,
    /// The terminal shows colors, and wants to.
    color: bool,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("screen", &self.screen)
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Standard output and standard error of this process.
    pub(crate) fn standard(environment: &Environment) -> Self {
        let screen = io::stdout().is_terminal() && !environment.dumb;
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            screen,
            talk: io::stderr().is_terminal() && !environment.dumb,
            color: screen && !environment.plain,
        }
    }

    /// Whether standard output can be redrawn.
    pub(crate) fn is_screen(&self) -> bool {
        self.screen
    }

    /// Data as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .and_then(|()| self.out.flush())
            .map_err(|error| Failure::failed("cannot write to standard output").caused_by(error))
    }

    /// Data for people.
    pub(crate) fn table(&mut self, table: &Table) -> Result<()> {
        self.raw(table.render(self.color, None).as_bytes())
    }

    /// Data for programs, or else for people.
    pub(crate) fn data<T: Serialize + ?Sized>(
        &mut self,
        format: Format,
        value: &T,
        table: impl FnOnce() -> Table,
    ) -> Result<()> {
        let text = match format {
            Format::Table | Format::Wide => return self.table(&table()),
            Format::Json => serde_json::to_string_pretty(value)
                .map(|text| text + "\n")
                .map_err(|error| Failure::failed("cannot write JSON").caused_by(error))?,
            Format::Yaml => serde_norway::to_string(value)
                .map_err(|error| Failure::failed("cannot write YAML").caused_by(error))?,
        };
        self.raw(text.as_bytes())
    }

    /// One object of an endless answer: a line of JSON, or a YAML document.
    pub(crate) fn item<T: Serialize>(&mut self, format: Format, value: &T) -> Result<()> {
        let text = match format {
            Format::Yaml => serde_norway::to_string(value)
                .map(|text| format!("---\n{text}"))
                .map_err(|error| Failure::failed("cannot write YAML").caused_by(error))?,
            Format::Table | Format::Wide | Format::Json => serde_json::to_string(value)
                .map(|text| text + "\n")
                .map_err(|error| Failure::failed("cannot write JSON").caused_by(error))?,
        };
        self.raw(text.as_bytes())
    }

    /// Shows the table in place of what the screen showed before.
    pub(crate) fn redraw(&mut self, title: &str, table: &Table) -> Result<()> {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok();
        let columns = size
            .map(|size| usize::from(size.ws_col))
            .filter(|n| *n >= COLUMNS_MIN);
        let rows = size
            .map_or(usize::MAX, |size| usize::from(size.ws_row))
            .max(3);
        let text = table.render(self.color, columns);
        let mut screen = format!("{HOME}{}{CLEAR_LINE}\n", clean(title));
        // One line for the title, one for the cursor.
        for line in text.lines().take(rows - 2) {
            screen.push_str(line);
            screen.push_str(CLEAR_LINE);
            screen.push('\n');
        }
        screen.push_str(CLEAR_BELOW);
        self.raw(screen.as_bytes())
    }

    /// Words for the person at the terminal.
    pub(crate) fn note(&mut self, text: &str) {
        // There is nobody left to tell that words cannot be written.
        let _ = writeln!(self.err, "{}", clean(text));
    }

    /// Whether there is somebody to ask.
    pub(crate) fn can_ask(&self) -> bool {
        self.talk && io::stdin().is_terminal()
    }

    /// Asks; anything but a yes is a no.
    pub(crate) fn ask(&mut self, question: &str) -> Result<bool> {
        let mut answer = String::new();
        write!(self.err, "{} [y/N] ", clean(question))
            .and_then(|()| self.err.flush())
            .and_then(|()| io::stdin().read_line(&mut answer))
            .map_err(|error| Failure::failed("cannot ask").caused_by(error))?;
        Ok(is_yes(&answer))
    }

    /// Why it did not work, and what to do.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        self.note(&format!("sqlrepctl: {failure}"));
        if let Some(hint) = failure.next_step() {
            self.note(&format!("  hint: {hint}"));
        }
    }

    /// A bar that grows on standard error, if that is a terminal.
    pub(crate) fn bar(&self, what: &str) -> Bar {
        Bar::new(what, self.talk)
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, yes) in [
            ("y\n", true),
            ("Yes\n", true),
            ("", false),
            ("\n", false),
            ("n\n", false),
            ("yesterday\n", false),
        ] {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }
}
