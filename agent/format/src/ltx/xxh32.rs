//! XXH32 of several pages at once, in the processor's vectors.
//!
//! One XXH32 waits for its own multiplications: it takes a seventh of a nanosecond a byte, a quarter of
//! what LZ4 takes. Those of several pages do not wait for each other.

use fearless_simd::{Level, dispatch, prelude::*, u8x16, u32x4, u32x8};
use twox_hash::XxHash32;

/// So many pages are hashed at once.
pub(super) const TOGETHER: usize = 8;

/// What is read of a page at a time: a word for each of its four lanes.
const STRIPE_BYTES: usize = 16;

// The primes of the specification (xxhash_spec.md §XXH32), which begin the lanes with the seed 0 too.
const PRIME_1: u32 = 0x9e37_79b1;
const PRIME_2: u32 = 0x85eb_ca77;
const PRIME_3: u32 = 0xc2b2_ae3d;
const LANES: [u32; 4] = [
    PRIME_1.wrapping_add(PRIME_2),
    PRIME_2,
    0,
    0_u32.wrapping_sub(PRIME_1),
];

/// The XXH32 with seed 0 of each of the pages, which lie one behind the other; [`TOGETHER`] at most.
pub(super) fn of_each(pages: &[u8], page_bytes: usize) -> [u32; TOGETHER] {
    at(Level::new(), pages, page_bytes)
}

/// The same with these vectors.
fn at(level: Level, pages: &[u8], page_bytes: usize) -> [u32; TOGETHER] {
    let mut rest = pages.chunks_exact(page_bytes);
    if rest.len() < TOGETHER || !page_bytes.is_multiple_of(STRIPE_BYTES) {
        let mut hashes = [0; TOGETHER];
        for (hash, page) in hashes.iter_mut().zip(rest) {
            *hash = XxHash32::oneshot(0, page);
        }
        return hashes;
    }
    let pages = [(); TOGETHER].map(|()| rest.next().unwrap_or_default());
    let lanes = dispatch!(level, simd => lanes(simd, pages));
    lanes.map(|lanes| end(lanes, page_bytes))
}

/// The lanes of pages of one length at their ends. Two pages share a vector.
#[expect(
    clippy::inline_always,
    reason = "or it would not be made for these vectors"
)]
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "vectors count modulo 2^32, as XXH32 does"
)]
fn lanes<S: Simd>(simd: S, pages: [&[u8]; TOGETHER]) -> [[u32; 4]; TOGETHER] {
    let first = u32x4::simd_from(simd, LANES);
    let mut pairs = [first.combine(first); TOGETHER / 2];
    let mut stripes = pages.map(|page| page.as_chunks::<STRIPE_BYTES>().0.iter());
    'pages: loop {
        let (both, _) = stripes.as_chunks_mut::<2>();
        for (pair, [one, other]) in pairs.iter_mut().zip(both) {
            let (Some(one), Some(other)) = (one.next(), other.next()) else {
                break 'pages; // in the first round after the last: the pages are equally long
            };
            let words = |stripe| -> u32x4<S> { u8x16::from_slice(simd, stripe).bitcast() };
            let input: u32x8<S> = words(one).combine(words(other));
            let sum = *pair + input * PRIME_2;
            *pair = ((sum << 13) | (sum >> 19)) * PRIME_1;
        }
    }
    let mut lanes = [[0; 4]; TOGETHER];
    let (both, _) = lanes.as_chunks_mut::<2>();
    for ([one, other], pair) in both.iter_mut().zip(pairs) {
        let (low, high) = pair.split();
        low.store_slice(one);
        high.store_slice(other);
    }
    lanes
}

/// The hash of so many bytes, of which no stripe is left.
fn end([a, b, c, d]: [u32; 4], bytes: usize) -> u32 {
    let lanes = [
        a.rotate_left(1),
        b.rotate_left(7),
        c.rotate_left(12),
        d.rotate_left(18),
    ];
    // The specification counts modulo 2^32.
    let bytes = u32::try_from(bytes).unwrap_or_default();
    let mut hash = lanes.into_iter().fold(bytes, u32::wrapping_add);
    hash = (hash ^ (hash >> 15)).wrapping_mul(PRIME_2);
    hash = (hash ^ (hash >> 13)).wrapping_mul(PRIME_3);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::levels::levels;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = bytes as u64;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    #[test]
    fn every_page_has_the_hash_that_it_has_alone() {
        for level in levels() {
            for bytes in [16, 48, 512, 520, 1024, 4096, 65_536] {
                for pages in 0..=TOGETHER {
                    let noise = noise(pages * bytes);
                    let alone = noise
                        .chunks_exact(bytes)
                        .map(|page| XxHash32::oneshot(0, page));
                    let mut expected: Vec<u32> = alone.collect();
                    expected.resize(TOGETHER, 0);
                    assert_eq!(
                        at(level, &noise, bytes).as_slice(),
                        expected,
                        "{level:?}: {pages} pages of {bytes} bytes"
                    );
                }
            }
        }
    }
}
