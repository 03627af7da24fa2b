//! Long files go to the disk while they are written, so that the fsync at their end has little left
//! to wait for. Nothing relies on it: what is durable is what was fsynced.
//!
//! What nobody waits for goes with pauses: an application on the same disk fsyncs too, and a file of
//! ours, put into the queue all at once, is before it.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::fs::Advice;

/// How much is written before the system is asked to begin with it: enough for a disk, or for a
/// server, to be busy with; most files are shorter and go in one piece.
const STRETCH_BYTES: u64 = 1024 * 1024;

/// The pause after each stretch, about what a disk needs for it: the fsync of an application then
/// meets one stretch at most.
const PAUSE: Duration = Duration::from_millis(2);

/// A file of this size or less goes with pauses, an eighth of a second in all. A larger one is a copy
/// of a whole database, which is wanted soon, and keeps a disk busy in any case.
const PAUSED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Asks the system to begin to write a part of a file out, and does not wait for it.
///
/// The advice says that the part is not needed. That begins to write out what is dirty of it, and
/// drops only what is clean: so what was just written stays for whoever reads it next.
pub fn begin_writeback(file: &File, offset: u64, bytes: u64) {
    if let Err(error) = rustix::fs::fadvise(file, offset, NonZeroU64::new(bytes), Advice::DontNeed)
    {
        // A file system that takes no advice: the fsync does it all.
        tracing::trace!(err = %error, "no early write-out");
    }
}

/// Writes through to a file from its beginning.
#[derive(Debug)]
pub(super) struct Early<'a> {
    file: &'a File,
    begun: u64,
    written: u64,
    pause: Duration,
}

impl<'a> Early<'a> {
    /// As fast as it comes: for whoever has more to do than to write this file.
    pub(super) fn new(file: &'a File) -> Self {
        Self {
            file,
            begun: 0,
            written: 0,
            pause: Duration::ZERO,
        }
    }

    /// With pauses, unless so many bytes are a copy of a whole database.
    pub(super) fn gently(file: &'a File, bytes: u64) -> Self {
        let short = bytes <= PAUSED_BYTES_MAX;
        Self {
            pause: if short { PAUSE } else { Duration::ZERO },
            ..Self::new(file)
        }
    }

    /// How long to wait after a stretch.
    fn pause(&self) -> Duration {
        if self.written <= PAUSED_BYTES_MAX {
            self.pause
        } else {
            Duration::ZERO
        }
    }
}

impl Write for Early<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        let stretch = self.written - self.begun;
        if stretch >= STRETCH_BYTES {
            begin_writeback(self.file, self.begun, stretch);
            self.begun = self.written;
            std::thread::sleep(self.pause());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_holds_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for gently in [false, true] {
            let file = File::create(&path).unwrap();
            let mut early = if gently {
                Early::gently(&file, 0)
            } else {
                Early::new(&file)
            };
            let mut expected = Vec::new();
            for number in 0..40_u8 {
                let piece = vec![number; 256 * 1024 + usize::from(number)];
                early.write_all(&piece).unwrap();
                expected.extend(piece);
            }
            early.flush().unwrap();
            assert!(early.begun >= STRETCH_BYTES, "it went out early");
            assert_eq!(std::fs::read(&path).unwrap(), expected);
        }
    }

    #[test]
    fn nobody_waits_long_for_the_pauses() {
        let file = tempfile::tempfile().unwrap();
        let known = Early::gently(&file, PAUSED_BYTES_MAX + 1);
        assert_eq!(known.pause(), Duration::ZERO);
        let mut early = Early::gently(&file, PAUSED_BYTES_MAX);
        let mut waited = Duration::ZERO;
        for _ in 0..10_000 {
            early.written += STRETCH_BYTES;
            waited += early.pause();
            assert_eq!(Early::new(&file).pause(), Duration::ZERO);
        }
        assert!(waited > Duration::ZERO && waited <= Duration::from_millis(128));
    }
}
