//! One LTX file of a plan, opened for random access and not trusted yet.
//!
//! [`Input::open`] proves the header against the name, [`IndexReader`] the page index against
//! itself, whoever decodes the pages the pages, and [`Proof::check`] the whole by its checksum.

mod index;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sqlrep_format::ltx::{self, Checksums, Header, Tail};
use sqlrep_format::{Checksum, Crc64};

use crate::{ReplicaFile, Store, StoreError};

pub(crate) use index::{INDEX_BUFFER_BYTES, IndexReader};

/// An opened LTX file.
#[derive(Debug)]
pub(crate) struct Input<'s> {
    /// The file as listed.
    pub(crate) file: ReplicaFile,
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Its header, equal to its name.
    pub(crate) header: Header,
    /// Its tail.
    pub(crate) tail: Tail,
    header_crc: u64,
    store: &'s dyn Store,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// Read piece by piece.
    Open(File),
    /// Opened for each piece: for merges of more files than a process may have open.
    Closed,
    /// A small file, read at once: most files of a chain are, and on NFS each read is a journey.
    Whole(Vec<u8>),
}

/// How an input is kept while it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// Files up to this size are read at once.
    pub(crate) whole_bytes_max: u64,
    /// Whether larger ones stay open.
    pub(crate) open: bool,
}

impl<'s> Input<'s> {
    /// Opens a file, and proves that its header says what its name says and that it is of a kind
    /// that a replica may hold.
    pub(crate) fn open(
        store: &'s dyn Store,
        file: &ReplicaFile,
        keep: Keep,
    ) -> Result<Self, StoreError> {
        let path = store.path(file);
        let opened = store.open(file)?;
        let size = opened
            .metadata()
            .map_err(StoreError::io("look at", &path))?
            .len();
        let bytes = if size <= keep.whole_bytes_max {
            // Bounded by the line above, whatever the file claims to be.
            let mut whole = vec![0; usize::try_from(size).unwrap_or(0)];
            read_exact_at(store, &opened, &path, 0, &mut whole)?;
            Bytes::Whole(whole)
        } else {
            Bytes::Open(opened)
        };
        let mut head = [0; ltx::HEADER_BYTES];
        let mut tail = [0; ltx::TAIL_BYTES];
        let corrupt = |error: ltx::DecodeError| StoreError::corrupt(&path)(error);
        let Some(tail_offset) = size.checked_sub(ltx::TAIL_BYTES as u64) else {
            // An empty file, as a rule: a copy that was broken off.
            let missing = ltx::TAIL_BYTES as u64 - size;
            return Err(corrupt(ltx::DecodeError::Truncated {
                offset: size,
                missing,
            }));
        };
        let head_bytes = head.len().min(usize::try_from(size).unwrap_or(usize::MAX));
        let head = head.get_mut(..head_bytes).unwrap_or_default();
        read(store, &bytes, file, &path, 0, head)?;
        let header = Header::decode(head).map_err(corrupt)?;
        read(store, &bytes, file, &path, tail_offset, &mut tail)?;
        let tail = ltx::parse_tail(&tail, size).map_err(corrupt)?;
        check(file, &header, &tail, &path)?;
        let mut crc = Crc64::new();
        crc.update(head);
        let bytes = match bytes {
            Bytes::Open(_) if !keep.open => Bytes::Closed,
            kept => kept,
        };
        let header_crc = crc.value();
        Ok(Self {
            file: file.clone(),
            path,
            header,
            tail,
            header_crc,
            store,
            bytes,
        })
    }

    /// Fills `buffer` from `offset`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let (store, path) = (self.store, &self.path);
        read(store, &self.bytes, &self.file, path, offset, buffer)
    }

    /// Bytes that are in memory already.
    pub(crate) fn held(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let Bytes::Whole(whole) = &self.bytes else {
            return None;
        };
        let range =
            usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(bytes)?).ok()?;
        whole.get(range)
    }

    /// The file is damaged.
    pub(crate) fn corrupt(&self, reason: impl ToString) -> StoreError {
        StoreError::corrupt(&self.path)(reason)
    }

    /// What is needed to prove the file when its pages were decoded.
    pub(crate) fn proof(&self) -> Proof {
        let (path, file) = (self.path.clone(), self.tail.trailer.file);
        Proof {
            path,
            header_crc: self.header_crc,
            file,
        }
    }
}

/// What a file's checksum must be and where it begins: proves a file that is closed already.
#[derive(Debug)]
pub(crate) struct Proof {
    path: PathBuf,
    /// The checksum over the header: go on from here with the pages.
    pub(crate) header_crc: u64,
    file: Checksum,
}

impl Proof {
    /// Proves the file: `crc` is over header, pages, and what [`IndexReader`] read.
    pub(crate) fn check(&self, crc: u64) -> Result<(), StoreError> {
        let (found, expected) = (self.file, Checksum::from_crc(crc));
        if found == expected {
            return Ok(());
        }
        Err(self.corrupt(format_args!("file checksum {found}, computed {expected}")))
    }

    /// The file is damaged.
    pub(crate) fn corrupt(&self, reason: impl ToString) -> StoreError {
        StoreError::corrupt(&self.path)(reason)
    }
}

fn check(file: &ReplicaFile, header: &Header, tail: &Tail, path: &Path) -> Result<(), StoreError> {
    if header.range != file.range {
        let reason = format!(
            "its header says TXIDs {}, its name says {}",
            header.range, file.range
        );
        return Err(StoreError::corrupt(path)(reason));
    }
    if matches!(header.checksums, Checksums::Tracked { .. }) || tail.trailer.post_apply.is_some() {
        return Err(StoreError::Unsupported {
            path: path.to_owned(),
            reason: "it carries database checksums (header flags without NoChecksum), which no \
                     Litestream restores and sqlrep never writes"
                .to_owned(),
        });
    }
    Ok(())
}

fn read(
    store: &dyn Store,
    bytes: &Bytes,
    listed: &ReplicaFile,
    path: &Path,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), StoreError> {
    match bytes {
        Bytes::Open(file) => read_exact_at(store, file, path, offset, buffer),
        Bytes::Closed => read_exact_at(store, &store.open(listed)?, path, offset, buffer),
        Bytes::Whole(whole) => {
            let end = offset.saturating_add(buffer.len() as u64);
            let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
            match range.and_then(|(from, to)| whole.get(from..to)) {
                Some(piece) => {
                    buffer.copy_from_slice(piece);
                    Ok(())
                }
                None => Err(truncated(path, end)),
            }
        }
    }
}

fn read_exact_at(
    store: &dyn Store,
    file: &File,
    path: &Path,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), StoreError> {
    store
        .read_exact_at(file, buffer, offset)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                truncated(path, offset.saturating_add(buffer.len() as u64))
            }
            _ => StoreError::io("read", path)(error),
        })
}

fn truncated(path: &Path, end: u64) -> StoreError {
    StoreError::corrupt(path)(format_args!(
        "the file is truncated: it ends before byte {end}"
    ))
}

#[cfg(test)]
mod tests;
