//! Compressing what the broker itself rewrites, with the codec the producer chose.
//!
//! Used by `records::filter`. It writes what Kafka's own clients write, because every client reads that: Snappy in the
//! framing of the Java library, LZ4 in frames of independent 64 KiB blocks (`KafkaLZ4BlockOutputStream`), gzip and
//! zstd at their usual levels. It never decides whether to compress.

use std::hash::Hasher;
use std::io::{self, Write};

use twox_hash::XxHash32;

use super::snappy::SNAPPY_MAGIC;
use crate::batch::Compression;

/// Block of `SnappyOutputStream`.
const SNAPPY_BLOCK: usize = 32 << 10;
/// Version and oldest compatible version of the framing.
const SNAPPY_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];

/// Magic, then version 1 with independent blocks, then the block size below.
const LZ4_HEAD: [u8; 6] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40];
const LZ4_BLOCK: usize = 64 << 10;
/// Marks a block that is stored as it is.
const LZ4_STORED: u32 = 0x8000_0000;

/// zstd's own default; its window stays below what readers here and elsewhere accept.
const ZSTD_LEVEL: i32 = 3;

/// `content`, compressed.
///
/// # Errors
/// A codec that has no memory to work with.
pub(crate) fn compress(compression: Compression, content: &[u8]) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(content.to_vec()),
        Compression::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(content)?;
            encoder.finish()
        }
        Compression::Snappy => snappy(content),
        Compression::Lz4 => Ok(lz4(content)),
        Compression::Zstd => zstd::stream::encode_all(content, ZSTD_LEVEL),
    }
}

fn snappy(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut framed = [SNAPPY_MAGIC.as_slice(), &SNAPPY_VERSIONS].concat();
    let mut encoder = snap::raw::Encoder::new();
    for block in content.chunks(SNAPPY_BLOCK) {
        let block = encoder.compress_vec(block).map_err(io::Error::from)?;
        framed.extend_from_slice(&length(&block).to_be_bytes());
        framed.extend_from_slice(&block);
    }
    Ok(framed)
}

fn lz4(content: &[u8]) -> Vec<u8> {
    let mut frame = LZ4_HEAD.to_vec();
    let mut checksum = XxHash32::with_seed(0);
    checksum.write(&LZ4_HEAD[4..]);
    frame.push((checksum.finish() >> 8) as u8);
    for block in content.chunks(LZ4_BLOCK) {
        let compressed = lz4_flex::block::compress(block);
        if compressed.len() < block.len() {
            frame.extend_from_slice(&length(&compressed).to_le_bytes());
            frame.extend_from_slice(&compressed);
        } else {
            frame.extend_from_slice(&(length(block) | LZ4_STORED).to_le_bytes());
            frame.extend_from_slice(block);
        }
    }
    // The end mark; there is no checksum of the content.
    frame.extend_from_slice(&[0; 4]);
    frame
}

/// The length of a block, which is below 2^17.
fn length(block: &[u8]) -> u32 {
    block.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::tests::{content, read_all};

    const CODECS: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    #[test]
    fn what_is_compressed_reads_back() {
        let seed = 0xc0dec;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for round in 0..200 {
            let content = content(&mut rng, if round % 20 == 0 { 400_000 } else { 3_000 });
            for codec in CODECS {
                let compressed = compress(codec, &content).expect("compresses");
                let read = read_all(codec, &compressed, content.len());
                assert_eq!(read.as_deref(), Ok(content.as_slice()), "{codec:?}");
            }
        }
    }

    #[test]
    fn the_java_clients_framing_is_written() {
        let content = vec![7; 100_000];
        let lz4 = compress(Compression::Lz4, &content).expect("compresses");
        assert_eq!(lz4, crate::compression::tests::lz4_java(&content));
        let snappy = compress(Compression::Snappy, &content).expect("compresses");
        let framed = crate::compression::tests::snappy_framed(&content, SNAPPY_BLOCK);
        assert_eq!(snappy, framed);
    }

    #[test]
    fn repetition_is_compressed_away() {
        let content = b"some record ".repeat(10_000);
        for codec in &CODECS[1..] {
            let compressed = compress(*codec, &content).expect("compresses");
            assert!(compressed.len() < content.len() / 5, "{codec:?}");
        }
    }
}
