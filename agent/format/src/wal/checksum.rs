//! The running checksum of the WAL (<https://www.sqlite.org/fileformat.html#checksum_algorithm>).

use crate::bytes::field;

mod vectors;

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

impl WalChecksum {
    /// The checksum with `bytes` appended, whose length is a multiple of 8; bytes beyond the last
    /// such multiple do not count.
    #[must_use]
    pub fn update(self, order: ByteOrder, bytes: &[u8]) -> Self {
        let (blocks, rest) = match order {
            ByteOrder::NATIVE => bytes.as_chunks(),
            _ => (&[][..], bytes), // from another machine, once in a lifetime
        };
        let sum = vectors::append(self, blocks);
        // The order is chosen outside of the loop: inside there is nothing but loads and adds.
        match order {
            ByteOrder::Little => sum.run(rest, u32::from_le_bytes),
            ByteOrder::Big => sum.run(rest, u32::from_be_bytes),
        }
    }

    #[inline]
    fn run(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32 + Copy) -> Self {
        let (steps, _) = bytes.as_chunks::<8>();
        steps.iter().fold(self, |sum, step| sum.step(*step, word))
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
