//! Files that are well sealed and wrong all the same: hostile, or written by a broken writer.

use proptest::prelude::*;
use sqlrep_format::ltx::Level;

use super::*;
use crate::merge::Merge;
use crate::testing::chain::{History, encode, header, page, put, put_bytes};
use crate::testing::scratch;
use crate::verify::verify;
use crate::{DirStore, Plan, Point};

/// A page as it stands in a frame and in the index.
#[derive(Clone, Copy)]
struct Entry {
    frame: u32,
    index: u32,
}

fn same(pgno: u32) -> Entry {
    Entry {
        frame: pgno,
        index: pgno,
    }
}

/// Whether a file is read at once or piece by piece: beyond its end there is nothing, not zeroes.
#[test]
fn beyond_its_end_a_file_is_truncated() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    put(&store, 0, &header(1, 1, 1), &[(1, page(1, 1))]).unwrap();
    let file = store.list().unwrap().files()[0].clone();
    for (whole_bytes_max, open) in [(file.bytes, true), (0, true), (0, false)] {
        let keep = Keep {
            whole_bytes_max,
            open,
        };
        let input = Input::open(&store, &file, keep).unwrap();
        let mut buffer = [0; 16];
        input.read(file.bytes - 16, &mut buffer).unwrap();
        let error = input.read(file.bytes - 15, &mut buffer).unwrap_err();
        assert!(error.is_corrupt(), "{keep:?}: {error}");
        assert!(error.to_string().contains("truncated"), "{keep:?}: {error}");
    }
}

/// Shapes of the index that no encoder writes.
#[derive(Clone, Copy, PartialEq)]
enum Twist {
    None,
    Marker,
    Offset,
    Trailing,
    LongForm,
    Short,
}

fn put_uvarint(out: &mut Vec<u8>, mut value: u64, long: bool) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    let last = u8::try_from(value).unwrap();
    if long {
        out.extend([last | 0x80, 0]);
    } else {
        out.push(last);
    }
}

/// A file with right checksums around whatever is asked for.
fn sealed(head: &Header, entries: &[Entry], twist: Twist) -> Vec<u8> {
    let mut bytes = head.encode().to_vec();
    let mut crc = Crc64::new();
    crc.update(&bytes);
    let mut index = Vec::new();
    for entry in entries {
        // The frame of a page, out of a file that has only this one.
        let content = page(9, entry.frame);
        let single = encode(&header(1, 1, 1), &[(1, content.clone())]);
        let tail = single.len() - 24;
        let index_bytes = usize::from(single[tail + 7]);
        let mut frame = single[100..tail - index_bytes - 6].to_vec();
        frame[..4].copy_from_slice(&entry.frame.to_be_bytes());
        crc.update(&frame[..6]);
        crc.update(&content);
        let offset = bytes.len() as u64 + u64::from(twist == Twist::Offset);
        put_uvarint(&mut index, entry.index.into(), twist == Twist::LongForm);
        put_uvarint(&mut index, offset, false);
        put_uvarint(&mut index, frame.len() as u64, false);
        bytes.extend(frame);
    }
    if twist == Twist::Short {
        // The last page is in the file, but not in the index.
        let entry = index.iter().rposition(|byte| *byte != 0).unwrap();
        index.truncate(entry.saturating_sub(index.len() / entries.len() - 1));
    }
    index.push(0);
    if twist == Twist::Trailing {
        index.push(0);
    }
    let mut rest = vec![0; 6];
    rest[5] = u8::from(twist == Twist::Marker);
    rest.extend(&index);
    rest.extend((index.len() as u64).to_be_bytes());
    rest.extend([0; 8]);
    crc.update(&rest);
    bytes.extend(rest);
    bytes.extend(Checksum::from_crc(crc.value()).get().to_be_bytes());
    bytes
}

/// A sound TXID 1 and 3, and between them the file in question; what verify and merge say of it.
fn verdict(head: &Header, entries: &[Entry], twist: Twist) -> Result<(), String> {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    let three: Vec<_> = (1..=3).map(|pgno| (pgno, page(1, pgno))).collect();
    if !head.range.is_snapshot() {
        put(&store, 0, &header(1, 1, 3), &three).unwrap();
    }
    let last = head.range.max().get() + 1;
    put(&store, 0, &header(last, last, 3), &three[..1]).unwrap();
    let bytes = sealed(head, entries, twist);
    put_bytes(&store, Level::L0, head, &bytes).unwrap();

    let verified = verify(&store, Point::Latest, &())
        .map(drop)
        .map_err(|error| error.to_string());
    let plan = Plan::of(store.list().unwrap().files().to_vec()).unwrap();
    let merge = || {
        let mut merge = Merge::open(&store, &plan)?;
        let mut page = vec![0; 512];
        while merge.next_page(&mut page)?.is_some() {}
        merge.finish()
    };
    let merged = merge().map_err(|error| error.to_string());
    assert_eq!(verified.is_ok(), merged.is_ok(), "{verified:?} {merged:?}");
    verified
}

#[test]
fn the_builder_builds_sound_files() {
    verdict(&header(2, 2, 3), &[same(1), same(3)], Twist::None).unwrap();
    verdict(&header(2, 2, 3), &[], Twist::None).unwrap();
    verdict(&header(1, 1, 3), &[same(1), same(2), same(3)], Twist::None).unwrap();
}

#[test]
fn pages_where_none_may_be_are_refused() {
    let lock = 2_097_153;
    let cases = [
        (header(2, 2, 3), vec![same(4)], "lies beyond the end"),
        (header(2, 2, 3), vec![same(2), same(1)], "does not ascend"),
        (header(2, 2, 3), vec![same(2), same(2)], "does not ascend"),
        (header(2, 2, 3_000_000), vec![same(lock)], "lock page"),
        (header(1, 1, 3), vec![same(1), same(3)], "leaves out"),
        (header(1, 1, 3), vec![same(1), same(2)], "page 3 is missing"),
        (header(1, 1, 3), vec![], "page 1 is missing"),
        (
            header(2, 2, 3),
            vec![Entry { frame: 2, index: 1 }],
            "the page index says page 1",
        ),
    ];
    for (head, entries, reason) in cases {
        let said = verdict(&head, &entries, Twist::None).unwrap_err();
        assert!(
            said.contains(reason) && said.contains(".ltx"),
            "{reason}: {said}"
        );
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let entries = [same(1), same(2)];
    for (twist, reason) in [
        (Twist::Marker, "no end of pages"),
        (Twist::Offset, "where the frame at byte"),
        (Twist::Trailing, "not well-formed"),
        (Twist::LongForm, "not well-formed"),
        (Twist::Short, ""),
    ] {
        let said = verdict(&header(2, 2, 3), &entries, twist).unwrap_err();
        assert!(said.contains(reason), "{reason}: {said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_at_all_make_a_reader_panic(
        place in any::<proptest::sample::Index>(),
        junk in proptest::collection::vec(any::<u8>(), 1..40),
        cut in 0usize..60,
    ) {
        let dir = scratch();
        let store = DirStore::new(dir.path());
        let history = History::new(&[(4, vec![]), (6, vec![1, 2])]);
        let (first, pages) = history.covering(1, 1);
        put(&store, 0, &first, &pages).unwrap();
        let (second, pages) = history.covering(2, 2);
        let sound = encode(&second, &pages);
        let mut bytes = sound.clone();
        let at = place.index(bytes.len());
        let end = (at + junk.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&junk[..end - at]);
        bytes.truncate(bytes.len() - cut);
        put_bytes(&store, Level::L0, &second, &bytes).unwrap();
        let sum = |found: crate::Verified| found.checksum;
        if let Ok(found) = verify(&store, Point::Latest, &()).map(sum) {
            // Then it says what the sound file says.
            let listed = store.list().unwrap();
            store.remove(listed.files().last().unwrap()).unwrap();
            put_bytes(&store, Level::L0, &second, &sound).unwrap();
            prop_assert_eq!(verify(&store, Point::Latest, &()).map(sum).unwrap(), found);
        }
        let plan = Plan::of(store.list().unwrap().files().to_vec()).unwrap();
        if let Ok(mut merge) = Merge::open(&store, &plan) {
            let mut page = vec![0; merge.header().page_size.bytes()];
            while let Ok(Some(_)) = merge.next_page(&mut page) {}
        }
    }
}
