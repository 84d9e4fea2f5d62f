//! Compressing what the broker itself rewrites: what compaction leaves of a batch, and a batch whose topic wants
//! another codec.
//!
//! Used by `records::filter` and `records::recompress`. It writes what Kafka's own clients write, because every client
//! reads that: Snappy in the framing of the Java library, LZ4 in frames of independent 64 KiB blocks
//! (`KafkaLZ4BlockOutputStream`), gzip and zstd as they are. It never decides whether to compress.
//! Invariant: what is written never exceeds `most` bytes, and beside it only the codec's state is held.

use std::hash::Hasher;
use std::io::{self, Write};

use flate2::write::GzEncoder;
use lz4::block::CompressionMode;
use twox_hash::XxHash32;

use super::ZSTD_WINDOW_LOG_MAX;
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
/// The default of `compression.lz4.level`, at which Kafka takes the fast compressor instead of the thorough one
/// (`Lz4BlockOutputStream`).
const LZ4_FAST: i32 = 9;

/// gzip's own level, by Kafka's name for it.
const GZIP_USUAL: i32 = -1;
/// zstd's own level.
const ZSTD_USUAL: i32 = 3;
/// Levels above want a larger window than readers here and elsewhere accept.
const ZSTD_LEVEL_OF_LARGEST_WINDOW: i32 = 19;

/// A codec with its level, by the bounds of `compression.gzip.level` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not compressed.
    Uncompressed,
    /// gzip; -1 is the library's own level.
    Gzip {
        /// -1, or 1 to 9.
        level: i32,
    },
    /// Snappy, which has no levels.
    Snappy,
    /// LZ4; 9 is the fast compressor, any other level the thorough one, which knows no difference above 12.
    Lz4 {
        /// 1 to 17.
        level: i32,
    },
    /// Zstandard, with a window of at most 8 MiB at any level.
    Zstd {
        /// -131072 to 22; 0 is the library's own level.
        level: i32,
    },
}

impl Encoding {
    /// The codec at the level that Kafka uses where nothing says otherwise.
    pub fn usual(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Uncompressed,
            Compression::Gzip => Self::Gzip { level: GZIP_USUAL },
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4 { level: LZ4_FAST },
            Compression::Zstd => Self::Zstd { level: ZSTD_USUAL },
        }
    }

    /// The codec without its level.
    pub fn compression(self) -> Compression {
        match self {
            Self::Uncompressed => Compression::None,
            Self::Gzip { .. } => Compression::Gzip,
            Self::Snappy => Compression::Snappy,
            Self::Lz4 { .. } => Compression::Lz4,
            Self::Zstd { .. } => Compression::Zstd,
        }
    }
}

/// `content`, compressed.
///
/// # Errors
/// A codec that has no memory to work with.
pub(crate) fn compress(encoding: Encoding, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(encoding, content.len(), usize::MAX)?;
    encoder.write_all(content)?;
    encoder.finish()
}

/// Compresses what is written to it.
pub(crate) struct Encoder {
    form: Form,
}

enum Form {
    Plain(Bounded),
    Gzip(GzEncoder<Bounded>),
    Blocks(Blocks),
    Zstd(zstd::stream::write::Encoder<'static, Bounded>),
}

impl Encoder {
    /// For exactly `content_len` bytes that become at most `most`.
    ///
    /// # Errors
    /// A codec that has no memory to work with. Writing and finishing fail with [`io::ErrorKind::FileTooLarge`] as soon
    /// as the result would exceed `most`.
    pub(crate) fn new(encoding: Encoding, content_len: usize, most: usize) -> io::Result<Self> {
        let out = Bounded {
            bytes: Vec::new(),
            most,
        };
        let form = match encoding {
            Encoding::Uncompressed => Form::Plain(out),
            Encoding::Gzip { level } => {
                let level = u32::try_from(level).map_or_else(
                    |_| flate2::Compression::default(),
                    |level| flate2::Compression::new(level.min(9)),
                );
                Form::Gzip(GzEncoder::new(out, level))
            }
            Encoding::Snappy => {
                let codec = BlockCodec::Snappy(Box::new(snap::raw::Encoder::new()));
                Form::Blocks(Blocks::new(codec, out)?)
            }
            Encoding::Lz4 { level } => Form::Blocks(Blocks::new(BlockCodec::Lz4 { level }, out)?),
            Encoding::Zstd { level } => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                if level > ZSTD_LEVEL_OF_LARGEST_WINDOW {
                    encoder.window_log(ZSTD_WINDOW_LOG_MAX)?;
                }
                // Its tables then are no larger than the content needs.
                encoder.set_pledged_src_size(Some(content_len as u64))?;
                Form::Zstd(encoder)
            }
        };
        Ok(Self { form })
    }

    /// All that was written, compressed.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        let out = match self.form {
            Form::Plain(out) => out,
            Form::Gzip(encoder) => encoder.finish()?,
            Form::Blocks(blocks) => blocks.finish()?,
            Form::Zstd(encoder) => encoder.finish()?,
        };
        Ok(out.bytes)
    }
}

impl Write for Encoder {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Plain(out) => out.write(content),
            Form::Gzip(encoder) => encoder.write(content),
            Form::Blocks(blocks) => blocks.write(content),
            Form::Zstd(encoder) => encoder.write(content),
        }
    }

    /// Does nothing: there is no reader before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The codecs that compress block by block.
enum BlockCodec {
    /// Boxed, because it holds its table of 2 KiB.
    Snappy(Box<snap::raw::Encoder>),
    Lz4 {
        level: i32,
    },
}

/// Content that waits until a block is full.
struct Blocks {
    codec: BlockCodec,
    block: Vec<u8>,
    out: Bounded,
}

impl Blocks {
    fn new(codec: BlockCodec, mut out: Bounded) -> io::Result<Self> {
        match codec {
            BlockCodec::Snappy(_) => {
                out.write_all(SNAPPY_MAGIC)?;
                out.write_all(&SNAPPY_VERSIONS)?;
            }
            BlockCodec::Lz4 { .. } => {
                let mut checksum = XxHash32::with_seed(0);
                checksum.write(&LZ4_HEAD[4..]);
                out.write_all(&LZ4_HEAD)?;
                out.write_all(&[(checksum.finish() >> 8) as u8])?;
            }
        }
        Ok(Self {
            codec,
            block: Vec::new(),
            out,
        })
    }

    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let full = match self.codec {
            BlockCodec::Snappy(_) => SNAPPY_BLOCK,
            BlockCodec::Lz4 { .. } => LZ4_BLOCK,
        };
        let taken = content.len().min(full - self.block.len());
        self.block.extend_from_slice(&content[..taken]);
        if self.block.len() == full {
            self.end_block()?;
        }
        Ok(taken)
    }

    fn end_block(&mut self) -> io::Result<()> {
        match &mut self.codec {
            BlockCodec::Snappy(encoder) => {
                let compressed = encoder.compress_vec(&self.block).map_err(io::Error::from)?;
                self.out.write_all(&length(&compressed).to_be_bytes())?;
                self.out.write_all(&compressed)?;
            }
            BlockCodec::Lz4 { level } => {
                let compressed = lz4_block(*level, &self.block)?;
                if compressed.len() < self.block.len() {
                    self.out.write_all(&length(&compressed).to_le_bytes())?;
                    self.out.write_all(&compressed)?;
                } else {
                    let stored = length(&self.block) | LZ4_STORED;
                    self.out.write_all(&stored.to_le_bytes())?;
                    self.out.write_all(&self.block)?;
                }
            }
        }
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<Bounded> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        if let BlockCodec::Lz4 { .. } = self.codec {
            // The end mark; there is no checksum of the content.
            self.out.write_all(&[0; 4])?;
        }
        Ok(self.out)
    }
}

fn lz4_block(level: i32, block: &[u8]) -> io::Result<Vec<u8>> {
    if level == LZ4_FAST {
        Ok(lz4_flex::block::compress(block))
    } else {
        let thorough = CompressionMode::HIGHCOMPRESSION(level);
        lz4::block::compress(block, Some(thorough), false)
    }
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
                let compressed = compress(Encoding::usual(codec), &content).expect("compresses");
                let read = read_all(codec, &compressed, content.len());
                assert_eq!(read.as_deref(), Ok(content.as_slice()), "{codec:?}");
            }
        }
    }

    #[test]
    fn the_java_clients_framing_is_written() {
        let content = vec![7; 100_000];
        let lz4 = compress(Encoding::usual(Compression::Lz4), &content).expect("compresses");
        assert_eq!(lz4, crate::compression::tests::lz4_java(&content));
        let snappy = compress(Encoding::Snappy, &content).expect("compresses");
        let framed = crate::compression::tests::snappy_framed(&content, SNAPPY_BLOCK);
        assert_eq!(snappy, framed);
    }

    #[test]
    fn repetition_is_compressed_away() {
        let content = b"some record ".repeat(10_000);
        for codec in &CODECS[1..] {
            let compressed = compress(Encoding::usual(*codec), &content).expect("compresses");
            assert!(compressed.len() < content.len() / 5, "{codec:?}");
        }
    }

    /// Levels at the bounds of their configs, and some between.
    const LEVELS: [Encoding; 15] = [
        Encoding::Gzip { level: -1 },
        Encoding::Gzip { level: 1 },
        Encoding::Gzip { level: 9 },
        Encoding::Lz4 { level: 1 },
        Encoding::Lz4 { level: 8 },
        Encoding::Lz4 { level: 9 },
        Encoding::Lz4 { level: 12 },
        Encoding::Lz4 { level: 17 },
        Encoding::Zstd { level: -131_072 },
        Encoding::Zstd { level: -1 },
        Encoding::Zstd { level: 0 },
        Encoding::Zstd { level: 1 },
        Encoding::Zstd { level: 19 },
        Encoding::Zstd { level: 20 },
        Encoding::Zstd { level: 22 },
    ];

    #[test]
    fn every_level_reads_back() {
        let seed = 0x1e7e1;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for round in 0..30 {
            let content = content(&mut rng, if round % 10 == 0 { 400_000 } else { 3_000 });
            for encoding in LEVELS {
                let compressed = compress(encoding, &content).expect("compresses");
                let read = read_all(encoding.compression(), &compressed, content.len());
                assert_eq!(read.as_deref(), Ok(content.as_slice()), "{encoding:?}");
            }
        }
    }

    #[test]
    fn a_window_never_exceeds_what_readers_accept() {
        // Larger than that window, or level 22 would not ask for more.
        let content: Vec<u8> = (0..(9u32 << 20) / 4).flat_map(u32::to_le_bytes).collect();
        for level in [19, 22] {
            let compressed = compress(Encoding::Zstd { level }, &content).expect("compresses");
            let read = read_all(Compression::Zstd, &compressed, content.len());
            assert!(read.is_ok_and(|read| read == content), "{level}");
        }
    }

    #[test]
    fn a_higher_level_compresses_better() {
        let words = ["offset ", "epoch ", "leader ", "replica ", "batch "];
        let mut rng = fastrand::Rng::with_seed(7);
        let content: Vec<u8> = (0..40_000)
            .flat_map(|_| words[rng.usize(0..words.len())].bytes())
            .collect();
        let len = |encoding| compress(encoding, &content).expect("compresses").len();
        for (low, high) in [
            (Encoding::Gzip { level: 1 }, Encoding::Gzip { level: 9 }),
            (Encoding::Lz4 { level: 9 }, Encoding::Lz4 { level: 12 }),
            (Encoding::Zstd { level: -50 }, Encoding::Zstd { level: 19 }),
        ] {
            assert!(len(low) > len(high), "{low:?} {high:?}");
        }
    }

    #[test]
    fn no_more_is_written_than_allowed() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let content = content(&mut rng, 150_000);
            for codec in CODECS {
                let encoding = Encoding::usual(codec);
                let whole = compress(encoding, &content).expect("compresses");
                let within = |most: usize| {
                    let mut encoder = Encoder::new(encoding, content.len(), most)?;
                    encoder.write_all(&content)?;
                    encoder.finish()
                };
                let exactly = within(whole.len()).expect("fits");
                assert_eq!(exactly, whole, "seed {seed} {codec:?}");
                if !whole.is_empty() {
                    let error = within(rng.usize(0..whole.len())).expect_err("does not fit");
                    assert_eq!(
                        error.kind(),
                        io::ErrorKind::FileTooLarge,
                        "seed {seed} {codec:?}"
                    );
                }
            }
        }
    }
}
