//! A batch with the codec of its topic: what `compression.type` makes of it before the append.
//!
//! Used by Produce, after the checks. It is what Kafka's `LogValidator.buildRecordsAndAssignOffsets` does, but the bytes
//! of the records are only compressed differently, never read and written anew: keys, values, headers, timestamps and
//! offset deltas cannot change, and a batch keeps its base timestamp. It never touches a marker, or a batch that has the
//! codec already, whatever its level.
//! Invariant: memory is bounded by the new batch, which never exceeds the limit, and by the state of both codecs; the
//! decompressed records are never held.

use std::io::{self, Write};

use super::{Fault, NOT_COMPRESSED, RecordsError, TOO_LONG, ValidBatch, told, whole_batch};
use crate::batch::{BatchHeader, HEADER_LEN, Rewrite, rewrite};
use crate::compression::Stream;
use crate::compression::encode::{Encoder, Encoding};

/// Whether a batch has another codec than its topic wants. Not where the batch has a codec that is unknown, which is
/// for the checks to refuse.
pub fn wants_recompression(header: &BatchHeader, encoding: Encoding) -> bool {
    let other = |compression| compression != encoding.compression();
    !header.is_control() && header.compression().is_ok_and(other)
}

/// The batch with its records in `encoding`, the largest timestamp that they have, and a new checksum; and its
/// header. `valid` is what the checks of this `batch` found.
///
/// # Errors
/// [`RecordsError::RecompressedTooLarge`] if the new batch is above `max_batch_bytes` (`max.message.bytes`; Kafka checks
/// a batch that changed its size again, in `UnifiedLog.append`). Others only for a batch that was not checked.
pub fn recompress(
    batch: &[u8],
    valid: &ValidBatch,
    encoding: Encoding,
    max_batch_bytes: usize,
) -> Result<(BatchHeader, Vec<u8>), RecordsError> {
    let header = &valid.header;
    let compression = header
        .compression()
        .map_err(|_| RecordsError::UnsupportedCompression(header.attributes & 7))?;
    let told = told(valid.records_len);
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::FileTooLarge => RecordsError::RecompressedTooLarge {
            max: max_batch_bytes,
        },
        _ => NOT_COMPRESSED,
    };
    let records = batch.get(HEADER_LEN..).ok_or(TOO_LONG)?;
    let most = max_batch_bytes.saturating_sub(HEADER_LEN);
    let mut encoder = Encoder::new(encoding, valid.records_len, most).map_err(refused)?;
    let mut stream = Stream::new(compression, records, valid.records_len)
        .map_err(Fault::Stream)
        .map_err(&told)?;
    loop {
        let chunk = stream.peek().map_err(Fault::Stream).map_err(&told)?;
        if chunk.is_empty() {
            break;
        }
        encoder.write_all(chunk).map_err(refused)?;
        let len = chunk.len();
        stream.consume(len);
    }
    let records = encoder.finish().map_err(refused)?;
    let rewritten = Rewrite {
        compression: encoding.compression(),
        delete_horizon: header.delete_horizon_ms().is_some(),
        base_timestamp: header.base_timestamp,
        max_timestamp: valid.max_timestamp,
        record_count: header.record_count,
    };
    let rebuilt = rewrite(batch, &rewritten, &records).ok_or(TOO_LONG)?;
    Ok((whole_batch(&rebuilt)?, rebuilt))
}

#[cfg(test)]
#[path = "recompress_tests.rs"]
mod tests;
