//! The volume of a pod that holds its replicas (`sqlrep.io/target-volume`), and where the kubelet
//! mounts it.

use std::fmt;
use std::path::PathBuf;

use crate::identity::{self, PodUid};
use crate::kubelet;
use crate::pods::manifest::{Manifest, Volume};
use crate::policy::{BadValue, Policy, TARGET_VOLUME};

/// What is accepted, in words.
pub(crate) const ACCEPTED: &str = "a volume of this pod that is a persistentVolumeClaim (of an NFS, \
                                   CSI or local volume) or nfs, and is not read-only";

/// A volume of a pod that holds its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetVolume {
    /// Its name in the pod.
    pub volume: String,
    /// Where it is; or why that is not known: then the pod's replicas are nowhere else either.
    pub place: Result<TargetPlace, String>,
}

/// Where a volume of a pod is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlace {
    /// Its directory, relative to the kubelet's root. It is the volume only where it is a mount.
    pub below: PathBuf,
    /// What the volume is known by, whatever pod mounts it: lower-case letters, digits, '-', '.'.
    pub key: String,
    /// The PersistentVolume, where there is one: its name and UID.
    pub persistent: Option<(String, String)>,
}

/// What lies behind a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// The PersistentVolume's name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
    /// What it is made of.
    pub(crate) kind: Kind,
}

/// What a volume is made of, as far as the kubelet mounts it under the pod's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nfs,
    Csi,
    Local,
}

impl Kind {
    /// The directory of a volume, as the kubelet's plugins spell it.
    fn below(self, pod: &PodUid, name: &str) -> PathBuf {
        let plugin = match self {
            Self::Nfs => "kubernetes.io~nfs",
            Self::Csi => "kubernetes.io~csi",
            Self::Local => "kubernetes.io~local-volume",
        };
        let dir = kubelet::volumes_of(pod).join(plugin).join(name);
        match self {
            Self::Csi => dir.join("mount"),
            Self::Nfs | Self::Local => dir,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nfs => "nfs",
            Self::Csi => "csi",
            Self::Local => "local",
        })
    }
}

/// Whether replicas may be kept in a volume of this kind.
pub(crate) fn is_possible(volume: &Volume) -> bool {
    volume.nfs.is_some() || volume.persistent_volume_claim.is_some()
}

/// The claim that a pod names for its replicas.
pub(crate) fn claim_of(manifest: &Manifest) -> Option<&str> {
    let named = manifest.metadata.annotations.get(TARGET_VOLUME)?.trim();
    let mut volumes = manifest.spec.volumes.iter();
    let volume = volumes.find(|volume| volume.name == named)?;
    Some(&volume.persistent_volume_claim.as_ref()?.claim_name)
}

/// Where the volume is that the pod names; what is wrong with it is added to `wrong`.
pub(crate) fn find(
    manifest: &Manifest,
    uid: &PodUid,
    policy: &Policy,
    wrong: &mut Vec<BadValue>,
) -> Option<TargetVolume> {
    let written = manifest.metadata.annotations.get(TARGET_VOLUME)?;
    let Some(name) = &policy.target_volume else {
        // The annotation is wrong, and that has been said.
        let place = Err(format!("annotation {TARGET_VOLUME} is wrong"));
        let volume = written.trim().to_owned();
        return Some(TargetVolume { volume, place });
    };
    let mut volumes = manifest.spec.volumes.iter();
    let volume = volumes.find(|volume| volume.name == *name)?;
    let place = locate(manifest, uid, volume);
    if let Err(reason) = &place {
        let accepted = format!("{ACCEPTED}; {reason}");
        wrong.push(BadValue::new(TARGET_VOLUME, written, accepted));
    }
    Some(TargetVolume {
        volume: name.clone(),
        place,
    })
}

fn locate(manifest: &Manifest, uid: &PodUid, volume: &Volume) -> Result<TargetPlace, String> {
    let name = &volume.name;
    if let Some(nfs) = &volume.nfs {
        if nfs.read_only {
            return Err(format!("volume {name} is read-only"));
        }
        return Ok(TargetPlace {
            below: Kind::Nfs.below(uid, name),
            key: format!("nfs-{:016x}", hash(&format!("{}:{}", nfs.server, nfs.path))),
            persistent: None,
        });
    }
    let Some(claim) = &volume.persistent_volume_claim else {
        return Err(format!("volume {name} is neither"));
    };
    if claim.read_only {
        return Err(format!("volume {name} is read-only"));
    }
    match &manifest.metadata.looked_up.claimed {
        None => Err(format!(
            "what lies behind claim {} is not known without an API server: write the volume as nfs \
             in this manifest",
            claim.claim_name
        )),
        Some(Err(reason)) => Err(reason.clone()),
        Some(Ok(claimed)) if identity::is_dns_subdomain(&claimed.name) => Ok(TargetPlace {
            below: claimed.kind.below(uid, &claimed.name),
            key: claimed.uid.clone(),
            persistent: Some((claimed.name.clone(), claimed.uid.clone())),
        }),
        Some(Ok(claimed)) => Err(format!(
            "PersistentVolume {:?} is no DNS-1123 name",
            claimed.name
        )),
    }
}

/// FNV-1a: what is remembered under it must be found again by any build.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
