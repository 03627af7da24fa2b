//! The page index of an LTX file: where each page is.

use super::error::{DecodeError, Fault};
use super::header::{HEADER_BYTES, Header};
use super::order::Order;
use super::page::{END_MARKER, frame_bytes_max};
use crate::Pgno;

/// The shortest frame: a page header and a byte. What is shorter cannot be a page.
const FRAME_BYTES_MIN: u64 = 7;

/// Where one page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The page.
    pub pgno: Pgno,
    /// The byte of the file at which its frame begins.
    pub offset: u64,
    /// The length of its frame, header included.
    pub bytes: u64,
}

/// The page index of a file, proven: the frames lie one after the other from the header to the
/// end marker just before the index, in the order that the header demands, complete if it is a
/// snapshot, and none is longer than a page can make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    entries: Vec<IndexEntry>,
}

impl Index {
    /// Reads and proves the index, which stands at `index_offset` of the file, from its bytes,
    /// the terminator included.
    ///
    /// The six bytes of the end marker are not seen here, only their place; they hold no data, and
    /// [`super::finish_crc`] takes them for the zeros that they must be.
    pub fn parse(bytes: &[u8], header: &Header, index_offset: u64) -> Result<Self, DecodeError> {
        let fault = |fault: Fault| DecodeError::corrupt(index_offset, fault);
        let mut order = Order::new(header);
        let mut entries = Vec::new();
        let mut rest = bytes;
        let mut offset = HEADER_BYTES as u64;
        let max = frame_bytes_max(header.page_size);
        loop {
            let pgno = take_uvarint(&mut rest).ok_or_else(|| fault(Fault::Index))?;
            if pgno == 0 {
                break;
            }
            let number = u32::try_from(pgno).ok().and_then(Pgno::new);
            let pgno = number.ok_or_else(|| fault(Fault::Index))?;
            order.admit(pgno).map_err(|error| fault(error.into()))?;
            let begin = take_uvarint(&mut rest).ok_or_else(|| fault(Fault::Index))?;
            let found = take_uvarint(&mut rest).ok_or_else(|| fault(Fault::Index))?;
            if begin != offset {
                return Err(fault(Fault::IndexMismatch));
            }
            if found < FRAME_BYTES_MIN || found > max {
                return Err(fault(Fault::IndexFrame { pgno, max, found }));
            }
            entries.push(IndexEntry {
                pgno,
                offset,
                bytes: found,
            });
            offset = offset.saturating_add(found);
        }
        if !rest.is_empty() {
            return Err(fault(Fault::Index));
        }
        order.end().map_err(|error| fault(error.into()))?;
        if offset.saturating_add(END_MARKER.len() as u64) != index_offset {
            return Err(fault(Fault::IndexMismatch));
        }
        Ok(Self { entries })
    }

    /// The entries, ascending by page and by place.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }
}

/// Appends an unsigned LEB128 integer: 7 bits per byte, the low ones first.
pub(super) fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

/// Takes one off the front; `None` when it is cut off, too large, or longer than it need be.
///
/// Only the shortest form is taken, as only that is written: so an index has one spelling, and
/// the streaming decoder may compare it by its CRC.
fn take_uvarint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let group = u64::from(byte & 0x7f);
        let placed = group.checked_shl(shift)?;
        if placed >> shift != group {
            return None;
        }
        value |= placed;
        if byte & 0x80 == 0 {
            return (*byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

/// The lowest byte of an integer.
fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

#[cfg(test)]
mod tests;
