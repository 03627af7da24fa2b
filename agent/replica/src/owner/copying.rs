//! A file of the spool on its way to the replica, proven as it goes.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use sqlrep_format::ltx::{Decoder, Trailer};
use sqlrep_format::{Checksum, Crc64, TxidRange};

use super::SpoolFile;
use crate::StoreError;

/// Read at once from the spool: what NFS writes at once.
const COPY_BUFFER_BYTES: usize = 256 * 1024;

/// From so many bytes on a thread that reads is worth its start and its memory.
const READ_AHEAD_BYTES: u64 = 32 << 20;

/// So many buffers wait at most between the two: 1 MiB (L12).
const BUFFERS: usize = 4;

/// Whose fault a failed copy is.
pub(super) enum CopyError {
    Spool(StoreError),
    Target(io::Error),
}

/// Copies and proves in one pass; gives the file's checksum.
pub(super) fn copy(
    source: &File,
    target: &mut dyn Write,
    file: &SpoolFile,
) -> Result<Checksum, CopyError> {
    if let (Some(digest), Some(content)) = (file.digest, file.content) {
        copy_bytes(source, target, &file.path, content)?;
        return Ok(digest);
    }
    let mut tee = Tee {
        source,
        target,
        failed: None,
    };
    let decoded = decode(&mut tee, file);
    match (tee.failed.take(), decoded) {
        (Some(error), _) => Err(CopyError::Target(error)),
        (None, Ok(trailer)) => Ok(trailer.file),
        (None, Err(error)) => Err(CopyError::Spool(error)),
    }
}

/// Copies bytes that must have this CRC.
fn copy_bytes(
    source: &File,
    target: &mut dyn Write,
    path: &Path,
    content: u64,
) -> Result<(), CopyError> {
    let bytes = source.metadata().map_err(unread(path))?.len();
    let found = if bytes >= READ_AHEAD_BYTES {
        copy_long(source, target, path)?
    } else {
        copy_in_turn(source, target, path, bytes)?
    };
    if found == content {
        return Ok(());
    }
    let reason =
        format!("its bytes have the CRC {found:016x}, they were written with {content:016x}");
    Err(CopyError::Spool(StoreError::corrupt(path)(reason)))
}

/// Reads and writes in turn; gives the CRC of the bytes, of which there are about so many.
fn copy_in_turn(
    source: &File,
    target: &mut dyn Write,
    path: &Path,
    bytes: u64,
) -> Result<u64, CopyError> {
    let most = usize::try_from(bytes.saturating_add(1)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; most.min(COPY_BUFFER_BYTES)];
    let mut crc = Crc64::new();
    while let read @ 1.. = read_some(source, &mut buffer).map_err(unread(path))? {
        let buffer = buffer.get(..read).unwrap_or_default();
        crc.update(buffer);
        target.write_all(buffer).map_err(CopyError::Target)?;
    }
    Ok(crc.value())
}

/// The same, while another thread reads ahead and sums up what it read: a whole database takes half
/// as long again otherwise.
fn copy_long(source: &File, target: &mut dyn Write, path: &Path) -> Result<u64, CopyError> {
    std::thread::scope(|scope| {
        let (filled, inbox) = sync_channel(BUFFERS);
        let (outbox, used) = sync_channel(BUFFERS);
        let reader = Builder::new()
            .name("read-ahead".to_owned())
            .spawn_scoped(scope, move || read_ahead(source, &filled, &used));
        let Ok(reader) = reader else {
            return copy_in_turn(source, target, path, READ_AHEAD_BYTES); // nothing was read yet
        };
        for buffer in inbox {
            target.write_all(&buffer).map_err(CopyError::Target)?;
            // The reader may be done.
            let _ = outbox.try_send(buffer);
        }
        match reader.join() {
            Ok(read) => read.map_err(unread(path)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads to the end, or until nobody wants more; gives the CRC of the bytes.
fn read_ahead(
    source: &File,
    filled: &SyncSender<Vec<u8>>,
    used: &Receiver<Vec<u8>>,
) -> io::Result<u64> {
    let mut crc = Crc64::new();
    loop {
        let mut buffer = used.try_recv().unwrap_or_default();
        buffer.resize(COPY_BUFFER_BYTES, 0);
        let read = read_some(source, &mut buffer)?;
        buffer.truncate(read);
        if buffer.is_empty() {
            break;
        }
        crc.update(&buffer);
        if filled.send(buffer).is_err() {
            break;
        }
    }
    Ok(crc.value())
}

/// Reads the next bytes, as many as come at once; 0 at the end.
fn read_some(mut source: &File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |error| CopyError::Spool(StoreError::io("read", path)(error))
}

fn decode(tee: &mut Tee<'_>, file: &SpoolFile) -> Result<Trailer, StoreError> {
    use sqlrep_format::ltx::DecodeError;
    let path: &Path = &file.path;
    let failed = |error: DecodeError| match error {
        DecodeError::Io { source, .. } => StoreError::io("read", path)(source),
        error => StoreError::corrupt(path)(error),
    };
    let mut decoder =
        Decoder::new(BufReader::with_capacity(COPY_BUFFER_BYTES, tee)).map_err(failed)?;
    let header = *decoder.header();
    if header.range != TxidRange::single(file.txid) || header.timestamp != file.timestamp {
        let reason = format!(
            "its header says TXIDs {}, expected {}",
            header.range, file.txid
        );
        return Err(StoreError::corrupt(path)(reason));
    }
    let mut page = vec![0; header.page_size.bytes()];
    while decoder.next_page(&mut page).map_err(failed)?.is_some() {}
    let trailer = decoder.finish().map_err(failed)?;
    match file.digest.filter(|digest| *digest != trailer.file) {
        Some(digest) => {
            let reason = format!(
                "its checksum is {}, it was written with {digest}",
                trailer.file
            );
            Err(StoreError::corrupt(path)(reason))
        }
        None => Ok(trailer),
    }
}

/// Hands on what is read.
struct Tee<'a> {
    source: &'a File,
    target: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if let Err(error) = self
            .target
            .write_all(buffer.get(..read).unwrap_or_default())
        {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes.
    struct Target {
        bytes: Vec<u8>,
        most: usize,
    }

    impl Write for Target {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.bytes.len() + bytes.len() > self.most {
                return Err(io::Error::other("the share is full"));
            }
            self.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn file(bytes: u64) -> (tempfile::NamedTempFile, Vec<u8>) {
        let mut content = vec![0; usize::try_from(bytes).unwrap()];
        fastrand::Rng::with_seed(bytes).fill(&mut content);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        (file, content)
    }

    fn run(file: &Path, content: u64, most: usize) -> Result<Vec<u8>, CopyError> {
        let bytes = Vec::new();
        let mut target = Target { bytes, most };
        copy_bytes(&File::open(file).unwrap(), &mut target, file, content)?;
        Ok(target.bytes)
    }

    #[test]
    fn long_and_short_files_are_copied_and_proven() {
        let buffer = COPY_BUFFER_BYTES as u64;
        let lengths = [
            0,
            1,
            buffer,
            buffer + 1,
            READ_AHEAD_BYTES,
            READ_AHEAD_BYTES + 7 * buffer + 1,
        ];
        for length in lengths {
            let (file, bytes) = file(length);
            let content = Crc64::of(&bytes);
            let copied = run(file.path(), content, usize::MAX);
            assert!(copied.is_ok_and(|copied| copied == bytes), "{length} bytes");
            let other = run(file.path(), content ^ 1, usize::MAX);
            assert!(
                matches!(&other, Err(CopyError::Spool(error)) if error.is_corrupt()),
                "{length} bytes"
            );
            if length > 0 {
                let full = run(file.path(), content, bytes.len() - 1);
                assert!(matches!(full, Err(CopyError::Target(_))), "{length} bytes");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_the_fault_of_the_spool() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let unreadable = std::fs::OpenOptions::new().write(true).open(file.path());
        let unreadable = unreadable.unwrap();
        for length in [1, READ_AHEAD_BYTES] {
            unreadable.set_len(length).unwrap();
            let copied = copy_bytes(&unreadable, &mut io::sink(), file.path(), 0);
            assert!(matches!(copied, Err(CopyError::Spool(error)) if !error.is_corrupt()));
        }
    }
}
