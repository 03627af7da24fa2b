//! The end of an LTX file: where the page index begins, and the checksums.

use super::error::{DecodeError, Fault};
use super::header::{Checksums, HEADER_BYTES, Header};
use super::page::END_MARKER;
use crate::bytes::be_u64;
use crate::{Checksum, Crc64};

/// The length of the trailer.
pub const TRAILER_BYTES: usize = 16;
/// The trailer and the length of the page index before it: what [`parse_tail`] needs.
pub const TAIL_BYTES: usize = 24;

/// The trailer of an LTX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The checksum of the database after the file, if the file carries checksums.
    pub post_apply: Option<Checksum>,
    /// The checksum of the file itself.
    pub file: Checksum,
}

/// The end of an LTX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The byte at which the page index begins.
    pub index_offset: u64,
    /// The length of the page index, its terminator included.
    pub index_bytes: u64,
    /// The trailer.
    pub trailer: Trailer,
}

impl Trailer {
    /// Checks the trailer against the header and against `pages`, the checksum of all pages.
    ///
    /// `pages` is looked at only for a snapshot that carries checksums.
    pub fn check(&self, header: &Header, pages: Checksum) -> Result<(), Fault> {
        let found = self.post_apply;
        match header.checksums {
            Checksums::None if found.is_none() => Ok(()),
            Checksums::Tracked { .. } if found.is_some_and(|found| found == pages) => Ok(()),
            Checksums::Tracked { pre: None } if let Some(found) = found => Err(Fault::PostApply {
                expected: pages,
                found,
            }),
            // Between a file's pre- and post-apply checksum lie pages that it does not hold.
            Checksums::Tracked { pre: Some(_) } if found.is_some() => Ok(()),
            _ => Err(Fault::PostApplyPresence {
                found: found.map_or(0, Checksum::get),
            }),
        }
    }
}

/// Reads the last 24 bytes of a file of `file_bytes`.
pub fn parse_tail(tail: &[u8; TAIL_BYTES], file_bytes: u64) -> Result<Tail, DecodeError> {
    /// The shortest file: header, end marker, an index of one byte, and the tail.
    const FILE_BYTES_MIN: u64 = (HEADER_BYTES + END_MARKER.len() + 1 + TAIL_BYTES) as u64;
    let Some(spare) = file_bytes.checked_sub(FILE_BYTES_MIN) else {
        let missing = FILE_BYTES_MIN.saturating_sub(file_bytes);
        return Err(DecodeError::Truncated {
            offset: file_bytes,
            missing,
        });
    };
    let at = file_bytes.saturating_sub(TAIL_BYTES as u64);
    let index_bytes = be_u64::<0, _>(tail);
    let index_bytes_max = spare.saturating_add(1);
    if index_bytes == 0 || index_bytes > index_bytes_max {
        let fault = Fault::IndexBytes {
            expected: index_bytes_max,
            found: index_bytes,
        };
        return Err(DecodeError::corrupt(at, fault));
    }
    let trailer = trailer(
        be_u64::<8, _>(tail),
        be_u64::<16, _>(tail),
        at.saturating_add(8),
    )?;
    Ok(Tail {
        index_offset: at.saturating_sub(index_bytes),
        index_bytes,
        trailer,
    })
}

/// The trailer from its two values as stored at `offset`.
pub(super) fn trailer(post: u64, file: u64, offset: u64) -> Result<Trailer, DecodeError> {
    let post_apply = Checksum::new(post);
    if post_apply.is_none() && post != 0 {
        return Err(DecodeError::corrupt(
            offset,
            Fault::PostApplyPresence { found: post },
        ));
    }
    let expected = Checksum::from_crc(file);
    let file = Checksum::new(file).ok_or_else(|| {
        DecodeError::corrupt(
            offset.saturating_add(8),
            Fault::FileChecksum {
                expected,
                found: file,
            },
        )
    })?;
    Ok(Trailer { post_apply, file })
}

/// What the file checksum must be, from the CRC of the header and of all pages.
///
/// `index` is the page index, its terminator included. What else is covered (the end marker, the
/// length of the index, the post-apply checksum) follows from the arguments.
pub fn finish_crc(mut crc: Crc64, index: &[u8], post_apply: Option<Checksum>) -> Checksum {
    crc.update(&END_MARKER);
    crc.update(index);
    finish_tail(crc, index.len() as u64, post_apply)
}

/// The rest of [`finish_crc`], after the index.
pub(super) fn finish_tail(
    mut crc: Crc64,
    index_bytes: u64,
    post_apply: Option<Checksum>,
) -> Checksum {
    crc.update(&index_bytes.to_be_bytes());
    crc.update(&post_apply.map_or(0, Checksum::get).to_be_bytes());
    Checksum::from_crc(crc.value())
}
