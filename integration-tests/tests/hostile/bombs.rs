//! Rows P42 and P43: small batches that decompress to very much.
//!
//! Of P43 the nested bomb of the greatest ratio has no form here: a batch of magic 2 holds records, never batches, and
//! only one codec is applied, once. What nests inside a record's value is the consumer's to unpack. Older magics, whose
//! messages hold compressed sets of messages, are refused before anything is decompressed (P5, P6).

use std::io::{Read, Write};

use crate::batch::{Batch, GZIP, LZ4, Record, ZSTD};
use crate::wire::Wire;

/// What the bombs decompress to.
pub const BOMB_BYTES: usize = 900 << 20;
/// Records of the bombs of many records.
const RECORDS: usize = 100_000;

/// A batch that decompresses to about `BOMB_BYTES`.
pub struct Bomb {
    pub what: &'static str,
    pub batch: Vec<u8>,
    /// Memory that its codec may need at a time: window or block.
    pub codec_bytes: u64,
}

/// One of each codec that can bomb, of one record and of many. Snappy's ratio is at most 22.
pub fn all(timestamp: i64) -> Vec<Bomb> {
    let bomb = |what, codec: i16, record_count: i32, records: Vec<u8>, codec_bytes| {
        let batch = Batch::of(record_count, records, timestamp).with(|batch| {
            batch.attributes = codec;
        });
        Bomb {
            what,
            batch: batch.build(),
            codec_bytes,
        }
    };
    let many = RECORDS as i32;
    vec![
        bomb("zstd, one record", ZSTD, 1, zstd(one_record(), 21), 2 << 20),
        bomb("gzip, one record", GZIP, 1, gzip(one_record()), 64 << 10),
        bomb("lz4, one record", LZ4, 1, lz4(one_record()), 4 << 20),
        bomb(
            "zstd, many records",
            ZSTD,
            many,
            zstd(many_records(), 23),
            8 << 20,
        ),
        bomb(
            "gzip, many records",
            GZIP,
            many,
            gzip(many_records()),
            64 << 10,
        ),
        bomb("lz4, many records", LZ4, many, lz4(many_records()), 4 << 20),
    ]
}

/// One record with a value of zeros.
fn one_record() -> impl Read {
    record(0, BOMB_BYTES)
}

fn many_records() -> impl Read {
    let mut next = 0;
    let mut current: Box<dyn Read> = Box::new(std::io::empty());
    ReadFn(move |buffer: &mut [u8]| {
        loop {
            let count = current.read(buffer)?;
            if count > 0 || next == RECORDS {
                return Ok(count);
            }
            current = Box::new(record(next as i64, BOMB_BYTES / RECORDS));
            next += 1;
        }
    })
}

fn record(offset_delta: i64, value_bytes: usize) -> impl Read {
    let value = value_bytes as i64;
    let prelude = Record::prelude(0, offset_delta, value);
    // Behind the value: no headers.
    let length = prelude.len() as i64 + value + 1;
    let start = Wire::new().varint(length).raw(&prelude).0;
    std::io::Cursor::new(start)
        .chain(std::io::repeat(0).take(value_bytes as u64))
        .chain(std::io::Cursor::new([0]))
}

struct ReadFn<F>(F);

impl<F: FnMut(&mut [u8]) -> std::io::Result<usize>> Read for ReadFn<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (self.0)(buffer)
    }
}

const TAKES_IT: &str = "memory takes it";

fn pour(mut from: impl Read, into: &mut impl Write) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer).expect("memory reads") {
            0 => return,
            count => into.write_all(&buffer[..count]).expect(TAKES_IT),
        }
    }
}

fn zstd(from: impl Read, window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("a codec");
    encoder.window_log(window_log).expect("a parameter");
    pour(from, &mut encoder);
    encoder.finish().expect(TAKES_IT)
}

fn gzip(from: impl Read) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    pour(from, &mut encoder);
    encoder.finish().expect(TAKES_IT)
}

fn lz4(from: impl Read) -> Vec<u8> {
    let mut info = lz4_flex::frame::FrameInfo::new();
    info.block_size = lz4_flex::frame::BlockSize::Max4MB;
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    pour(from, &mut encoder);
    encoder.finish().expect(TAKES_IT)
}
