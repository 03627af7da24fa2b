//! Many pages are compressed by two threads. This one also reads the pages and writes the frames, so it
//! sees to it that the other never waits, and compresses what it still has time for: both are busy to
//! the end, and a snapshot takes about half as long.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use sqlrep_format::ltx::{Frames, PageEncoder};
use sqlrep_format::{PageSize, Pgno};

use super::sheet::Sheet;

/// From so many bytes of pages on a thread is worth its start and its memory.
pub(super) const WORTH_BYTES: u64 = 32 << 20;

/// So much of pages is handed over at once: a tenth of a millisecond's work.
const SHEET_BYTES: usize = 128 * 1024;

/// So many sheets the second thread has at a time: the next one is there when it is done with one.
const SENT: usize = 3;

/// So many sheets there are: what is read, compressed and written at any time, some 2 MB (L12).
const SHEETS: usize = 8;

/// A sheet that is filled, in the order in which they are given.
#[derive(Debug)]
enum Filled {
    /// The second thread has it.
    Sent,
    Done(Sheet),
}

/// Gives `put` the frames of the pages that `fill` fills its memory with, in their order. Fewer pages
/// than there is room for are the last. Stops at the first error of either.
pub(super) fn compress<E: From<io::Error>>(
    page_size: PageSize,
    fill: impl FnMut(&mut [u8], &mut Vec<Pgno>) -> Result<(), E>,
    mut put: impl FnMut(&Frames) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let (errands, inbox) = sync_channel(SHEETS);
        let (outbox, done) = sync_channel(SHEETS);
        Builder::new()
            .name("compress".to_owned())
            .spawn_scoped(scope, move || serve(page_size, &inbox, &outbox))?;
        let mut desk = Desk::new(page_size, fill, errands, done);
        while let Some(sheet) = desk.next()? {
            put(&sheet.frames)?;
            desk.idle.push(sheet);
        }
        Ok(())
    })
}

/// The first thread's sheets.
struct Desk<F> {
    fill: F,
    /// Whether `fill` has no more.
    ended: bool,
    encoder: PageEncoder,
    errands: SyncSender<Sheet>,
    done: Receiver<Sheet>,
    idle: Vec<Sheet>,
    filled: VecDeque<Filled>,
    /// How many of those are sent.
    sent: usize,
}

impl<F> Desk<F> {
    fn new(
        page_size: PageSize,
        fill: F,
        errands: SyncSender<Sheet>,
        done: Receiver<Sheet>,
    ) -> Self {
        let mut idle = Vec::new();
        idle.resize_with(SHEETS, || Sheet::new(page_size, SHEET_BYTES));
        Self {
            fill,
            ended: false,
            encoder: PageEncoder::new(page_size),
            errands,
            done,
            idle,
            filled: VecDeque::with_capacity(SHEETS),
            sent: 0,
        }
    }

    /// The next sheet with its frames; `None` after the last.
    fn next<E: From<io::Error>>(&mut self) -> Result<Option<Sheet>, E>
    where
        F: FnMut(&mut [u8], &mut Vec<Pgno>) -> Result<(), E>,
    {
        loop {
            while let Ok(sheet) = self.done.try_recv() {
                self.came_back(sheet);
            }
            if let (false, Some(mut sheet)) = (self.ended, self.idle_sheet()) {
                self.ended = sheet.fill(&mut self.fill)?;
                self.see_to(sheet)?;
                continue;
            }
            match self.filled.pop_front() {
                None => return Ok(None),
                Some(Filled::Done(sheet)) => return Ok(Some(sheet)),
                Some(Filled::Sent) => {
                    self.filled.push_front(Filled::Sent);
                    let sheet = self.done.recv().map_err(|_| gone())?;
                    self.came_back(sheet);
                }
            }
        }
    }

    /// A sheet to fill. When the other thread has enough to do, what is done is given first.
    fn idle_sheet(&mut self) -> Option<Sheet> {
        let done = matches!(self.filled.front(), Some(Filled::Done(_)));
        if done && self.sent == SENT {
            return None;
        }
        self.idle.pop()
    }

    /// Sends a filled sheet, or compresses it here.
    fn see_to(&mut self, mut sheet: Sheet) -> io::Result<()> {
        if self.sent < SENT {
            self.errands.send(sheet).map_err(|_| gone())?;
            self.sent += 1;
            self.filled.push_back(Filled::Sent);
        } else {
            sheet.encode(&mut self.encoder);
            self.filled.push_back(Filled::Done(sheet));
        }
        Ok(())
    }

    /// The sheets come back in the order in which they were sent.
    fn came_back(&mut self, sheet: Sheet) {
        let mut filled = self.filled.iter_mut();
        if let Some(place) = filled.find(|filled| matches!(filled, Filled::Sent)) {
            *place = Filled::Done(sheet);
            self.sent -= 1;
        }
    }
}

/// The second thread, until nothing more comes or nobody waits for it.
fn serve(page_size: PageSize, inbox: &Receiver<Sheet>, outbox: &SyncSender<Sheet>) {
    let mut encoder = PageEncoder::new(page_size);
    while let Ok(mut sheet) = inbox.recv() {
        sheet.encode(&mut encoder);
        if outbox.send(sheet).is_err() {
            break;
        }
    }
}

/// It only ends before us when it panics, and that goes on in us.
fn gone() -> io::Error {
    io::Error::other("the thread that compresses pages ended")
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use sqlrep_format::Crc64;

    use super::*;

    /// Page `number` of a database: half of it the same in all.
    fn page(number: u32, bytes: usize) -> Vec<u8> {
        let mut page = vec![7; bytes];
        let mut random = fastrand::Rng::with_seed(number.into());
        random.fill(&mut page[..bytes / 2]);
        page
    }

    /// The frames of `pages` pages with even numbers, until more than `fail_after` were given.
    fn run(page_size: PageSize, pages: u32, fail_after: usize) -> Result<Vec<u8>, Error> {
        let (mut asked, mut given, mut frames) = (0, 0, Vec::new());
        compress(
            page_size,
            |out: &mut [u8], numbers: &mut Vec<Pgno>| {
                for out in out.chunks_exact_mut(page_size.bytes()) {
                    if asked < pages {
                        asked += 1;
                        out.copy_from_slice(&page(asked, out.len()));
                        numbers.push(Pgno::new(2 * asked).unwrap());
                    }
                }
                Ok(())
            },
            |made: &Frames| {
                for made in made.made() {
                    given += 1;
                    let number = u32::try_from(given).unwrap();
                    assert_eq!(made.pgno.get(), 2 * number, "in their order");
                    let page = page(number, page_size.bytes());
                    assert_eq!(made.content, Crc64::of(&page));
                }
                frames.extend_from_slice(made.bytes());
                if given > fail_after {
                    return Err(Error::other("the disk is full"));
                }
                Ok(())
            },
        )?;
        assert_eq!(given, pages as usize);
        Ok(frames)
    }

    #[test]
    fn every_page_comes_back_with_the_frame_that_one_thread_would_have_made() {
        for (bytes, counts) in [
            (512, [0, 1, 255, 256, 257, 9000]),
            (65_536, [0, 1, 2, 3, 5, 90]),
        ] {
            let page_size = PageSize::new(bytes).unwrap();
            for count in counts {
                let mut encoder = PageEncoder::new(page_size);
                let mut expected = Frames::default();
                for number in 1..=count {
                    let pgno = Pgno::new(2 * number).unwrap();
                    let page = page(number, page_size.bytes());
                    encoder.encode(pgno, &page, &mut expected);
                }
                let frames = run(page_size, count, usize::MAX).unwrap();
                assert!(frames == expected.bytes(), "{count} pages of {bytes} bytes");
            }
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let page_size = PageSize::new(4096).unwrap();
        for fail_after in [0, 1, 31, 32, 33, 700] {
            let error = run(page_size, 1000, fail_after).unwrap_err();
            assert_eq!(error.to_string(), "the disk is full");
        }
        let mut asked = 0;
        let error = compress(
            page_size,
            |pages: &mut [u8], numbers: &mut Vec<Pgno>| {
                for _ in pages.chunks_exact(page_size.bytes()) {
                    asked += 1;
                    numbers.extend(Pgno::new(asked));
                }
                if asked > 400 {
                    return Err(Error::other("unreadable"));
                }
                Ok(())
            },
            |_| Ok(()),
        );
        assert_eq!(error.unwrap_err().to_string(), "unreadable");
    }
}
