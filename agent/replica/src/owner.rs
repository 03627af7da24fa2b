//! One writer for each replica.
//!
//! Level-0 names have one TXID each, so that linking a file to its name is a compare-and-swap on
//! the log: who finds the name taken by somebody else is fenced. No clock and no lock takes part.
//! A new owner *claims* a replica with a file of one unchanged page at head + 1.

mod branch;
mod copying;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::io::Errno;
use sqlrep_format::ltx::{Checksums, Encoder, Header, Level, WalSpan};
use sqlrep_format::{Checksum, Crc64, Pgno, Timestamp, Txid, TxidRange};

use copying::{CopyError, copy};

use crate::input::{Input, Keep};
use crate::merge::Merge;
use crate::{Listing, Plan, Put, ReplicaFile, Store, StoreError};

pub use branch::{
    Branch, BranchStore, branch, branch_listing, list_branches, retire_chain, retire_chain_with,
    retired_chain,
};

/// Who writes: one pod on one node. Stands in the header of each file as its node id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriterId(u64);

impl WriterId {
    /// The id of a pod on a node. Never 0, which is Litestream's.
    pub fn new(node: &str, pod_uid: &str) -> Self {
        let mut hash = Crc64::new();
        hash.update(node.as_bytes());
        hash.update(&[0]);
        hash.update(pod_uid.as_bytes());
        Self(hash.value().max(1))
    }

    /// The number in the header.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterId({self})")
    }
}

/// A text that is no writer's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a writer's id is 16 hex digits")]
pub struct InvalidWriterId;

impl FromStr for WriterId {
    type Err = InvalidWriterId;

    fn from_str(text: &str) -> Result<Self, InvalidWriterId> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidWriterId);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidWriterId)
    }
}

impl serde::Serialize for WriterId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for WriterId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A level-0 file that lies in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolFile {
    /// Its TXID.
    pub txid: Txid,
    /// The time in its header.
    pub timestamp: Timestamp,
    /// Where it lies.
    pub path: PathBuf,
    /// The file checksum it was written with, where the spool remembers it.
    pub digest: Option<Checksum>,
    /// The CRC-64 of all its bytes as they were written, where the spool remembers that too: a file
    /// that has it still is what the encoder made, and need not be decoded to be copied.
    pub content: Option<u64>,
}

/// What became of a level-0 file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// It is in the replica now.
    Done,
    /// It was there already: an earlier attempt got through and its reply did not.
    AlreadyOurs,
    /// Somebody else published this TXID: this writer does not own the replica any more.
    Fenced {
        /// The other writer's id; 0 is Litestream.
        by: u64,
    },
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The replica is ours from this TXID on.
    Won(Txid),
    /// Somebody else published at that TXID first.
    Lost {
        /// The other writer's id; 0 is Litestream.
        by: u64,
    },
}

/// Copies a spooled file into the replica, as the one file of its TXID.
///
/// What is copied is proven on the way, so that nothing is linked that would not restore: byte for
/// byte what was written, or else decoded. A writer that was away for longer than level-0 retention
/// looks at the listing first: retention may have freed names below the head.
pub fn publish_l0(
    store: &dyn Store,
    writer: WriterId,
    file: &SpoolFile,
) -> Result<Publish, StoreError> {
    // Opened before the store is asked for anything: it may act as another user.
    let source = File::open(&file.path).map_err(StoreError::io("open", &file.path))?;
    let bytes = source.metadata().map(|metadata| metadata.len());
    let mut ours = None;
    let mut fault = None;
    let new = ReplicaFile {
        bytes: bytes.map_err(StoreError::io("look at", &file.path))?,
        modified: file.timestamp,
        ..l0(file.txid)
    };
    let put = store.put(&new, &mut |target| {
        let copied = copy(&source, target, file);
        match copied {
            Ok(digest) => ours = Some(digest),
            Err(CopyError::Target(error)) => return Err(error),
            Err(CopyError::Spool(error)) => {
                fault = Some(error);
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    match put? {
        Put::Published => Ok(Publish::Done),
        Put::Taken => {
            let theirs = open_l0(store, file.txid)?;
            if Some(theirs.tail.trailer.file) == ours {
                return Ok(Publish::AlreadyOurs);
            }
            if theirs.header.node_id == writer.get() {
                tracing::warn!(txid = %file.txid, "this writer published other content before");
            }
            Ok(Publish::Fenced {
                by: theirs.header.node_id,
            })
        }
    }
}

/// Takes a replica over: publishes page 1, unchanged, at `head` + 1. From then on the old owner's
/// next file finds its name taken. `header` is that of the file at `head`.
pub fn claim(
    store: &dyn Store,
    writer: WriterId,
    head: Txid,
    page1: &[u8],
    header: &Header,
    now: Timestamp,
) -> Result<Claim, StoreError> {
    // Another listing gave the page than the head: an older one, and so perhaps an older page.
    if header.range.max() != head {
        let error = Errno::STALE.into();
        return Err(StoreError::io("read the newest state of", store.dir())(
            error,
        ));
    }
    let txid = head.next();
    let claimed = Header {
        page_size: header.page_size,
        commit: header.commit,
        range: TxidRange::single(txid),
        timestamp: header.timestamp.after(now),
        checksums: Checksums::None,
        wal: WalSpan::CLAIM,
        node_id: writer.get(),
    };
    let new = ReplicaFile {
        bytes: page1.len() as u64,
        modified: claimed.timestamp,
        ..l0(txid)
    };
    let put = store.put(&new, &mut |target| {
        let mut encoder = Encoder::new(target, &claimed).map_err(io::Error::other)?;
        encoder.page(Pgno::FIRST, page1).map_err(io::Error::other)?;
        encoder.finish().map_err(io::Error::other)?;
        Ok(())
    })?;
    match put {
        Put::Published => Ok(Claim::Won(txid)),
        Put::Taken => {
            let by = open_l0(store, txid)?.header.node_id;
            let ours = by == writer.get() && is_claim(store, txid, page1)?;
            Ok(if ours {
                Claim::Won(txid)
            } else {
                Claim::Lost { by }
            })
        }
    }
}

/// Whether the file at a TXID holds this one page and nothing else: a claim of ours whose reply
/// was lost.
fn is_claim(store: &dyn Store, txid: Txid, page1: &[u8]) -> Result<bool, StoreError> {
    let plan = Plan {
        steps: vec![l0(txid)],
        unreached: None,
    };
    let read = || {
        let mut merge = Merge::open(store, &plan)?;
        let mut page = vec![0; merge.header().page_size.bytes()];
        let first = merge.next_page(&mut page)?;
        let same = first == Some(Pgno::FIRST) && page == page1;
        if !same || merge.next_page(&mut page)?.is_some() {
            return Ok(false);
        }
        merge.finish().map(|()| true)
    };
    read().map_err(|error: crate::merge::MergeError| match error {
        crate::merge::MergeError::File { cause, .. } => cause,
        other => StoreError::corrupt(store.path(&l0(txid)))(other),
    })
}

/// The writer of the file that ends at a TXID.
pub fn writer_of(store: &dyn Store, listing: &Listing, txid: Txid) -> Result<u64, StoreError> {
    header_at(store, listing, txid).map(|header| header.node_id)
}

/// The header of a file that ends at a TXID; the lowest level knows best.
pub fn header_at(store: &dyn Store, listing: &Listing, txid: Txid) -> Result<Header, StoreError> {
    let mut missing = StoreError::io("find a file that ends at the head in", store.dir())(
        io::ErrorKind::NotFound.into(),
    );
    for file in listing
        .files()
        .iter()
        .filter(|file| file.range.max() == txid)
    {
        match Input::open(store, file, KEEP) {
            Ok(input) => return Ok(input.header),
            Err(error) if error.is_missing() => missing = error,
            Err(error) => return Err(error),
        }
    }
    Err(missing)
}

/// Only the ends of a file are looked at.
const KEEP: Keep = Keep {
    whole_bytes_max: 0,
    open: true,
};

fn l0(txid: Txid) -> ReplicaFile {
    ReplicaFile {
        level: Level::L0,
        range: TxidRange::single(txid),
        bytes: 0,
        modified: Timestamp::from_millis(0),
    }
}

fn open_l0(store: &dyn Store, txid: Txid) -> Result<Input<'_>, StoreError> {
    Input::open(store, &l0(txid), KEEP)
}

#[cfg(test)]
mod tests;
