//! What the tests share: drafts of small databases, a crash, a model of the truth.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sqlrep_format::wal::{Salts, WalChecksum};
use sqlrep_format::{
    Checksum, PageCount, PageSize, Pgno, Timestamp, Txid, TxidRange, ltx, page_checksum,
};
use sqlrep_replica::durable::OsFs;
use sqlrep_replica::{DbId, ReplicaFile, Store};

use crate::files::Files;
use crate::{Appended, DatabaseSpool, Draft, Error, Limits, PageSource, Spool, WalPlace};

pub(crate) const SIZE: PageSize = PageSize::MIN;
pub(crate) const POD: &str = "0f1e-pod";
pub(crate) const LIMITS: Limits = Limits { bytes_max: 1 << 30 };

pub(crate) fn txid(number: u64) -> Txid {
    Txid::new(number).unwrap()
}

pub(crate) fn pgno(number: u32) -> Pgno {
    Pgno::new(number).unwrap()
}

pub(crate) fn id() -> DbId {
    "media/surmai/sqlite/dir/data.db".parse().unwrap()
}

pub(crate) fn open(state_dir: &Path) -> (Spool, DatabaseSpool) {
    let spool = Spool::open(state_dir, LIMITS).unwrap();
    let database = spool.database(&id(), POD).unwrap();
    (spool, database)
}

/// The files of a database as they lie on the disk.
pub(crate) fn files_of(database: &DatabaseSpool) -> Files {
    let dir = database.dir();
    Files::new(dir.to_owned(), dir, Arc::new(OsFs))
}

/// What a killed process leaves: the files as the kernel has them, not what it held in memory.
pub(crate) fn copy(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The pages of a draft.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    pub(crate) pages: BTreeMap<u32, u8>,
    /// Fails instead of ending.
    pub(crate) fails: bool,
}

impl Pages {
    pub(crate) fn of(pages: impl IntoIterator<Item = (u32, u8)>) -> Self {
        Self {
            pages: pages.into_iter().collect(),
            ..Self::default()
        }
    }
}

impl PageSource for Pages {
    fn next(&mut self, page: &mut [u8]) -> io::Result<Option<Pgno>> {
        match self.pages.pop_first() {
            Some((number, byte)) => {
                page.fill(byte);
                Ok(Some(pgno(number)))
            }
            None if self.fails => Err(io::Error::other("the WAL was reset")),
            None => Ok(None),
        }
    }
}

/// The draft that follows on the position.
pub(crate) fn draft(database: &DatabaseSpool, commit: u32) -> Draft {
    let txid = database.next_txid();
    let frames = u32::try_from(txid.get()).unwrap();
    let begin = Timestamp::from_millis(1_700_000_000_000);
    let salts = Salts { salt1: 7, salt2: 8 };
    let frame_bytes = 24 + u64::from(SIZE.get());
    Draft {
        txid,
        timestamp: database
            .position()
            .map_or(begin, |at| at.timestamp.after(begin)),
        page_size: SIZE,
        commit: PageCount::new(commit).unwrap(),
        wal: ltx::WalSpan {
            offset: 32 + u64::from(frames - 1) * frame_bytes,
            size: frame_bytes,
            salts,
        },
        place: Some(WalPlace {
            salts,
            frames,
            checksum: Some(WalChecksum { s0: frames, s1: 1 }),
        }),
        node_id: 5,
    }
}

pub(crate) fn append(
    database: &DatabaseSpool,
    commit: u32,
    pages: impl IntoIterator<Item = (u32, u8)>,
) -> Result<Appended, Error> {
    database.append(&draft(database, commit), &mut Pages::of(pages))
}

/// A first file of `commit` pages.
pub(crate) fn snapshot(database: &DatabaseSpool, commit: u32) -> Appended {
    append(database, commit, (1..=commit).map(|page| (page, 1))).unwrap()
}

pub(crate) fn sum(page: u32, byte: u8) -> Checksum {
    page_checksum(pgno(page), &vec![byte; SIZE.bytes()])
}

/// The checksum of a whole database.
pub(crate) fn total(pages: &BTreeMap<u32, u8>) -> Checksum {
    pages.iter().fold(Checksum::EMPTY, |all, (page, byte)| {
        all.combine(sum(*page, *byte))
    })
}

/// The page checksums must be those of `pages`, every one.
pub(crate) fn assert_checksums(database: &DatabaseSpool, pages: &BTreeMap<u32, u8>) {
    let mut checksums = database.page_checksums();
    assert!(checksums.is_known());
    for (page, byte) in pages {
        assert_eq!(
            checksums.get(pgno(*page)),
            Some(sum(*page, *byte)),
            "page {page}"
        );
    }
    let last = *pages.keys().last().unwrap();
    assert_eq!(checksums.get(pgno(last + 1)), None);
    assert_eq!(database.position().unwrap().checksum, Some(total(pages)));
}

/// Puts everything that waits into a replica, as the shipper does, and acks it.
pub(crate) fn ship(database: &DatabaseSpool, replica: &dyn Store) {
    while let Some(entry) = database.first_pending() {
        let bytes = fs::read(&entry.path).unwrap();
        let file = ReplicaFile {
            level: ltx::Level::L0,
            range: TxidRange::single(entry.txid),
            bytes: entry.bytes,
            modified: entry.timestamp,
        };
        let put = replica.put(&file, &mut |out| out.write_all(&bytes));
        put.unwrap();
        database.ack(entry.txid).unwrap();
    }
}

/// Decodes one L0 file: the pages and the size after it.
pub(crate) fn decode(path: &Path) -> (u32, BTreeMap<u32, u8>) {
    let mut decoder = ltx::Decoder::new(fs::File::open(path).unwrap()).unwrap();
    let mut page = vec![0; decoder.header().page_size.bytes()];
    let mut pages = BTreeMap::new();
    while let Some(number) = decoder.next_page(&mut page).unwrap() {
        assert!(page.iter().all(|byte| *byte == page[0]));
        pages.insert(number.get(), page[0]);
    }
    let commit = decoder.header().commit.get();
    decoder.finish().unwrap();
    (commit, pages)
}

/// Flips bits in the middle of a file.
pub(crate) fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0xff;
    bytes[at + 1] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

/// The TXIDs of a listing.
pub(crate) fn txids(files: &[ReplicaFile]) -> Vec<u64> {
    files.iter().map(|file| file.range.max().get()).collect()
}
