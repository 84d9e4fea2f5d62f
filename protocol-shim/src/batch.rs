//! Record batch v2: the 61-byte header, its checksum, stamping, and the walk from batch to batch.
//!
//! Used by the storage (append, read, recovery, retention) and by the producers of internal records. It never looks
//! into the records (see [`crate::records`]), never decompresses, and copies nothing but the header fields.
//! Invariant: a [`BatchHeader`] comes from at least 61 bytes of magic 2 that announce at least 61 bytes; its other
//! fields are as the client sent them, so arithmetic on them saturates or wraps as Kafka's does.

use bytes::Bytes;

use crate::varint::{put_varint, put_varlong};

/// Bytes of a batch before its first record.
pub const HEADER_LEN: usize = 61;
/// Bytes of a batch that its `batch_length` does not count: base offset and the length itself.
pub const LOG_OVERHEAD: usize = 12;
/// Kafka's mark for "no timestamp".
pub const NO_TIMESTAMP: i64 = -1;

const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const RECORD_COUNT_AT: usize = 57;

const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

/// Why bytes are not a record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header, or than the header announces.
    #[error("record batch cut short: {have} bytes of {needed}")]
    Truncated {
        /// Bytes that must be there.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// Another message format than v2.
    #[error("unsupported record batch magic {0}")]
    Magic(i8),
    /// A length smaller than the header (or negative).
    #[error("invalid record batch length {0}")]
    Length(i32),
    /// A compression code that Kafka does not have.
    #[error("unknown compression code {0}")]
    UnknownCompression(u8),
}

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, one or several members.
    Gzip,
    /// Raw, or in the framing of the Java library.
    Snappy,
    /// LZ4 frame with independent blocks.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// The codec of these attributes; the error holds the code of an unknown one.
    pub fn from_attributes(attributes: i16) -> Result<Self, BatchError> {
        match attributes & COMPRESSION_MASK {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            code => Err(BatchError::UnknownCompression(code as u8)),
        }
    }

    /// The code of this codec in a batch's attributes.
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// Whose clock set the timestamps of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at append.
    LogAppendTime,
}

/// The fields before the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes after this field.
    pub batch_length: i32,
    /// Epoch of the leader that appended it; -1 from a client.
    pub partition_leader_epoch: i32,
    /// Always 2.
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Compression, timestamp type and flags.
    pub attributes: i16,
    /// Offset of the last record minus the base offset; kept when compaction removes records.
    pub last_offset_delta: i32,
    /// What the timestamp deltas of the records are added to.
    pub base_timestamp: i64,
    /// The largest timestamp, or the append time.
    pub max_timestamp: i64,
    /// -1 without one.
    pub producer_id: i64,
    /// -1 without one.
    pub producer_epoch: i16,
    /// -1 without one.
    pub base_sequence: i32,
    /// Records present.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header of a batch. The batch itself may be longer than `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Truncated {
                needed: HEADER_LEN,
                have: bytes.len(),
            });
        };
        let magic = header[MAGIC_AT] as i8;
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let batch_length = i32::from_be_bytes(field(header, LENGTH_AT));
        if batch_length < (HEADER_LEN - LOG_OVERHEAD) as i32 {
            return Err(BatchError::Length(batch_length));
        }
        Ok(Self {
            base_offset: i64::from_be_bytes(field(header, 0)),
            batch_length,
            partition_leader_epoch: i32::from_be_bytes(field(header, LEADER_EPOCH_AT)),
            magic,
            crc: u32::from_be_bytes(field(header, CRC_AT)),
            attributes: i16::from_be_bytes(field(header, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp: i64::from_be_bytes(field(header, BASE_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(field(header, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(field(header, 43)),
            producer_epoch: i16::from_be_bytes(field(header, 51)),
            base_sequence: i32::from_be_bytes(field(header, 53)),
            record_count: i32::from_be_bytes(field(header, RECORD_COUNT_AT)),
        })
    }

    /// Bytes of the whole batch, at least [`HEADER_LEN`].
    pub fn total_len(&self) -> usize {
        // Not negative: `parse` checked it.
        self.batch_length as usize + LOG_OVERHEAD
    }

    /// Offset of the last record the batch was written with.
    pub fn last_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
    }

    /// The offset after the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence of the last record; -1 without sequences. Sequences go from `i32::MAX` on to 0
    /// (`DefaultRecordBatch.incrementSequence`).
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == -1 {
            return -1;
        }
        let sum = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        let wrapped = if sum > i64::from(i32::MAX) {
            sum - i64::from(i32::MAX) - 1
        } else {
            sum
        };
        wrapped as i32
    }

    /// The codec of the records.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_attributes(self.attributes)
    }

    /// Part of a transaction (markers included).
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Holds a marker instead of data.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whose clock set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// When tombstones and markers of a compacted batch may go (KIP-534 keeps it in the base timestamp).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Written by an idempotent or transactional producer.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// The timestamp consumers see for a record; `None` if the sum does not fit. A delete horizon may be too far from a
    /// record's time for their difference to fit: that one wrapped, as in Kafka, and comes back by wrapping.
    pub fn timestamp_of(&self, timestamp_delta: i64) -> Option<i64> {
        match self.timestamp_type() {
            TimestampType::CreateTime if self.delete_horizon_ms().is_some() => {
                Some(self.base_timestamp.wrapping_add(timestamp_delta))
            }
            TimestampType::CreateTime => self.base_timestamp.checked_add(timestamp_delta),
            TimestampType::LogAppendTime => Some(self.max_timestamp),
        }
    }
}

/// Whether the stored CRC is that of the bytes. `batch` is exactly one batch; false if it is shorter than a header.
pub fn crc_matches(batch: &[u8]) -> bool {
    let Some(header) = batch.first_chunk::<HEADER_LEN>() else {
        return false;
    };
    u32::from_be_bytes(field(header, CRC_AT)) == crc32c::crc32c(&batch[ATTRIBUTES_AT..])
}

/// Gives a batch its place in the log. Neither field is under the CRC.
///
/// `batch` is exactly one batch that [`BatchHeader::parse`] accepts.
pub fn stamp(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    assert!(batch.len() >= HEADER_LEN, "stamp wants a whole batch");
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[LEADER_EPOCH_AT..MAGIC_AT].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Makes a batch one of `LogAppendTime` with this time and a new CRC, as `DefaultRecordBatch.setMaxTimestamp` does.
pub fn stamp_log_append_time(batch: &mut [u8], now_ms: i64) {
    stamp_timestamp(batch, TimestampType::LogAppendTime, now_ms);
}

/// Corrects the largest timestamp of a `CreateTime` batch, with a new CRC if it changes.
///
/// Kafka stores what the records say, not what the client's header claims (`LogValidator`): pass
/// [`crate::records::ValidBatch::max_timestamp`].
pub fn stamp_max_timestamp(batch: &mut [u8], max_timestamp: i64) {
    stamp_timestamp(batch, TimestampType::CreateTime, max_timestamp);
}

fn stamp_timestamp(batch: &mut [u8], timestamp_type: TimestampType, max_timestamp: i64) {
    assert!(batch.len() >= HEADER_LEN, "stamp wants a whole batch");
    let old_attributes = i16::from_be_bytes([batch[ATTRIBUTES_AT], batch[ATTRIBUTES_AT + 1]]);
    let attributes = match timestamp_type {
        TimestampType::CreateTime => old_attributes & !LOG_APPEND_TIME_BIT,
        TimestampType::LogAppendTime => old_attributes | LOG_APPEND_TIME_BIT,
    };
    let max_timestamp = max_timestamp.to_be_bytes();
    let stamped = &mut batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8];
    if attributes == old_attributes && *stamped == max_timestamp {
        return;
    }
    stamped.copy_from_slice(&max_timestamp);
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

/// What changes in the header of a batch that loses records or gets another codec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rewrite {
    /// The codec of the new records.
    pub(crate) compression: Compression,
    /// Whether the base timestamp is a delete horizon.
    pub(crate) delete_horizon: bool,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) record_count: i32,
}

/// The batch with other records, these fields and a new CRC; everything else of its header stays. `None` where the
/// length does not fit its field. `batch` is exactly one batch.
pub(crate) fn rewrite(batch: &[u8], fields: &Rewrite, records: &[u8]) -> Option<Vec<u8>> {
    let header = batch.first_chunk::<HEADER_LEN>()?;
    let total = HEADER_LEN + records.len();
    let length = i32::try_from(total - LOG_OVERHEAD).ok()?;
    let old_attributes = i16::from_be_bytes(field(header, ATTRIBUTES_AT));
    let mut attributes =
        old_attributes & !DELETE_HORIZON_BIT & !COMPRESSION_MASK | fields.compression.code();
    if fields.delete_horizon {
        attributes |= DELETE_HORIZON_BIT;
    }
    let mut new = Vec::with_capacity(total);
    new.extend_from_slice(header);
    let mut put = |at: usize, bytes: &[u8]| new[at..at + bytes.len()].copy_from_slice(bytes);
    put(LENGTH_AT, &length.to_be_bytes());
    put(ATTRIBUTES_AT, &attributes.to_be_bytes());
    put(BASE_TIMESTAMP_AT, &fields.base_timestamp.to_be_bytes());
    put(MAX_TIMESTAMP_AT, &fields.max_timestamp.to_be_bytes());
    put(RECORD_COUNT_AT, &fields.record_count.to_be_bytes());
    new.extend_from_slice(records);
    let crc = crc32c::crc32c(&new[ATTRIBUTES_AT..]);
    new[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    Some(new)
}

/// The batches that follow each other in `bytes`, each with its own slice. Ends after the first error; a batch cut at
/// the end is [`BatchError::Truncated`]. Checks no CRC.
pub fn walk(bytes: &[u8]) -> impl Iterator<Item = Result<(BatchHeader, &[u8]), BatchError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let step = BatchHeader::parse(rest).and_then(|header| {
            match rest.split_at_checked(header.total_len()) {
                Some((batch, after)) => {
                    rest = after;
                    Ok((header, batch))
                }
                None => Err(BatchError::Truncated {
                    needed: header.total_len(),
                    have: rest.len(),
                }),
            }
        });
        if step.is_err() {
            rest = &[];
        }
        Some(step)
    })
}

/// Builds an uncompressed batch with base offset 0 and leader epoch -1, as a client would send it.
///
/// For internal topics, markers and tests. Offsets follow each other from 0.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    attributes: i16,
    record_count: i32,
    records: Vec<u8>,
    body: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch whose timestamp deltas count from here (Kafka: the first record's timestamp).
    pub fn new(base_timestamp: i64) -> Self {
        Self {
            base_timestamp,
            max_timestamp: NO_TIMESTAMP,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            attributes: 0,
            record_count: 0,
            records: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Sets the producer; markers have sequence -1.
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) =
            (producer_id, producer_epoch, base_sequence);
        self
    }

    /// Sets or clears the transactional flag.
    pub fn transactional(self, on: bool) -> Self {
        self.flag(TRANSACTIONAL_BIT, on)
    }

    /// Sets or clears the control flag.
    pub fn control(self, on: bool) -> Self {
        self.flag(CONTROL_BIT, on)
    }

    /// Appends a record. `None` is null, for a value a tombstone.
    pub fn record(
        mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Self {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.push(0);
        put_varlong(&mut body, timestamp.wrapping_sub(self.base_timestamp));
        put_varint(&mut body, self.record_count);
        put_bytes(&mut body, key);
        put_bytes(&mut body, value);
        put_varint(&mut body, headers.len() as i32);
        for (name, value) in headers {
            put_bytes(&mut body, Some(name));
            put_bytes(&mut body, *value);
        }
        put_varint(&mut self.records, body.len() as i32);
        self.records.extend_from_slice(&body);
        self.body = body;
        self.record_count += 1;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self
    }

    /// Bytes `build` would return now; for deciding when to start another batch.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// Records so far.
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// The finished batch. Without records its last offset delta is -1: append no such batch.
    pub fn build(self) -> Bytes {
        assemble(&self, &self.records).into()
    }

    fn flag(mut self, bit: i16, on: bool) -> Self {
        self.attributes = if on {
            self.attributes | bit
        } else {
            self.attributes & !bit
        };
        self
    }
}

fn assemble(head: &BatchBuilder, records: &[u8]) -> Vec<u8> {
    let total = HEADER_LEN + records.len();
    let mut batch = Vec::with_capacity(total);
    batch.extend_from_slice(&0i64.to_be_bytes());
    batch.extend_from_slice(&((total - LOG_OVERHEAD) as i32).to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&head.attributes.to_be_bytes());
    batch.extend_from_slice(&(head.record_count - 1).to_be_bytes());
    batch.extend_from_slice(&head.base_timestamp.to_be_bytes());
    batch.extend_from_slice(&head.max_timestamp.to_be_bytes());
    batch.extend_from_slice(&head.producer_id.to_be_bytes());
    batch.extend_from_slice(&head.producer_epoch.to_be_bytes());
    batch.extend_from_slice(&head.base_sequence.to_be_bytes());
    batch.extend_from_slice(&head.record_count.to_be_bytes());
    batch.extend_from_slice(records);
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

fn field<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

/// For tests of this crate: the same header around other (compressed) record bytes.
#[cfg(test)]
impl BatchBuilder {
    pub(crate) fn records_bytes(&self) -> &[u8] {
        &self.records
    }

    pub(crate) fn build_with(mut self, compression_code: i16, records: &[u8]) -> Vec<u8> {
        self.attributes |= compression_code;
        assemble(&self, records)
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
