//! Any bytes as the file that opens a gate: only what is meant for this pod in this boot does.

#![no_main]

#[allow(dead_code, unreachable_pub, reason = "a part of a program, on its own")]
#[path = "../../../agent/daemon/src/gate/status.rs"]
mod status;

use libfuzzer_sys::fuzz_target;
use status::{Reading, read};

const POD: &str = "3a873c51-a4a6-4c28-a969-0962b36a9862";
const BOOT: &str = "5f1c3ad1-0d5c-4b1b-8a52-9d2f3c1e7a40";

fuzz_target!(|bytes: &[u8]| {
    let Reading::Ours(status) = read(bytes, POD, BOOT) else {
        return;
    };
    assert_eq!(
        (status.pod_uid.as_str(), status.boot_id.as_str()),
        (POD, BOOT)
    );
    assert_eq!(status.v, status::VERSION);
    let again = serde_json::to_vec(&status).expect("a status can be written");
    assert_eq!(read(&again, POD, BOOT), Reading::Ours(status));
});
