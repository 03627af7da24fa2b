//! Pages that were read from the WAL and are not in an L0 file yet.
//!
//! Only the newest version of each page is kept: in memory up to a limit, past it in a file that
//! has no name. So the WAL can be read and let go every few milliseconds, while L0 files are cut
//! once per interval.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;
use rustix::fs::{Mode, OFlags};
use sqlrep_format::{PageCount, PageSize, Pgno};

/// Memory is taken in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;

/// Pages go to the scratch file in runs of this size: one call for sixteen of the usual size.
const RUN_BYTES: usize = 64 * 1024;

/// So much of the scratch file may be older versions of pages at most, and of what is free on its disk
/// no more than this part.
const SPARE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SPARE_PART: u64 = 16;

/// This part of the memory is for whatever comes first, so that few commits need no scratch file. The
/// rest is for pages that came to be in that file and are written again: what a busy database changes
/// all the time is changed in memory from then on.
const FIRST_PART: u32 = 6;

/// So much of the scratch file is kept for the next batch: what a writer at full speed fills of it in a
/// second, older versions of pages included.
const SCRATCH_KEPT_BYTES: u64 = 96 * 1024 * 1024;

/// The pending set.
#[derive(Debug)]
pub(crate) struct Pending {
    page_size: PageSize,
    /// The newest version of each page. Whoever writes the database chooses the numbers; which of them
    /// collide is chosen anew for each set, and seen by nobody.
    slots: HashMap<Pgno, u32, RandomState>,
    /// How many slots lie in memory at most: they come first in the numbers, then those of the file.
    arena_slots: u32,
    in_memory: Slots,
    in_file: Slots,
    /// How many slots of the file may be older versions; looked up once for each batch.
    spare: Option<u32>,
    pieces: Vec<Box<[u8]>>,
    scratch_dir: PathBuf,
    scratch: Option<File>,
    /// What is not in the scratch file yet: the newest slots.
    run: Run,
    /// One page on its way to the scratch file.
    page: Vec<u8>,
    /// The size of the database after the last commit read; `None` while nothing is pending.
    commit: Option<PageCount>,
}

impl Pending {
    pub(crate) fn new(page_size: PageSize, arena_bytes: usize, scratch_dir: &Path) -> Self {
        Self {
            page_size,
            slots: HashMap::default(),
            arena_slots: u32::try_from(arena_bytes / page_size.bytes()).unwrap_or(u32::MAX),
            in_memory: Slots::default(),
            in_file: Slots::default(),
            spare: None,
            pieces: Vec::new(),
            scratch_dir: scratch_dir.to_owned(),
            scratch: None,
            run: Run::default(),
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
        let slot = self.slot_for(pgno);
        let written = self.write(slot, fill);
        if written.is_err() {
            // Half a page must not be found here.
            self.slots.remove(&pgno);
            self.let_go(slot);
        }
        written
    }

    /// Where the newest version of a page is put. One of which an older version lies in the scratch
    /// file is put into memory, or else at the end of the file instead of over that, as long as there
    /// is room: what goes to the end goes in runs, and a busy database changes the same pages again
    /// and again.
    fn slot_for(&mut self, pgno: Pgno) -> u32 {
        let old = self.slots.get(&pgno).copied();
        if let Some(slot) = old.filter(|slot| self.is_at_hand(*slot)) {
            return slot;
        }
        let slot = match (self.memory_slot(old.is_some()), old) {
            (Some(slot), _) => slot,
            (None, Some(slot)) if !self.may_append() => return slot,
            (None, _) => self.file_slot(),
        };
        if let Some(old) = old {
            self.let_go(old);
        }
        self.slots.insert(pgno, slot);
        slot
    }

    /// Whether a slot lies in memory.
    fn is_at_hand(&self, slot: u32) -> bool {
        match self.place(slot) {
            Place::Memory { .. } => true,
            Place::Scratch { offset } => offset >= self.run.offset,
        }
    }

    /// A slot in memory, if there is one for a page that is new, or is there `again`.
    fn memory_slot(&mut self, again: bool) -> Option<u32> {
        let all = self.arena_slots;
        let room = if again { all } else { all.div_ceil(FIRST_PART) };
        (self.in_memory.in_use() < room).then(|| self.in_memory.take())
    }

    /// A slot in the file: at its end as long as there is room.
    fn file_slot(&mut self) -> u32 {
        let slot = if self.may_append() {
            self.in_file.append()
        } else {
            self.in_file.take()
        };
        slot.saturating_add(self.arena_slots)
    }

    /// Whether the scratch file may grow by one more slot.
    fn may_append(&mut self) -> bool {
        let (page_bytes, dir) = (self.page_size.bytes() as u64, &self.scratch_dir);
        let spare = *self.spare.get_or_insert_with(|| {
            let pages = spare_bytes(dir) / page_bytes;
            u32::try_from(pages).unwrap_or(u32::MAX)
        });
        let live = self.in_file.in_use();
        self.in_file.used < live.saturating_add(spare)
    }

    /// A page is not where it was.
    fn let_go(&mut self, slot: u32) {
        match slot.checked_sub(self.arena_slots) {
            None => self.in_memory.free.push(slot),
            Some(beyond) => self.in_file.free.push(beyond),
        }
    }

    /// A transaction ended with this size: pages beyond it are gone.
    pub(crate) fn commit_at(&mut self, commit: PageCount) {
        if self.commit.is_some_and(|old| old > commit) {
            let beyond = |(pgno, slot): (&Pgno, &u32)| (!commit.contains(*pgno)).then_some(*slot);
            let beyond: Vec<u32> = self.slots.iter().filter_map(beyond).collect();
            self.slots.retain(|pgno, _| commit.contains(*pgno));
            for slot in beyond {
                self.let_go(slot);
            }
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
            (Place::Scratch { offset }, scratch) => {
                match (self.run.page(offset, page.len()), scratch) {
                    (Some(held), _) => {
                        page.copy_from_slice(held);
                        Ok(())
                    }
                    (None, Some(scratch)) => scratch.read_exact_at(page, offset),
                    (None, None) => Err(io::ErrorKind::NotFound.into()),
                }
            }
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
        self.in_memory.clear();
        self.in_file.clear();
        self.spare = None;
        self.run.clear();
        self.commit = None;
        // What is written over need not be allocated again.
        if scratch_bytes > SCRATCH_KEPT_BYTES
            && let Some(scratch) = &self.scratch
            && scratch.set_len(SCRATCH_KEPT_BYTES).is_err()
        {
            self.scratch = None; // another one is made when it is needed
        }
    }

    /// Gives memory and scratch space back, if nothing is pending.
    pub(crate) fn relax(&mut self) {
        if self.slots.is_empty() {
            self.slots = HashMap::default();
            (self.in_memory, self.in_file) = (Slots::default(), Slots::default());
            self.pieces = Vec::new();
            self.run = Run::default();
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
            Place::Scratch { offset } if offset < self.run.offset => {
                self.page.resize(page_bytes, 0);
                fill(&mut self.page)?;
                opened(&mut self.scratch, &self.scratch_dir)?.write_all_at(&self.page, offset)
            }
            Place::Scratch { offset } => {
                if !self.run.takes(offset, page_bytes) {
                    self.write_run()?;
                    self.run.offset = offset;
                }
                fill(self.run.room(offset, page_bytes))
            }
        }
    }

    /// Writes the run to the scratch file; the next one follows it. Without success it stays.
    fn write_run(&mut self) -> io::Result<()> {
        let Self { run, scratch, .. } = self;
        let held = run.held();
        if !held.is_empty() {
            let scratch = opened(scratch, &self.scratch_dir)?;
            scratch.write_all_at(held, run.offset)?;
            run.offset += held.len() as u64;
            run.held = 0;
        }
        Ok(())
    }

    /// How much of the scratch file is in use.
    fn scratch_bytes(&self) -> u64 {
        u64::from(self.in_file.used) * self.page_size.bytes() as u64
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

/// Slots of one kind, counted from 0.
#[derive(Debug, Default)]
struct Slots {
    /// How many were ever used since the last clear.
    used: u32,
    /// Those of them that hold nothing any more.
    free: Vec<u32>,
}

impl Slots {
    fn in_use(&self) -> u32 {
        let free = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        self.used.saturating_sub(free)
    }

    /// One that is free, or one more.
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| self.append())
    }

    /// One that was never used.
    fn append(&mut self) -> u32 {
        self.used += 1;
        self.used - 1
    }

    fn clear(&mut self) {
        self.used = 0;
        self.free.clear();
    }
}

/// Where a slot lies.
enum Place {
    Memory { piece: usize, at: usize },
    Scratch { offset: u64 },
}

/// The end of the scratch file, in memory still: what is before `offset` was written.
#[derive(Debug, Default)]
struct Run {
    offset: u64,
    /// How many bytes are held.
    held: usize,
    bytes: Vec<u8>,
}

impl Run {
    fn clear(&mut self) {
        (self.offset, self.held) = (0, 0);
    }

    fn held(&self) -> &[u8] {
        self.bytes.get(..self.held).unwrap_or_default()
    }

    /// Whether a page of it is held, or follows what is.
    fn takes(&self, offset: u64, page_bytes: usize) -> bool {
        self.at(offset)
            .is_some_and(|at| at < self.held || (at == self.held && at + page_bytes <= RUN_BYTES))
    }

    /// Where a page lies that it [takes](Self::takes).
    fn room(&mut self, offset: u64, page_bytes: usize) -> &mut [u8] {
        let at = self.at(offset).unwrap_or_default();
        if at == self.held {
            self.held += page_bytes;
        }
        if self.bytes.is_empty() {
            self.bytes = vec![0; RUN_BYTES];
        }
        self.bytes.get_mut(at..at + page_bytes).unwrap_or_default()
    }

    /// A page that is held.
    fn page(&self, offset: u64, page_bytes: usize) -> Option<&[u8]> {
        let at = self.at(offset)?;
        self.held().get(at..at + page_bytes)
    }

    fn at(&self, offset: u64) -> Option<usize> {
        usize::try_from(offset.checked_sub(self.offset)?).ok()
    }
}

/// How much of that disk older versions of pages may take for a while.
fn spare_bytes(dir: &Path) -> u64 {
    let free = rustix::fs::statvfs(dir).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
    (free / SPARE_PART).min(SPARE_BYTES_MAX)
}

/// The scratch file, made in `dir` if there is none.
fn opened<'a>(scratch: &'a mut Option<File>, dir: &Path) -> io::Result<&'a File> {
    let file = match scratch.take() {
        Some(file) => file,
        None => nameless_file(dir)?,
    };
    Ok(scratch.insert(file))
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
    fn older_versions_take_no_more_room_than_is_set_aside_for_them() {
        const PAGES: u32 = 400;
        const SPARE: u32 = 300;
        let (_dir, mut pending) = pending(3);
        pending.spare = Some(SPARE);
        for round in 0..=250 {
            for number in 1..=PAGES {
                put(&mut pending, number, round);
            }
        }
        assert_eq!(pending.in_file.used + 3, PAGES + SPARE);
        assert!((1..=PAGES).all(|number| byte(&pending, number) == 250));
    }

    #[test]
    fn what_is_changed_again_and_again_is_changed_in_memory() {
        let (_dir, mut pending) = pending(42);
        for number in 1..=400 {
            put(&mut pending, number, 1); // the first of them fill what is theirs of the memory
        }
        let file_slots = pending.in_file.used;
        assert_eq!(file_slots, 400 - 7);
        for round in 2..=50 {
            for number in 101..=130 {
                put(&mut pending, number, round);
            }
        }
        assert_eq!(
            pending.in_file.used, file_slots,
            "none of it went to the file"
        );
        assert!((101..=130).all(|number| byte(&pending, number) == 50));
        assert!((131..=400).all(|number| byte(&pending, number) == 1));
        for number in 131..=160 {
            put(&mut pending, number, 2);
        }
        assert!(pending.in_file.used > file_slots, "the memory is full");
        assert!((131..=160).all(|number| byte(&pending, number) == 2));
        // What is dropped makes room.
        pending.commit_at(PageCount::new(400).unwrap());
        pending.commit_at(PageCount::new(120).unwrap());
        pending.commit_at(PageCount::new(400).unwrap());
        assert_eq!(pending.in_memory.in_use(), 7 + 20);
        put(&mut pending, 200, 7);
        assert_eq!((byte(&pending, 200), byte(&pending, 120)), (7, 50));
    }

    #[test]
    fn pages_in_runs_are_the_pages_that_were_put() {
        for page_bytes in [512, 4096, 65_536] {
            let dir = tempfile::tempdir().unwrap();
            let page_size = PageSize::new(page_bytes).unwrap();
            let mut pending = Pending::new(page_size, 3 * page_size.bytes(), dir.path());
            let mut dice = Dice(u64::from(page_bytes));
            let mut expected = std::collections::BTreeMap::new();
            for round in 0..3 {
                pending.spare = Some(100 * round);
                for _ in 0..900 {
                    let number = 1 + dice.below(400);
                    let byte = u8::try_from(dice.below(255)).unwrap();
                    let filled = dice.below(20) > 0;
                    let put = pending.put(pgno(number), |page| {
                        page.fill(byte);
                        filled.then_some(()).ok_or(io::ErrorKind::Other.into())
                    });
                    assert_eq!(put.is_ok(), filled);
                    if filled {
                        expected.insert(number, byte);
                    } else {
                        expected.remove(&number);
                    }
                    if dice.below(200) == 0 {
                        let size = 100 + dice.below(300);
                        pending.commit_at(PageCount::new(400).unwrap());
                        pending.commit_at(PageCount::new(size).unwrap());
                        expected.retain(|number, _| *number <= size);
                    }
                }
                let used = pending.in_file.used;
                assert!(used <= 400 + 100 * round, "{used}");
                let numbers: Vec<u32> = pending.sorted().into_iter().map(Pgno::get).collect();
                assert_eq!(numbers, expected.keys().copied().collect::<Vec<_>>());
                let mut page = vec![0; page_size.bytes()];
                for (number, byte) in &expected {
                    pending.read(pgno(*number), &mut page).unwrap();
                    assert!(
                        page.iter().all(|b| b == byte),
                        "page {number} of round {round}"
                    );
                }
                pending.clear();
                expected.clear();
            }
        }
    }

    /// Numbers that look random and are the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: u32) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            u32::try_from(self.0 >> 33).unwrap() % end
        }
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
