//! Kafka's primitive types as the record schemas write them, for the records of this crate: compact ones for
//! flexible versions, `plain` ones (lengths of two and four bytes) for those before.
//!
//! Called by the record modules only. Reading is bounded: no allocation is larger than the bytes
//! left allow, and no input makes it panic.

use thiserror::Error;
use uuid::Uuid;

/// Why bytes are not the record they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("the record ends inside a field")]
    Truncated,
    /// A varint is longer than five bytes or does not fit.
    #[error("a varint is too long")]
    VarintTooLong,
    /// A length is larger than the bytes that follow.
    #[error("a length of {0} is larger than what follows")]
    LengthTooLarge(u32),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A field that may not be null is.
    #[error("a field that may not be null is null")]
    UnexpectedNull,
    /// A boolean is neither 0 nor 1.
    #[error("a boolean has the value {0}")]
    BadBoolean(u8),
    /// There are bytes behind the last field.
    #[error("{0} bytes behind the last field")]
    TrailingBytes(usize),
}

/// Appends an unsigned varint.
pub fn put_uvarint(buf: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        buf.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    buf.push(value as u8);
}

/// Appends a compact string.
pub fn put_string(buf: &mut Vec<u8>, value: &str) {
    put_uvarint(buf, length(value.len()) + 1);
    buf.extend_from_slice(value.as_bytes());
}

/// Appends a compact nullable string.
pub fn put_nullable_string(buf: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => put_string(buf, value),
        None => put_uvarint(buf, 0),
    }
}

/// Appends a string of a version that is not flexible.
///
/// Panics when it is longer than 32,767 bytes, which no such version can carry: check at the border.
pub fn put_plain_string(buf: &mut Vec<u8>, value: &str) {
    let len = i16::try_from(value.len()).expect("checked where it came in: fits a plain string");
    buf.extend_from_slice(&len.to_be_bytes());
    buf.extend_from_slice(value.as_bytes());
}

/// Appends a nullable string of a version that is not flexible; see [`put_plain_string`].
pub fn put_plain_nullable_string(buf: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => put_plain_string(buf, value),
        None => buf.extend_from_slice(&(-1i16).to_be_bytes()),
    }
}

/// Appends bytes of a version that is not flexible.
pub fn put_plain_bytes(buf: &mut Vec<u8>, value: &[u8]) {
    buf.extend_from_slice(&length(value.len()).to_be_bytes());
    buf.extend_from_slice(value);
}

/// Appends a compact array of int32.
pub fn put_i32_array(buf: &mut Vec<u8>, values: &[i32]) {
    put_uvarint(buf, length(values.len()) + 1);
    for value in values {
        buf.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the tagged fields of a structure; `tags` in ascending order.
pub fn put_tags(buf: &mut Vec<u8>, tags: &[(u32, Vec<u8>)]) {
    debug_assert!(tags.is_sorted_by(|a, b| a.0 < b.0));
    put_uvarint(buf, length(tags.len()));
    for (tag, bytes) in tags {
        put_uvarint(buf, *tag);
        put_uvarint(buf, length(bytes.len()));
        buf.extend_from_slice(bytes);
    }
}

fn length(len: usize) -> u32 {
    i32::try_from(len).expect("no field of a record comes near 2 GiB") as u32
}

/// Reads the fields of one record in order.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Fails unless all bytes are read.
    pub fn finish(self) -> Result<(), WireError> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(WireError::TrailingBytes(left)),
        }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or(WireError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// An int8.
    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.take_array()?))
    }

    /// An int16.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.take_array()?))
    }

    /// An int32.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.take_array()?))
    }

    /// An int64.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.take_array()?))
    }

    /// A boolean; only 0 and 1 are taken, so that every record has one encoding.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        match self.take_array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(WireError::BadBoolean(other)),
        }
    }

    /// A UUID.
    pub fn uuid(&mut self) -> Result<Uuid, WireError> {
        Ok(Uuid::from_bytes(self.take_array()?))
    }

    /// An unsigned varint of at most five bytes.
    pub fn uvarint(&mut self) -> Result<u32, WireError> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take_array()?;
            if shift == 28 && byte > 0x0f {
                return Err(WireError::VarintTooLong);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::VarintTooLong)
    }

    /// A compact length: `None` is null. Each element takes at least `element_len` bytes.
    fn compact_len(&mut self, element_len: usize) -> Result<Option<usize>, WireError> {
        let Some(len) = self.uvarint()?.checked_sub(1) else {
            return Ok(None);
        };
        if len as usize > self.bytes.len() / element_len {
            return Err(WireError::LengthTooLarge(len));
        }
        Ok(Some(len as usize))
    }

    /// The length of a compact array that may not be null.
    pub fn array_len(&mut self, element_len: usize) -> Result<usize, WireError> {
        self.compact_len(element_len)?
            .ok_or(WireError::UnexpectedNull)
    }

    /// A compact nullable string.
    pub fn nullable_string(&mut self) -> Result<Option<&'a str>, WireError> {
        let Some(len) = self.compact_len(1)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| WireError::NotUtf8)?;
        Ok(Some(text))
    }

    /// A compact string.
    pub fn string(&mut self) -> Result<&'a str, WireError> {
        self.nullable_string()?.ok_or(WireError::UnexpectedNull)
    }

    /// Compact bytes that may not be null.
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.compact_len(1)?.ok_or(WireError::UnexpectedNull)?;
        self.take(len)
    }

    /// A nullable string of a version that is not flexible; any negative length is null, as in Kafka.
    pub fn plain_nullable_string(&mut self) -> Result<Option<&'a str>, WireError> {
        let Ok(len) = usize::try_from(self.i16()?) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| WireError::NotUtf8)?;
        Ok(Some(text))
    }

    /// A string of a version that is not flexible.
    pub fn plain_string(&mut self) -> Result<&'a str, WireError> {
        self.plain_nullable_string()?
            .ok_or(WireError::UnexpectedNull)
    }

    /// Bytes of a version that is not flexible.
    pub fn plain_bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(self.i32()?).map_err(|_| WireError::UnexpectedNull)?;
        self.take(len)
    }

    /// The length of an array of a version that is not flexible; each element takes at least `element_len` bytes.
    pub fn plain_array_len(&mut self, element_len: usize) -> Result<usize, WireError> {
        let len = u32::try_from(self.i32()?).map_err(|_| WireError::UnexpectedNull)?;
        if len as usize > self.bytes.len() / element_len {
            return Err(WireError::LengthTooLarge(len));
        }
        Ok(len as usize)
    }

    /// A compact nullable array of int32.
    pub fn nullable_i32_array(&mut self) -> Result<Option<Vec<i32>>, WireError> {
        let Some(len) = self.compact_len(size_of::<i32>())? else {
            return Ok(None);
        };
        (0..len)
            .map(|_| self.i32())
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A compact array of int32.
    pub fn i32_array(&mut self) -> Result<Vec<i32>, WireError> {
        self.nullable_i32_array()?.ok_or(WireError::UnexpectedNull)
    }

    /// The tagged fields at the end of a structure: each goes to `field` as (tag, its bytes).
    /// What `field` leaves unread is skipped, as an unknown tag is.
    pub fn tags<E: From<WireError>>(
        &mut self,
        mut field: impl FnMut(u32, Reader<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let len = self.uvarint()? as usize;
            field(tag, Reader::new(self.take(len)?))?;
        }
        Ok(())
    }

    /// Tagged fields of which none is known.
    pub fn skip_tags(&mut self) -> Result<(), WireError> {
        self.tags(|_, _| Ok::<(), WireError>(()))
    }
}
