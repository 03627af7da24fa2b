//! WALs that SQLite wrote, and every way in which a frame does not count.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::golden;
use crate::wal::{IndexHeader, ReadError};

/// A WAL that has `pages` as frames, every third of them a commit.
fn wal(order: ByteOrder, page_size: u32, salts: Salts, pages: &[Vec<u8>]) -> Vec<u8> {
    let magic = 0x377f_0682 + u32::from(order == ByteOrder::Big);
    let mut out: Vec<u8> = [magic, 3_007_000, page_size, 5, salts.salt1, salts.salt2]
        .into_iter()
        .flat_map(u32::to_be_bytes)
        .collect();
    let mut sum = WalChecksum::default().update(order, &out);
    let words = |sum: WalChecksum| [sum.s0, sum.s1].into_iter().flat_map(u32::to_be_bytes);
    out.extend(words(sum));
    for (pgno, page) in (1_u32..).zip(pages) {
        let commit = if pgno % 3 == 0 { pgno } else { 0 };
        let head: Vec<u8> = [pgno, commit]
            .into_iter()
            .flat_map(u32::to_be_bytes)
            .collect();
        sum = sum.update(order, &head).update(order, page);
        out.extend(head);
        out.extend(
            [salts.salt1, salts.salt2]
                .into_iter()
                .flat_map(u32::to_be_bytes),
        );
        out.extend(words(sum));
        out.extend(page);
    }
    out
}

fn parse(wal: &[u8]) -> Header {
    Header::parse(wal.first_chunk().unwrap()).unwrap()
}

/// Moves over all valid frames; the last item is why there is no further one.
fn walk(wal: &[u8], cursor: &mut Cursor) -> (Vec<FrameHeader>, Option<Invalid>) {
    let mut frames = Vec::new();
    loop {
        let at = usize::try_from(cursor.offset()).unwrap();
        let end = (at + cursor.frame_bytes()).min(wal.len());
        if at >= wal.len() {
            return (frames, None);
        }
        match cursor.next(&wal[at..end]) {
            Ok(frame) => frames.push(frame),
            Err(invalid) => return (frames, Some(invalid)),
        }
    }
}

fn sum(sum: WalChecksum) -> Value {
    json!([sum.s0, sum.s1])
}

/// The WAL reads as SQLite and the independent reader say.
fn check(wal: &Path, shm: &Path) {
    let name = wal.display();
    let expected = golden::json(
        &wal.with_file_name(wal.file_name().unwrap().to_str().unwrap().to_owned() + ".json"),
    );
    let bytes = golden::bytes(wal);
    let header = parse(&bytes);
    assert_eq!(
        u64::from(header.page_size.get()),
        expected["page_size"],
        "{name}"
    );
    assert_eq!(u64::from(header.sequence), expected["sequence"], "{name}");
    assert_eq!(
        json!([header.salts.salt1, header.salts.salt2]),
        expected["salts"],
        "{name}"
    );
    let order = if header.order == ByteOrder::Big {
        "big"
    } else {
        "little"
    };
    assert_eq!(order, expected["order"], "{name}");

    let mut cursor = Cursor::start(&header);
    let (frames, end) = walk(&bytes, &mut cursor);
    let found: Vec<Value> = frames
        .iter()
        .map(|frame| {
            json!([
                frame.pgno.get(),
                frame.commit.map_or(0, crate::PageCount::get)
            ])
        })
        .collect();
    assert_eq!(json!(found), expected["frames"], "{name}");
    assert_eq!(sum(cursor.checksum()), expected["checksum"], "{name}");
    assert_eq!(cursor.frames() as usize, frames.len(), "{name}");
    let end = match end {
        None => "end of file",
        Some(Invalid::Length { .. }) => "length",
        Some(Invalid::Salts { .. }) => "salts",
        Some(Invalid::Checksum { .. }) => "checksum",
        Some(other) => panic!("{name}: {other}"),
    };
    assert_eq!(end, expected["end"], "{name}");
    let committed = frames
        .iter()
        .rposition(|frame| frame.commit.is_some())
        .map_or(0, |at| at + 1);
    assert_eq!(committed as u64, expected["committed_frames"], "{name}");

    // The wal-index of the same moment; the golden ones are of a little-endian machine.
    if !shm.exists() || cfg!(target_endian = "big") {
        return;
    }
    let index = IndexHeader::parse(&golden::bytes(shm)).unwrap().unwrap();
    let last = frames[committed - 1];
    assert_eq!(index.mx_frame as usize, committed, "{name}");
    assert_eq!(index.page_size, header.page_size, "{name}");
    assert_eq!(index.salts, header.salts, "{name}");
    assert_eq!(index.frame_checksum, last.checksum, "{name}");
    assert_eq!(
        Some(index.page_count),
        last.commit.map(crate::PageCount::get),
        "{name}"
    );
    assert_eq!(
        index.big_endian_checksums,
        header.order == ByteOrder::Big,
        "{name}"
    );
    assert_eq!(index.read_marks[0], 0, "{name}");
}

#[test]
fn every_wal_of_sqlite_is_read_as_sqlite_reads_it() {
    let cases = golden::folders(&golden::dir("wal"));
    assert_eq!(cases.len(), 9);
    for case in cases {
        if case.ends_with("reset-equal-size") {
            check(&case.join("before.wal"), &case.join("before.shm"));
            check(&case.join("after.wal"), &case.join("after.shm"));
        } else {
            check(&case.join("wal"), &case.join("shm"));
        }
    }
}

#[test]
fn a_cursor_does_not_go_on_in_a_wal_that_was_reset_to_the_same_size() {
    let case = golden::dir("wal/reset-equal-size");
    let before = golden::bytes(&case.join("before.wal"));
    let after = golden::bytes(&case.join("after.wal"));
    assert_eq!(before.len(), after.len());
    let mut cursor = Cursor::start(&parse(&before));
    // The old cursor knows the old salts, whatever lies in the file now.
    let (frames, end) = walk(&after, &mut cursor);
    assert!(
        frames.is_empty() && matches!(end, Some(Invalid::Salts { .. })),
        "{end:?}"
    );
    // One resumed with the new header and the old checksum fails too.
    let mut cursor = Cursor::start(&parse(&before));
    cursor.next(&before[32..32 + cursor.frame_bytes()]).unwrap();
    let mut resumed = Cursor::resume(&parse(&after), 1, cursor.checksum());
    assert!(
        matches!(walk(&after, &mut resumed), (none, Some(Invalid::Checksum { .. })) if none.is_empty())
    );
}

#[test]
fn a_zeroed_or_foreign_header_is_refused() {
    let good = golden::bytes(&golden::dir("wal/ok-1024/wal"));
    let header = |at: usize, bytes: &[u8]| {
        let mut header: [u8; HEADER_BYTES] = *good.first_chunk().unwrap();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        Header::parse(&header)
    };
    assert!(header(0, &[]).is_ok());
    assert!(matches!(
        header(0, &[0; 32]),
        Err(ReadError::Magic { found: 0 })
    ));
    assert!(matches!(
        header(0, b"SQLite f"),
        Err(ReadError::Magic { .. })
    ));
    assert!(matches!(header(4, &[1]), Err(ReadError::Version { .. })));
    assert!(matches!(header(8, &[0; 4]), Err(ReadError::PageSize(_))));
    for (at, byte) in good.iter().enumerate().take(HEADER_BYTES).skip(12) {
        assert!(
            matches!(header(at, &[byte ^ 1]), Err(ReadError::Checksum { .. })),
            "{at}"
        );
    }
    // The other byte order: the sum is there, but not of these words.
    assert!(matches!(
        header(3, &[0x83]),
        Err(ReadError::Checksum { .. })
    ));
}

#[test]
fn frames_summed_in_the_other_byte_order_do_not_count() {
    let salts = Salts { salt1: 1, salt2: 2 };
    let pages = vec![vec![0x61; 512]; 2];
    let little = wal(ByteOrder::Little, 512, salts, &pages);
    let big = wal(ByteOrder::Big, 512, salts, &pages);
    let mixed = [&little[..32], &big[32..]].concat();
    let (frames, end) = walk(&mixed, &mut Cursor::start(&parse(&mixed)));
    assert!(frames.is_empty() && matches!(end, Some(Invalid::Checksum { .. })));
}

#[test]
fn page_zero_and_other_lengths_are_no_frames() {
    let salts = Salts::default();
    let bytes = wal(ByteOrder::Little, 512, salts, &[vec![0; 512]]);
    let mut cursor = Cursor::start(&parse(&bytes));
    let before = cursor;
    let mut zero = bytes[32..].to_vec();
    zero[..4].fill(0);
    assert_eq!(cursor.next(&zero), Err(Invalid::PageZero));
    assert!(matches!(
        cursor.next(&bytes[32..bytes.len() - 1]),
        Err(Invalid::Length { .. })
    ));
    assert!(matches!(cursor.next(&[]), Err(Invalid::Length { .. })));
    assert_eq!(cursor, before);
}

#[test]
fn a_cursor_at_the_end_of_all_numbers_stops() {
    let bytes = wal(ByteOrder::Little, 512, Salts::default(), &[vec![0; 512]]);
    let header = parse(&bytes);
    let mut cursor = Cursor::resume(&header, u32::MAX, header.checksum);
    assert_eq!(cursor.next(&bytes[32..]), Err(Invalid::TooMany));
    assert_eq!(cursor.offset(), 32 + u64::from(u32::MAX) * 536);
}

fn wals() -> impl Strategy<Value = (ByteOrder, Vec<u8>, usize)> {
    let order = prop::sample::select(vec![ByteOrder::Little, ByteOrder::Big]);
    let size = prop::sample::select(vec![512_u32, 1024, 4096]);
    let frames = prop::collection::vec(any::<[u8; 16]>(), 1..8);
    (order, size, any::<(u32, u32)>(), frames).prop_map(|(order, size, (salt1, salt2), seeds)| {
        let size_bytes = usize::try_from(size).unwrap();
        let pages: Vec<Vec<u8>> = seeds
            .iter()
            .map(|seed| seed.repeat(size_bytes / seed.len()))
            .collect();
        (
            order,
            wal(order, size, Salts { salt1, salt2 }, &pages),
            pages.len(),
        )
    })
}

proptest! {
    #[test]
    fn whole_wals_are_walked_to_the_end((order, bytes, frames) in wals()) {
        let header = parse(&bytes);
        prop_assert_eq!(header.order, order);
        let mut cursor = Cursor::start(&header);
        let (found, end) = walk(&bytes, &mut cursor);
        prop_assert_eq!((found.len(), end), (frames, None));
        prop_assert_eq!(cursor.offset(), bytes.len() as u64);
        prop_assert_eq!(Some(cursor.checksum()), found.last().map(|frame| frame.checksum));
    }

    #[test]
    fn a_resumed_cursor_is_the_same((_, bytes, _) in wals(), stop in 0_usize..8) {
        let header = parse(&bytes);
        let mut cursor = Cursor::start(&header);
        let bytes_before = (32 + stop * cursor.frame_bytes()).min(bytes.len());
        walk(&bytes[..bytes_before], &mut cursor);
        let mut resumed = Cursor::resume(&header, cursor.frames(), cursor.checksum());
        prop_assert_eq!(resumed, cursor);
        prop_assert_eq!(walk(&bytes, &mut resumed), walk(&bytes, &mut cursor));
        prop_assert_eq!(resumed, cursor);
    }

    #[test]
    fn no_changed_byte_is_walked_over(
        (_, bytes, _) in wals(),
        place in any::<prop::sample::Index>(),
        value in 1_u8..=255,
    ) {
        let place = place.index(bytes.len());
        let mut changed = bytes.clone();
        changed[place] ^= value;
        match Header::parse(changed.first_chunk().unwrap()) {
            Err(_) => prop_assert!(place < 32),
            Ok(header) => {
                let mut cursor = Cursor::start(&header);
                let (_, end) = walk(&changed, &mut cursor);
                prop_assert!(place >= 32);
                prop_assert!(end.is_some());
                prop_assert!(cursor.offset() <= place as u64);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        header in any::<[u8; 32]>(),
        frame in prop::collection::vec(any::<u8>(), 0..1100),
    ) {
        prop_assert!(Header::parse(&header).is_err());
        let good = wal(ByteOrder::Big, 512, Salts::default(), &[]);
        let mut cursor = Cursor::start(&parse(&good));
        prop_assert!(cursor.next(&frame).is_err());
    }
}
