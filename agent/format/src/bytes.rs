//! Integers at fixed places of fixed-size structures. The places are checked when compiling, so
//! that reading one can neither panic nor fail.

/// The `LEN` bytes at `AT`.
pub(crate) fn field<const AT: usize, const LEN: usize, const N: usize>(
    bytes: &[u8; N],
) -> [u8; LEN] {
    const {
        assert!(
            AT.saturating_add(LEN) <= N,
            "the field lies inside the structure"
        );
    };
    let field = bytes.get(AT..).and_then(<[u8]>::first_chunk::<LEN>);
    field.copied().unwrap_or([0; LEN]) // not reached: see the assertion
}

/// Puts `field` at `AT`.
pub(crate) fn put<const AT: usize, const LEN: usize, const N: usize>(
    bytes: &mut [u8; N],
    field: [u8; LEN],
) {
    const {
        assert!(
            AT.saturating_add(LEN) <= N,
            "the field lies inside the structure"
        );
    };
    if let Some(place) = bytes.get_mut(AT..).and_then(<[u8]>::first_chunk_mut::<LEN>) {
        *place = field;
    }
}

/// The big-endian 16-bit integer at `AT`.
pub(crate) fn be_u16<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u16 {
    u16::from_be_bytes(field::<AT, 2, N>(bytes))
}

/// The big-endian 32-bit integer at `AT`.
pub(crate) fn be_u32<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    u32::from_be_bytes(field::<AT, 4, N>(bytes))
}

/// The big-endian 64-bit integer at `AT`.
pub(crate) fn be_u64<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u64 {
    u64::from_be_bytes(field::<AT, 8, N>(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_where_they_were_put() {
        let mut bytes = [0_u8; 16];
        put::<2, 4, 16>(&mut bytes, 0x0102_0304_u32.to_be_bytes());
        put::<8, 8, 16>(&mut bytes, u64::MAX.to_be_bytes());
        assert_eq!(be_u32::<2, 16>(&bytes), 0x0102_0304);
        assert_eq!(be_u16::<4, 16>(&bytes), 0x0304);
        assert_eq!(be_u64::<8, 16>(&bytes), u64::MAX);
        assert_eq!(be_u16::<6, 16>(&bytes), 0);
    }
}
