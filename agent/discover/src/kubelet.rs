//! The kubelet's directory of a pod: where an emptyDir lies, and how to get into it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::event::InodeKey;
use crate::identity::PodUid;

/// The volume plugin `kubernetes.io/empty-dir`, as the kubelet spells it in paths.
const PLUGIN: &str = "kubernetes.io~empty-dir";

/// From the kubelet's root to a volume: its own directories and no links. Mount points are
/// crossed here (a memory-medium emptyDir is one), but never further inside.
const TO_VOLUME: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Inside a volume: what the pod made is never followed out of it (L13, G9).
pub(crate) const IN_VOLUME: ResolveFlags = TO_VOLUME.union(ResolveFlags::NO_XDEV);

/// The directory of an emptyDir. `volume` is a checked name: [`EmptyDir`](crate::EmptyDir) holds
/// no others.
pub fn volume_dir(kubelet_root: &Path, pod: &PodUid, volume: &str) -> PathBuf {
    kubelet_root.join(volumes_below_root(pod)).join(volume)
}

/// The directory that holds a pod's emptyDirs, relative to the kubelet's root.
pub(crate) fn volumes_below_root(pod: &PodUid) -> PathBuf {
    volumes_of(pod).join(PLUGIN)
}

/// The directory that holds a pod's volumes, by plugin, relative to the kubelet's root.
pub(crate) fn volumes_of(pod: &PodUid) -> PathBuf {
    ["pods", pod.as_str(), "volumes"].iter().collect()
}

/// The kubelet's root. No descriptor is kept: even one that only names a place would pin a
/// memory-medium volume and keep its pod from going away (KUBERNETES.md §1.5).
#[derive(Clone, Debug)]
pub(crate) struct Kubelet {
    root: PathBuf,
}

impl Kubelet {
    /// Looks once whether the root is there.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        let kubelet = Self {
            root: std::path::absolute(root)?,
        };
        kubelet.open_root()?;
        Ok(kubelet)
    }

    /// A volume's directory, for reading names.
    pub(crate) fn open_volume(&self, pod: &PodUid, volume: &str) -> rustix::io::Result<OwnedFd> {
        let path = volumes_below_root(pod).join(volume);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat2(self.open_root()?, path, flags, Mode::empty(), TO_VOLUME)
    }

    /// The nearest directory that exists on the way to the pod's volumes, to be watched for the
    /// next one to appear, and whether it is the last on the way.
    pub(crate) fn open_on_the_way(&self, pod: &PodUid) -> rustix::io::Result<(OwnedFd, Way)> {
        let root = self.open_root()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let wanted = volumes_below_root(pod);
        let mut way = Way::Whole;
        for path in wanted
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
        {
            match fs::openat2(&root, path, flags, Mode::empty(), TO_VOLUME) {
                Ok(fd) => return Ok((fd, way)),
                Err(Errno::NOENT) => way = Way::Partly,
                Err(errno) => return Err(errno),
            }
        }
        Ok((root, way))
    }

    fn open_root(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat(CWD, &self.root, flags, Mode::empty())
    }
}

/// How far a pod's directories exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The directory that holds its emptyDirs is there.
    Whole,
    /// Only some directory above it.
    Partly,
}

/// A sub-directory of a volume, by its path in the volume (empty for the volume itself).
pub(crate) fn open_dir(volume: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        OsStr::new(".")
    } else {
        path.as_os_str()
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat2(volume, path, flags, Mode::empty(), IN_VOLUME)
}

/// Which directory a descriptor names.
pub(crate) fn inode_of(fd: impl AsFd) -> rustix::io::Result<InodeKey> {
    let stat = fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok(InodeKey {
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}

#[cfg(test)]
mod tests;
