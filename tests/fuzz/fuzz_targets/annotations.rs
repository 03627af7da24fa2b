//! Any bytes as the manifest of a pod: its annotations, owners and volumes. What is made of them is
//! bounded, and names are names.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "a part of a crate, on its own")]

#[path = "../../../agent/discover/src/identity.rs"]
mod identity;
#[path = "../../../agent/discover/src/policy.rs"]
mod policy;
#[path = "../../../agent/discover/src/target.rs"]
mod target;

#[path = "."]
mod pods {
    #[path = "../../../agent/discover/src/pods/manifest.rs"]
    pub(crate) mod manifest;
}

#[path = "../../../agent/discover/src/kubelet.rs"]
mod kubelet;

/// What the parts above take from the rest of the crate.
mod event {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InodeKey {
        pub dev: u64,
        pub ino: u64,
    }
}

use std::path::{Component, Path};

use identity::PodUid;
use libfuzzer_sys::fuzz_target;
use pods::manifest::Manifest;
use policy::{PodVolumes, parse};
use serde::Deserialize;

/// As `pods` has it.
const VOLUMES_MAX: usize = 64;

fn judge(manifest: &Manifest) {
    let Some(uid) = PodUid::new(&manifest.metadata.uid) else {
        return;
    };
    let volumes = &manifest.spec.volumes;
    let names = |targets: bool| -> Vec<String> {
        let chosen = volumes.iter().take(VOLUMES_MAX);
        let chosen = chosen.filter(|volume| volume.empty_dir.is_some() != targets);
        chosen.map(|volume| volume.name.clone()).collect()
    };
    let (empty_dirs, targets) = (names(false), names(true));
    let volumes = PodVolumes {
        empty_dirs: &empty_dirs,
        targets: &targets,
    };
    let mut parsed = parse(&manifest.metadata.annotations, volumes);
    assert!(parsed.app.as_deref().is_none_or(identity::is_dns_subdomain));
    for path in ["app.db", "a/b/c.sqlite", "tmp/x"] {
        let path = Path::new(path);
        assert!(parsed.policy.wants(path) || !parsed.policy.names(path));
    }
    let target = target::find(manifest, &uid, &parsed.policy, &mut parsed.bad);
    if let Some(Ok(place)) = target.map(|target| target.place) {
        let mut parts = place.below.components();
        assert!(parts.all(|part| matches!(part, Component::Normal(_))));
    }
    assert!(parsed.bad.len() <= 64, "{} wrong values", parsed.bad.len());
    let _: String = identity::app_from_owner(&manifest.metadata, "pod", "node");
}

fuzz_target!(|bytes: &[u8]| {
    let json = serde_json::Deserializer::from_slice(bytes).into_iter::<Manifest>();
    let json: Vec<Manifest> = json.map_while(Result::ok).take(8).collect();
    let yaml = serde_norway::Deserializer::from_slice(bytes);
    let yaml = yaml.map_while(|document| Option::<Manifest>::deserialize(document).ok());
    let yaml: Vec<Manifest> = yaml.take(8).flatten().collect();
    for manifest in json.into_iter().chain(yaml) {
        manifest.into_items().iter().take(64).for_each(judge);
    }
});
