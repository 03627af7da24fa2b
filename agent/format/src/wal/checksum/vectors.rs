//! The sums of whole blocks, in the processor's vectors.
//!
//! A step is linear in the words and in what it begins with; without words it is
//! (s0, s1) -> (s0 + s1, s0 + 2 s1), a matrix of Fibonacci numbers. So a word that m others follow is
//! F(m) times in the s0 of the end and F(m + 1) times in its s1. Multiplied by what is known beforehand
//! the words need not wait for each other.

use fearless_simd::{Level, dispatch, prelude::*, u8x32, u32x8};

use super::WalChecksum;

/// As long as the smallest page.
pub(super) const BLOCK_BYTES: usize = 512;
const WORDS: usize = BLOCK_BYTES / 4;
const LANES: usize = 8;

/// How often each word of a block is in the sums of its end.
static IN_S0: [[u32; LANES]; WORDS / LANES] = times(0);
static IN_S1: [[u32; LANES]; WORDS / LANES] = times(1);

/// How often the sums before a block are in those of its end: s0 in s0; s0 in s1 and s1 in s0; s1 in s1.
const BEFORE: [u32; 3] = [fibonacci(WORDS - 1), fibonacci(WORDS), fibonacci(WORDS + 1)];

/// The checksum with these blocks appended, whose words have the order of this machine.
pub(super) fn append(sum: WalChecksum, blocks: &[[u8; BLOCK_BYTES]]) -> WalChecksum {
    if blocks.is_empty() {
        return sum;
    }
    at(Level::new(), sum, blocks)
}

/// The same with these vectors.
fn at(level: Level, sum: WalChecksum, blocks: &[[u8; BLOCK_BYTES]]) -> WalChecksum {
    dispatch!(level, simd => sums(simd, sum, blocks))
}

#[expect(
    clippy::inline_always,
    reason = "or it would not be made for these vectors"
)]
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "vectors count modulo 2^32, as the checksum does"
)]
fn sums<S: Simd>(simd: S, sum: WalChecksum, blocks: &[[u8; BLOCK_BYTES]]) -> WalChecksum {
    let alone = |word| u32x8::simd_from(simd, [word, 0, 0, 0, 0, 0, 0, 0]);
    let (mut s0, mut s1) = (alone(sum.s0), alone(sum.s1));
    let [s0_in_s0, crosswise, s1_in_s1] = BEFORE;
    for block in blocks {
        (s0, s1) = (
            s0 * s0_in_s0 + s1 * crosswise,
            s0 * crosswise + s1 * s1_in_s1,
        );
        let (vectors, _) = block.as_chunks::<{ 4 * LANES }>();
        for ((bytes, in_s0), in_s1) in vectors.iter().zip(&IN_S0).zip(&IN_S1) {
            let words: u32x8<S> = u8x32::from_slice(simd, bytes).bitcast();
            s0 += words * u32x8::from_slice(simd, in_s0);
            s1 += words * u32x8::from_slice(simd, in_s1);
        }
    }
    let total = |lanes: u32x8<S>| {
        let lanes: [u32; LANES] = lanes.into();
        lanes.into_iter().fold(0, u32::wrapping_add)
    };
    WalChecksum {
        s0: total(s0),
        s1: total(s1),
    }
}

/// F(m + more) for each word of a block that m others follow.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "for constants: the compiler refuses what would panic"
)]
const fn times(more: usize) -> [[u32; LANES]; WORDS / LANES] {
    let mut times = [[0; LANES]; WORDS / LANES];
    let mut word = 0;
    while word < WORDS {
        times[word / LANES][word % LANES] = fibonacci(WORDS - 1 - word + more);
        word += 1;
    }
    times
}

/// F(n), modulo 2^32.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "for constants: the compiler refuses what would panic"
)]
const fn fibonacci(n: usize) -> u32 {
    let (mut this, mut next, mut at) = (0_u32, 1_u32, 0);
    while at < n {
        (this, next) = (next, this.wrapping_add(next));
        at += 1;
    }
    this
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::levels::levels;
    use crate::wal::ByteOrder;

    proptest! {
        #[test]
        fn blocks_add_up_to_what_their_steps_do(
            blocks in proptest::collection::vec(any::<[[u8; 32]; 16]>(), 0..20),
            s0 in any::<u32>(),
            s1 in any::<u32>(),
        ) {
            let bytes = blocks.as_flattened().as_flattened();
            let start = WalChecksum { s0, s1 };
            // Less than a block at a time.
            let steps = bytes.chunks(8);
            let expected = steps.fold(start, |sum, step| sum.update(ByteOrder::NATIVE, step));
            let (blocks, _) = bytes.as_chunks();
            for level in levels() {
                prop_assert_eq!(at(level, start, blocks), expected, "{:?}", level);
            }
        }
    }
}
