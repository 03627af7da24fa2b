//! Pods as the kubelet makes and removes them, and the manifests that tell of them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::wait::{PATIENCE, poll};
use crate::world::World;

/// The volume through which the agent tells the gate.
const GATE: &str = "sqlrep-gate";

/// What a pod is started with.
#[derive(Debug, Clone)]
pub struct PodOptions {
    /// The app part of the identity, by annotation.
    pub app: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// The emptyDirs, besides the gate's.
    pub volumes: Vec<String>,
    /// Annotations below `sqlrep.io/`, besides the app.
    pub annotations: Vec<(String, String)>,
    /// Whether the pod has the gate, and its app waits for a restore.
    pub gated: bool,
    /// Where the kubelet's tree is, when not in the world's own.
    pub kubelet: Option<PathBuf>,
    /// Where the manifest goes, when not in the world's own directory.
    pub pods: Option<PathBuf>,
    /// The controller that the identity comes from; without one, an annotation names the app.
    pub owner: Option<Value>,
    /// The node that it runs on.
    pub node: String,
    /// What its volume `replica` is, which holds its replicas (`sqlrep.io/target-volume`); mounting
    /// it is up to the test.
    pub target: Option<Value>,
    /// Whether its emptyDirs are of medium `Memory`; mounting a tmpfs there is up to the test.
    pub memory: bool,
}

impl PodOptions {
    /// A gated pod of this app with one emptyDir, `data`.
    pub fn app(name: &str) -> Self {
        Self {
            app: name.into(),
            namespace: "default".into(),
            volumes: vec!["data".into()],
            annotations: Vec::new(),
            gated: true,
            kubelet: None,
            pods: None,
            owner: None,
            node: "n1".into(),
            target: None,
            memory: false,
        }
    }

    /// With an annotation `sqlrep.io/<key>`.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.into(), value.into()));
        self
    }

    /// With its replicas in a volume of its own, of this source.
    #[must_use]
    pub fn target(mut self, source: Value) -> Self {
        self.target = Some(source);
        self.annotate("target-volume", "replica")
    }

    /// With files in its volume before the agent hears of it: no gate.
    #[must_use]
    pub fn ungated(mut self) -> Self {
        self.gated = false;
        self
    }
}

/// A pod: its directory under the kubelet's root, and its manifest.
#[derive(Debug)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// What its app is called.
    pub app: String,
    dir: PathBuf,
    manifest: PathBuf,
    document: Value,
}

impl Pod {
    /// Makes the directories, as the kubelet does before any container; then the manifest.
    pub fn start(world: &World, options: PodOptions) -> Result<Self> {
        let pod = Self::prepare(world, options)?;
        pod.announce()?;
        Ok(pod)
    }

    /// Makes the directories only: for what stands in a volume before the agent hears of it.
    pub fn prepare(world: &World, options: PodOptions) -> Result<Self> {
        let uid = uid();
        let kubelet = options.kubelet.clone().unwrap_or_else(|| world.kubelet());
        let pods = options.pods.clone().unwrap_or_else(|| world.pods());
        let pod = Self {
            dir: kubelet.join("pods").join(&uid),
            manifest: pods.join(format!("{}-{}.json", options.app, &uid[..8])),
            document: manifest(&uid, &options),
            uid,
            app: options.app,
        };
        let gate = options.gated.then(|| GATE.to_string());
        for volume in options.volumes.into_iter().chain(gate) {
            let dir = pod.volume(&volume);
            fs::create_dir_all(&dir)?;
            // the kubelet's emptyDirs are open to whatever user the app runs as
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
            let ready = pod
                .dir
                .join("plugins/kubernetes.io~empty-dir")
                .join(&volume);
            fs::create_dir_all(&ready)?;
            fs::write(ready.join("ready"), "")?;
        }
        Ok(pod)
    }

    /// The manifest, for an API server instead of a directory.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Writes the manifest, whole or not at all.
    pub fn announce(&self) -> Result<()> {
        self.write(&self.document)
    }

    fn write(&self, document: &Value) -> Result<()> {
        let name = self.manifest.file_name().context("a manifest has a name")?;
        // a name that does not end in .json, in the same directory
        let draft = self
            .manifest
            .with_file_name(format!("{}.draft", name.to_string_lossy()));
        fs::write(&draft, serde_json::to_vec_pretty(document)?)?;
        rename(&draft, &self.manifest)
    }

    /// As `kubectl delete` would be seen: a time of deletion, the pod still there.
    pub fn mark_deleted(&self) -> Result<()> {
        let mut document = self.document.clone();
        document["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.write(&document)
    }

    /// The directory of a volume.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.dir.join("volumes/kubernetes.io~empty-dir").join(name)
    }

    /// A directory below its volumes, as `kubernetes.io~nfs/replica`.
    pub fn below(&self, plugin: &str) -> PathBuf {
        self.dir.join("volumes").join(plugin)
    }

    /// A file in the volume `data`.
    pub fn db(&self, name: &str) -> PathBuf {
        self.volume("data").join(name)
    }

    /// What the gate reads, when there is something.
    pub fn status(&self) -> Result<Option<Value>> {
        let path = self.volume(GATE).join("status.json");
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| path.display().to_string()),
        }
    }

    /// Waits until the gate would open, as the app's containers do.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_phase("ready").map(drop)
    }

    /// Waits for a phase of the gate.
    pub fn wait_phase(&self, phase: &str) -> Result<Value> {
        let mut last = None;
        let found = poll(
            &format!("the gate of {} says {phase}", self.app),
            PATIENCE,
            || {
                last = self.status()?;
                Ok(last.clone().filter(|status| status["phase"] == phase))
            },
        );
        found.with_context(|| format!("last status: {last:?}"))
    }

    /// The emptyDirs go, and the pod's other volumes stay: the kubelet takes down each by itself.
    pub fn remove_empty_dirs(&self) -> Result<()> {
        fs::remove_dir_all(self.dir.join("plugins"))?;
        remove(&self.below("kubernetes.io~empty-dir"))
    }

    /// The data goes at once, as the kubelet does it: ready marks, files, directories.
    pub fn remove_data(&self) -> Result<()> {
        remove(&self.dir.join("plugins"))?;
        remove(&self.dir.join("volumes"))?;
        remove(&self.dir)
    }

    /// The API object goes.
    pub fn remove_manifest(&self) -> Result<()> {
        Ok(fs::remove_file(&self.manifest)?)
    }

    /// What a deleted pod leaves: nothing. The object outlives the data.
    pub fn delete(&self) -> Result<()> {
        self.remove_data()?;
        self.remove_manifest()
    }
}

/// Like the kubelet's: again when something was made while it looked.
fn remove(dir: &Path) -> Result<()> {
    poll(
        &format!("remove {}", dir.display()),
        PATIENCE,
        || match fs::remove_dir_all(dir) {
            Ok(()) => Ok(Some(())),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(Some(())),
            Err(err) => Err(err.into()),
        },
    )
}

/// Moves a file over another, or a directory away.
#[expect(
    clippy::disallowed_methods,
    reason = "tests play the kubelet and the administrator"
)]
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))
}

fn uid() -> String {
    let dice = fastrand::u128(..);
    let hex = format!("{dice:032x}");
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

fn manifest(uid: &str, options: &PodOptions) -> Value {
    let mut annotations = Map::new();
    if options.owner.is_none() {
        annotations.insert("sqlrep.io/app".into(), json!(options.app));
    }
    for (key, value) in &options.annotations {
        annotations.insert(format!("sqlrep.io/{key}"), json!(value));
    }
    let gate = options.gated.then(|| GATE.to_string());
    let medium = if options.memory {
        json!({"medium": "Memory"})
    } else {
        json!({})
    };
    let volumes: Vec<Value> = options
        .volumes
        .iter()
        .map(|name| json!({"name": name, "emptyDir": medium}))
        .chain(gate.map(|name| json!({"name": name, "emptyDir": {}})))
        .chain(options.target.as_ref().map(|source| {
            let mut volume = source.clone();
            volume["name"] = json!("replica");
            volume
        }))
        .collect();
    let mounts: Vec<Value> = options
        .volumes
        .iter()
        .map(|name| json!({"name": name, "mountPath": format!("/{name}")}))
        .collect();
    let mut spec = json!({
        "nodeName": options.node,
        "volumes": volumes,
        "containers": [{"name": "app", "image": "app", "volumeMounts": mounts}],
    });
    if options.gated {
        spec["initContainers"] = json!([{
            "name": GATE, "image": "sqlrep", "args": ["gate"],
            "volumeMounts": [{"name": GATE, "mountPath": "/sqlrep"}],
        }]);
    }
    let mut metadata = json!({
        "name": format!("{}-{}", options.app, &uid[..5]),
        "namespace": options.namespace,
        "uid": uid,
        "labels": {"sqlrep.io/replicate": "true", "pod-template-hash": "5d4f8c7b6"},
        "annotations": annotations,
    });
    if let Some(owner) = &options.owner {
        metadata["ownerReferences"] = json!([owner]);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": metadata, "spec": spec, "status": {"phase": "Running"},
    })
}
