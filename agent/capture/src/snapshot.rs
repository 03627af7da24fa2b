//! The whole database at one commit, as a source of pages for the spool.
//!
//! The state is that of the last frame published when the reading began: pages that have a frame
//! come from the WAL, all others from the database file. While it is read, the WAL is pinned, so
//! no frame can be overwritten, and a read transaction marks the state, so no checkpoint can copy
//! a newer frame into the database file under our eyes (DESIGN §9 item 7).

use std::io;

use sqlrep_format::wal::Cursor;
use sqlrep_format::{PageCount, PageSize, Pgno, page_checksum};
use sqlrep_spool::{PageChecksums, PageSource};

use crate::Error;
use crate::live::{Live, Published, read_full};
use crate::tail::{self, Latest, Reach};
use crate::window::Window;

/// How much of the database file is read at once for whoever takes page after page.
const AHEAD_BYTES: usize = 64 * 1024;

/// A state that can be read while its marks are held.
#[derive(Debug)]
pub(crate) struct State {
    /// The end of the state in the WAL; `None` without frames.
    pub(crate) cursor: Option<Cursor>,
    /// Its size.
    pub(crate) commit: PageCount,
    published: Published,
    latest: Latest,
}

impl State {
    /// The published state, its frames proven. The caller holds a read transaction and a pin, both
    /// begun before `published` was read.
    pub(crate) fn read(
        live: &mut Live,
        published: Published,
        window: &mut Window,
    ) -> Result<Self, Error> {
        if published.mx_frame == 0 {
            let pages = live.file_bytes()? / u64::from(live.page_size().get());
            let commit = u32::try_from(pages).ok().and_then(PageCount::new);
            let commit = commit.ok_or_else(|| Error::NotADatabase {
                path: live.path(),
                reason: "it has no pages, or more than a database can have".to_owned(),
            })?;
            live.check_extent(commit)?;
            return Ok(Self {
                cursor: None,
                commit,
                published,
                latest: Vec::new(),
            });
        }
        let header = tail::header(live, &published)?;
        if header.page_size != live.page_size() {
            let reason = format!(
                "its pages have {} bytes, those of the database {}",
                header.page_size,
                live.page_size()
            );
            return Err(Error::WalMismatch {
                path: live.path(),
                reason,
            });
        }
        let scan = tail::scan(live, Cursor::start(&header), &published, Reach::End, window)?;
        let commit = scan.commit.ok_or_else(|| Error::WalMismatch {
            path: live.path(),
            reason: "no frame ends a transaction".to_owned(),
        })?;
        live.check_extent(commit)?;
        Ok(Self {
            cursor: Some(scan.cursor),
            commit,
            published,
            latest: scan.latest,
        })
    }

    /// Whether the state can still be read: a last check that nobody broke the rules.
    fn still_stands(&self, live: &Live) -> Result<bool, Error> {
        if self.published.mx_frame == 0 {
            return Ok(true); // nothing came from the WAL
        }
        let header = tail::read_header(live)?;
        Ok(header.is_some_and(|header| header.salts == self.published.salts))
    }
}

/// Pages that lie in one piece: in the database file, or one in a frame of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: Pgno,
    pages: u32,
    frame: Option<u32>,
}

/// The pages of a state from `next` on that lie in one piece, `most` of them at most; `None` after
/// the last.
fn run(
    latest: &Latest,
    commit: PageCount,
    page_size: PageSize,
    next: Pgno,
    most: u32,
) -> Option<Run> {
    let lock = page_size.lock_page();
    let first = if next == lock { next.next()? } else { next };
    if !commit.contains(first) {
        return None;
    }
    let at = latest.partition_point(|&(pgno, _)| pgno < first);
    let in_wal = latest.get(at);
    if let Some(&(_, frame)) = in_wal.filter(|(pgno, _)| *pgno == first) {
        return Some(Run {
            first,
            pages: most.min(1),
            frame: Some(frame),
        });
    }
    let last = commit.get();
    let ends = [in_wal.map(|&(pgno, _)| pgno), Some(lock)];
    let ends = ends.into_iter().flatten().filter(|end| *end > first);
    let last = ends.fold(last, |last, end| last.min(end.get() - 1));
    Some(Run {
        first,
        pages: most.min(last.saturating_sub(first.get()).saturating_add(1)),
        frame: None,
    })
}

/// Reads pages from the database file, the first of which is `first`; what lies beyond its end reads
/// as zeroes, as for SQLite.
pub(crate) fn read_from_file(live: &Live, first: Pgno, pages: &mut [u8]) -> io::Result<()> {
    let read = read_full(live.db(), pages, first.offset(live.page_size()))?;
    pages.get_mut(read..).unwrap_or_default().fill(0);
    Ok(())
}

/// Gives the pages of a state, all or only those that differ from what is captured.
pub(crate) struct Source<'a> {
    live: &'a Live,
    state: &'a State,
    page_size: PageSize,
    next: Option<Pgno>,
    captured: Option<&'a mut PageChecksums>,
    ahead: Ahead,
}

/// Pages that were read at once and are given one by one.
#[derive(Debug, Default)]
struct Ahead {
    pages: Vec<u8>,
    numbers: Vec<Pgno>,
    given: usize,
}

impl Ahead {
    /// Moves the next page out.
    fn pop(&mut self, page: &mut [u8]) -> Option<Pgno> {
        let pgno = self.numbers.get(self.given)?;
        let from = self.given.saturating_mul(page.len());
        let held = self.pages.get(from..from.saturating_add(page.len()))?;
        page.copy_from_slice(held);
        self.given = self.given.saturating_add(1);
        Some(*pgno)
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new(
        live: &'a Live,
        state: &'a State,
        captured: Option<&'a mut PageChecksums>,
    ) -> Self {
        let page_size = live.page_size();
        Self {
            live,
            state,
            page_size,
            next: Some(Pgno::FIRST),
            captured,
            ahead: Ahead::default(),
        }
    }

    /// Begins at `pgno`; the pages before it are known not to differ.
    pub(crate) fn from(self, pgno: Pgno) -> Self {
        Self {
            next: Some(pgno),
            ..self
        }
    }

    /// Fills `pages` with what is to be given of the next pages that lie in one piece, and appends
    /// their numbers; `false` at the end.
    fn read_run(&mut self, pages: &mut [u8], numbers: &mut Vec<Pgno>) -> io::Result<bool> {
        let one = self.page_size.bytes();
        let room = u32::try_from(pages.len() / one).unwrap_or(u32::MAX);
        let State { latest, commit, .. } = self.state;
        let run = (self.next).and_then(|next| run(latest, *commit, self.page_size, next, room));
        let Some(run) = run else {
            self.end()?;
            return Ok(false);
        };
        let bytes = one.saturating_mul(run.pages as usize);
        let pages = pages.get_mut(..bytes).unwrap_or_default();
        match run.frame {
            Some(frame) => tail::read_page(self.live, frame, pages)?,
            None => read_from_file(self.live, run.first, pages)?,
        }
        let mut kept = 0;
        for (number, from) in (run.first.get()..).zip((0..bytes).step_by(one)) {
            let pgno = Pgno::new(number);
            if let (Some(pgno), Some(page)) = (pgno, pages.get(from..from + one))
                && self.is_wanted(pgno, page)
            {
                if kept < from {
                    pages.copy_within(from..from + one, kept);
                }
                kept += one;
                numbers.push(pgno);
            }
            self.next = pgno.and_then(Pgno::next);
        }
        Ok(true)
    }

    /// Whether a page is to be given.
    fn is_wanted(&mut self, pgno: Pgno, page: &[u8]) -> bool {
        let captured = self.captured.as_mut();
        let known = captured.and_then(|captured| captured.get(pgno));
        known.is_none_or(|known| known != page_checksum(pgno, page))
    }

    /// The last act: everything that was given belongs to one state, or nothing is kept.
    fn end(&self) -> io::Result<()> {
        match self.state.still_stands(self.live) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::other(
                "the WAL was reset while the database was read",
            )),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl PageSource for Source<'_> {
    fn next(&mut self, page: &mut [u8]) -> io::Result<Option<Pgno>> {
        loop {
            if let Some(pgno) = self.ahead.pop(page) {
                return Ok(Some(pgno));
            }
            let mut ahead = std::mem::take(&mut self.ahead);
            ahead.numbers.clear();
            ahead.given = 0;
            ahead.pages.resize(AHEAD_BYTES.max(page.len()), 0);
            let more = self.read_run(&mut ahead.pages, &mut ahead.numbers)?;
            self.ahead = ahead;
            if !more {
                return Ok(None);
            }
        }
    }

    fn fill(
        &mut self,
        page_size: PageSize,
        pages: &mut [u8],
        numbers: &mut Vec<Pgno>,
    ) -> io::Result<()> {
        let (one, before) = (page_size.bytes(), numbers.len());
        loop {
            let filled = one.saturating_mul(numbers.len().saturating_sub(before));
            let rest = pages.get_mut(filled..).unwrap_or_default();
            let Some(place) = rest.get_mut(..one) else {
                return Ok(()); // it is full
            };
            if let Some(pgno) = self.ahead.pop(place) {
                numbers.push(pgno);
            } else if !self.read_run(rest, numbers)? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pgno(number: u32) -> Pgno {
        Pgno::new(number).unwrap()
    }

    /// The runs of a database of so many pages, of which these are in the WAL: first page, pages, frame.
    fn runs(commit: u32, in_wal: &[u32], from: u32, most: u32) -> Vec<(u32, u32, Option<u32>)> {
        let frames = (100..).zip(in_wal);
        let latest: Latest = frames.map(|(frame, page)| (pgno(*page), frame)).collect();
        let commit = PageCount::new(commit).unwrap();
        let (mut runs, mut next) = (Vec::new(), Some(pgno(from)));
        while let Some(run) = next.and_then(|next| run(&latest, commit, PageSize::MAX, next, most))
        {
            runs.push((run.first.get(), run.pages, run.frame));
            next = Pgno::new(run.first.get() + run.pages);
        }
        runs
    }

    #[test]
    fn a_run_ends_before_a_page_of_the_wal_and_before_the_lock_page() {
        let lock = PageSize::MAX.lock_page().get();
        assert_eq!(runs(1, &[], 1, 9), [(1, 1, None)]);
        assert_eq!(
            runs(5, &[1, 2, 4, 7], 1, 9),
            [
                (1, 1, Some(100)),
                (2, 1, Some(101)),
                (3, 1, None),
                (4, 1, Some(102)),
                (5, 1, None)
            ]
        );
        assert_eq!(
            runs(5, &[], 1, 2),
            [(1, 2, None), (3, 2, None), (5, 1, None)]
        );
        assert_eq!(
            runs(lock + 2, &[], lock - 2, 9),
            [(lock - 2, 2, None), (lock + 1, 2, None)]
        );
        assert_eq!(
            runs(lock + 1, &[lock + 1], lock - 1, 9),
            [(lock - 1, 1, None), (lock + 1, 1, Some(100))]
        );
        assert_eq!(runs(lock, &[], lock, 9), []);
    }
}
