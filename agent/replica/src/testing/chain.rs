//! Small chains of LTX files, and what they should restore to.
#![expect(
    clippy::missing_panics_doc,
    reason = "a test that asks for nonsense fails"
)]

use sqlrep_format::ltx::{Checksums, Encoder, Header, Level, WalSpan};
use sqlrep_format::{PageCount, PageSize, Pgno, Timestamp, Txid, TxidRange};

use crate::{Put, ReplicaFile, Store};

/// The node id in the headers.
pub const NODE: u64 = 7;

/// The state of a database, page by page.
pub type Image = Vec<Vec<u8>>;

/// A TXID; panics on 0.
pub fn txid(id: u64) -> Txid {
    Txid::new(id).expect("tests number from 1")
}

/// The header of a file of a test chain: made at 1 s times its last TXID.
pub fn header(min: u64, max: u64, commit: u32) -> Header {
    Header {
        page_size: PageSize::MIN,
        commit: PageCount::new(commit).expect("tests have pages"),
        range: TxidRange::new(txid(min), txid(max)).expect("tests have ranges"),
        timestamp: time(max),
        checksums: Checksums::None,
        wal: WalSpan::CLAIM,
        node_id: NODE,
    }
}

/// When a TXID of a test chain was captured.
pub fn time(txid: u64) -> Timestamp {
    Timestamp::from_millis(1_000 * i64::try_from(txid).expect("tests are short") + 123)
}

/// A page that no other page equals.
pub fn page(txid: u64, pgno: u32) -> Vec<u8> {
    let mut page = vec![0; PageSize::MIN.bytes()];
    let text = format!("page {pgno} of {txid} ");
    page.iter_mut()
        .zip(text.bytes().cycle())
        .take(200)
        .for_each(|(to, from)| *to = from);
    page
}

/// The bytes of an LTX file.
pub fn encode(header: &Header, pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header).expect("the header is right");
    for (pgno, bytes) in pages {
        encoder
            .page(Pgno::new(*pgno).expect("tests number from 1"), bytes)
            .expect("the pages ascend");
    }
    encoder.finish().expect("a vector takes everything").0
}

/// Puts a file into a store.
pub fn put(
    store: &dyn Store,
    level: u8,
    header: &Header,
    pages: &[(u32, Vec<u8>)],
) -> Result<Put, crate::StoreError> {
    let level = Level::new(level).expect("tests know the levels");
    put_bytes(store, level, header, &encode(header, pages))
}

/// Puts these bytes into a store, as the file that the header is of.
pub fn put_bytes(
    store: &dyn Store,
    level: Level,
    header: &Header,
    bytes: &[u8],
) -> Result<Put, crate::StoreError> {
    let file = ReplicaFile {
        level,
        range: header.range,
        bytes: bytes.len() as u64,
        modified: header.timestamp,
    };
    store.put(&file, &mut |out| out.write_all(bytes))
}

/// A history of a database: what each TXID changed, and every state.
#[derive(Clone, Debug)]
pub struct History {
    /// The pages that each TXID changed, with their content; the first changes all.
    pub changes: Vec<Vec<(u32, Vec<u8>)>>,
    /// The state after each TXID.
    pub images: Vec<Image>,
}

impl History {
    /// From the size after each TXID and the pages it touches. Pages that a TXID adds are always
    /// touched, as SQLite does.
    pub fn new(steps: &[(u32, Vec<u32>)]) -> Self {
        let mut history = Self {
            changes: Vec::new(),
            images: Vec::new(),
        };
        let mut image = Image::new();
        for (txid, (size, touched)) in (1..).zip(steps) {
            let before = u32::try_from(image.len()).expect("tests are small");
            let pages: Vec<u32> = (1..=*size)
                .filter(|pgno| *pgno > before || touched.contains(pgno))
                .collect();
            image.resize(*size as usize, Vec::new());
            let mut changed = Vec::new();
            for pgno in pages {
                let bytes = page(txid, pgno);
                if let Some(slot) = image.get_mut(pgno as usize - 1) {
                    slot.clone_from(&bytes);
                }
                changed.push((pgno, bytes));
            }
            history.changes.push(changed);
            history.images.push(image.clone());
        }
        history
    }

    /// The newest TXID.
    pub fn head(&self) -> u64 {
        self.images.len() as u64
    }

    /// The database file after a TXID.
    pub fn file(&self, txid: u64) -> Vec<u8> {
        self.image(txid).concat()
    }

    /// Header and pages of the one file that covers a range, worked out page by page.
    pub fn covering(&self, min: u64, max: u64) -> (Header, Vec<(u32, Vec<u8>)>) {
        let image = self.image(max);
        let size = u32::try_from(image.len()).expect("tests are small");
        let mut pages = Vec::new();
        for (pgno, bytes) in (1..).zip(image) {
            // The last change of the page, unless the page was cut off since.
            let changed = (min..=max).rev().find(|txid| self.touches(*txid, pgno));
            let lives =
                |from: u64| (from..=max).all(|txid| self.image(txid).len() >= pgno as usize);
            if changed.is_some_and(lives) || min == 1 {
                pages.push((pgno, bytes.clone()));
            }
        }
        (header(min, max, size), pages)
    }

    fn touches(&self, txid: u64, pgno: u32) -> bool {
        let changes = usize::try_from(txid - 1)
            .ok()
            .and_then(|place| self.changes.get(place));
        changes.is_some_and(|changes| changes.iter().any(|(changed, _)| *changed == pgno))
    }

    fn image(&self, txid: u64) -> &Image {
        let place = usize::try_from(txid - 1).expect("tests are short");
        self.images.get(place).expect("the history has this TXID")
    }
}
