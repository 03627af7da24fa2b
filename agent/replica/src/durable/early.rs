//! Long files go to the disk while they are written, so that the fsync at their end has little left
//! to wait for. Nothing relies on it: what is durable is what was fsynced.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;

use rustix::fs::Advice;

/// How much is written before the system is asked to begin with it: enough for a disk, or for a
/// server, to be busy with; most files are shorter and go in one piece.
const STRETCH_BYTES: u64 = 4 * 1024 * 1024;

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
}

impl<'a> Early<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        let (begun, written) = (0, 0);
        Self {
            file,
            begun,
            written,
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
        let file = File::create(&path).unwrap();
        let mut early = Early::new(&file);
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
