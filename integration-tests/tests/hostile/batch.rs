//! Record batches built by hand, every field free to be wrong. Used by the tables of Produce.

use crate::wire::Wire;

const ATTRIBUTES_AT: usize = 21;
const CRC_AT: usize = 17;

pub const GZIP: i16 = 1;
pub const SNAPPY: i16 = 2;
pub const LZ4: i16 = 3;
pub const ZSTD: i16 = 4;
pub const LOG_APPEND_TIME: i16 = 0x08;
pub const TRANSACTIONAL: i16 = 0x10;
pub const CONTROL: i16 = 0x20;

/// A batch of magic 2; a field that is `None` is what it should be.
#[derive(Clone, Debug)]
pub struct Batch {
    pub base_offset: i64,
    /// Added to the right length.
    pub length_off_by: i32,
    pub length: Option<i32>,
    pub magic: i8,
    pub wrong_crc: bool,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
    pub records: Vec<u8>,
}

impl Batch {
    /// A good batch around these record bytes.
    pub fn of(record_count: i32, records: Vec<u8>, timestamp: i64) -> Self {
        Self {
            base_offset: 0,
            length_off_by: 0,
            length: None,
            magic: 2,
            wrong_crc: false,
            attributes: 0,
            last_offset_delta: record_count - 1,
            base_timestamp: timestamp,
            max_timestamp: timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count,
            records,
        }
    }

    /// A good batch of one small record.
    pub fn good(timestamp: i64) -> Self {
        Self::of(1, Record::good(0).framed(), timestamp)
    }

    /// The same with some fields changed.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let length = i32::try_from(self.records.len() + 49).expect("below 2 GiB");
        let mut batch = Wire::new()
            .i64(self.base_offset)
            .i32(self.length.unwrap_or(length + self.length_off_by))
            .i32(-1)
            .i8(self.magic)
            .i32(0)
            .i16(self.attributes)
            .i32(self.last_offset_delta)
            .i64(self.base_timestamp)
            .i64(self.max_timestamp)
            .i64(self.producer_id)
            .i16(self.producer_epoch)
            .i32(self.base_sequence)
            .i32(self.record_count)
            .raw(&self.records)
            .0;
        let mut crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        if self.wrong_crc {
            crc ^= 1;
        }
        batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        batch
    }
}

/// One record; keys and headers as they are to stand on the wire.
#[derive(Clone, Debug)]
pub struct Record {
    pub timestamp_delta: i64,
    pub offset_delta: i64,
    pub value: Vec<u8>,
    /// Says so many headers, whatever `headers` holds.
    pub header_count: i64,
    pub headers: Vec<u8>,
    /// The length before it, if not the right one.
    pub length: Option<i64>,
}

impl Record {
    pub fn good(offset_delta: i64) -> Self {
        Self {
            timestamp_delta: 0,
            offset_delta,
            value: b"value".to_vec(),
            header_count: 0,
            headers: Vec::new(),
            length: None,
        }
    }

    /// The same with some fields changed.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What comes before the value, from the attributes on, for a value of this length.
    pub fn prelude(timestamp_delta: i64, offset_delta: i64, value_length: i64) -> Vec<u8> {
        Wire::new()
            .i8(0)
            .varint(timestamp_delta)
            .varint(offset_delta)
            .varint(3)
            .raw(b"key")
            .varint(value_length)
            .0
    }

    pub fn framed(&self) -> Vec<u8> {
        let value_length = i64::try_from(self.value.len()).expect("short");
        let body = Wire(Self::prelude(
            self.timestamp_delta,
            self.offset_delta,
            value_length,
        ))
        .raw(&self.value)
        .varint(self.header_count)
        .raw(&self.headers)
        .0;
        let length = i64::try_from(body.len()).expect("short");
        Wire::new()
            .varint(self.length.unwrap_or(length))
            .raw(&body)
            .0
    }
}

/// A header's key and value on the wire.
pub fn record_header(key: &[u8], value: &[u8]) -> Vec<u8> {
    Wire::new()
        .varint(key.len() as i64)
        .raw(key)
        .varint(value.len() as i64)
        .raw(value)
        .0
}
