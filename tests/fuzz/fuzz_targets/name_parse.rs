//! Any text as a file name, a level and a TXID: what is taken is spelled in one way only.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sqlrep_format::Txid;
use sqlrep_format::ltx::{FileName, Level};

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<FileName>() {
        assert_eq!(name.to_string(), text);
        assert!(name.0.min() <= name.0.max());
    }
    if let Ok(level) = text.parse::<Level>() {
        assert_eq!(level.to_string(), text);
    }
    if let Ok(txid) = text.parse::<Txid>() {
        assert_eq!(txid.to_string().parse(), Ok(txid));
    }
});
