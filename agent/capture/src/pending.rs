//! Pages that were read from the WAL and are not in an L0 file yet.
//!
//! Only the newest version of each page is kept: in memory up to a limit, past it in a file that
//! has no name. So the WAL can be read and let go every few milliseconds, while L0 files are cut
//! once per interval.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sqlrep_format::{PageCount, PageSize, Pgno};

/// Memory is taken in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;

/// A scratch file up to this size is kept for the next batch.
const SCRATCH_KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// The pending set.
#[derive(Debug)]
pub(crate) struct Pending {
    page_size: PageSize,
    /// The newest version of each page.
    slots: HashMap<Pgno, u32>,
    /// Slots of pages that were dropped, to be used again.
    free: Vec<u32>,
    /// How many slots were ever used since the last clear.
    used: u32,
    /// How many slots lie in memory at most.
    arena_slots: u32,
    pieces: Vec<Box<[u8]>>,
    scratch_dir: PathBuf,
    scratch: Option<File>,
    /// One page on its way to the scratch file.
    page: Vec<u8>,
    /// The size of the database after the last commit read; `None` while nothing is pending.
    commit: Option<PageCount>,
}

impl Pending {
    pub(crate) fn new(page_size: PageSize, arena_bytes: usize, scratch_dir: &Path) -> Self {
        Self {
            page_size,
            slots: HashMap::new(),
            free: Vec::new(),
            used: 0,
            arena_slots: u32::try_from(arena_bytes / page_size.bytes()).unwrap_or(u32::MAX),
            pieces: Vec::new(),
            scratch_dir: scratch_dir.to_owned(),
            scratch: None,
            page: Vec::new(),
            commit: None,
        }
    }

    /// How many pages are pending.
    pub(crate) fn pages(&self) -> usize {
        self.slots.len()
    }

    /// The size of the database after the last commit; `None` while nothing is pending.
    pub(crate) fn commit(&self) -> Option<PageCount> {
        self.commit
    }

    pub(crate) fn contains(&self, pgno: Pgno) -> bool {
        self.slots.contains_key(&pgno)
    }

    /// All pending pages, ascending.
    pub(crate) fn sorted(&self) -> Vec<Pgno> {
        let mut pages: Vec<Pgno> = self.slots.keys().copied().collect();
        pages.sort_unstable();
        pages
    }

    /// Puts the newest version of a page; `fill` writes it into the buffer it is given.
    pub(crate) fn put(
        &mut self,
        pgno: Pgno,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let slot = match self.slots.entry(pgno) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.used += 1;
                    self.used - 1
                });
                *entry.insert(slot)
            }
        };
        let written = self.write(slot, fill);
        if written.is_err() {
            // Half a page must not be found here.
            self.slots.remove(&pgno);
            self.free.push(slot);
        }
        written
    }

    /// A transaction ended with this size: pages beyond it are gone.
    pub(crate) fn commit_at(&mut self, commit: PageCount) {
        if self.commit.is_some_and(|old| old > commit) {
            let Self { slots, free, .. } = self;
            slots.retain(|pgno, slot| {
                let stays = commit.contains(*pgno);
                if !stays {
                    free.push(*slot);
                }
                stays
            });
        }
        self.commit = Some(commit);
    }

    /// Reads a pending page.
    pub(crate) fn read(&self, pgno: Pgno, page: &mut [u8]) -> io::Result<()> {
        let slot = *self.slots.get(&pgno).ok_or(io::ErrorKind::NotFound)?;
        match (self.place(slot), &self.scratch) {
            (Place::Memory { piece, at }, _) => {
                let bytes = self
                    .pieces
                    .get(piece)
                    .and_then(|p| p.get(at..at + page.len()));
                page.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            (Place::Scratch { offset }, Some(scratch)) => scratch.read_exact_at(page, offset),
            (Place::Scratch { .. }, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Puts the pages of an older set that this one has no newer version of.
    pub(crate) fn put_beneath(&mut self, older: &Self) -> io::Result<()> {
        let commit = self.commit.or(older.commit);
        for pgno in older.sorted() {
            let inside = commit.is_none_or(|commit| commit.contains(pgno));
            if inside && !self.contains(pgno) {
                self.put(pgno, |page| older.read(pgno, page))?;
            }
        }
        self.commit = commit;
        Ok(())
    }

    /// The set without its pages, to use its memory again.
    pub(crate) fn emptied(mut self) -> Self {
        self.clear();
        self
    }

    /// Everything is in an L0 file. Memory stays for the next batch.
    pub(crate) fn clear(&mut self) {
        let scratch_bytes = self.scratch_bytes();
        self.slots.clear();
        self.free.clear();
        self.used = 0;
        self.commit = None;
        // What is written over need not be allocated again.
        if scratch_bytes > SCRATCH_KEPT_BYTES
            && let Some(scratch) = &self.scratch
            && scratch.set_len(0).is_err()
        {
            self.scratch = None; // another one is made when it is needed
        }
    }

    /// Gives memory and scratch space back, if nothing is pending.
    pub(crate) fn relax(&mut self) {
        if self.slots.is_empty() {
            self.slots = HashMap::new();
            self.free = Vec::new();
            self.pieces = Vec::new();
            self.page = Vec::new();
            self.scratch = None;
        }
    }

    fn write(
        &mut self,
        slot: u32,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let page_bytes = self.page_size.bytes();
        match self.place(slot) {
            Place::Memory { piece, at } => {
                while self.pieces.len() <= piece {
                    self.pieces
                        .push(vec![0; self.piece_bytes()].into_boxed_slice());
                }
                let page = self
                    .pieces
                    .get_mut(piece)
                    .and_then(|p| p.get_mut(at..at + page_bytes));
                fill(page.ok_or(io::ErrorKind::UnexpectedEof)?)
            }
            Place::Scratch { offset } => {
                self.page.resize(page_bytes, 0);
                fill(&mut self.page)?;
                let scratch = match self.scratch.take() {
                    Some(scratch) => scratch,
                    None => nameless_file(&self.scratch_dir)?,
                };
                let written = scratch.write_all_at(&self.page, offset);
                self.scratch = Some(scratch);
                written
            }
        }
    }

    /// How much of the scratch file is in use.
    fn scratch_bytes(&self) -> u64 {
        let slots = self.used.saturating_sub(self.arena_slots);
        u64::from(slots) * self.page_size.bytes() as u64
    }

    fn place(&self, slot: u32) -> Place {
        let page_bytes = self.page_size.bytes();
        match slot.checked_sub(self.arena_slots) {
            None => {
                let per_piece = self.piece_bytes() / page_bytes;
                let slot = slot as usize;
                Place::Memory {
                    piece: slot / per_piece,
                    at: slot % per_piece * page_bytes,
                }
            }
            Some(beyond) => Place::Scratch {
                offset: u64::from(beyond) * page_bytes as u64,
            },
        }
    }

    fn piece_bytes(&self) -> usize {
        PIECE_BYTES.max(self.page_size.bytes())
    }
}

/// Where a slot lies.
enum Place {
    Memory { piece: usize, at: usize },
    Scratch { offset: u64 },
}

/// A file in `dir` that goes away with its descriptor.
fn nameless_file(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pgno(number: u32) -> Pgno {
        Pgno::new(number).unwrap()
    }

    fn pending(arena_pages: usize) -> (tempfile::TempDir, Pending) {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending::new(PageSize::MIN, arena_pages * 512, dir.path());
        (dir, pending)
    }

    fn put(pending: &mut Pending, number: u32, byte: u8) {
        pending
            .put(pgno(number), |page| {
                page.fill(byte);
                Ok(())
            })
            .unwrap();
    }

    fn byte(pending: &Pending, number: u32) -> u8 {
        let mut page = [0; 512];
        pending.read(pgno(number), &mut page).unwrap();
        assert!(page.iter().all(|b| *b == page[0]));
        page[0]
    }

    #[test]
    fn pages_past_the_memory_limit_go_to_a_nameless_file() {
        let (dir, mut pending) = pending(3);
        for number in 1..=20 {
            put(&mut pending, number, u8::try_from(number).unwrap());
        }
        put(&mut pending, 2, 102);
        put(&mut pending, 19, 119);
        assert_eq!(
            (byte(&pending, 2), byte(&pending, 19), byte(&pending, 4)),
            (102, 119, 4)
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(pending.sorted().len(), 20);
        pending.clear();
        pending.relax();
        assert_eq!(pending.pages(), 0);
        put(&mut pending, 5, 55);
        assert_eq!(byte(&pending, 5), 55);
    }

    #[test]
    fn pages_beyond_a_smaller_commit_are_dropped_and_do_not_come_back() {
        let (_dir, mut pending) = pending(100);
        for number in 1..=10 {
            put(&mut pending, number, 1);
        }
        pending.commit_at(PageCount::new(10).unwrap());
        pending.commit_at(PageCount::new(4).unwrap());
        assert_eq!(pending.pages(), 4);
        pending.commit_at(PageCount::new(10).unwrap());
        assert!(!pending.contains(pgno(7)));
        put(&mut pending, 7, 7);
        assert_eq!(byte(&pending, 7), 7);
        assert_eq!((1..=4).map(|n| byte(&pending, n)).max(), Some(1));
    }

    #[test]
    fn a_page_that_could_not_be_read_is_not_pending() {
        let (_dir, mut pending) = pending(4);
        put(&mut pending, 1, 1);
        assert!(
            pending
                .put(pgno(1), |_| Err(io::ErrorKind::Other.into()))
                .is_err()
        );
        assert!(!pending.contains(pgno(1)));
    }
}
