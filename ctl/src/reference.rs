//! REF: a shortened name for a database, and the one database that it means.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::failure::{Failure, Result};

/// Near names that a message offers at most; more would hide the message.
const NEAR_MAX: usize = 5;
/// Candidates that an ambiguous reference lists at most.
const CANDIDATES_MAX: usize = 20;
/// Longer parts are not compared letter by letter: the work grows with the square.
const COMPARED_LETTERS_MAX: usize = 128;

/// A run of parts of a database's name, as typed: `surmai`, `media/surmai`, `data.db`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    text: String,
}

impl Reference {
    /// Checks that every part has a letter in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() || trimmed.split('/').any(str::is_empty) {
            return Err(format!(
                "{text:?} is no reference: parts divided by single slashes are, such as \
                 media/surmai or data.db"
            ));
        }
        Ok(Self {
            text: trimmed.to_owned(),
        })
    }

    fn parts(&self) -> Vec<&str> {
        self.text.split('/').collect()
    }

    /// Whether the reference is a run of the name's parts.
    fn matches(&self, name: &str) -> bool {
        let wanted = self.parts();
        let parts: Vec<&str> = name.split('/').collect();
        parts.windows(wanted.len()).any(|run| {
            run.iter()
                .zip(&wanted)
                .all(|(part, wanted)| same_part(part, wanted))
        })
    }

    /// Whether the reference is the whole name.
    fn is(&self, name: &str) -> bool {
        self.parts().len() == name.split('/').count() && self.matches(name)
    }

    /// Whether the thing is one of those that the reference means.
    pub(crate) fn is_part_of<T: Named>(&self, thing: &T) -> bool {
        self.matches(&thing.name())
    }

    /// All things whose name the reference is a run of; just one if it is its whole name.
    fn select<'a, T: Named>(&self, things: &'a [T]) -> Vec<&'a T> {
        if let Some(exact) = things.iter().find(|thing| self.is(&thing.name())) {
            return vec![exact];
        }
        things
            .iter()
            .filter(|thing| self.matches(&thing.name()))
            .collect()
    }

    /// The one thing that the reference means.
    pub(crate) fn one<'a, T: Named>(&self, things: &'a [T]) -> Result<&'a T> {
        match self.select(things).as_slice() {
            [one] => Ok(one),
            [] => Err(self.unknown(things)),
            several => Err(ambiguous(&format!("{self} is ambiguous"), several)),
        }
    }

    /// All things that the reference means; at least one.
    pub(crate) fn several<'a, T: Named>(&self, things: &'a [T]) -> Result<Vec<&'a T>> {
        let found = self.select(things);
        if found.is_empty() {
            Err(self.unknown(things))
        } else {
            Ok(found)
        }
    }

    fn unknown<T: Named>(&self, things: &[T]) -> Failure {
        let failure = Failure::not_found(format!("there is no database {self}"));
        let near = self.near(things);
        if !near.is_empty() {
            failure.hint(format!("near it: {}", near.join(", ")))
        } else if things.is_empty() {
            failure.hint("there is no database here at all")
        } else {
            failure.hint("`sqlrepctl list` shows what there is")
        }
    }

    /// Names that may have been meant, best first.
    fn near<T: Named>(&self, things: &[T]) -> Vec<String> {
        let wanted = self.parts();
        let mut scored: Vec<(usize, String)> = things
            .iter()
            .filter_map(|thing| {
                let name = thing.name();
                // Each wanted part against the part that is most like it; all must be near.
                let scores = wanted.iter().map(|wanted| {
                    name.split('/')
                        .filter_map(|part| distance(part, wanted))
                        .min()
                });
                let total: usize = scores.sum::<Option<usize>>()?;
                Some((total, name))
            })
            .collect();
        scored.sort();
        scored.truncate(NEAR_MAX);
        scored.into_iter().map(|(_, name)| name).collect()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// What a reference can mean.
pub(crate) trait Named {
    /// The whole name: parts divided by slashes, percent-encoded.
    fn name(&self) -> String;
}

/// The refusal that lists what could be meant.
pub(crate) fn ambiguous<T: Named>(message: &str, several: &[&T]) -> Failure {
    let mut names: Vec<String> = several.iter().map(|thing| thing.name()).collect();
    names.sort();
    let more = names.len().saturating_sub(CANDIDATES_MAX);
    names.truncate(CANDIDATES_MAX);
    if more > 0 {
        names.push(format!("… and {more} more"));
    }
    let list = names.join("\n  ");
    Failure::refused(format!("{message}; it may be one of\n  {list}"))
        .hint("name more of its parts")
}

/// A part matches as it is written on disk and as it was before it was percent-encoded.
fn same_part(part: &str, wanted: &str) -> bool {
    part == wanted || percent_decode_str(part).eq(wanted.bytes())
}

/// How unlike two parts are: letters to insert, drop or change. `None` when they are not near.
fn distance(part: &str, wanted: &str) -> Option<usize> {
    if part.contains(wanted) || (part.len() >= 3 && wanted.contains(part)) {
        return Some(part.len().abs_diff(wanted.len()).min(1));
    }
    if part.len().max(wanted.len()) > COMPARED_LETTERS_MAX {
        return None;
    }
    let wanted: Vec<char> = wanted.chars().collect();
    let mut row: Vec<usize> = (0..=wanted.len()).collect();
    for (above, letter) in part.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (index, other) in wanted.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[index + 1];
            row[index + 1] = changed.min(diagonal + 1).min(row[index] + 1);
        }
    }
    let letters = row[wanted.len()];
    (letters <= wanted.len().div_ceil(3)).then_some(letters)
}

#[cfg(test)]
mod tests;
