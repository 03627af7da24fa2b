//! Where replicas live, and the few threads that may touch that place (L14): the agent's root, or a
//! volume of one pod.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use sqlrep_replica::durable::Place;
use sqlrep_replica::{DbId, META_DIR, ManifestError, Owner, Tenure, tenure};

use crate::error::{StageError, chain};
use crate::lane::{Identity, Lane, acting};
use crate::limits;
use crate::remote::{Remote, Whose};
use crate::root::RootWatch;
use crate::target::TargetWatch;
use crate::timing::{Meter, NfsOp};

/// A place for replicas; clones share it. Its threads end with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Home(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    meter: Meter,
    ship: Lane,
    bulk: Lane,
    upkeep: Lane,
}

/// A handle that keeps nothing.
#[derive(Debug)]
pub(crate) struct WeakHome(Weak<Inner>);

impl WeakHome {
    pub(crate) fn upgrade(&self) -> Option<Home> {
        self.0.upgrade().map(Home)
    }
}

/// Which of the two.
#[derive(Debug)]
enum Kind {
    Root(RootWatch, Option<Identity>),
    Volume(Box<TargetWatch>),
}

impl Home {
    /// The agent's root.
    pub(crate) fn root(
        watch: RootWatch,
        owner: Option<Identity>,
        meter: Meter,
    ) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            kind: Kind::Root(watch, owner),
            meter,
            ship: Lane::start("ship", limits::SHIP_THREADS)?,
            bulk: Lane::start("bulk", limits::BULK_THREADS)?,
            upkeep: Lane::start("upkeep", limits::UPKEEP_THREADS)?,
        })))
    }

    /// A volume of a pod.
    pub(crate) fn volume(watch: TargetWatch, meter: Meter) -> io::Result<Self> {
        let threads = limits::TARGET_THREADS;
        Ok(Self(Arc::new(Inner {
            kind: Kind::Volume(Box::new(watch)),
            meter,
            ship: Lane::start("target-ship", threads)?,
            bulk: Lane::start("target-bulk", threads)?,
            upkeep: Lane::start("target-upkeep", threads)?,
        })))
    }

    pub(crate) fn ship(&self) -> &Lane {
        &self.0.ship
    }

    pub(crate) fn bulk(&self) -> &Lane {
        &self.0.bulk
    }

    pub(crate) fn upkeep(&self) -> &Lane {
        &self.0.upkeep
    }

    /// The watch over a pod's volume; `None`: it is the root.
    pub(crate) fn target(&self) -> Option<&TargetWatch> {
        match &self.0.kind {
            Kind::Root(..) => None,
            Kind::Volume(watch) => Some(watch),
        }
    }

    pub(crate) fn downgrade(&self) -> WeakHome {
        WeakHome(Arc::downgrade(&self.0))
    }

    /// Whether two handles are of one place.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The directory below which the replicas of a volume of an app lie.
    pub(crate) fn place_of(&self, namespace: &str, app: &str, volume: &str) -> Place {
        match &self.0.kind {
            Kind::Root(watch, _) => watch.place(Path::new(namespace).join(app).join(volume)),
            Kind::Volume(watch) => watch.place(""),
        }
    }

    /// The replica of a database.
    pub(crate) fn remote(&self, id: &DbId) -> Remote {
        let meter = self.0.meter.clone();
        match &self.0.kind {
            Kind::Root(watch, owner) => {
                let place = watch.place(id.replica_path());
                Remote::new(place, Whose::Given(*owner), meter)
            }
            Kind::Volume(watch) => Remote::new(watch.place(id.encoded_path()), Whose::Owner, meter),
        }
    }

    /// Whether it is there, and is what it was. Blocking: only on its lanes.
    pub(crate) fn check(&self) -> Result<(), StageError> {
        self.0.meter.timed(NfsOp::Check, || match &self.0.kind {
            Kind::Root(watch, owner) => {
                acting(*owner, || watch.check())?;
                Ok(())
            }
            Kind::Volume(watch) => watch.check(),
        })
    }

    /// The directory of the note of who has a volume of an app. In a volume of a pod other apps may keep
    /// theirs beside.
    pub(crate) fn tenure_of(&self, namespace: &str, app: &str, volume: &str) -> Place {
        let below = Path::new(namespace).join(app).join(volume);
        match &self.0.kind {
            Kind::Root(watch, _) => watch.place(below.join(META_DIR)),
            Kind::Volume(watch) => watch.place(Path::new(META_DIR).join("apps").join(below)),
        }
    }

    /// Takes a volume for a pod, where nobody has it, or the pod with the UID `from`. Blocking: only on its
    /// lanes.
    pub(crate) fn take(
        &self,
        place: &Place,
        owner: &Owner,
        from: Option<&str>,
    ) -> Result<Tenure, StageError> {
        let call = || tenure::take(place, owner, from);
        let taken = self.acting(|| self.0.meter.timed(NfsOp::WriteNote, call));
        taken.map_err(|error| owner_note(place, &error))
    }

    /// Gives it back, if that pod has it. Blocking: only on its lanes.
    pub(crate) fn give_back(&self, place: &Place, pod_uid: &str) -> Result<(), StageError> {
        let call = || tenure::give_back(place, pod_uid);
        let given = self.acting(|| self.0.meter.timed(NfsOp::WriteNote, call));
        given.map_err(|error| owner_note(place, &error))
    }

    /// Runs a call on the place itself as whoever owns it.
    pub(crate) fn acting<T>(&self, call: impl FnOnce() -> T) -> T {
        let owner = match &self.0.kind {
            Kind::Root(_, owner) => *owner,
            Kind::Volume(watch) => watch.owner(),
        };
        acting(owner, call)
    }

    /// Where it is, for people.
    pub(crate) fn path(&self) -> &Path {
        match &self.0.kind {
            Kind::Root(watch, _) => watch.path(),
            Kind::Volume(watch) => watch.path(),
        }
    }
}

fn owner_note(place: &Place, error: &ManifestError) -> StageError {
    StageError::Manifest {
        dir: place.path().to_path_buf(),
        text: chain(error),
    }
}
