//! The bytes of one batch on their way through Produce: checked, given the codec of their topic, ready for the log.
//!
//! Used by `produce.rs`, once per partition. It decides nothing about a batch: what is checked stands in
//! `records::validate_produce`, what another codec changes in `records::recompress`. Invariants: big batches, and all
//! that are decompressed or compressed, are worked on off the async workers; at most two at once are decompressed or
//! compressed, over all connections, each within `max.decompressed.message.bytes` and `max.message.bytes`.

use bytes::{Bytes, BytesMut};
use ottla_protocol::batch::{BatchHeader, stamp_max_timestamp};
use ottla_protocol::error_code::ErrorCode;
use ottla_protocol::records::{
    Encoding, ProduceLimits, RecordsError, ValidBatch, recompress, validate_produce,
    wants_recompression,
};

use super::Refusal;
use crate::handlers::apart;
use crate::router::Ctx;

/// Batches from this size on are checked off the async workers.
const CHECK_APART_BYTES: usize = 256 << 10;

/// Smaller batches are copied: the read buffer they lie in is much larger.
const COPIED_BELOW_BYTES: usize = 16 << 10;

/// The codec that a batch is to get, where its topic wants another than it has.
pub(super) fn other_encoding(batch: &[u8], of_topic: Option<Encoding>) -> Option<Encoding> {
    let header = BatchHeader::parse(batch).ok()?;
    of_topic.filter(|encoding| wants_recompression(&header, *encoding))
}

/// Checks a batch and makes of it what the log is to store, with `encoding` if it is to get another codec.
pub(super) async fn ready(
    ctx: &Ctx,
    bytes: Bytes,
    limits: ProduceLimits,
    encoding: Option<Encoding>,
) -> Result<(BatchHeader, Bytes), Refusal> {
    let compressed = BatchHeader::parse(&bytes).is_ok_and(|header| header.attributes & 0x07 != 0);
    let codec_runs = compressed || encoding.is_some();
    let stored = if codec_runs || bytes.len() >= CHECK_APART_BYTES {
        let permit = if codec_runs {
            let waited = ctx.broker.decompressions.clone().acquire_owned().await;
            Some(waited.map_err(|_| (ErrorCode::NotLeaderOrFollower, None))?)
        } else {
            None
        };
        let metrics = ctx.broker.metrics.clone();
        let worked = apart(move || {
            // Counted where it happens, so that the count can prove what the permits are for.
            let running = codec_runs.then(|| metrics.decompression());
            let stored = to_store(bytes, &limits, encoding);
            drop((running, permit));
            stored
        });
        worked.await.map_err(|code| (code, None))?
    } else {
        to_store(bytes, &limits, encoding)
    };
    stored.map_err(|error| {
        ctx.broker.metrics.refused("bad_batch");
        error.into()
    })
}

fn to_store(
    bytes: Bytes,
    limits: &ProduceLimits,
    encoding: Option<Encoding>,
) -> Result<(BatchHeader, Bytes), RecordsError> {
    let valid = validate_produce(&bytes, limits)?;
    match encoding {
        Some(encoding) => {
            let (header, rebuilt) = recompress(&bytes, &valid, encoding, limits.max_batch_bytes)?;
            Ok((header, rebuilt.into()))
        }
        None => {
            let header = BatchHeader {
                max_timestamp: valid.max_timestamp,
                ..valid.header
            };
            Ok((header, restamped(&valid, bytes)))
        }
    }
}

/// The bytes as sent, but where their maximum timestamp is wrong: the broker knows better after its walk.
fn restamped(valid: &ValidBatch, bytes: Bytes) -> Bytes {
    if valid.max_timestamp == valid.header.max_timestamp {
        return bytes;
    }
    let mut stamped = bytes.to_vec();
    stamp_max_timestamp(&mut stamped, valid.max_timestamp);
    stamped.into()
}

/// The bytes as nobody else's: without a copy where they are nearly all of their frame and its last user.
pub(super) fn own(bytes: Bytes) -> BytesMut {
    if bytes.len() < COPIED_BELOW_BYTES {
        return BytesMut::from(&bytes[..]);
    }
    match bytes.try_into_mut() {
        Ok(own) if own.capacity() <= own.len() * 2 => own,
        Ok(shared) => BytesMut::from(&shared[..]),
        Err(shared) => BytesMut::from(&shared[..]),
    }
}
