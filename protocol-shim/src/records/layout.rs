//! One record: where its parts are, read from a slice or from a stream that is not held.
//!
//! Used by `records` alone. Both ways run the same checks: varints that fit, lengths within the record, no negative
//! header count, no null header key, and the record's length used up exactly. Names and values are bytes; nothing
//! asks whether header keys are UTF-8, because Kafka's brokers do not.

use crate::compression::DecompressError;
use crate::varint::{VarintError, read_varint, read_varlong};

/// What is wrong with a record. Small and without an allocation, because it travels with every byte read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Varint(VarintError),
    Invalid(&'static str),
    Stream(DecompressError),
}

impl From<VarintError> for Fault {
    fn from(error: VarintError) -> Self {
        Self::Varint(error)
    }
}

/// The bytes of a record, one after the other.
pub(super) trait RecordBody {
    /// The next byte; `None` at the end.
    fn next_byte(&mut self) -> Result<Option<u8>, Fault>;
    /// Passes over so many bytes; an error if there are fewer.
    fn skip(&mut self, count: usize) -> Result<(), Fault>;
}

impl RecordBody for &[u8] {
    #[inline]
    fn next_byte(&mut self) -> Result<Option<u8>, Fault> {
        Ok(self.split_off_first().copied())
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Result<(), Fault> {
        *self = self.get(count..).ok_or(VarintError::Truncated)?;
        Ok(())
    }
}

/// Where the parts of a record are, counted from its attributes byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<Part>,
    pub(super) value: Option<Part>,
    pub(super) header_count: usize,
    pub(super) headers_at: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    at: usize,
    len: usize,
}

impl Part {
    fn of(self, body: &[u8]) -> &[u8] {
        &body[self.at..self.at + self.len]
    }
}

impl Layout {
    /// Reads a record of `len` bytes.
    pub(super) fn read(body: &mut impl RecordBody, len: usize) -> Result<Self, Fault> {
        let mut record = Cursor { body, at: 0, len };
        record.byte()?.ok_or(VarintError::Truncated)?;
        let timestamp_delta = read_varlong(|| record.byte())?;
        let offset_delta = record.varint()?;
        let key = record.part()?;
        let value = record.part()?;
        let header_count = usize::try_from(record.varint()?)
            .map_err(|_| Fault::Invalid("header count is negative"))?;
        // A header takes two bytes at least.
        if header_count > (len - record.at) / 2 {
            return Err(Fault::Invalid("header count is larger than the record"));
        }
        let headers_at = record.at;
        for _ in 0..header_count {
            record.part()?.ok_or(Fault::Invalid("header key is null"))?;
            record.part()?;
        }
        if record.at != len {
            return Err(Fault::Invalid("record length does not match its content"));
        }
        Ok(Self {
            timestamp_delta,
            offset_delta,
            key,
            value,
            header_count,
            headers_at,
        })
    }
}

struct Cursor<'b, B> {
    body: &'b mut B,
    at: usize,
    len: usize,
}

impl<B: RecordBody> Cursor<'_, B> {
    #[inline]
    fn byte(&mut self) -> Result<Option<u8>, Fault> {
        if self.at == self.len {
            return Ok(None);
        }
        self.at += 1;
        self.body.next_byte()
    }

    fn varint(&mut self) -> Result<i32, Fault> {
        read_varint(|| self.byte())
    }

    /// Length-prefixed bytes; -1 is null.
    fn part(&mut self) -> Result<Option<Part>, Fault> {
        let len = self.varint()?;
        if len == -1 {
            return Ok(None);
        }
        let at = self.at;
        let len = usize::try_from(len).map_err(|_| Fault::Invalid("field length is negative"))?;
        if len > self.len - at {
            return Err(Fault::Invalid("field is longer than its record"));
        }
        self.body.skip(len)?;
        self.at += len;
        Ok(Some(Part { at, len }))
    }
}

/// A record, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Offset minus the batch's base offset.
    pub offset_delta: i32,
    /// Timestamp minus the batch's base timestamp; see [`crate::batch::BatchHeader::timestamp_of`].
    pub timestamp_delta: i64,
    /// `None` is null.
    pub key: Option<&'a [u8]>,
    /// `None` is null: a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// In the producer's order, equal keys kept.
    pub headers: Headers<'a>,
    /// The whole record without its length, for copying it as it is.
    pub body: &'a [u8],
}

impl<'a> RecordView<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let layout = Layout::read(&mut { body }, body.len())?;
        Ok(Self {
            offset_delta: layout.offset_delta,
            timestamp_delta: layout.timestamp_delta,
            key: layout.key.map(|part| part.of(body)),
            value: layout.value.map(|part| part.of(body)),
            headers: Headers {
                bytes: &body[layout.headers_at..],
                count: layout.header_count,
            },
            body,
        })
    }
}

/// The headers of a record that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

/// A header: its key, usually UTF-8, and its value or null.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

impl<'a> Headers<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Key and value of each.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let (mut at, bytes) = (0, self.bytes);
        let mut part = move || {
            let mut body = &bytes[at..];
            let mut cursor = Cursor {
                len: body.len(),
                body: &mut body,
                at: 0,
            };
            let part = cursor
                .part()
                .ok()
                .flatten()
                .map(|part| part.of(&bytes[at..]));
            at += cursor.at;
            part
        };
        (0..self.count).map(move |_| (part().unwrap_or_default(), part()))
    }
}
