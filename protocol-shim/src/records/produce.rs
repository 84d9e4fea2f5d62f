//! What a producer may send to a partition.
//!
//! Used by Produce, once per partition. The order of the checks and the codes are those of Kafka 4.3.1
//! (`ProduceRequest.validateRecords`, `UnifiedLog.analyzeAndValidateRecords`, `LogValidator`). Stricter than Kafka in
//! these: an unknown codec and damaged compressed bytes have a code of their own, offset deltas must count up from 0
//! (Kafka rewrites such a batch), key and value lengths below -1, sums of timestamps that overflow, producer ids below
//! -1, negative epochs, a `LogAppendTime` mark and bytes after the batch are refused.
//! It never changes the batch: a wrong largest timestamp in the header is not an error, as in Kafka; the caller stamps
//! the true one.

use super::{Records, RecordsError, RejectCause, RejectedRecord, batch_fault, told};
use crate::batch::{
    BatchHeader, Compression, HEADER_LEN, LOG_OVERHEAD, NO_TIMESTAMP, TimestampType, crc_matches,
};

/// Kafka's lower bound for any batch's length field, so that also old formats can be told.
const RECORD_OVERHEAD_V0: i64 = 14;
const UP_TO_MAGIC: usize = 17;

/// Below this much output no ratio is suspicious.
const RATIO_FREE: usize = 16 << 20;
/// Beyond it, so many times the compressed bytes: LZ4 and Snappy cannot exceed it, text hardly does.
const RATIO_MAX: usize = 256;

/// So many rejected records are named in an answer; Kafka names all.
const REJECTED_MAX: usize = 1_000;

/// What the topic and the request allow.
#[derive(Debug, Clone, Copy)]
pub struct ProduceLimits {
    /// `max.message.bytes`: the batch as sent.
    pub max_batch_bytes: usize,
    /// `max.decompressed.message.bytes`: its records. Above 16 MiB the limit is also 256 times the compressed bytes.
    pub max_decompressed_bytes: usize,
    /// The broker's time.
    pub now_ms: i64,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// Produce v7 and later.
    pub zstd_allowed: bool,
    /// The topic's cleanup policy has `compact`: records need keys.
    pub compacted: bool,
    /// `message.timestamp.type` is `LogAppendTime`: producers' timestamps are not looked at.
    pub log_append_time: bool,
}

/// A batch that may be appended once stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidBatch {
    /// As the client sent it.
    pub header: BatchHeader,
    /// What to stamp: the largest timestamp of the records, or `now_ms` for `LogAppendTime`. -1 if no record has one.
    pub max_timestamp: i64,
    /// Offset delta of the first record with that timestamp (0 for `LogAppendTime`); -1 if no record has one.
    pub offset_of_max_timestamp_delta: i32,
    /// Bytes of the records once decompressed.
    pub records_len: usize,
}

/// Checks the record bytes of one partition of a Produce request: exactly one batch that the topic takes.
pub fn validate_produce(batch: &[u8], limits: &ProduceLimits) -> Result<ValidBatch, RecordsError> {
    let header = check_batch(batch, limits)?;
    check_fields(&header)?;
    check_records(&header, batch, limits)
}

pub(super) fn rejection(records: &[RejectedRecord]) -> &'static str {
    if records
        .iter()
        .all(|record| record.cause == RejectCause::NoKey)
    {
        "one or more records have no key in a compacted topic"
    } else {
        "one or more records have been rejected due to invalid timestamp"
    }
}

/// The bytes: one batch of magic 2, of a permitted size, with the right checksum.
fn check_batch(bytes: &[u8], limits: &ProduceLimits) -> Result<BatchHeader, RecordsError> {
    let (len, magic) = match first_batch(bytes) {
        Found::Batch { len, magic } => (len, magic),
        Found::Nothing => return Err(RecordsError::Invalid("no complete record batch")),
        Found::Corrupt(what) => return Err(RecordsError::Corrupt(what)),
    };
    let (batch, after) = bytes.split_at(len);
    if magic != 2 {
        return Err(RecordsError::Invalid(
            "only record batches with magic 2 are accepted",
        ));
    }
    if len >= HEADER_LEN && !limits.zstd_allowed {
        let attributes = i16::from_be_bytes([batch[21], batch[22]]);
        if Compression::from_attributes(attributes) == Ok(Compression::Zstd) {
            return Err(RecordsError::UnsupportedCompression(attributes & 7));
        }
    }
    match first_batch(after) {
        Found::Batch { .. } => return Err(RecordsError::Invalid("more than one record batch")),
        Found::Corrupt(what) => return Err(RecordsError::Corrupt(what)),
        Found::Nothing => {}
    }
    let header =
        BatchHeader::parse(batch).map_err(|error| RecordsError::Corrupt(batch_fault(error)))?;
    if header.base_offset != 0 {
        return Err(RecordsError::Invalid("base offset is not 0"));
    }
    if len > limits.max_batch_bytes {
        return Err(RecordsError::BatchTooLarge {
            size: len,
            max: limits.max_batch_bytes,
        });
    }
    if !crc_matches(batch) {
        return Err(RecordsError::Corrupt("checksum does not match"));
    }
    if !after.is_empty() {
        return Err(RecordsError::Invalid("bytes after the record batch"));
    }
    Ok(header)
}

enum Found {
    Batch { len: usize, magic: i8 },
    Nothing,
    Corrupt(&'static str),
}

/// What `ByteBufferLogInputStream.nextBatch` makes of the bytes.
fn first_batch(bytes: &[u8]) -> Found {
    let Some(length) = bytes
        .get(8..LOG_OVERHEAD)
        .and_then(|field| field.first_chunk::<4>())
    else {
        return Found::Nothing;
    };
    let length = i64::from(i32::from_be_bytes(*length));
    if length < RECORD_OVERHEAD_V0 {
        return Found::Corrupt("batch length below the minimum");
    }
    if bytes.len() < UP_TO_MAGIC {
        return Found::Nothing;
    }
    let magic = bytes[UP_TO_MAGIC - 1] as i8;
    if !(0..=2).contains(&magic) {
        return Found::Corrupt("unknown magic");
    }
    let len = length as usize + LOG_OVERHEAD;
    if len > bytes.len() {
        Found::Nothing
    } else {
        Found::Batch { len, magic }
    }
}

fn check_fields(header: &BatchHeader) -> Result<(), RecordsError> {
    let invalid = |what| Err(RecordsError::Invalid(what));
    if header.compression().is_err() {
        return Err(RecordsError::UnsupportedCompression(header.attributes & 7));
    }
    if header.last_offset_delta < 0 {
        return invalid("last offset is before the base offset");
    }
    if header.record_count <= 0 {
        return invalid("record count is not positive");
    }
    if header.last_offset_delta != header.record_count - 1 {
        return invalid("offset range and record count do not match");
    }
    if header.is_control() {
        return invalid("clients are not allowed to write control records");
    }
    if header.producer_id < -1 {
        return invalid("producer id is negative");
    }
    if header.has_producer_id() && header.base_sequence < 0 {
        return invalid("a producer id needs a sequence");
    }
    // Kafka finds this one in the producer's state (`ProducerAppendInfo`); no state has a negative epoch.
    if header.has_producer_id() && header.producer_epoch < 0 {
        return Err(RecordsError::ProducerEpoch(header.producer_epoch));
    }
    Ok(())
}

fn check_records(
    header: &BatchHeader,
    batch: &[u8],
    limits: &ProduceLimits,
) -> Result<ValidBatch, RecordsError> {
    let compressed_len = batch.len() - HEADER_LEN;
    let plausible = compressed_len.saturating_mul(RATIO_MAX).max(RATIO_FREE);
    let limit = limits.max_decompressed_bytes.min(plausible);
    let mut records = Records::open(header, batch, limit)?;
    let mut rejected = Rejected::default();
    let (mut max_timestamp, mut offset_of_max_timestamp_delta) = (NO_TIMESTAMP, -1);

    for index in 0..header.record_count {
        let record = records.next_layout().map_err(told(limit))?;
        if record.offset_delta != index {
            return Err(RecordsError::Invalid(
                "offset deltas do not count up from 0",
            ));
        }
        if limits.compacted && record.key.is_none() {
            rejected.push(index, RejectCause::NoKey);
            continue;
        }
        match record_timestamp(header, record.timestamp_delta, limits) {
            Ok(timestamp) if timestamp > max_timestamp => {
                (max_timestamp, offset_of_max_timestamp_delta) = (timestamp, index);
            }
            Ok(_) => {}
            Err(cause) => rejected.push(index, cause),
        }
    }
    records.expect_end().map_err(told(limit))?;
    rejected.into_result()?;

    if limits.log_append_time {
        (max_timestamp, offset_of_max_timestamp_delta) = (limits.now_ms, 0);
    }
    Ok(ValidBatch {
        header: *header,
        max_timestamp,
        offset_of_max_timestamp_delta,
        records_len: records.len_so_far(),
    })
}

fn record_timestamp(
    header: &BatchHeader,
    delta: i64,
    limits: &ProduceLimits,
) -> Result<i64, RejectCause> {
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(RejectCause::TimestampType);
    }
    let timestamp = header
        .base_timestamp
        .checked_add(delta)
        .ok_or(RejectCause::TimestampOverflow)?;
    if limits.log_append_time || timestamp == NO_TIMESTAMP {
        return Ok(timestamp);
    }
    let age = i128::from(limits.now_ms) - i128::from(timestamp);
    if age > i128::from(limits.timestamp_before_max_ms)
        || -age > i128::from(limits.timestamp_after_max_ms)
    {
        return Err(RejectCause::Timestamp(timestamp));
    }
    Ok(timestamp)
}

/// The records refused so far, at most [`REJECTED_MAX`] of them, but a bad timestamp always has its place.
#[derive(Default)]
struct Rejected {
    records: Vec<RejectedRecord>,
    timestamp_seen: bool,
}

impl Rejected {
    fn push(&mut self, batch_index: i32, cause: RejectCause) {
        let first_timestamp = cause != RejectCause::NoKey && !self.timestamp_seen;
        self.timestamp_seen |= first_timestamp;
        if self.records.len() >= REJECTED_MAX {
            if !first_timestamp {
                return;
            }
            self.records.pop();
        }
        self.records.push(RejectedRecord { batch_index, cause });
    }

    fn into_result(self) -> Result<(), RecordsError> {
        if self.records.is_empty() {
            Ok(())
        } else {
            Err(RecordsError::Rejected(self.records))
        }
    }
}
