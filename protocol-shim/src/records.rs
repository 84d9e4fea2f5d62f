//! The records inside a batch: what a producer may send, and a walk over them that borrows instead of decoding.
//!
//! Used by Produce (`validate_produce`), ListOffsets (`first_record_since`, `max_timestamp_record`), internal topics
//! and compaction (`for_each_record`). Only `filter.rs` and `recompress.rs` rewrite a batch. It never decodes a batch into
//! owned records, reserves nothing from a count or length on the wire, and decompresses as a stream (see `compression`).
//! Invariant: validation and the timestamp look-ups hold no more than the codec's buffer, however long a record says
//! it is; `for_each_record` also holds the largest record that crosses a chunk, grown as its bytes arrive.

mod filter;
mod layout;
mod produce;
mod recompress;

use std::ops::ControlFlow;

use crate::batch::{BatchError, BatchHeader, Compression, HEADER_LEN};
use crate::compression::{DecompressError, Stream};
use crate::error_code::ErrorCode;
use crate::varint::{VarintError, read_varint};
use layout::{Fault, Layout, RecordBody};

pub use crate::compression::encode::Encoding;
pub use filter::{DeleteHorizon, Retained, emptied, retain_records};
pub use layout::{Header, Headers, RecordView};
pub use produce::{ProduceLimits, ValidBatch, validate_produce};
pub use recompress::{recompress, wants_recompression};

/// Why records are refused or unreadable. The text is what a producer sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// Bytes that are no batch, or fail the checksum.
    #[error("corrupt record batch: {0}")]
    Corrupt(&'static str),
    /// A batch or record that breaks a rule.
    #[error("invalid record: {0}")]
    Invalid(&'static str),
    /// A codec that is unknown, or that the request version does not have yet.
    #[error("compression code {0} is not supported here")]
    UnsupportedCompression(i16),
    /// More bytes than the topic takes.
    #[error("record batch of {size} bytes exceeds the maximum of {max}")]
    BatchTooLarge {
        /// Bytes of the batch as sent.
        size: usize,
        /// `max.message.bytes`.
        max: usize,
    },
    /// More bytes than the topic takes, once compressed as the topic wants it.
    #[error("record batch exceeds the maximum of {max} bytes once it has the codec of its topic")]
    RecompressedTooLarge {
        /// `max.message.bytes`.
        max: usize,
    },
    /// More decompressed bytes than the limit.
    #[error("records exceed the maximum of {0} bytes once decompressed")]
    DecompressedTooLarge(usize),
    /// A producer id with a negative epoch.
    #[error("invalid producer epoch {0}")]
    ProducerEpoch(i16),
    /// Well-formed records that the topic does not take.
    #[error("{}", produce::rejection(.0))]
    Rejected(Vec<RejectedRecord>),
}

/// A record that the topic does not take: an entry of ProduceResponse's record errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Its place in the batch.
    pub batch_index: i32,
    /// What is wrong with it.
    pub cause: RejectCause,
}

/// Why a well-formed record is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RejectCause {
    /// The topic is compacted.
    #[error("compacted topic cannot accept a record without key")]
    NoKey,
    /// Outside `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`.
    #[error("timestamp {0} is out of range")]
    Timestamp(i64),
    /// Base timestamp and delta do not add up to a timestamp.
    #[error("timestamp overflows")]
    TimestampOverflow,
    /// The producer marked the batch as stamped by the broker.
    #[error("producers must not set the timestamp type to LogAppendTime")]
    TimestampType,
}

impl RecordsError {
    /// What the client hears.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::Corrupt(_) => ErrorCode::CorruptMessage,
            Self::Invalid(_) => ErrorCode::InvalidRecord,
            Self::UnsupportedCompression(_) => ErrorCode::UnsupportedCompressionType,
            Self::BatchTooLarge { .. }
            | Self::RecompressedTooLarge { .. }
            | Self::DecompressedTooLarge(_) => ErrorCode::MessageTooLarge,
            Self::ProducerEpoch(_) => ErrorCode::InvalidProducerEpoch,
            // Kafka's order: one bad timestamp outweighs any number of missing keys.
            Self::Rejected(records)
                if records
                    .iter()
                    .all(|record| record.cause == RejectCause::NoKey) =>
            {
                ErrorCode::InvalidRecord
            }
            Self::Rejected(_) => ErrorCode::InvalidTimestamp,
        }
    }
}

/// Gives every record of a stored batch to `visit`, in order, until it breaks.
///
/// `batch` is exactly one batch; its CRC is not looked at. Bytes after the last record are an error.
pub fn for_each_record(
    batch: &[u8],
    max_decompressed: usize,
    mut visit: impl FnMut(RecordView<'_>) -> ControlFlow<()>,
) -> Result<(), RecordsError> {
    let header = whole_batch(batch)?;
    let mut records = Records::open(&header, batch, max_decompressed)?;
    let mut crossing = Vec::new();
    for _ in 0..header.record_count {
        let flow = records
            .visit_next(&mut crossing, &mut visit)
            .map_err(told(max_decompressed))?;
        if flow.is_break() {
            return Ok(());
        }
    }
    records.expect_end().map_err(told(max_decompressed))
}

/// A record's place and time, as ListOffsets answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordTime {
    /// Offset minus the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds; the append time if the batch has one.
    pub timestamp: i64,
}

/// The first record with this timestamp or a later one. Keys and values are skipped, not held.
pub fn first_record_since(
    batch: &[u8],
    max_decompressed: usize,
    timestamp: i64,
) -> Result<Option<RecordTime>, RecordsError> {
    let mut found = None;
    for_each_time(batch, max_decompressed, |record| {
        if record.timestamp >= timestamp {
            found = Some(record);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The first of the records with the largest timestamp; `None` if the batch is empty.
pub fn max_timestamp_record(
    batch: &[u8],
    max_decompressed: usize,
) -> Result<Option<RecordTime>, RecordsError> {
    let mut found: Option<RecordTime> = None;
    for_each_time(batch, max_decompressed, |record| {
        if found.is_none_or(|best| record.timestamp > best.timestamp) {
            found = Some(record);
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn for_each_time(
    batch: &[u8],
    max_decompressed: usize,
    mut visit: impl FnMut(RecordTime) -> ControlFlow<()>,
) -> Result<(), RecordsError> {
    let header = whole_batch(batch)?;
    let mut records = Records::open(&header, batch, max_decompressed)?;
    for _ in 0..header.record_count {
        let record = records.next_layout().map_err(told(max_decompressed))?;
        let timestamp = header
            .timestamp_of(record.timestamp_delta)
            .ok_or(RecordsError::Invalid("timestamp overflows"))?;
        if visit(RecordTime {
            offset_delta: record.offset_delta,
            timestamp,
        })
        .is_break()
        {
            return Ok(());
        }
    }
    records.expect_end().map_err(told(max_decompressed))
}

const TOO_LONG: RecordsError = RecordsError::Invalid("batch is longer than its length field says");
const NOT_COMPRESSED: RecordsError = RecordsError::Invalid("records cannot be compressed again");

fn whole_batch(batch: &[u8]) -> Result<BatchHeader, RecordsError> {
    let header =
        BatchHeader::parse(batch).map_err(|error| RecordsError::Corrupt(batch_fault(error)))?;
    if header.total_len() != batch.len() {
        return Err(RecordsError::Corrupt("batch length does not match"));
    }
    Ok(header)
}

fn batch_fault(error: BatchError) -> &'static str {
    match error {
        BatchError::Truncated { .. } => "shorter than a batch header",
        BatchError::Magic(_) => "unknown magic",
        BatchError::Length(_) => "batch length below the minimum",
        BatchError::UnknownCompression(_) => "unknown compression",
    }
}

/// A fault in the words of the crate; only a stream read with a limit can exceed it.
fn told(limit: usize) -> impl Fn(Fault) -> RecordsError {
    move |fault| match fault {
        Fault::Varint(VarintError::Truncated) => RecordsError::Invalid("record is cut short"),
        Fault::Varint(VarintError::Overflow) => {
            RecordsError::Invalid("variable-length integer overflows")
        }
        Fault::Invalid(what) | Fault::Stream(DecompressError::Corrupt(what)) => {
            RecordsError::Invalid(what)
        }
        Fault::Stream(DecompressError::TooLarge) => RecordsError::DecompressedTooLarge(limit),
    }
}

/// A batch being read, record by record.
struct Records<'a> {
    stream: Stream<'a>,
    compressed: bool,
}

impl<'a> Records<'a> {
    fn open(header: &BatchHeader, batch: &'a [u8], limit: usize) -> Result<Self, RecordsError> {
        if header.record_count < 0 {
            return Err(RecordsError::Invalid("record count is negative"));
        }
        let mut compression = header
            .compression()
            .map_err(|_| RecordsError::UnsupportedCompression(header.attributes & 7))?;
        if header.record_count == 0 && batch.len() == HEADER_LEN {
            // An emptied batch keeps its codec but has no bytes to decompress.
            compression = Compression::None;
        }
        let stream = Stream::new(compression, &batch[HEADER_LEN..], limit);
        let stream = stream.map_err(Fault::Stream).map_err(told(limit))?;
        Ok(Self {
            stream,
            compressed: compression != Compression::None,
        })
    }

    /// The length of the next record, checked against what there can be; the stream then stands at its body.
    fn next_len(&mut self) -> Result<usize, Fault> {
        let len = read_varint(|| self.next_byte())?;
        let len = usize::try_from(len).map_err(|_| Fault::Invalid("record length is negative"))?;
        if len <= self.stream.remaining_limit() {
            Ok(len)
        } else if self.compressed {
            // Refused from the number alone, before more is decompressed.
            Err(Fault::Stream(DecompressError::TooLarge))
        } else {
            Err(Fault::Invalid("record is longer than its batch"))
        }
    }

    /// Checks the next record and skips it without holding its bytes.
    fn next_layout(&mut self) -> Result<Layout, Fault> {
        let len = self.next_len()?;
        if let Some(mut body) = self.stream.unread().get(..len) {
            let layout = Layout::read(&mut body, len)?;
            self.stream.consume(len);
            Ok(layout)
        } else {
            Layout::read(self, len)
        }
    }

    /// Shows the next record in place, or gathered if it crosses a chunk.
    fn visit_next(
        &mut self,
        crossing: &mut Vec<u8>,
        visit: &mut impl FnMut(RecordView<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let len = self.next_len()?;
        if let Some(body) = self.stream.unread().get(..len) {
            let flow = visit(RecordView::parse(body)?);
            self.stream.consume(len);
            return Ok(flow);
        }
        crossing.clear();
        while crossing.len() < len {
            let wanted = len - crossing.len();
            let bytes = self.peek()?;
            if bytes.is_empty() {
                return Err(VarintError::Truncated.into());
            }
            let taken = wanted.min(bytes.len());
            crossing.extend_from_slice(&bytes[..taken]);
            self.stream.consume(taken);
        }
        Ok(visit(RecordView::parse(crossing)?))
    }

    /// Bytes of the records up to here, decompressed; of all of them at the end.
    fn len_so_far(&self) -> usize {
        self.stream.produced()
    }

    /// Also reads the codec's own trailer, and so its checksum.
    fn expect_end(&mut self) -> Result<(), Fault> {
        if self.peek()?.is_empty() {
            Ok(())
        } else {
            Err(Fault::Invalid("bytes after the last record"))
        }
    }

    fn peek(&mut self) -> Result<&[u8], Fault> {
        self.stream.peek().map_err(Fault::Stream)
    }
}

impl RecordBody for Records<'_> {
    fn next_byte(&mut self) -> Result<Option<u8>, Fault> {
        let byte = self.peek()?.first().copied();
        if byte.is_some() {
            self.stream.consume(1);
        }
        Ok(byte)
    }

    fn skip(&mut self, mut count: usize) -> Result<(), Fault> {
        while count > 0 {
            let step = self.peek()?.len().min(count);
            if step == 0 {
                return Err(VarintError::Truncated.into());
            }
            self.stream.consume(step);
            count -= step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
