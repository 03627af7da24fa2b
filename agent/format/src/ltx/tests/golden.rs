//! Every file that the real Litestream wrote, and those that it refused.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::golden;
use crate::ltx::FileName;

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap(), 16).unwrap()
}

/// The file agrees with its entry in the manifest, read both ways.
fn check(path: &Path, expected: &Value) {
    let name = path.display();
    let bytes = golden::bytes(path);
    let (header, pages) = stream(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(pieces(&bytes).unwrap(), (header, pages.clone()), "{name}");

    let min = Txid::new(hex(&expected["min_txid"])).unwrap();
    let max = Txid::new(hex(&expected["max_txid"])).unwrap();
    assert_eq!(
        (header.range.min(), header.range.max()),
        (min, max),
        "{name}"
    );
    let file_name: FileName = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    assert_eq!(file_name.0, header.range, "{name}");
    assert_eq!(
        u64::from(header.page_size.get()),
        expected["page_size"],
        "{name}"
    );
    assert_eq!(u64::from(header.commit.get()), expected["commit"], "{name}");
    assert_eq!(pages.len() as u64, expected["pages"], "{name}");
    assert_eq!(bytes.len() as u64, expected["size"], "{name}");
    assert_eq!(header.timestamp.millis(), expected["mtime_ms"], "{name}");
    let wal = expected["wal"].as_array().unwrap();
    assert_eq!(header.wal.offset, wal[0], "{name}");
    assert_eq!(header.wal.size, wal[1], "{name}");
    assert_eq!(u64::from(header.wal.salts.salt1), hex(&wal[2]), "{name}");
    assert_eq!(u64::from(header.wal.salts.salt2), hex(&wal[3]), "{name}");
    let tail = parse_tail(bytes.last_chunk().unwrap(), bytes.len() as u64).unwrap();
    assert_eq!(
        tail.trailer.file.get(),
        hex(&expected["file_checksum"]),
        "{name}"
    );

    // What we write of it reads the same, and is told from a file of 0.5.9 only by its LZ4.
    let (ours, _) = encode(&header, &pages);
    assert_eq!(stream(&ours).unwrap(), (header, pages), "{name}");
}

#[test]
fn every_file_of_the_real_litestream_is_read_as_its_manifest_says() {
    let mut files = 0;
    for version in ["0.5.9", "0.5.17"] {
        for case in golden::folders(&golden::dir("litestream").join(version)) {
            let manifest = golden::json(&case.join("manifest.json"));
            let entries = manifest["files"].as_array().unwrap();
            for entry in entries {
                check(&case.join(entry["path"].as_str().unwrap()), entry);
            }
            assert_eq!(
                golden::ltx_files(&case).len(),
                entries.len(),
                "{}",
                case.display()
            );
            files += entries.len();
        }
    }
    assert_eq!(files, 244);
}

#[test]
fn every_file_of_another_encoder_is_read() {
    let mut encodings = [0, 0];
    for case in golden::folders(&golden::dir("litestream/python-writer")) {
        for path in golden::ltx_files(&case) {
            let bytes = golden::bytes(&path);
            let (header, pages) = stream(&bytes).unwrap();
            assert_eq!(
                pieces(&bytes).unwrap(),
                (header, pages),
                "{}",
                path.display()
            );
            encodings[usize::from(bytes[105])] += 1;
        }
    }
    assert!(encodings.iter().all(|files| *files > 0), "{encodings:?}");
}

#[test]
fn every_damaged_file_is_refused_with_its_reason() {
    let second = "0000000000000002-0000000000000002.ltx";
    for (case, reason) in [
        ("bad-magic", "not with \"LTX1\""),
        ("file-checksum-flipped", "file checksum"),
        ("page-byte-flipped", "page content"),
        ("trailing-2-bytes", "bytes follow the end of the file"),
        (
            "truncated-5",
            "truncated: it ends at byte 367 where 5 more bytes belong",
        ),
        (
            "zero-length",
            "truncated: it ends at byte 0 where 100 more bytes belong",
        ),
    ] {
        let path = golden::dir("litestream/negative")
            .join(case)
            .join("replica/ltx/0")
            .join(second);
        let error = stream(&golden::bytes(&path)).unwrap_err();
        assert!(error.is_corrupt(), "{case}: {error}");
        assert!(error.to_string().contains(reason), "{case}: {error}");
        pieces(&golden::bytes(&path)).unwrap_err();
    }
}

#[test]
fn whole_files_of_refused_replicas_are_read() {
    let mut tracked = 0;
    for case in golden::folders(&golden::dir("litestream/negative")) {
        for path in golden::ltx_files(&case) {
            let bytes = golden::bytes(&path);
            let Ok((header, pages)) = stream(&bytes) else {
                let name = path.file_name().unwrap();
                assert_eq!(
                    name,
                    "0000000000000002-0000000000000002.ltx",
                    "{}",
                    path.display()
                );
                continue;
            };
            assert_eq!(
                pieces(&bytes).unwrap(),
                (header, pages),
                "{}",
                path.display()
            );
            tracked += usize::from(header.checksums != Checksums::None);
        }
    }
    assert_eq!(tracked, 2);
}
