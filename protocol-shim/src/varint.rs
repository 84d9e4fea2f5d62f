//! Variable-length integers, read by `records`, written by `batch` and `fetch_response`.
//!
//! Never reads past five or ten bytes and refuses a last byte that overflows: readers that are laxer than others lose
//! step with them. Over-long forms that fit (a padded zero) are taken, as Kafka's `ByteUtils` does.

use bytes::BufMut;

/// What is wrong with a variable-length integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VarintError {
    /// The bytes ended first.
    Truncated,
    /// The fifth (or tenth) byte continues or carries bits that do not fit.
    Overflow,
}

/// Reads a zigzag 32-bit integer from a source of bytes; `Ok(None)` from `next` means the end.
#[inline]
pub(crate) fn read_varint<E: From<VarintError>>(
    next: impl FnMut() -> Result<Option<u8>, E>,
) -> Result<i32, E> {
    let raw = read_unsigned(32, next)? as u32;
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Reads a zigzag 64-bit integer.
#[inline]
pub(crate) fn read_varlong<E: From<VarintError>>(
    next: impl FnMut() -> Result<Option<u8>, E>,
) -> Result<i64, E> {
    let raw = read_unsigned(64, next)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

#[inline]
fn read_unsigned<E: From<VarintError>>(
    bits: u32,
    mut next: impl FnMut() -> Result<Option<u8>, E>,
) -> Result<u64, E> {
    // Most are one byte long.
    let first = next()?.ok_or(VarintError::Truncated)?;
    if first < 0x80 {
        return Ok(u64::from(first));
    }
    let mut value = u64::from(first & 0x7f);
    let mut shift = 7;
    loop {
        let byte = next()?.ok_or(VarintError::Truncated)?;
        let payload = u64::from(byte & 0x7f);
        let room = bits - shift;
        if room < 7 && payload >> room != 0 {
            return Err(VarintError::Overflow.into());
        }
        value |= payload << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
        if shift >= bits {
            return Err(VarintError::Overflow.into());
        }
    }
}

/// Appends a zigzag 32-bit integer.
pub(crate) fn put_varint(out: &mut impl BufMut, value: i32) {
    put_unsigned(out, u64::from(((value << 1) ^ (value >> 31)) as u32));
}

/// Appends a zigzag 64-bit integer.
pub(crate) fn put_varlong(out: &mut impl BufMut, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends an unsigned integer.
pub(crate) fn put_unsigned(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(bytes: &[u8]) -> impl FnMut() -> Result<Option<u8>, VarintError> {
        let mut bytes = bytes.iter().copied();
        move || Ok(bytes.next())
    }

    #[test]
    fn integers_survive_the_round_trip() {
        let seed = 0x5eed_0001;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let long = rng.i64(..) >> rng.u32(0..64);
            let int = rng.i32(..) >> rng.u32(0..32);
            let (mut longs, mut ints) = (vec![], vec![]);
            put_varlong(&mut longs, long);
            put_varint(&mut ints, int);
            assert_eq!(read_varlong(from(&longs)), Ok(long));
            assert_eq!(read_varint(from(&ints)), Ok(int));
        }
    }

    #[test]
    fn a_fifth_or_tenth_byte_that_continues_or_overflows_is_refused() {
        assert_eq!(
            read_varint(from(&[0xff, 0xff, 0xff, 0xff, 0x0f])),
            Ok(i32::MIN)
        );
        assert_eq!(
            read_varint(from(&[0xff, 0xff, 0xff, 0xff, 0x1f])),
            Err(VarintError::Overflow)
        );
        assert_eq!(read_varint(from(&[0x80; 6])), Err(VarintError::Overflow));
        assert_eq!(read_varlong(from(&[0x80; 11])), Err(VarintError::Overflow));
        let mut long = [0xff; 10];
        long[9] = 1;
        assert_eq!(read_varlong(from(&long)), Ok(i64::MIN));
        long[9] = 2;
        assert_eq!(read_varlong(from(&long)), Err(VarintError::Overflow));
        assert_eq!(
            read_varint(from(&[0x80, 0x80])),
            Err(VarintError::Truncated)
        );
        assert_eq!(read_varint(from(&[0x80, 0x00])), Ok(0));
    }
}
