//! Torn, uninitialised and foreign wal-index headers. What SQLite wrote is read in the tests of
//! the cursor, beside the WAL it belongs to.

use proptest::prelude::*;

use super::*;

fn native(word: u32) -> [u8; 4] {
    match ByteOrder::NATIVE {
        ByteOrder::Little => word.to_le_bytes(),
        ByteOrder::Big => word.to_be_bytes(),
    }
}

/// A wal-index header with this half word as page size.
fn header(version: u32, page_size: u16) -> Vec<u8> {
    let mut copy = Vec::new();
    let [low, high] = page_size.to_le_bytes();
    let size = if ByteOrder::NATIVE == ByteOrder::Little {
        [low, high]
    } else {
        [high, low]
    };
    for word in [version, 0, 42] {
        copy.extend(native(word));
    }
    copy.extend([1, 1]);
    copy.extend(size);
    for word in [17, 9, 0xaaaa, 0xbbbb] {
        copy.extend(native(word));
    }
    copy.extend([0, 0, 0, 1, 0, 0, 0, 2]); // salts, big-endian
    let sum = WalChecksum::default().update(ByteOrder::NATIVE, &copy);
    copy.extend(native(sum.s0));
    copy.extend(native(sum.s1));
    let mut bytes = [copy.clone(), copy].concat();
    for word in [5, 0, 17, u32::MAX, u32::MAX, u32::MAX, 0, 0, 6, 0] {
        bytes.extend(native(word));
    }
    bytes
}

#[test]
fn header_is_read() {
    let bytes = header(3_007_000, 4096);
    assert_eq!(bytes.len(), INDEX_HEADER_BYTES);
    let expected = IndexHeader {
        change: 42,
        page_size: PageSize::new(4096).unwrap(),
        mx_frame: 17,
        page_count: 9,
        frame_checksum: WalChecksum {
            s0: 0xaaaa,
            s1: 0xbbbb,
        },
        salts: Salts { salt1: 1, salt2: 2 },
        big_endian_checksums: true,
        backfilled: 5,
        backfill_attempted: 6,
        read_marks: [0, 17, u32::MAX, u32::MAX, u32::MAX],
    };
    assert_eq!(IndexHeader::parse(&bytes), Ok(Some(expected)));
    let large = IndexHeader::parse(&header(3_007_000, 1)).unwrap().unwrap();
    assert_eq!(large.page_size, PageSize::MAX);
}

#[test]
fn an_unfinished_header_is_none() {
    assert_eq!(IndexHeader::parse(&[]), Ok(None));
    assert_eq!(IndexHeader::parse(&vec![0; 32_768]), Ok(None));
    assert_eq!(
        IndexHeader::parse(&header(3_007_000, 4096)[..135]),
        Ok(None)
    );
}

#[test]
fn every_torn_byte_of_the_copies_is_noticed() {
    let good = header(3_007_000, 4096);
    for at in 0..96 {
        let mut torn = good.clone();
        torn[at] ^= 1;
        assert_eq!(IndexHeader::parse(&torn), Ok(None), "{at}");
        // Both copies alike, but not what was summed.
        torn[(at + 48) % 96] ^= 1;
        assert_eq!(IndexHeader::parse(&torn), Ok(None), "{at}");
    }
}

#[test]
fn versions_and_page_sizes_nobody_knows_are_errors() {
    let version = IndexHeader::parse(&header(3_007_001, 4096));
    assert_eq!(version, Err(IndexError::Version { found: 3_007_001 }));
    let size = IndexHeader::parse(&header(3_007_000, 0));
    assert_eq!(size, Err(IndexError::PageSize(InvalidPageSize(0))));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(IndexHeader::parse(&bytes), Ok(None));
    }
}
