//! Any bytes as what lies beside a replica, and any text as the name of one: what is taken is written
//! back as the same, and no name leads out of the root.

#![no_main]

use std::path::Component;

use libfuzzer_sys::fuzz_target;
use sqlrep_replica::{DbId, Manifest, Moved};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let text = serde_json::to_vec(&manifest).expect("a manifest can be written");
        assert_eq!(
            serde_json::from_slice::<Manifest>(&text).ok(),
            Some(manifest)
        );
    }
    if let Ok(moved) = serde_json::from_slice::<Moved>(bytes) {
        let text = serde_json::to_vec(&moved).expect("a note can be written");
        assert_eq!(serde_json::from_slice::<Moved>(&text).ok(), Some(moved));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(id) = text.parse::<DbId>() {
        assert_eq!(id.to_string().parse::<DbId>().ok(), Some(id.clone()));
        let dir = id.replica_path();
        assert!(
            dir.components()
                .all(|part| matches!(part, Component::Normal(_)))
        );
    }
});
