//! What is published, and what of it is new.

use sqlrep_format::wal::{Cursor, HEADER_BYTES};

use super::{STEP_PASSES, Session};
use crate::Error;
use crate::live::Published;
use crate::tail::{self, Reach};

/// How often a half-written wal-index is looked at before the look is given up.
const TORN_TRIES: u32 = 4;

impl Session {
    /// The published state; `None` when it stays half-written for the moment.
    pub(super) fn published(&mut self) -> Result<Option<Published>, Error> {
        for _ in 0..TORN_TRIES {
            if let Some(published) = self.live.published()? {
                self.last_seen = Some(published);
                return Ok(Some(published));
            }
            std::thread::yield_now();
        }
        Ok(None)
    }

    /// The published state if it has something new; settles if it has not.
    pub(super) fn look_for_new(&mut self) -> Result<Option<Published>, Error> {
        let Some(published) = self.published()? else {
            return Ok(None);
        };
        if self.is_new(&published) {
            return Ok(Some(published));
        }
        self.settle(&published)?;
        if !self.outwait_checkpoint()? {
            return Ok(None);
        }
        let published = self.published()?;
        Ok(published.filter(|published| self.is_new(published)))
    }

    /// The published state; SQLite repairs one that stays half-written.
    pub(super) fn published_or_repaired(&mut self) -> Result<Published, Error> {
        if let Some(published) = self.published()? {
            return Ok(published);
        }
        // A read transaction recovers the wal-index when its header is broken and no writer is at
        // work on it. Our locks are no obstacle: recovery locks bytes 121 and 122.
        let link = self.live.link()?;
        link.begin()?;
        link.end()?;
        self.torn_looks = 0;
        self.published()?.ok_or_else(|| Error::Torn {
            path: self.live.path(),
        })
    }

    /// Whether frames are published that were not read.
    pub(super) fn is_new(&self, published: &Published) -> bool {
        !is_read(self.cursor.as_ref(), published)
    }

    /// Reads from the cursor to the end of what is published, in parts that are each read once.
    pub(super) fn advance(&mut self, published: &Published) -> Result<tail::Batch, Error> {
        let mut batch = tail::Batch::default();
        loop {
            let (cursor, span_from) = self.cursor_for(published)?;
            let window = &mut self.window;
            let scan = tail::scan(&self.live, cursor, published, Reach::Window, window)?;
            batch = batch.and(self.take(&scan, span_from)?);
            self.send_out();
            if scan.cursor.frames() >= published.mx_frame {
                return Ok(batch);
            }
        }
    }

    /// Puts the pages of a scan into the pending set; only then does the cursor move.
    pub(super) fn take(&mut self, scan: &tail::Scan, span_from: u64) -> Result<tail::Batch, Error> {
        let before = self.cursor.filter(|c| c.salts() == scan.cursor.salts());
        self.mixed = true;
        let pages = tail::collect(&self.live, scan, &self.window, &mut self.pending)?;
        self.mixed = false;
        self.cursor = Some(scan.cursor);
        self.span_from = span_from;
        self.may_reset = false;
        let frames = scan.cursor.frames() - before.map_or(0, |cursor| cursor.frames());
        Ok(tail::Batch { frames, pages })
    }

    /// The cursor from which to read, and where the span of the next L0 file begins.
    pub(super) fn cursor_for(&mut self, published: &Published) -> Result<(Cursor, u64), Error> {
        let lost = |reason| Error::ContinuityLost {
            path: self.live.path(),
            reason,
        };
        match self.cursor {
            Some(cursor) if cursor.salts() == published.salts => {
                if cursor.frames() > published.mx_frame {
                    return Err(lost("it is shorter than what was read of it"));
                }
                Ok((cursor, self.span_from))
            }
            _ if !self.may_reset => Err(lost("it was reset although it was held")),
            _ => {
                let header = tail::header(&self.live, published)?;
                let cursor = Cursor::start(&header);
                Ok((cursor, cursor.offset()))
            }
        }
    }

    /// Steps until nothing new is found, within reason.
    pub(super) fn read_to_the_end(&mut self) -> Result<(), Error> {
        for _ in 0..STEP_PASSES {
            if self.step()?.frames == 0 {
                break;
            }
        }
        Ok(())
    }

    /// For a wal-index that stays half-written while no writer is alive.
    pub(super) fn read_unpublished(&mut self) -> Result<(), Error> {
        let Some(header) = tail::read_header(&self.live)? else {
            return Ok(());
        };
        let (cursor, span_from) = match self.cursor {
            Some(cursor) if cursor.salts() == header.salts => (cursor, self.span_from),
            Some(_) if !self.may_reset => {
                let reason = "it was reset although it was held";
                return Err(Error::ContinuityLost {
                    path: self.live.path(),
                    reason,
                });
            }
            _ => (Cursor::start(&header), HEADER_BYTES as u64),
        };
        let scan = tail::scan_to_last_commit(&self.live, cursor, &mut self.window)?;
        if scan.commit.is_some() {
            self.take(&scan, span_from)?;
        }
        Ok(())
    }
}

/// Whether all that is published was read up to `cursor`.
pub(super) fn is_read(cursor: Option<&Cursor>, published: &Published) -> bool {
    published.mx_frame == 0
        || cursor.is_some_and(|cursor| {
            cursor.salts() == published.salts && cursor.frames() == published.mx_frame
        })
}
