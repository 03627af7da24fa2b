//! The running checksum of the WAL (<https://www.sqlite.org/fileformat.html#checksum_algorithm>).

use crate::bytes::field;

/// The byte order in which the checksum reads its words; all other integers of a WAL are
/// big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Written on a little-endian machine (magic 0x377f0682).
    Little,
    /// Written on a big-endian machine (magic 0x377f0683).
    Big,
}

impl ByteOrder {
    /// The order of this machine, in which the wal-index is written.
    pub const NATIVE: Self = if cfg!(target_endian = "big") {
        Self::Big
    } else {
        Self::Little
    };
}

/// The two words of a running checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalChecksum {
    /// The first word.
    pub s0: u32,
    /// The second word.
    pub s1: u32,
}

/// So many sums run beside each other over what is long: each addition of one of them waits for the
/// one before it, and the processor could do four at once.
const LANES: usize = 4;
/// The bytes of one of them in a block: 16 steps.
const LANE_BYTES: usize = 128;
/// What is summed up at once: as long as the smallest page.
const BLOCK_BYTES: usize = LANES * LANE_BYTES;

impl WalChecksum {
    /// The checksum with `bytes` appended, whose length is a multiple of 8; bytes beyond the last
    /// such multiple do not count.
    #[must_use]
    pub fn update(self, order: ByteOrder, bytes: &[u8]) -> Self {
        // The order is chosen outside of the loop: inside there is nothing but loads and adds.
        match order {
            ByteOrder::Little => self.run(bytes, u32::from_le_bytes),
            ByteOrder::Big => self.run(bytes, u32::from_be_bytes),
        }
    }

    #[inline]
    fn run(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32 + Copy) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        let sum = blocks
            .iter()
            .fold(self, |sum, block| sum.block(block, word));
        let (steps, _) = rest.as_chunks::<8>();
        steps.iter().fold(sum, |sum, step| sum.step(*step, word))
    }

    /// s0 += w0 + s1; s1 += w1 + s0. Each word joins the sum that is known earliest, so that two
    /// additions per step are all that waits for the step before.
    #[inline]
    fn step(self, bytes: [u8; 8], word: impl Fn([u8; 4]) -> u32) -> Self {
        let w0 = word(field::<0, 4, _>(&bytes));
        let w1 = word(field::<4, 4, _>(&bytes));
        let s0 = self.s0.wrapping_add(w0).wrapping_add(self.s1);
        let s1 = self.s1.wrapping_add(w1).wrapping_add(s0);
        Self { s0, s1 }
    }

    /// The same for a block, in lanes. The sums are linear in the words and in what they begin with:
    /// so the lanes but the first begin with nothing, and are put together at the end.
    #[inline]
    fn block(self, bytes: &[u8; BLOCK_BYTES], word: impl Fn([u8; 4]) -> u32 + Copy) -> Self {
        let [lane1, lane2, lane3, lane4] = lanes(bytes);
        let zero = Self::default();
        let [mut sum1, mut sum2, mut sum3, mut sum4] = [self, zero, zero, zero];
        for (((step1, step2), step3), step4) in lane1.iter().zip(lane2).zip(lane3).zip(lane4) {
            sum1 = sum1.step(*step1, word);
            sum2 = sum2.step(*step2, word);
            sum3 = sum3.step(*step3, word);
            sum4 = sum4.step(*step4, word);
        }
        sum1.then(sum2).then(sum3).then(sum4)
    }

    /// The checksum after another lane, which was summed up from nothing.
    ///
    /// A step without words is (s0, s1) -> (s0 + s1, s0 + 2 s1), a matrix of Fibonacci numbers, and so
    /// are its powers: 16 of them are [[F31, F32], [F32, F33]].
    #[inline]
    fn then(self, lane: Self) -> Self {
        const F31: u32 = 1_346_269;
        const F32: u32 = 2_178_309;
        const F33: u32 = 3_524_578;
        let Self { s0, s1 } = self;
        let of = |f: u32, g: u32| f.wrapping_mul(s0).wrapping_add(g.wrapping_mul(s1));
        Self {
            s0: of(F31, F32).wrapping_add(lane.s0),
            s1: of(F32, F33).wrapping_add(lane.s1),
        }
    }
}

/// The steps of the lanes of a block.
#[inline]
fn lanes(bytes: &[u8; BLOCK_BYTES]) -> [&[[u8; 8]]; LANES] {
    let (lanes, _) = bytes.as_chunks::<LANE_BYTES>();
    let mut lanes = lanes.iter().map(|lane| lane.as_chunks::<8>().0);
    std::array::from_fn(|_| lanes.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The loop of the file format's documentation, word by word.
    fn reference(order: ByteOrder, start: WalChecksum, bytes: &[u8]) -> WalChecksum {
        let words: Vec<u32> = bytes
            .chunks(4)
            .map(|word| match order {
                ByteOrder::Little => u32::from_le_bytes(word.try_into().unwrap()),
                ByteOrder::Big => u32::from_be_bytes(word.try_into().unwrap()),
            })
            .collect();
        let WalChecksum { mut s0, mut s1 } = start;
        for pair in words.chunks(2) {
            s0 = s0.wrapping_add(pair[0].wrapping_add(s1));
            s1 = s1.wrapping_add(pair[1].wrapping_add(s0));
        }
        WalChecksum { s0, s1 }
    }

    proptest! {
        #[test]
        fn update_agrees_with_the_documented_loop(
            words in proptest::collection::vec(any::<[u8; 8]>(), 0..600),
            cut in any::<prop::sample::Index>(),
            s0 in any::<u32>(),
            s1 in any::<u32>(),
        ) {
            let bytes = words.concat();
            let start = WalChecksum { s0, s1 };
            let (first, second) = bytes.split_at(cut.index(words.len() + 1) * 8);
            for order in [ByteOrder::Little, ByteOrder::Big] {
                let expected = reference(order, start, &bytes);
                prop_assert_eq!(start.update(order, &bytes), expected);
                prop_assert_eq!(start.update(order, first).update(order, second), expected);
            }
        }
    }

    #[test]
    fn an_unfinished_step_does_not_count() {
        let whole = WalChecksum::default().update(ByteOrder::Little, &[1; 16]);
        assert_eq!(
            WalChecksum::default().update(ByteOrder::Little, &[1; 23]),
            whole
        );
    }
}
