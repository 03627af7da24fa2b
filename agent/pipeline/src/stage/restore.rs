//! The restore stage: puts a volume's databases back before their app starts.
//!
//! Blocking: only on a lane. Order, so that a crash between any two steps is harmless: stage the
//! database beside its place → claim the replica at head + 1 → say so in its manifest → remember
//! the position → publish by rename without replace. Until the last step the app sees nothing; from
//! the claim on the old owner is fenced.
//!
//! A share may show an old listing for as long as its directory cache lasts. What is in a replica
//! is therefore known from more: the manifest names the head at which its owner let go, and the
//! link of the claim fails where a file is that no listing showed.

use std::path::Path;

use sqlrep_format::{Pgno, Timestamp, Txid, page_checksum};
use sqlrep_replica::durable::{self, OsFs};
use sqlrep_replica::owner::{self, Branch, Claim, WriterId};
use sqlrep_replica::{
    DbId, Destination, IdError, Listing, Manifest, OwnerState, Ownership, Point, RestoreError,
    RestoreOptions, Staged, Store, StoreError, restore,
};
use sqlrep_spool::{DatabaseSpool, Seed};

use crate::Volume;
use crate::error::StageError;
use crate::home::Home;
use crate::remote::Remote;
use crate::stage::sign::{Signed, sign};

/// Threads that decode one restore.
const RESTORE_THREADS: usize = 4;

/// Heads that are claimed before giving up: each lost claim means that the old owner was still
/// publishing.
const CLAIMS_MAX: u32 = 16;

/// One database that a volume's replica holds.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: DbId,
    pub(crate) store: Remote,
    /// The newest TXID in it; nothing where that cannot be read.
    pub(crate) head: Option<Txid>,
}

impl Candidate {
    /// How large the database is that it restores to, from the newest file's header; nothing where
    /// that cannot be read, for the restore then says why.
    pub(crate) fn bytes(&self) -> u64 {
        let header = self.store.list().ok().and_then(|listing| {
            let head = listing.head()?;
            owner::header_at(&self.store, &listing, head).ok()
        });
        header.map_or(0, |header| {
            u64::from(header.commit.get()) * header.page_size.bytes() as u64
        })
    }

    /// What is in it; nothing where there never was anything. An unreadable replica is not an empty
    /// one: the restore will say why it fails.
    fn look(id: DbId, store: Remote) -> Option<Self> {
        let listed = store.list();
        let head = listed.as_ref().ok().and_then(Listing::head);
        let found = Self { id, store, head };
        let empty = listed.is_ok() && head.is_none();
        let never = empty && matches!(found.retired_chain(), Ok(None));
        (!never).then_some(found)
    }

    fn retired_chain(&self) -> Result<Option<Branch>, StageError> {
        let place = self.store.place();
        Ok(self.store.acting(|| owner::retired_chain(place))?)
    }
}

/// What was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredDatabase {
    /// Identity of the replica.
    pub id: DbId,
    /// The TXID that was restored.
    pub txid: Txid,
    /// Bytes of the database.
    pub bytes: u64,
    /// Files that were read.
    pub files: usize,
}

/// Who restores.
pub(crate) struct Claimant<'a> {
    pub(crate) writer: WriterId,
    pub(crate) spool: DatabaseSpool,
    /// What it says of itself once the replica is its own.
    pub(crate) manifest: Manifest,
    /// Whether the pod is going away: then it takes nothing, and nothing is made in its volume.
    pub(crate) goes_away: &'a dyn Fn() -> bool,
    /// Temp files that nobody touched since are those of a process that was killed.
    pub(crate) since: Timestamp,
}

impl Claimant<'_> {
    fn stays(&self) -> Result<(), StageError> {
        if (self.goes_away)() {
            let reason = "the pod goes away before its app began".to_owned();
            return Err(StageError::Refused { reason });
        }
        Ok(())
    }

    /// Takes back what was said, if it was: for a pod that went away after its claim.
    pub(crate) fn let_go(&self, store: &Remote) -> Result<(), StageError> {
        if let Some(mut found) = store.load_manifest()?
            && found.owner.writer == self.writer
            && found.owner.state == OwnerState::Active
        {
            found.owner.state = OwnerState::Released;
            sign(store, found, None)?;
        }
        Ok(())
    }
}

/// Restores one database and makes this node its owner: in the log from the claim on, and in the
/// manifest before the database is there, so that no other pod takes the replica for free.
pub(crate) fn restore_and_claim(
    candidate: &Candidate,
    volume: &Volume,
    claimant: &Claimant<'_>,
    now: Timestamp,
) -> Result<RestoredDatabase, StageError> {
    let store = &candidate.store;
    let overtaken = |by| StageError::Overtaken {
        dir: store.dir().to_path_buf(),
        by,
    };
    let mut proven = None;
    for _ in 0..CLAIMS_MAX {
        let found = store.load_manifest()?;
        let staged = stage(candidate, volume, claimant.since, found.as_ref())?;
        proven = proven.max(found.as_ref().and_then(|found| found.head));
        if let Some(wanted) = proven.filter(|wanted| *wanted > staged.txid()) {
            return Err(StageError::Behind {
                dir: store.dir().to_path_buf(),
                seen: staged.txid(),
                wanted,
            });
        }
        let page = staged.page(Pgno::FIRST).map_err(|source| StageError::Io {
            action: "read back the first page of",
            path: volume.dir.join(candidate.id.path()),
            source,
        })?;
        let head = staged.txid();
        claimant.stays()?;
        match owner::claim(store, claimant.writer, head, &page, staged.header(), now)? {
            Claim::Won(txid) => {
                let manifest = Manifest {
                    head: Some(txid),
                    page_size: Some(staged.header().page_size),
                    ..claimant.manifest.clone()
                };
                if let Signed::Fenced { by } = sign(store, manifest, Some(txid))? {
                    return Err(overtaken(by));
                }
                return publish(candidate, staged, claimant, txid, now);
            }
            // The owner that was judged to be over, or Litestream, was still publishing: its file
            // is at that name, whatever a listing says.
            Claim::Lost { by } if by == 0 || is_of(found.as_ref(), by) => {
                tracing::info!(db = %candidate.id, by, "the old owner published meanwhile");
                proven = Some(head.next());
            }
            Claim::Lost { by } => return Err(overtaken(by)),
        }
    }
    Err(StageError::Refused {
        reason: format!("somebody keeps writing to the replica of {}", candidate.id),
    })
}

fn is_of(manifest: Option<&Manifest>, writer: u64) -> bool {
    manifest.is_some_and(|manifest| manifest.owner.writer.get() == writer)
}

fn stage(
    candidate: &Candidate,
    volume: &Volume,
    since: Timestamp,
    manifest: Option<&Manifest>,
) -> Result<Staged, StageError> {
    let options = RestoreOptions {
        threads: RESTORE_THREADS,
        ownership: manifest
            .and_then(|manifest| manifest.file)
            .or_else(|| owner_unsaid(candidate, volume)),
    };
    let destination = Destination::in_volume(&volume.dir, candidate.id.path())?;
    match destination.sweep(since) {
        Ok(0) => {}
        Ok(swept) => tracing::info!(
            db = %candidate.id, swept,
            "a restore was killed: what it had written is removed"
        ),
        // They take room, and harm nothing.
        Err(error) => tracing::warn!(
            db = %candidate.id, %error,
            "what a killed restore had written is not removed"
        ),
    }
    let store = &candidate.store;
    let staged = restore::stage(store, Point::Latest, &destination, &options, &());
    if staged.as_ref().is_err_and(RestoreError::is_missing)
        && let Some(branch) = candidate.retired_chain()?
    {
        return Err(StageError::BetweenChains {
            dir: store.dir().to_path_buf(),
            branch: branch.name,
        });
    }
    Ok(staged?)
}

/// Whom a database is given whose replica does not say: Litestream's have no such note. The app's
/// user, if the pod names one; else whoever owns the replica in a volume of the pod, for that was a
/// container of it. Nobody known: anybody in the pod may write it, which is told.
fn owner_unsaid(candidate: &Candidate, volume: &Volume) -> Option<Ownership> {
    let place = candidate.store.place();
    let owner = || place.owner().ok().filter(|(uid, _)| *uid != 0);
    if let Some((uid, gid)) = volume.user.or_else(owner) {
        let mode = 0o660;
        return Some(Ownership { uid, gid, mode });
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        return None;
    }
    tracing::warn!(
        db = %candidate.id, pod = %volume.pod.name,
        "neither replica nor pod says whose the database is: it is given mode 0666; set runAsUser"
    );
    Some(Ownership {
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        mode: 0o666,
    })
}

fn publish(
    candidate: &Candidate,
    staged: Staged,
    claimant: &Claimant<'_>,
    claimed: Txid,
    now: Timestamp,
) -> Result<RestoredDatabase, StageError> {
    let header = *staged.header();
    let pages = header.commit.pages(header.page_size);
    let mut checksums = pages.map(|pgno| {
        staged
            .page(pgno)
            .map(|page| (pgno, page_checksum(pgno, &page)))
    });
    claimant.spool.seed(Seed {
        txid: claimed,
        timestamp: header.timestamp.after(now),
        commit: header.commit,
        page_size: header.page_size,
        checksums: &mut checksums,
    })?;
    claimant.stays()?;
    let restored = staged.publish()?;
    Ok(RestoredDatabase {
        id: candidate.id.clone(),
        txid: restored.txid,
        bytes: restored.bytes,
        files: restored.files,
    })
}

/// How old the listing of a home may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// As old as the share's directory cache.
    Cached,
    /// Of now.
    Fresh,
}

/// The databases that a home holds for a volume, from a bounded walk. Blocking: only on its lanes.
pub(crate) fn candidates(
    home: &Home,
    volume: &Volume,
    listed: Listed,
) -> Result<Vec<Candidate>, StageError> {
    let pod = &volume.pod;
    let place = home.place_of(&pod.namespace, &pod.app, &volume.name);
    let below = home.acting(|| {
        // A name that was looked up before it existed may stay missing for half a minute on NFS, and
        // "no replica" would start the app empty. Making the directory asks the server; in one that
        // is there, making a file makes whatever is known of it void.
        let dir = durable::ensure_dir(&OsFs, &place).map_err(StoreError::from)?;
        if listed == Listed::Fresh {
            drop(durable::Temp::create(&OsFs, &dir).map_err(StoreError::from)?);
        }
        sqlrep_replica::replicas_below(&place).map_err(StageError::from)
    })?;
    let mut found = Vec::new();
    for below in below {
        match identify(volume, &below) {
            Ok(id) => found.extend(Candidate::look(id.clone(), home.remote(&id))),
            Err(error) if below.as_os_str().is_empty() && home.target().is_some() => {
                return Err(at_the_top(home, volume, &error));
            }
            Err(error) => {
                let path = place.path().join(&below);
                tracing::warn!(path = %path.display(), err = %error, "not a replica of ours");
            }
        }
    }
    Ok(found)
}

pub(crate) fn identify(volume: &Volume, below: &Path) -> Result<DbId, IdError> {
    let text = below
        .to_str()
        .ok_or_else(|| IdError::Path(below.to_owned()))?;
    DbId::from_encoded(&volume.pod.namespace, &volume.pod.app, &volume.name, text)
}

/// Litestream can be told to write there. Which database it is of nobody knows, and to start an app
/// without it is what must not happen.
fn at_the_top(home: &Home, volume: &Volume, error: &IdError) -> StageError {
    let target = home.target().map(|watch| watch.volume().name.clone());
    StageError::Target {
        volume: target.unwrap_or_default(),
        reason: format!(
            "it holds a replica at its top (ltx/): move that directory into one that is called like \
             the database in volume {}, as in data.db/ltx ({error})",
            volume.name
        ),
    }
}
