//! A volume of a pod that holds its replicas (`sqlrep.io/target-volume`): opened where the kubelet
//! mounted it, known again by its marker, and let go of so that it can be unmounted.
//!
//! A directory that is no mount is the node's disk: nothing in it is believed, and nothing is
//! written to it. While the volume is open the kubelet cannot unmount it, and tries again: that is
//! what holds it until the tail of a deleted pod is shipped.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx,
};
use rustix::io::Errno;
use sqlrep_replica::durable::{Base, Dir, Place};
use sqlrep_replica::root::{self, RootError, RootId};
use sqlrep_spool::Spool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::error::{StageError, chain};
use crate::home::WeakHome;
use crate::lane::{Identity, acting};
use crate::root::RootMemory;
use crate::{TargetPlace, TargetVolume, limits};

/// First pause before the cluster is asked again about a volume that it does not know; it doubles.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Longest pause.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(30);

/// The answer of a [`TargetMemory`].
pub type TargetAnswer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Remembers the ids of volumes for all nodes.
pub trait TargetMemory: std::fmt::Debug + Send + Sync {
    /// What is remembered of this volume.
    fn recall(&self, place: TargetPlace) -> TargetAnswer<RootMemory>;
    /// Has it remembered; one that is remembered already stays as it is.
    fn remember(&self, place: TargetPlace, id: String) -> TargetAnswer<Result<(), String>>;
    /// What a person does to have it forgotten.
    fn forget_by(&self, place: &TargetPlace) -> Option<String>;
}

/// Nobody but the node remembers, as with `--pods dir:`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeMemory;

impl TargetMemory for NodeMemory {
    fn recall(&self, _: TargetPlace) -> TargetAnswer<RootMemory> {
        Box::pin(std::future::ready(RootMemory::Node))
    }

    fn remember(&self, _: TargetPlace, _: String) -> TargetAnswer<Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn forget_by(&self, _: &TargetPlace) -> Option<String> {
        None
    }
}

/// Watches over one volume.
#[derive(Debug)]
pub(crate) struct TargetWatch {
    volume: TargetVolume,
    namespace: String,
    base: Base,
    spool: Arc<Spool>,
    cluster: Arc<dyn TargetMemory>,
    recalled: Mutex<RootMemory>,
    /// Whether the cluster has been asked.
    asked: watch::Sender<bool>,
    /// The id, once it was seen.
    id: Mutex<Option<RootId>>,
}

impl TargetWatch {
    pub(crate) fn new(
        volume: TargetVolume,
        namespace: String,
        spool: Arc<Spool>,
        cluster: Arc<dyn TargetMemory>,
    ) -> Self {
        let path = match &volume.place {
            Ok(place) => volume.kubelet_root.join(&place.below),
            Err(_) => PathBuf::from(&volume.name),
        };
        let unknown = RootMemory::Unknown("it has not been asked yet".to_owned());
        Self {
            volume,
            namespace,
            base: Base::new(path),
            spool,
            cluster,
            recalled: Mutex::new(unknown),
            asked: watch::Sender::new(false),
            id: Mutex::default(),
        }
    }

    pub(crate) fn volume(&self) -> &TargetVolume {
        &self.volume
    }

    /// That of the pod which has it mounted.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn path(&self) -> &Path {
        self.base.path()
    }

    /// What the volume is known by.
    pub(crate) fn key(&self) -> Option<&str> {
        Some(&self.volume.place.as_ref().ok()?.key)
    }

    /// A directory in it.
    pub(crate) fn place(&self, below: impl AsRef<Path>) -> Place {
        Place::beneath(&self.base, below)
    }

    /// Whose the volume is: the share may know root as nobody.
    pub(crate) fn owner(&self) -> Option<Identity> {
        self.base.dir().ok().and_then(|dir| owner_of(&dir))
    }

    /// Lets go of it, for good: what is under way ends, what comes fails.
    pub(crate) fn let_go(&self) {
        self.base.let_go();
    }

    /// Whether that was done.
    pub(crate) fn is_let_go(&self) -> bool {
        self.base.is_let_go()
    }

    /// Waits until the cluster was asked, for a moment: it may not answer.
    pub(crate) async fn recalled(&self) {
        let mut asked = self.asked.subscribe();
        drop(timeout(limits::LOOKUP_TIMEOUT, asked.wait_for(|asked| *asked)).await);
    }

    /// Whether it is mounted, is the volume it was, and may be written. Blocking: only on a lane.
    pub(crate) fn check(&self) -> Result<(), StageError> {
        let place = self
            .volume
            .place
            .as_ref()
            .map_err(|reason| self.unusable(reason.clone()))?;
        let dir = self.opened(place)?;
        let node = self.remembered(place);
        let expected = self.expected(node)?;
        let checked = acting(owner_of(&dir), || {
            root::check_volume(&dir, expected.as_ref())
        });
        let id = checked.map_err(|error| self.refused(place, &error))?;
        *lock(&self.id) = Some(id);
        if node != Some(id)
            && let Err(error) = self.spool.remember_target(&place.key, &id)
        {
            // It works; only an exchange while the cluster does not answer would go unnoticed.
            tracing::warn!(err = %error, "cannot remember the id of a target volume");
        }
        Ok(())
    }

    /// The open volume. One whose server forgot it is opened anew.
    fn opened(&self, place: &TargetPlace) -> Result<Dir, StageError> {
        match self.base.dir() {
            Ok(dir) => match rustix::fs::fstat(&dir) {
                Err(Errno::STALE) => {}
                _ => return Ok(dir),
            },
            Err(error) if self.is_let_go() => return Err(self.unusable(error.to_string())),
            Err(_) => {}
        }
        match open_mount(&self.volume.kubelet_root, &place.below, self.path()) {
            Ok(Some(dir)) => {
                self.base.hold(dir.clone());
                Ok(dir)
            }
            Ok(None) => Err(self.not_mounted()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.not_mounted()),
            Err(error) => Err(self.unusable(format!("{}: {error}", self.path().display()))),
        }
    }

    /// Which id it must have; `None` where it may be any, or a new one.
    fn expected(&self, node: Option<RootId>) -> Result<Option<RootId>, StageError> {
        match (&*lock(&self.recalled), node) {
            (RootMemory::Id(id), _) => Ok(Some(*id)),
            (_, Some(id)) => Ok(Some(id)),
            (RootMemory::Node | RootMemory::Nobody, None) => Ok(None),
            (RootMemory::Unknown(reason), None) => Err(self.unusable(format!(
                "this node has not seen it before, and the cluster does not say which one it is \
                 ({reason})"
            ))),
        }
    }

    fn remembered(&self, place: &TargetPlace) -> Option<RootId> {
        self.spool
            .remembered_target(&place.key)
            .unwrap_or_else(|error| {
                tracing::warn!(err = %error, "the remembered id of a target volume cannot be read");
                None
            })
    }

    fn not_mounted(&self) -> StageError {
        StageError::TargetNotMounted {
            volume: self.volume.name.clone(),
            dir: self.path().to_path_buf(),
        }
    }

    fn unusable(&self, reason: String) -> StageError {
        StageError::Target {
            volume: self.volume.name.clone(),
            reason,
        }
    }

    fn refused(&self, place: &TargetPlace, error: &RootError) -> StageError {
        let (RootError::Lost { expected, .. } | RootError::Exchanged { expected, .. }) = error
        else {
            return self.unusable(chain(error));
        };
        let note = self.spool.target_path(&place.key);
        let cluster = self.cluster.forget_by(place);
        let cluster = cluster.map_or_else(String::new, |command| format!("{command}, and "));
        self.unusable(format!(
            "what is mounted there is not the volume that it was (id {expected} is remembered): \
             another share, or an emptied one; bring the right one back. If it is a new one on \
             purpose: {cluster}remove {} on this node",
            note.display()
        ))
    }
}

/// Asks the cluster about a volume, and tells it of one that it does not know, until both agree or
/// the volume is let go of.
pub(crate) async fn confirm(home: WeakHome) {
    let mut pause = ASK_AGAIN;
    loop {
        let Some(home) = home.upgrade() else { return };
        let Some(watch) = home.target().filter(|watch| !watch.is_let_go()) else {
            return;
        };
        let Ok(place) = &watch.volume.place else {
            return;
        };
        let memory = watch.cluster.recall(place.clone()).await;
        *lock(&watch.recalled) = memory.clone();
        watch.asked.send_replace(true);
        let id = *lock(&watch.id);
        match (memory, id) {
            (RootMemory::Id(_) | RootMemory::Node, _) => return,
            (RootMemory::Nobody, Some(id)) => {
                let told = watch.cluster.remember(place.clone(), id.to_string()).await;
                if let Err(error) = told {
                    tracing::warn!(err = %error, "the cluster does not remember a target volume yet");
                }
            }
            (RootMemory::Nobody | RootMemory::Unknown(_), _) => {}
        }
        drop(home);
        sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MAX);
    }
}

/// Opens a directory below the kubelet's root if something is mounted on it: links are not followed
/// on the way, mounts are.
fn open_mount(kubelet_root: &Path, below: &Path, path: &Path) -> io::Result<Option<Dir>> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, kubelet_root, flags | OFlags::PATH, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW;
    let opened = openat2(&root, below, flags, Mode::empty(), resolve)?;
    // Not by the device: the bind mount of a local volume may lie on the same one.
    let stat = statx(&opened, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(None);
    }
    Dir::from_fd(opened, path).map(Some)
}

/// Who owns a directory, when the agent is root and he is not.
pub(crate) fn owner_of(dir: &Dir) -> Option<Identity> {
    let stat = rustix::fs::fstat(dir).ok()?;
    as_owner(stat.st_uid, stat.st_gid)
}

/// Whom to act as on files of this owner.
pub(crate) fn as_owner(uid: u32, gid: u32) -> Option<Identity> {
    let root = rustix::process::geteuid().is_root();
    (root && uid != 0).then_some(Identity { uid, gid })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
