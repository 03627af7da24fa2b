//! What an index proves, and the spelling of its integers.

use proptest::prelude::*;

use super::super::tests::{header, range};
use super::*;

fn index(entries: impl IntoIterator<Item = (u32, u64, u64)>) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let mut end = HEADER_BYTES as u64;
    for (pgno, offset, length) in entries {
        put_uvarint(&mut bytes, pgno.into());
        put_uvarint(&mut bytes, offset);
        put_uvarint(&mut bytes, length);
        end = offset + length;
    }
    bytes.push(0);
    (bytes, end + 6)
}

/// Entries one after the other, each 30 bytes long.
fn packed(pages: impl IntoIterator<Item = u32>) -> (Vec<u8>, u64) {
    index(
        (100_u64..)
            .step_by(30)
            .zip(pages)
            .map(|(offset, pgno)| (pgno, offset, 30)),
    )
}

#[test]
fn a_snapshot_index_skips_the_lock_page_and_nothing_else() {
    let header = header(65_536, 16_386, range(1, 1));
    let parse = |pages: &mut dyn Iterator<Item = u32>| {
        let (bytes, at) = packed(pages);
        Index::parse(&bytes, &header, at)
    };
    let good = parse(&mut (1..=16_386).filter(|pgno| *pgno != 16_385)).unwrap();
    assert_eq!(good.entries().len(), 16_385);
    assert_eq!(good.entries().last().unwrap().pgno.get(), 16_386);
    parse(&mut (1..=16_386)).unwrap_err();
    parse(&mut (1..=16_384)).unwrap_err();
    parse(&mut (1..=16_386).filter(|pgno| ![7, 16_385].contains(pgno))).unwrap_err();
}

#[test]
fn a_snapshot_may_end_before_or_at_the_lock_page() {
    for commit in [16_384, 16_385] {
        let (bytes, at) = packed(1..=16_384);
        Index::parse(&bytes, &header(65_536, commit, range(1, 1)), at).unwrap();
    }
}

#[test]
fn holes_overlaps_and_a_wrong_end_are_refused() {
    let header = header(512, 9, range(2, 2));
    let parse = |entries: &[(u32, u64, u64)]| {
        let (bytes, at) = index(entries.iter().copied());
        Index::parse(&bytes, &header, at).map(|index| index.entries().len())
    };
    assert_eq!(parse(&[(1, 100, 30), (5, 130, 40)]).unwrap(), 2);
    assert!(parse(&[(1, 101, 30)]).is_err());
    assert!(parse(&[(1, 100, 30), (5, 131, 40)]).is_err());
    assert!(parse(&[(1, 100, 30), (5, 129, 40)]).is_err());
    assert!(parse(&[(1, 100, 6)]).is_err());
    assert!(parse(&[(1, 100, u64::MAX - 200)]).is_err());
    let (bytes, at) = packed([1, 2]);
    assert!(Index::parse(&bytes, &header, at + 1).is_err());
    assert!(Index::parse(&bytes[..bytes.len() - 1], &header, at).is_err());
    assert!(Index::parse(&[bytes, vec![0]].concat(), &header, at).is_err());
    assert!(Index::parse(&[], &header, at).is_err());
}

#[test]
fn only_the_shortest_spelling_of_an_integer_is_taken() {
    assert_eq!(take_uvarint(&mut &[0x01][..]), Some(1));
    assert_eq!(take_uvarint(&mut &[0x81, 0x00][..]), None);
    assert_eq!(take_uvarint(&mut &[0x80][..]), None);
    let mut max = [0xff; 10];
    max[9] = 0x01;
    assert_eq!(take_uvarint(&mut &max[..]), Some(u64::MAX));
    max[9] = 0x02;
    assert_eq!(take_uvarint(&mut &max[..]), None);
    assert_eq!(take_uvarint(&mut &[0xff; 11][..]), None);
}

proptest! {
    #[test]
    fn integers_round_trip(value in any::<u64>(), shift in 0_u32..64, rest in any::<[u8; 3]>()) {
        let value = value >> shift;
        let mut bytes = Vec::new();
        put_uvarint(&mut bytes, value);
        bytes.extend(rest);
        let mut left = &bytes[..];
        prop_assert_eq!(take_uvarint(&mut left), Some(value));
        prop_assert_eq!(left, &rest[..]);
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<u64>(),
    ) {
        let mut left = &bytes[..];
        while take_uvarint(&mut left).is_some() {}
        let _: Result<Index, DecodeError> = Index::parse(&bytes, &header(512, 9, range(2, 2)), at);
    }
}
