//! The checks of Produce, the record reader and the change of codec, with every compression codec.
//!
//! Magic, length and checksum are made right first, or nearly no input would get past them. Claims: nothing panics;
//! memory stays bounded by the limit on decompressed bytes, not by what lengths and counts say; a batch that is accepted
//! gives as many records as its header counts, and with another codec passes the same checks.

#![no_main]

mod memory;

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use ottla_protocol::batch::{Compression, HEADER_LEN, LOG_OVERHEAD, crc_matches};
use ottla_protocol::records::{
    Encoding, ProduceLimits, RecordsError, ValidBatch, for_each_record, recompress,
    validate_produce,
};

const MAX_BATCH: usize = 1_048_588;
const MAX_DECOMPRESSED: usize = 1024 * 1024;

/// For the decompressors' own windows and blocks, as far as they are Rust.
const DECOMPRESSOR: usize = 1024 * 1024;

fuzz_target!(|data: &[u8]| {
    if data.len() < HEADER_LEN {
        return;
    }
    let batch = repaired(data);
    let limits = ProduceLimits {
        max_batch_bytes: MAX_BATCH,
        max_decompressed_bytes: MAX_DECOMPRESSED,
        now_ms: 1_700_000_000_000,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        zstd_allowed: true,
        compacted: data[0] & 1 == 1,
        log_append_time: data[0] & 2 == 2,
    };
    let (validated, used) = memory::measure(|| validate_produce(&batch, &limits));
    assert!(
        used.peak <= 2 * MAX_DECOMPRESSED + DECOMPRESSOR,
        "validate: {used:?} for {} bytes",
        batch.len()
    );

    let mut records = 0;
    let (read, used) = memory::measure(|| {
        for_each_record(&batch, MAX_DECOMPRESSED, |_| {
            records += 1;
            ControlFlow::Continue(())
        })
    });
    assert!(
        used.peak <= 2 * MAX_DECOMPRESSED + DECOMPRESSOR,
        "read: {used:?} for {} bytes",
        batch.len()
    );

    if let Ok(valid) = validated {
        assert!(read.is_ok(), "accepted but not readable");
        assert_eq!(records, valid.header.record_count);
        recompressed(&batch, &valid, &limits, data[0] >> 2);
    }
});

fn recompressed(batch: &[u8], valid: &ValidBatch, limits: &ProduceLimits, choice: u8) {
    let codec = match choice % 5 {
        0 => Compression::None,
        1 => Compression::Gzip,
        2 => Compression::Snappy,
        3 => Compression::Lz4,
        _ => Compression::Zstd,
    };
    let encoding = Encoding::usual(codec);
    let (rebuilt, used) = memory::measure(|| recompress(batch, valid, encoding, MAX_BATCH));
    assert!(
        used.peak <= 3 * MAX_BATCH + DECOMPRESSOR,
        "recompress: {used:?} for {} bytes",
        batch.len()
    );
    match rebuilt {
        Ok((header, rebuilt)) => {
            assert!(crc_matches(&rebuilt));
            assert_eq!(header.compression(), Ok(codec));
            let again = validate_produce(&rebuilt, limits).expect("accepted as it came");
            assert_eq!(again.records_len, valid.records_len);
            assert_eq!(again.max_timestamp, valid.max_timestamp);
        }
        Err(error) => assert_eq!(error, RecordsError::RecompressedTooLarge { max: MAX_BATCH }),
    }
}

fn repaired(data: &[u8]) -> Vec<u8> {
    let mut batch = data.to_vec();
    let length = (batch.len() - LOG_OVERHEAD) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}
