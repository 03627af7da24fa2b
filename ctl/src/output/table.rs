//! Columns for people.

use std::iter;

use super::clean;

/// Between columns, as kubectl does it.
const GAP: &str = "   ";

/// Colors with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Needs a human.
    Bad,
}

impl Color {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Busy => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// Ends a color.
const PLAIN: &str = "\x1b[0m";

/// One field of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    color: Option<Color>,
    right: bool,
}

impl Cell {
    /// Text; empty text shows as a dash, so that columns can be told apart and cut.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        // One field is one line.
        let text = clean(text.as_ref()).replace('\n', " ");
        let text = if text.is_empty() {
            "-".to_owned()
        } else {
            text
        };
        Self {
            text,
            color: None,
            right: false,
        }
    }

    /// A number: aligned to the right.
    pub(crate) fn number(text: impl AsRef<str>) -> Self {
        Self {
            right: true,
            ..Self::new(text)
        }
    }

    /// In color, where the terminal shows it.
    pub(crate) fn colored(self, color: Color) -> Self {
        Self {
            color: Some(color),
            ..self
        }
    }
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, with as many cells as there are headings.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.headings.len());
        self.rows.push(row);
    }

    /// The text, cut off at `columns`.
    pub(super) fn render(&self, color: bool, columns: Option<usize>) -> String {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let texts = cells.map(|cell| cell.text.as_str());
                let all = texts.chain(iter::once(self.headings[column]));
                all.map(width).max().unwrap_or(0)
            })
            .collect();
        let aligned = self.rows.first();
        let heading = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, heading)| Cell {
                text: (*heading).to_owned(),
                color: None,
                right: aligned
                    .and_then(|row| row.get(column))
                    .is_some_and(|cell| cell.right),
            });
        let mut text = String::new();
        line(
            &mut text,
            &heading.collect::<Vec<_>>(),
            &widths,
            color,
            columns,
        );
        for row in &self.rows {
            line(&mut text, row, &widths, color, columns);
        }
        text
    }
}

/// Columns on the terminal, but for wide letters.
fn width(text: &str) -> usize {
    text.chars().count()
}

fn line(text: &mut String, cells: &[Cell], widths: &[usize], color: bool, columns: Option<usize>) {
    let mut left = columns.unwrap_or(usize::MAX);
    for (index, (cell, column)) in cells.iter().zip(widths).enumerate() {
        let last = index + 1 == cells.len();
        let pad = " ".repeat(column - width(&cell.text));
        let gap = if index == 0 { "" } else { GAP };
        let before = if cell.right {
            format!("{gap}{pad}")
        } else {
            gap.to_owned()
        };
        // Nothing follows the last field, so nothing lines up with its end.
        let after = if cell.right || last { "" } else { &pad };
        let mut cut = |part: &str| -> String {
            let part: String = part.chars().take(left).collect();
            left -= width(&part);
            part
        };
        let (before, shown, after) = (cut(&before), cut(&cell.text), cut(after));
        text.push_str(&before);
        if let Some(color) = cell.color.filter(|_| color) {
            text.extend([color.code(), &shown, PLAIN]);
        } else {
            text.push_str(&shown);
        }
        text.push_str(&after);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "SIZE", "STATE"]);
        table.push(vec![
            Cell::new("a"),
            Cell::number("1"),
            Cell::new("following").colored(Color::Good),
        ]);
        table.push(vec![
            Cell::new("long-name"),
            Cell::number("1000"),
            Cell::new(""),
        ]);
        table
    }

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let text = "\
NAME        SIZE   STATE
a              1   following
long-name   1000   -
";
        assert_eq!(table().render(false, None), text);
    }

    #[test]
    fn lines_are_cut_at_the_edge_and_colors_end() {
        let text = table().render(true, Some(22));
        assert_eq!(
            text,
            "NAME        SIZE   STA\na              1   \x1b[32mfol\x1b[0m\nlong-name   1000   -\n"
        );
    }

    #[test]
    fn a_field_stays_one_line() {
        let mut table = Table::new(&["A"]);
        table.push(vec![Cell::new("x\ny\x1b[2J")]);
        assert_eq!(table.render(false, None), "A\nx y\\u{1b}[2J\n");
    }
}
