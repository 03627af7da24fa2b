//! New committed frames of the WAL, into the pending set.
//!
//! What counts is what SQLite published in the wal-index: a writer that died between writing its
//! commit and publishing it leaves valid frames that the next one overwrites. And what is
//! published is believed only when every frame proves itself: its salts, and the running checksum
//! over everything before it (DESIGN §9 items 1 and 2).

use std::fs::File;
use std::io;

use sqlrep_format::wal::{Cursor, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Header};
use sqlrep_format::{PageCount, Pgno};

use crate::Error;
use crate::live::{Live, Published, read_full};
use crate::pending::Pending;
use crate::window::Window;

/// What one read of the tail brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) frames: u32,
    pub(crate) pages: u32,
}

impl Batch {
    /// This one and the next.
    pub(crate) fn and(self, next: Self) -> Self {
        Self {
            frames: self.frames.saturating_add(next.frames),
            pages: self.pages.saturating_add(next.pages),
        }
    }
}

/// The newest version of each page in a part of the WAL: (page, frame number from 0), ascending.
pub(crate) type Latest = Vec<(Pgno, u32)>;

/// Frames that were read, and what they add up to.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) cursor: Cursor,
    pub(crate) latest: Latest,
    pub(crate) commit: Option<PageCount>,
    last_commit: LastCommit,
}

/// The header of the WAL with the published generation. Another one means that somebody who does
/// not know SQLite's rules wrote there.
pub(crate) fn header(live: &Live, published: &Published) -> Result<Header, Error> {
    match read_header(live)? {
        Some(header) if header.salts == published.salts => Ok(header),
        header => Err(no_such_generation(live, published, header)),
    }
}

/// The header of the WAL as it stands; `None` for one that is missing, torn or no header at all.
pub(crate) fn read_header(live: &Live) -> Result<Option<Header>, Error> {
    let mut bytes = [0; HEADER_BYTES];
    let read = read_full(live.wal(), &mut bytes, 0).map_err(Error::io("read the -wal of", live))?;
    Ok((read == HEADER_BYTES)
        .then_some(bytes)
        .and_then(|bytes| Header::parse(&bytes).ok()))
}

/// The header of one frame, counted from 1; `None` when the file does not hold it.
pub(crate) fn frame_header(live: &Live, frame: u32) -> Result<Option<FrameHeader>, Error> {
    let Some(index) = frame.checked_sub(1) else {
        return Ok(None);
    };
    let mut bytes = [0; FRAME_HEADER_BYTES];
    let read = read_full(live.wal(), &mut bytes, frame_offset(live, index))
        .map_err(Error::io("read the -wal of", live))?;
    Ok((read == FRAME_HEADER_BYTES)
        .then_some(bytes)
        .and_then(|bytes| FrameHeader::parse(&bytes)))
}

fn no_such_generation(live: &Live, published: &Published, found: Option<Header>) -> Error {
    let Some(found) = found else {
        // Not even a header where frames were promised.
        return Error::WalTruncated {
            path: live.path(),
            published: published.mx_frame,
            held: 0,
        };
    };
    let reason = format!(
        "its salts are {}, the index says {}",
        found.salts, published.salts
    );
    Error::WalMismatch {
        path: live.path(),
        reason,
    }
}

/// How far a scan goes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the end, however much it is.
    End,
    /// To the end of a transaction, as long as the window holds all of it; one that is longer than that
    /// is read whole.
    Window,
}

/// Moves from `cursor` to the end of what is published, or as far as `reach` says, proving each frame.
pub(crate) fn scan(
    live: &Live,
    cursor: Cursor,
    published: &Published,
    reach: Reach,
    window: &mut Window,
) -> Result<Scan, Error> {
    let mut scan = Scan::at(cursor);
    let stopped = scan_frames(live, &mut scan, published.mx_frame, reach, window)?;
    match stopped {
        Some(Stop::Full) => Ok(scan.up_to_last_commit()),
        Some(Stop::End) => Err(Error::WalTruncated {
            path: live.path(),
            published: published.mx_frame,
            held: scan.cursor.frames(),
        }),
        Some(Stop::Invalid(source)) => Err(Error::WalCorrupt {
            path: live.path(),
            frame: scan.cursor.frames().saturating_add(1),
            source,
        }),
        None if scan.cursor.checksum() != published.checksum => Err(Error::WalMismatch {
            path: live.path(),
            reason: format!(
                "the checksum of frame {} is {:08x?}, the index says {:08x?}",
                published.mx_frame,
                scan.cursor.checksum(),
                published.checksum
            ),
        }),
        None if scan.commit.is_none() && scan.cursor.frames() > cursor.frames() => {
            let reason = format!("frame {} does not end a transaction", published.mx_frame);
            Err(Error::WalMismatch {
                path: live.path(),
                reason,
            })
        }
        None => {
            newest_only(&mut scan.latest);
            Ok(scan)
        }
    }
}

/// Moves from `cursor` to the last commit that proves itself, as SQLite's recovery would: for a
/// WAL whose writers are all dead and whose wal-index cannot be read.
pub(crate) fn scan_to_last_commit(
    live: &Live,
    cursor: Cursor,
    window: &mut Window,
) -> Result<Scan, Error> {
    let mut scan = Scan::at(cursor);
    scan_frames(live, &mut scan, u32::MAX, Reach::End, window)?;
    Ok(scan.up_to_last_commit())
}

impl Scan {
    fn at(cursor: Cursor) -> Self {
        Self {
            cursor,
            latest: Vec::new(),
            commit: None,
            last_commit: LastCommit {
                cursor,
                commit: None,
                frames: 0,
            },
        }
    }

    /// The part of it that ends with its last commit; without one, where it began.
    fn up_to_last_commit(mut self) -> Self {
        let LastCommit {
            cursor,
            commit,
            frames,
        } = self.last_commit;
        self.latest.truncate(frames);
        newest_only(&mut self.latest);
        Self {
            cursor,
            commit,
            ..self
        }
    }
}

/// Where the last commit of a scan ends.
#[derive(Clone, Copy, Debug)]
struct LastCommit {
    cursor: Cursor,
    commit: Option<PageCount>,
    /// How many of the frames that were read are up to it.
    frames: usize,
}

/// Why a scan did not reach its end.
enum Stop {
    /// The window is full, and holds a commit.
    Full,
    /// The file ends.
    End,
    /// The next frame does not count.
    Invalid(sqlrep_format::wal::Invalid),
}

fn scan_frames(
    live: &Live,
    scan: &mut Scan,
    to_frame: u32,
    reach: Reach,
    window: &mut Window,
) -> Result<Option<Stop>, Error> {
    window.begin(scan.cursor.frames(), scan.cursor.frame_bytes());
    while scan.cursor.frames() < to_frame {
        let may_stop = reach == Reach::Window && scan.last_commit.commit.is_some();
        if may_stop && window.is_full() {
            return Ok(Some(Stop::Full));
        }
        let room = window.room((to_frame - scan.cursor.frames()) as usize);
        let wanted = room.len();
        let read = read_full(live.wal(), room, scan.cursor.offset())
            .map_err(Error::io("read the -wal of", live))?;
        for frame in window.filled(read) {
            let index = scan.cursor.frames();
            match scan.cursor.next(frame) {
                Ok(header) => {
                    scan.latest.push((header.pgno, index));
                    scan.commit = header.commit;
                    if header.commit.is_some() {
                        scan.last_commit = LastCommit {
                            cursor: scan.cursor,
                            commit: header.commit,
                            frames: scan.latest.len(),
                        };
                    }
                }
                Err(invalid) => return Ok(Some(Stop::Invalid(invalid))),
            }
        }
        if read < wanted {
            return Ok(Some(Stop::End));
        }
    }
    Ok(None)
}

/// Sorts by page and keeps the newest frame of each.
fn newest_only(latest: &mut Latest) {
    latest.sort_unstable_by_key(|&(pgno, frame)| (pgno, std::cmp::Reverse(frame)));
    latest.dedup_by_key(|&mut (pgno, _)| pgno);
}

/// Copies the newest version of each page of a scan into the pending set: from `window`, which the
/// scan was read through, or once more from the WAL where it was too long for that.
pub(crate) fn collect(
    live: &Live,
    scan: &Scan,
    window: &Window,
    pending: &mut Pending,
) -> Result<u32, Error> {
    let Some(commit) = scan.commit else {
        return Ok(0);
    };
    let lock_page = live.page_size().lock_page();
    let mut pages = 0;
    for &(pgno, frame) in &scan.latest {
        if commit.contains(pgno) && pgno != lock_page {
            let held = window
                .frame(frame)
                .and_then(|frame| frame.get(FRAME_HEADER_BYTES..));
            pending
                .put(pgno, |page| match held {
                    Some(held) => {
                        page.copy_from_slice(held);
                        Ok(())
                    }
                    None => read_page(live, frame, page),
                })
                .map_err(Error::io("copy pages from the -wal of", live))?;
            pages += 1;
        }
    }
    pending.commit_at(commit);
    Ok(pages)
}

/// Reads the page of a frame, counted from 0, that is known to count.
pub(crate) fn read_page(live: &Live, frame: u32, page: &mut [u8]) -> io::Result<()> {
    read_exactly(
        live.wal(),
        page,
        frame_offset(live, frame) + FRAME_HEADER_BYTES as u64,
    )
}

fn read_exactly(file: &File, page: &mut [u8], offset: u64) -> io::Result<()> {
    if read_full(file, page, offset)? == page.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn frame_offset(live: &Live, index: u32) -> u64 {
    let frame_bytes = FRAME_HEADER_BYTES as u64 + u64::from(live.page_size().get());
    HEADER_BYTES as u64 + u64::from(index) * frame_bytes
}
