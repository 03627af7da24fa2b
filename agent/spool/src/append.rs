//! One L0 file: from a draft and its pages to a file that is published, or to nothing.

use std::io::{self, Write};
use std::path::Path;

use sqlrep_format::ltx::{self, Encoder, Frames, PageEncoder};
use sqlrep_format::{Crc64, Join, PageCount, PageSize, Pgno, TxidRange};

use crate::budget::Counted;
use crate::checksums::Edit;
use crate::recover::State;
use crate::{Draft, Error, PageSource};

mod ahead;
mod sheet;

use sheet::Sheet;

/// So much of few pages is compressed at once.
const FEW_BYTES: usize = 32 * 1024;

/// What a draft must follow on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// The size of the database before; `None` when every page must be in the draft.
    grown_from: Option<PageCount>,
}

impl Base {
    /// Refuses a draft that does not follow on the state.
    pub(crate) fn check(name: &str, state: &State, draft: &Draft) -> Result<Self, Error> {
        let database = || name.to_owned();
        if state.interrupted {
            return Err(Error::Interrupted {
                database: database(),
            });
        }
        let expected = state.next_txid();
        if draft.txid != expected {
            return Err(Error::OutOfOrder {
                database: database(),
                expected,
                found: draft.txid,
            });
        }
        let Some(at) = &state.position else {
            return Ok(Self { grown_from: None });
        };
        if draft.page_size != at.page_size {
            return Err(Error::PageSizeChanged {
                database: database(),
                expected: at.page_size,
                found: draft.page_size,
            });
        }
        if draft.timestamp <= at.timestamp {
            return Err(Error::TimeStandsStill {
                database: database(),
                txid: draft.txid,
                last: at.timestamp,
                found: draft.timestamp,
            });
        }
        Ok(Self {
            grown_from: (!state.must_be_full).then_some(at.commit),
        })
    }

    /// How many pages the draft must hold at least: all, or those that the database grew by.
    fn wanted(self, draft: &Draft) -> u32 {
        let pages = |commit: PageCount, size: PageSize| commit.data_pages(size);
        let before = self
            .grown_from
            .map_or(0, |before| pages(before, draft.page_size));
        pages(draft.commit, draft.page_size).saturating_sub(before)
    }

    /// Whether a page is one of those.
    fn wants(self, pgno: Pgno) -> bool {
        self.grown_from.is_none_or(|before| !before.contains(pgno))
    }
}

/// A draft that is being written.
pub(crate) struct Writing<'a> {
    name: &'a str,
    path: &'a Path,
    draft: &'a Draft,
    base: Base,
    pages: &'a mut dyn PageSource,
    /// The ledger's side of it.
    pub(crate) edit: Edit<'a>,
    /// The budget's side of it.
    pub(crate) count: Counted<'a>,
    /// Over the bytes of the file.
    pub(crate) content: Crc64,
    /// What was written, once it was.
    pub(crate) written: Option<ltx::Written>,
    /// Why it was not, when the cause is not the store.
    pub(crate) failure: Option<Error>,
}

impl<'a> Writing<'a> {
    /// Nothing is written yet.
    pub(crate) fn new(
        (name, path): (&'a str, &'a Path),
        (draft, base): (&'a Draft, Base),
        pages: &'a mut dyn PageSource,
        edit: Edit<'a>,
        count: Counted<'a>,
    ) -> Self {
        Self {
            name,
            path,
            draft,
            base,
            pages,
            edit,
            count,
            content: Crc64::new(),
            written: None,
            failure: None,
        }
    }

    /// Writes the file; the store calls this once.
    pub(crate) fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        match self.try_write(out) {
            Ok(written) => {
                self.written = Some(written);
                Ok(())
            }
            Err(Stop::Out(error)) => Err(error),
            Err(Stop::Draft(error)) => {
                let reason = io::Error::other(error.to_string());
                self.failure = Some(*error);
                Err(reason)
            }
        }
    }

    fn try_write(&mut self, out: &mut dyn Write) -> Result<ltx::Written, Stop> {
        let Self {
            name,
            path,
            draft,
            base,
            pages,
            edit,
            count,
            content,
            ..
        } = self;
        let path = || path.to_owned();
        let encode = |source| match source {
            ltx::EncodeError::Io { source, .. } => Stop::Out(source),
            source => Stop::draft(Error::Encode {
                path: path(),
                source,
            }),
        };
        let header = ltx::Header {
            page_size: draft.page_size,
            commit: draft.commit,
            range: TxidRange::single(draft.txid),
            timestamp: draft.timestamp,
            checksums: ltx::Checksums::None,
            wal: draft.wal,
            node_id: draft.node_id,
        };
        let out = Summed {
            out: count.through(out),
            content,
        };
        let mut encoder = Encoder::new(out, &header).map_err(encode)?;
        let mut missing = base.wanted(draft);
        let unread = |source| {
            let path = path();
            Stop::draft(Error::Pages { path, source })
        };
        let join = Join::new(draft.page_size.bytes() as u64);
        let put = |frames: &Frames| {
            encoder.append(frames).map_err(encode)?;
            for made in frames.made() {
                edit.page(made.pgno, join.page_checksum(made.pgno, made.content));
                missing = missing.saturating_sub(u32::from(base.wants(made.pgno)));
            }
            Ok(())
        };
        let many =
            draft.page_size.bytes() as u64 * u64::from(base.wanted(draft)) >= ahead::WORTH_BYTES;
        frames(draft.page_size, many, *pages, unread, put)?;
        if missing > 0 {
            let (database, txid) = ((*name).to_owned(), draft.txid);
            return Err(Stop::draft(Error::MissingPages {
                database,
                txid,
                missing,
            }));
        }
        encoder.finish().map(|(_, written)| written).map_err(encode)
    }
}

/// Gives `put` the frames of all pages, which two threads make when there are many.
fn frames(
    page_size: PageSize,
    many: bool,
    pages: &mut dyn PageSource,
    unread: impl Fn(io::Error) -> Stop,
    mut put: impl FnMut(&Frames) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut fill = |out: &mut [u8], numbers: &mut Vec<Pgno>| {
        pages.fill(page_size, out, numbers).map_err(&unread)
    };
    if many {
        return ahead::compress(page_size, fill, put);
    }
    let mut encoder = PageEncoder::new(page_size);
    let mut sheet = Sheet::new(page_size, FEW_BYTES);
    loop {
        let ended = sheet.fill(&mut fill)?;
        sheet.encode(&mut encoder);
        put(&sheet.frames)?;
        if ended {
            return Ok(());
        }
    }
}

/// A writer that sums up what it lets through.
struct Summed<'a, W> {
    out: W,
    content: &'a mut Crc64,
}

impl<W: Write> Write for Summed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.content
            .update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Why writing stopped.
enum Stop {
    /// The store's file took no more.
    Out(io::Error),
    /// The draft is to blame.
    Draft(Box<Error>),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Out(error)
    }
}

impl Stop {
    fn draft(error: Error) -> Self {
        Self::Draft(Box::new(error))
    }
}
