//! The published check values, and the algebra that parallel restore and delta capture rest on.

use proptest::prelude::*;

use super::*;

/// Bit by bit, from the definition: slow, and independent of the tables in use.
fn reference(bytes: &[u8]) -> u64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xd800_0000_0000_0000
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[test]
fn crc_has_the_published_check_value() {
    let mut crc = Crc64::new();
    crc.update(b"123456789");
    assert_eq!(crc.value(), 0xb909_56c7_75a4_1001);
    assert_eq!(Crc64::default().value(), 0);
}

#[test]
fn page_checksums_match_the_test_vector() {
    let first: Vec<u8> = (0..512_u32)
        .map(|i| u8::try_from(i % 256).unwrap())
        .collect();
    let one = page_checksum(Pgno::FIRST, &first);
    let two = page_checksum(Pgno::new(2).unwrap(), &[0; 512]);
    assert_eq!(one.to_string(), "c6f13286cb62cc9f");
    assert_eq!(two.to_string(), "ef63e89fecd99000");
    assert_eq!(
        Checksum::EMPTY.combine(one).combine(two).to_string(),
        "a992da1927bb5c9f"
    );
}

#[test]
fn a_value_without_bit_63_is_no_checksum() {
    assert_eq!(Checksum::new(0), None);
    assert_eq!(Checksum::new(FLAG - 1), None);
    assert_eq!(Checksum::new(FLAG), Some(Checksum::EMPTY));
}

proptest! {
    #[test]
    fn crc_agrees_with_the_definition_however_it_is_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(bytes.len() + 1);
        let (first, second) = bytes.split_at(cut);
        let mut crc = Crc64::new();
        crc.update(first);
        let resumed = crc.value();
        crc.update(second);
        prop_assert_eq!(crc.value(), reference(&bytes));

        let mut crc = Crc64::resume(resumed);
        crc.update(second);
        prop_assert_eq!(crc.value(), reference(&bytes));
        prop_assert_eq!(crc.bytes(), second.len() as u64);
        let combined = Crc64::combine(reference(first), reference(second), second.len() as u64);
        prop_assert_eq!(combined, reference(&bytes));
    }

    #[test]
    fn the_checksum_of_a_page_follows_from_the_crc_of_its_content(
        power in 9u32..=16, pgno in 1..=u32::MAX, seed in any::<u64>(),
    ) {
        let mut state = seed;
        let page = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        });
        let page: Vec<u8> = page.take(1 << power).collect();
        let pgno = Pgno::new(pgno).unwrap();
        let join = Join::new(page.len() as u64);
        let found = join.page_checksum(pgno, Crc64::of(&page));
        prop_assert_eq!(found, page_checksum(pgno, &page));
        prop_assert_eq!(join.join(seed, Crc64::of(&page)), {
            let mut crc = Crc64::resume(seed);
            crc.update(&page);
            crc.value()
        });
    }

    /// A run of zeros as long as no memory is: the lengths add up, however it is cut.
    #[test]
    fn combining_does_not_mind_where_it_is_cut(
        a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), m in any::<u32>(), n in any::<u32>(),
    ) {
        let (m, n) = (u64::from(m), u64::from(n));
        let left = Crc64::combine(Crc64::combine(a, b, m), c, n);
        let right = Crc64::combine(a, Crc64::combine(b, c, n), m + n);
        prop_assert_eq!(left, right);
    }

    #[test]
    fn combine_is_its_own_inverse_and_has_no_order(a in any::<u64>(), b in any::<u64>()) {
        let (a, b) = (Checksum::from_crc(a), Checksum::from_crc(b));
        let both = Checksum::EMPTY.combine(a).combine(b);
        prop_assert_eq!(both, Checksum::EMPTY.combine(b).combine(a));
        prop_assert_eq!(both.combine(a), Checksum::EMPTY.combine(b));
    }
}
