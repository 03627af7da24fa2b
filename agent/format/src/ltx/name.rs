//! The names of LTX files and of the directories they lie in.

use std::fmt;
use std::str::FromStr;

use crate::{Txid, TxidRange};

/// A level of a replica: its files lie in `ltx/<level>/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

/// A text or number that is no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is a digit from 0 to 9")]
pub struct InvalidLevel;

impl Level {
    /// Files as captured, one TXID each.
    pub const L0: Self = Self(0);
    /// Snapshots: files from the first TXID on.
    pub const SNAPSHOT: Self = Self(9);

    /// `None` above 9.
    pub const fn new(level: u8) -> Option<Self> {
        if level <= Self::SNAPSHOT.0 {
            Some(Self(level))
        } else {
            None
        }
    }

    /// The number, at most 9.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// All levels, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].into_iter().map(Self)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Level {
    type Err = InvalidLevel;

    /// Reads exactly one digit: `00` or `+1` are names of other directories.
    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        match text.as_bytes() {
            [digit @ b'0'..=b'9'] => Ok(Self(digit.saturating_sub(b'0'))),
            _ => Err(InvalidLevel),
        }
    }
}

/// The name of an LTX file: `<min>-<max>.ltx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(pub TxidRange);

/// A text that is not the name of an LTX file. Other files may lie beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an LTX file is named <min>-<max>.ltx, two ascending TXIDs of 16 lower-case hex digits")]
pub struct InvalidFileName;

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.ltx", self.0)
    }
}

impl FromStr for FileName {
    type Err = InvalidFileName;

    fn from_str(text: &str) -> Result<Self, InvalidFileName> {
        let (min, max) = text
            .strip_suffix(".ltx")
            .and_then(|stem| stem.split_once('-'))
            .ok_or(InvalidFileName)?;
        let range = TxidRange::new(txid(min)?, txid(max)?).ok_or(InvalidFileName)?;
        Ok(Self(range))
    }
}

/// Exactly 16 lower-case hex digits: Litestream does not see other names.
fn txid(text: &str) -> Result<Txid, InvalidFileName> {
    let strict = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !strict {
        return Err(InvalidFileName);
    }
    text.parse().map_err(|_| InvalidFileName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let name = "0000000000000006-00000000000000ff.ltx";
        let parsed: FileName = name.parse().unwrap();
        assert_eq!((parsed.0.min().get(), parsed.0.max().get()), (6, 255));
        assert_eq!(parsed.to_string(), name);
    }

    #[test]
    fn other_names_are_refused() {
        for bad in [
            "",
            ".ltx",
            "0000000000000001-0000000000000001",
            "0000000000000001-0000000000000001.ltx.tmp",
            "0000000000000001-0000000000000001.LTX",
            "000000000000000A-000000000000000A.ltx",
            "1-1.ltx",
            "0000000000000000-0000000000000001.ltx",
            "0000000000000002-0000000000000001.ltx",
            "+000000000000001-0000000000000001.ltx",
            "0000000000000001--000000000000001.ltx",
            "0000000000000001-0000000000000001 .ltx",
            "00000000000000é-0000000000000001.ltx",
            ".nfs0000000000000001-0000000000000001.ltx",
        ] {
            assert_eq!(bad.parse::<FileName>(), Err(InvalidFileName), "{bad:?}");
        }
    }

    #[test]
    fn levels_are_single_digits() {
        for level in Level::all() {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!(Level::all().len(), 10);
        assert_eq!(Level::new(10), None);
        for bad in ["", "10", "00", "+1", "-1", "a", " 1", "٣"] {
            assert_eq!(bad.parse::<Level>(), Err(InvalidLevel), "{bad:?}");
        }
    }
}
