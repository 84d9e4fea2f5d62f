//! A cursor over bytes from outside.
//!
//! Used by the header parser and the frame guard. Never reads past the end, never allocates, and is as strict about
//! varints as Kafka's broker: what the codec would silently cut (its fifth byte) is an error here.

/// Most tags one struct may carry. Kafka itself knows at most a handful per struct.
pub(crate) const MAX_TAGS: u32 = 64;

/// Largest value of one tag in bytes.
pub(crate) const MAX_TAG_SIZE: usize = 128 * 1024;

/// Why a read failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// More bytes were announced than are left.
    Truncated,
    /// A varint does not end with its fifth byte, or needs more than 32 bits.
    Varint,
    /// More than [`MAX_TAGS`] tags in one struct.
    TooManyTags,
    /// A tag above [`MAX_TAG_SIZE`].
    TagTooLarge,
}

/// The bytes not read yet.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ReadError> {
        let (first, rest) = self.rest.split_first().ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, ReadError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, ReadError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, ReadError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        // Four bits are left of the 32; a set bit above them overflows, the top one means yet another byte.
        let byte = self.u8()?;
        if byte > 0x0f {
            return Err(ReadError::Varint);
        }
        Ok(value | u32::from(byte) << 28)
    }

    /// The number of tags that ends a flexible struct.
    pub(crate) fn tag_count(&mut self) -> Result<u32, ReadError> {
        let count = self.unsigned_varint()?;
        if count > MAX_TAGS {
            return Err(ReadError::TooManyTags);
        }
        Ok(count)
    }

    /// One tag: its number and its value.
    pub(crate) fn tag(&mut self) -> Result<(u32, &'a [u8]), ReadError> {
        let tag = self.unsigned_varint()?;
        let size = self.unsigned_varint()? as usize;
        if size > self.left() {
            return Err(ReadError::Truncated);
        }
        if size > MAX_TAG_SIZE {
            return Err(ReadError::TagTooLarge);
        }
        Ok((tag, self.take(size)?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ReadError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<u32, ReadError> {
        Reader::new(bytes).unsigned_varint()
    }

    #[test]
    fn varints_of_up_to_32_bits_are_read() {
        assert_eq!(varint(&[0]), Ok(0));
        assert_eq!(varint(&[0x7f]), Ok(127));
        assert_eq!(varint(&[0x80, 0x01]), Ok(128));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
    }

    #[test]
    fn a_varint_that_overflows_or_goes_on_after_5_bytes_is_refused() {
        assert_eq!(
            varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(ReadError::Varint)
        );
        assert_eq!(
            varint(&[0x80, 0x80, 0x80, 0x80, 0x10]),
            Err(ReadError::Varint)
        );
        assert_eq!(
            varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]),
            Err(ReadError::Varint)
        );
        assert_eq!(varint(&[0x80]), Err(ReadError::Truncated));
        assert_eq!(varint(&[]), Err(ReadError::Truncated));
    }

    #[test]
    fn a_tag_larger_than_the_rest_or_the_limit_is_refused() {
        assert_eq!(Reader::new(&[7, 2, 1, 2]).tag(), Ok((7, &[1u8, 2][..])));
        assert_eq!(Reader::new(&[7, 3, 1, 2]).tag(), Err(ReadError::Truncated));
        let mut large = vec![0, 0x81, 0x80, 0x08];
        large.resize(large.len() + MAX_TAG_SIZE + 1, 0);
        assert_eq!(Reader::new(&large).tag(), Err(ReadError::TagTooLarge));
        assert_eq!(Reader::new(&[65]).tag_count(), Err(ReadError::TooManyTags));
    }
}
