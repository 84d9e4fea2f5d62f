//! Compressed record bytes as a stream of chunks, bounded in memory and output.
//!
//! Used by `records` alone. It never trusts a length field of the compressed bytes: gzip, zstd and LZ4 write into one
//! small buffer (zstd keeps a window of at most 8 MiB, touched as data arrives); a Snappy block, which has no window,
//! is first measured by walking its tags, and only one that is whole and within the limit gets a buffer of its size.
//! Invariant: the chunks together never exceed `limit` bytes, and memory follows bytes really there: at most 384 KiB
//! and the codec's state, for Snappy at most 22 times the block.

pub(crate) mod encode;
mod lz4;
mod snappy;

use std::io::Read;

use flate2::bufread::GzDecoder;

use crate::batch::Compression;
use lz4::Lz4;
use snappy::Snappy;

/// How much of gzip, zstd and LZ4 is decompressed at once.
const CHUNK: usize = 64 * 1024;
/// The largest zstd window, 2^23: what levels up to 19 use.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Why a stream ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecompressError {
    /// Not what the codec writes.
    Corrupt(&'static str),
    /// More output than the limit.
    TooLarge,
}

use DecompressError::{Corrupt, TooLarge};

/// The bytes of the records of one batch, piece by piece.
pub(crate) struct Stream<'a> {
    source: Source<'a>,
    buffer: Vec<u8>,
    chunk: Chunk<'a>,
    /// Bytes of the chunk already consumed.
    read: usize,
    /// Bytes of all chunks so far, the current one included.
    produced: usize,
    limit: usize,
}

/// Where the current chunk is: in the input, or from here to there in the buffer.
#[derive(Clone, Copy)]
enum Chunk<'a> {
    Input(&'a [u8]),
    Buffer(usize, usize),
}

const END: Chunk<'static> = Chunk::Buffer(0, 0);

enum Source<'a> {
    Ended,
    Gzip(Gzip<'a>),
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
    Snappy(Snappy<'a>),
    Lz4(Lz4<'a>),
}

impl<'a> Stream<'a> {
    /// Opens `input`. `limit` bounds decompressed bytes; uncompressed ones are there already.
    pub(crate) fn new(
        compression: Compression,
        input: &'a [u8],
        limit: usize,
    ) -> Result<Self, DecompressError> {
        let mut stream = Self {
            source: Source::Ended,
            buffer: Vec::new(),
            chunk: END,
            read: 0,
            produced: 0,
            limit,
        };
        match compression {
            Compression::None => {
                stream.chunk = Chunk::Input(input);
                stream.produced = input.len();
                stream.limit = input.len();
            }
            Compression::Gzip => {
                stream.source = Source::Gzip(Gzip {
                    decoder: GzDecoder::new(input),
                    members: 1,
                })
            }
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(input).map_err(|_| ZSTD_DAMAGED)?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG_MAX)
                    .map_err(|_| ZSTD_DAMAGED)?;
                stream.source = Source::Zstd(decoder);
            }
            Compression::Snappy => stream.source = Source::Snappy(Snappy::new(input)?),
            Compression::Lz4 => stream.source = Source::Lz4(Lz4::new(input)?),
        }
        Ok(stream)
    }

    /// Unread bytes of the current chunk, or of the next if it is used up; empty only at the end.
    pub(crate) fn peek(&mut self) -> Result<&[u8], DecompressError> {
        if self.unread().is_empty() {
            self.refill()?;
        }
        Ok(self.unread())
    }

    /// Marks bytes of `peek` as read.
    pub(crate) fn consume(&mut self, count: usize) {
        self.read += count;
    }

    /// The unread bytes of the current chunk, without going to the next.
    pub(crate) fn unread(&self) -> &[u8] {
        let chunk = match self.chunk {
            Chunk::Input(bytes) => bytes,
            Chunk::Buffer(from, to) => &self.buffer[from..to],
        };
        &chunk[self.read..]
    }

    /// At most so many bytes can still be read before the limit.
    pub(crate) fn remaining_limit(&self) -> usize {
        self.limit - self.produced + self.unread().len()
    }

    /// Bytes of all chunks so far; without compression, of the whole input.
    pub(crate) fn produced(&self) -> usize {
        self.produced
    }

    fn refill(&mut self) -> Result<(), DecompressError> {
        let room = self.limit - self.produced;
        let next = match &mut self.source {
            Source::Ended => END,
            Source::Gzip(decoder) => read_some(decoder, &mut self.buffer, room, GZIP_DAMAGED)?,
            Source::Zstd(decoder) => read_some(decoder, &mut self.buffer, room, ZSTD_DAMAGED)?,
            Source::Snappy(snappy) => snappy.next(&mut self.buffer, room)?,
            Source::Lz4(lz4) => lz4.next(&mut self.buffer, room)?,
        };
        let len = match next {
            Chunk::Input(bytes) => bytes.len(),
            Chunk::Buffer(from, to) => to - from,
        };
        if len == 0 {
            self.source = Source::Ended;
        }
        (self.chunk, self.read) = (next, 0);
        self.produced += len;
        Ok(())
    }
}

const GZIP_DAMAGED: DecompressError = Corrupt("gzip stream is damaged");
const ZSTD_DAMAGED: DecompressError =
    Corrupt("zstd stream is damaged or its window is above 8 MiB");

fn read_some<'a>(
    decoder: &mut impl Read,
    buffer: &mut Vec<u8>,
    room: usize,
    damaged: DecompressError,
) -> Result<Chunk<'a>, DecompressError> {
    // One byte above the limit tells "too large" from "just fits".
    buffer.resize(CHUNK.min(room.saturating_add(1)).max(buffer.len()), 0);
    let wanted = buffer.len().min(room.saturating_add(1));
    let len = decoder.read(&mut buffer[..wanted]).map_err(|_| damaged)?;
    if len > room {
        Err(TooLarge)
    } else {
        Ok(Chunk::Buffer(0, len))
    }
}

/// More members than any producer writes; each costs a new decoder.
const GZIP_MEMBERS_MAX: u32 = 1_000;

/// Gzip members one after the other, as Java's `GZIPInputStream` reads them.
struct Gzip<'a> {
    decoder: GzDecoder<&'a [u8]>,
    members: u32,
}

impl Read for Gzip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let len = self.decoder.read(buffer)?;
            let rest = *self.decoder.get_ref();
            if len > 0 || rest.is_empty() {
                return Ok(len);
            }
            self.members += 1;
            if self.members > GZIP_MEMBERS_MAX {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            self.decoder = GzDecoder::new(rest);
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn take_word(rest: &mut &[u8]) -> Option<[u8; 4]> {
    take(rest, 4)?.first_chunk().copied()
}

#[cfg(test)]
#[path = "compression_tests.rs"]
pub(crate) mod tests;
