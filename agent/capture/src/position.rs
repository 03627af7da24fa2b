//! Whether the WAL goes on where capture stopped.

use sqlrep_format::PageCount;
use sqlrep_format::wal::Cursor;
use sqlrep_spool::{Position, WalPlace};

use crate::Error;
use crate::live::{Live, Published};
use crate::tail;

/// The cursor at which a stopped capture goes on, if the WAL still holds the last frame that was
/// captured: same salts, and at that place a commit of the same size with the same running
/// checksum. That checksum covers every frame of the generation up to it, so nothing before it is
/// different; and whatever came after it is still there, for a reset would have changed the salts.
///
/// A WAL that was reset meanwhile never qualifies: frames that nobody saw may have been in it.
pub(crate) fn resume(
    live: &Live,
    published: &Published,
    position: &Position,
) -> Result<Option<Cursor>, Error> {
    let Some(WalPlace {
        salts,
        frames,
        checksum: Some(checksum),
    }) = position.wal
    else {
        return Ok(None);
    };
    if frames == 0 || frames > published.mx_frame || salts != published.salts {
        return Ok(None);
    }
    let header = tail::header(live, published)?;
    let Some(last) = tail::frame_header(live, frames)? else {
        return Ok(None);
    };
    let same = last.salts == salts
        && last.checksum == checksum
        && last.commit == Some(position.commit)
        && header.page_size == position.page_size;
    Ok(same.then(|| Cursor::resume(&header, frames, checksum)))
}

/// The place that a ledger remembers for a cursor.
pub(crate) fn place(cursor: &Cursor) -> WalPlace {
    WalPlace {
        salts: cursor.salts(),
        frames: cursor.frames(),
        checksum: Some(cursor.checksum()),
    }
}

/// The pages by which a database grew, of which none may be missing from an L0 file (DESIGN §9
/// item 13).
pub(crate) fn growth(
    before: PageCount,
    after: PageCount,
) -> impl Iterator<Item = sqlrep_format::Pgno> {
    (before.get().saturating_add(1)..=after.get()).filter_map(sqlrep_format::Pgno::new)
}
