//! Transaction ids, ranges of them, and positions.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::Checksum;

/// The id of one capture: a batch of transactions that one L0 file carries. Counts from 1.
///
/// Written as 16 lower-case hex digits, as in the names of LTX files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(NonZeroU64);

/// A text that is no TXID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a TXID is 1 to 16 hex digits and not zero")]
pub struct InvalidTxid;

impl Txid {
    /// The first TXID of a chain; its file holds every page.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` for 0, which is no TXID.
    pub const fn new(id: u64) -> Option<Self> {
        match NonZeroU64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number, at least 1.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The TXID after this one; saturates after 2^64 captures.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The TXID before this one; `None` before the first.
    pub const fn prev(self) -> Option<Self> {
        Self::new(self.0.get().saturating_sub(1))
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Txid {
    type Err = InvalidTxid;

    /// Reads 1 to 16 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, InvalidTxid> {
        if text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidTxid);
        }
        u64::from_str_radix(text, 16)
            .ok()
            .and_then(Self::new)
            .ok_or(InvalidTxid)
    }
}

/// The TXIDs that one LTX file covers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxidRange {
    min: Txid,
    max: Txid,
}

impl TxidRange {
    /// `None` when `max` is below `min`.
    pub fn new(min: Txid, max: Txid) -> Option<Self> {
        (min <= max).then_some(Self { min, max })
    }

    /// The range of one TXID: an L0 file.
    pub const fn single(txid: Txid) -> Self {
        Self {
            min: txid,
            max: txid,
        }
    }

    /// From the first TXID on: a snapshot.
    pub const fn snapshot(max: Txid) -> Self {
        Self {
            min: Txid::FIRST,
            max,
        }
    }

    /// The lowest TXID.
    pub const fn min(self) -> Txid {
        self.min
    }

    /// The highest TXID.
    pub const fn max(self) -> Txid {
        self.max
    }

    /// Whether the file begins at the first TXID, so that it holds every page.
    pub fn is_snapshot(self) -> bool {
        self.min == Txid::FIRST
    }

    /// Whether the range has one TXID.
    pub fn is_single(self) -> bool {
        self.min == self.max
    }

    /// Whether the TXID lies in the range.
    pub fn contains(self, txid: Txid) -> bool {
        self.min <= txid && txid <= self.max
    }
}

impl fmt::Display for TxidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// A state of a database: a TXID and the rolling checksum of all pages after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pos {
    /// The last TXID applied.
    pub txid: Txid,
    /// The XOR of all page checksums (LITESTREAM.md §1.7).
    pub checksum: Checksum,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for id in [1, 0xff, u64::MAX] {
            let txid = Txid::new(id).unwrap();
            assert_eq!(txid.to_string().parse(), Ok(txid));
        }
        assert_eq!("1f".parse(), Ok(Txid::new(31).unwrap()));
    }

    #[test]
    fn bad_text_is_refused() {
        for bad in [
            "",
            "0",
            "0000000000000000",
            "g",
            "+1",
            "-1",
            "00000000000000001",
            " 1",
        ] {
            assert_eq!(bad.parse::<Txid>(), Err(InvalidTxid), "{bad:?}");
        }
    }

    #[test]
    fn ranges_do_not_run_backwards() {
        let (one, two) = (Txid::FIRST, Txid::FIRST.next());
        assert!(TxidRange::new(two, one).is_none());
        assert!(TxidRange::new(one, two).unwrap().is_snapshot());
        assert!(TxidRange::single(two).contains(two));
        assert_eq!(two.prev(), Some(one));
        assert_eq!(one.prev(), None);
    }
}
