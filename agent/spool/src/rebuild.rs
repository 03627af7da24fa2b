//! Page checksums from a replica: for a ledger that was lost, and for a head that is taken over.
//!
//! The replica's chain is decoded, never written out: memory and disk stay as they are.

use std::io;
use std::os::unix::fs::FileExt;

use sqlrep_format::{Checksum, Pgno, Txid, TxidRange, ltx, page_checksum};
use sqlrep_replica::plan::{Point, plan};
use sqlrep_replica::{Listing, Merge, Store};

use crate::checksums::{Edit, Known};
use crate::files::Files;
use crate::recover::{self, Site, State};
use crate::{DatabaseSpool, Error, Position, Seed};

impl DatabaseSpool {
    /// Makes page checksums known again after the ledger was lost, so that a resync ships what
    /// differs and not the whole database. Does nothing while they are known.
    ///
    /// Reads the replica's chain up to its head, then the files that the spool holds beyond it.
    /// Blocks on the replica: call from a lane's thread (L14), and not while the database's
    /// capture must go on, for an append waits until this is done.
    pub fn rebuild_from(&self, store: &dyn Store) -> Result<Option<Checksum>, Error> {
        let known = self.position().and_then(|position| position.checksum);
        if known.is_some() || self.position().is_none() {
            return Ok(known);
        }
        let label = self.label();
        self.rebuilding(|site, state| rebuild(&label, site, state, store))
    }

    /// Takes over the replica's head: [`DatabaseSpool::seed`] with what its files say.
    pub fn seed_from(&self, store: &dyn Store) -> Result<Position, Error> {
        let label = self.label();
        let merge = open(&label, store, Point::Latest)?;
        let header = *merge.header();
        let mut checksums = Checksums::new(merge);
        self.seed(Seed {
            txid: header.range.max(),
            timestamp: header.timestamp,
            commit: header.commit,
            page_size: header.page_size,
            checksums: &mut checksums,
        })?;
        self.position()
            .ok_or_else(|| no_rebuild(&label, "the position went away meanwhile"))
    }
}

/// See [`DatabaseSpool::rebuild_from`].
fn rebuild(
    label: &str,
    site: Site<'_>,
    state: &mut State,
    store: &dyn Store,
) -> Result<Option<Checksum>, Error> {
    let Some(wanted) = state.position else {
        return Ok(None);
    };
    let listing = store.list().map_err(Error::store("listing the replica"))?;
    let head = listing.head();
    let Some(head) = head.filter(|head| *head <= wanted.txid) else {
        let head = head.map_or_else(|| "empty".to_owned(), |head| format!("at {head}"));
        let reason = format!(
            "the replica is {head}, the spool at {}; seed the spool",
            wanted.txid
        );
        return Err(no_rebuild(label, &reason));
    };
    same_lineage(label, state, store, &listing, head)?;

    let merge = open(label, store, Point::Txid(head))?;
    let header = *merge.header();
    let size = (header.commit, header.page_size);
    let mut edit = Edit::begin((site.ledger, site.slot), None, state.generation, size);
    for page in Checksums::new(merge) {
        let path = store.dir().to_owned();
        let (pgno, checksum) = page.map_err(|source| Error::Pages { path, source })?;
        edit.page(pgno, checksum);
    }
    let edited = edit.finish();
    let Some(known) = edited.known else {
        let reason = "the replica's chain does not hold every page, or the ledger is broken";
        return Err(no_rebuild(label, reason));
    };
    let was_full = state.must_be_full;
    state.step(&header, header_digest(state, head), Some(known));
    recover::commit(site, state, edited.batch)
        .map_err(|err| no_rebuild(label, &err.to_string()))?;
    follow(label, site, state, wanted)?;
    settle(label, site, state, wanted, was_full)
}

/// Goes on from the replica's head through the spool's own files.
fn follow(label: &str, site: Site<'_>, state: &mut State, wanted: Position) -> Result<(), Error> {
    while let Some(at) = state.position.filter(|at| at.txid < wanted.txid) {
        let next = at.txid.next();
        let found = state.files.binary_search_by_key(&next, |file| file.txid);
        let Some(file) = found.ok().and_then(|index| state.files.get(index)) else {
            let reason = format!("neither the replica nor the spool holds {next}");
            return Err(no_rebuild(label, &reason));
        };
        let file = Files::listed(file);
        recover::apply(site, state, &file)?;
    }
    Ok(())
}

/// The state is that of the position now; of the position all but the checksum stays.
fn settle(
    label: &str,
    site: Site<'_>,
    state: &mut State,
    wanted: Position,
    was_full: bool,
) -> Result<Option<Checksum>, Error> {
    let Some(known) = state.known() else {
        return Err(no_rebuild(label, "the ledger is broken"));
    };
    let Known {
        commit, checksum, ..
    } = known;
    if commit != wanted.commit && !was_full {
        let reason = format!(
            "{} has {} pages, the replica says {commit}",
            wanted.txid, wanted.commit
        );
        return Err(no_rebuild(label, &reason));
    }
    state.position = Some(Position {
        commit,
        checksum: Some(checksum),
        ..wanted
    });
    let batch = crate::ledger::Batch::default();
    recover::commit(site, state, batch).map_err(|err| no_rebuild(label, &err.to_string()))?;
    Ok(Some(checksum))
}

/// The digest of the spool's file at the replica's head, so that the ledger can be matched with
/// it; of a file that is gone the checksum of nothing, which matches none.
fn header_digest(state: &State, head: Txid) -> Checksum {
    let found = state.files.binary_search_by_key(&head, |file| file.txid);
    found
        .ok()
        .and_then(|at| state.files.get(at))
        .map_or(Checksum::EMPTY, |file| file.digest)
}

/// Where both hold a file of the same TXID it must be the same file: else another writer was
/// there, and the checksums of its state are not those of ours (DESIGN §9 item 6).
fn same_lineage(
    label: &str,
    state: &State,
    store: &dyn Store,
    listing: &Listing,
    head: Txid,
) -> Result<(), Error> {
    let range = TxidRange::single(head);
    let theirs = listing
        .level(ltx::Level::L0)
        .find(|file| file.range == range);
    let ours = state.files.iter().find(|file| file.txid == head);
    let (Some(theirs), Some(ours)) = (theirs, ours) else {
        return Ok(());
    };
    let path = store.path(theirs);
    let file = store
        .open(theirs)
        .map_err(Error::store("opening a file of the replica"))?;
    let mut tail = [0; ltx::TAIL_BYTES];
    let at = theirs.bytes.saturating_sub(tail.len() as u64);
    file.read_exact_at(&mut tail, at)
        .map_err(Error::io("read", &path))?;
    let tail = ltx::parse_tail(&tail, theirs.bytes).map_err(|source| Error::Damaged {
        path: path.clone(),
        source,
    })?;
    if tail.trailer.file == ours.digest {
        return Ok(());
    }
    let reason = format!(
        "{} was written by another writer; seed the spool",
        path.display()
    );
    Err(no_rebuild(label, &reason))
}

/// Opens the chain to a point.
fn open<'a>(label: &str, store: &'a dyn Store, point: Point) -> Result<Merge<'a>, Error> {
    let listing = store.list().map_err(Error::store("listing the replica"))?;
    let plan = plan(&listing, point).map_err(|source| Error::Plan {
        database: label.to_owned(),
        source,
    })?;
    Merge::open(store, &plan).map_err(|source| Error::Merge {
        database: label.to_owned(),
        source: Box::new(source),
    })
}

fn no_rebuild(label: &str, reason: &str) -> Error {
    Error::NoRebuild {
        database: label.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The page checksums of a merged chain; the last item says whether the chain was proven.
struct Checksums<'a> {
    merge: Option<Merge<'a>>,
    page: Vec<u8>,
}

impl<'a> Checksums<'a> {
    fn new(merge: Merge<'a>) -> Self {
        Self {
            page: vec![0; merge.header().page_size.bytes()],
            merge: Some(merge),
        }
    }
}

impl Iterator for Checksums<'_> {
    type Item = io::Result<(Pgno, Checksum)>;

    fn next(&mut self) -> Option<Self::Item> {
        let merge = self.merge.as_mut()?;
        match merge.next_page(&mut self.page) {
            Ok(Some(pgno)) => Some(Ok((pgno, page_checksum(pgno, &self.page)))),
            Ok(None) => {
                let merge = self.merge.take()?;
                merge
                    .finish()
                    .err()
                    .map(|error| Err(io::Error::other(error)))
            }
            Err(error) => {
                self.merge = None;
                Some(Err(io::Error::other(error)))
            }
        }
    }
}
