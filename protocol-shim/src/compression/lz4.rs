//! LZ4 frames, block by block and each block in steps.
//!
//! Used by `compression` alone. Whatever block size a frame announces, it holds the last 64 KiB and what a step adds.

use std::hash::Hasher;

use twox_hash::XxHash32;

use super::DecompressError::{Corrupt, TooLarge};
use super::{CHUNK, Chunk, DecompressError, END, take, take_word};

pub(super) const LZ4_DAMAGED: DecompressError = Corrupt("lz4 frame is damaged");

/// An LZ4 frame as Kafka's own reader takes it (`KafkaLZ4BlockInputStream`): version 1, independent blocks, no
/// dictionary, header checksum right. One frame; unlike that reader, content size and checksum are verified too,
/// because other clients' readers do.
pub(super) struct Lz4<'a> {
    rest: &'a [u8],
    block: Lz4Block<'a>,
    block_max: usize,
    block_checksums: bool,
    content_checksum: Option<XxHash32>,
    content_size: Option<u64>,
    produced: u64,
}

impl<'a> Lz4<'a> {
    pub(super) fn new(input: &'a [u8]) -> Result<Self, DecompressError> {
        let mut rest = input
            .strip_prefix(&0x184d_2204u32.to_le_bytes())
            .ok_or(Corrupt("no lz4 frame"))?;
        let descriptor = rest;
        let flags = take(&mut rest, 2).ok_or(LZ4_DAMAGED)?;
        let (flg, bd) = (flags[0], flags[1]);
        if flg >> 6 != 1 || flg & 0b11 != 0 || bd & 0x8f != 0 {
            return Err(Corrupt("lz4 frame has an unsupported feature"));
        }
        if flg & 0x20 == 0 {
            return Err(Corrupt("lz4 frame has dependent blocks"));
        }
        let block_max = match bd >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return Err(Corrupt("lz4 frame has an unknown block size")),
        };
        let content_size = if flg & 0x08 != 0 {
            let size = take(&mut rest, 8)
                .and_then(|bytes| bytes.first_chunk().copied())
                .ok_or(LZ4_DAMAGED)?;
            Some(u64::from_le_bytes(size))
        } else {
            None
        };
        let hashed = &descriptor[..descriptor.len() - rest.len()];
        let check = take(&mut rest, 1).ok_or(LZ4_DAMAGED)?[0];
        if check != (XxHash32::oneshot(0, hashed) >> 8) as u8 {
            return Err(Corrupt("lz4 frame header checksum does not match"));
        }
        Ok(Self {
            rest,
            block: Lz4Block::new(&[]),
            block_max,
            block_checksums: flg & 0x10 != 0,
            content_checksum: (flg & 0x04 != 0).then(|| XxHash32::with_seed(0)),
            content_size,
            produced: 0,
        })
    }

    pub(super) fn next(
        &mut self,
        buffer: &mut Vec<u8>,
        room: usize,
    ) -> Result<Chunk<'a>, DecompressError> {
        loop {
            if self.block.step == Lz4Step::End {
                let head = take_le(&mut self.rest).ok_or(LZ4_DAMAGED)?;
                if head == 0 {
                    return self.end();
                }
                let size = (head & 0x7fff_ffff) as usize;
                if size > self.block_max {
                    return Err(LZ4_DAMAGED);
                }
                let block = take(&mut self.rest, size).ok_or(LZ4_DAMAGED)?;
                if self.block_checksums
                    && take_le(&mut self.rest) != Some(XxHash32::oneshot(0, block))
                {
                    return Err(Corrupt("lz4 block checksum does not match"));
                }
                if head & 0x8000_0000 == 0 {
                    buffer.clear();
                    self.block = Lz4Block::new(block);
                } else if size > room {
                    return Err(TooLarge);
                } else if size > 0 {
                    self.count(block);
                    return Ok(Chunk::Input(block));
                } else {
                    continue;
                }
            }
            if buffer.len() > 2 * LZ4_WINDOW {
                buffer.drain(..buffer.len() - LZ4_WINDOW);
            }
            let from = buffer.len();
            self.block
                .decompress(buffer, CHUNK.min(room.saturating_add(1)))
                .ok_or(LZ4_DAMAGED)?;
            let len = buffer.len() - from;
            if self.block.produced > self.block_max {
                return Err(LZ4_DAMAGED);
            }
            if len > room {
                return Err(TooLarge);
            }
            if len > 0 {
                self.count(&buffer[from..]);
                return Ok(Chunk::Buffer(from, buffer.len()));
            }
        }
    }

    fn count(&mut self, content: &[u8]) {
        self.produced += content.len() as u64;
        if let Some(hash) = &mut self.content_checksum {
            hash.write(content);
        }
    }

    fn end(&mut self) -> Result<Chunk<'a>, DecompressError> {
        if let Some(hash) = self.content_checksum.take()
            && take_le(&mut self.rest) != Some(hash.finish_32())
        {
            return Err(Corrupt("lz4 content checksum does not match"));
        }
        if self.content_size.is_some_and(|size| size != self.produced) {
            return Err(Corrupt("lz4 content size does not match"));
        }
        if !self.rest.is_empty() {
            return Err(Corrupt("bytes after the lz4 frame"));
        }
        Ok(END)
    }
}

/// How far back a match may reach.
const LZ4_WINDOW: usize = 64 << 10;

/// One compressed block, in steps. A crate's block decoder wants the whole output at once, up to 4 MiB for 16 KiB of
/// input; this one stops after any number of bytes and goes on from there.
pub(super) struct Lz4Block<'a> {
    rest: &'a [u8],
    pub(super) step: Lz4Step,
    produced: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lz4Step {
    Token,
    Literals { left: usize, match_nibble: u8 },
    Match { left: usize, offset: usize },
    End,
}

impl<'a> Lz4Block<'a> {
    pub(super) fn new(block: &'a [u8]) -> Self {
        let step = if block.is_empty() {
            Lz4Step::End
        } else {
            Lz4Step::Token
        };
        Self {
            rest: block,
            step,
            produced: 0,
        }
    }

    /// Appends at most `max` bytes; fewer only at the block's end. `None` if the block is damaged.
    pub(super) fn decompress(&mut self, out: &mut Vec<u8>, max: usize) -> Option<()> {
        let full = out.len() + max;
        while self.step != Lz4Step::End && out.len() < full {
            self.step = match self.step {
                Lz4Step::Token => {
                    let token = take(&mut self.rest, 1)?[0];
                    Lz4Step::Literals {
                        left: self.length(token >> 4)?,
                        match_nibble: token & 15,
                    }
                }
                Lz4Step::Literals { left, match_nibble } => {
                    let count = left.min(full - out.len());
                    out.extend_from_slice(take(&mut self.rest, count)?);
                    self.produced += count;
                    if count < left {
                        Lz4Step::Literals {
                            left: left - count,
                            match_nibble,
                        }
                    } else if self.rest.is_empty() {
                        Lz4Step::End
                    } else {
                        let offset = take(&mut self.rest, 2)?;
                        let offset = usize::from(u16::from_le_bytes([offset[0], offset[1]]));
                        if offset == 0 || offset > self.produced {
                            return None;
                        }
                        Lz4Step::Match {
                            left: 4 + self.length(match_nibble)?,
                            offset,
                        }
                    }
                }
                Lz4Step::Match { left, offset } => {
                    let count = left.min(full - out.len());
                    repeat(out, offset, count);
                    self.produced += count;
                    if count < left {
                        Lz4Step::Match {
                            left: left - count,
                            offset,
                        }
                    } else {
                        Lz4Step::Token
                    }
                }
                Lz4Step::End => Lz4Step::End,
            };
        }
        Some(())
    }

    fn length(&mut self, nibble: u8) -> Option<usize> {
        let mut length = usize::from(nibble);
        if nibble == 15 {
            loop {
                let more = take(&mut self.rest, 1)?[0];
                length += usize::from(more);
                if more != 255 {
                    break;
                }
            }
        }
        Some(length)
    }
}

/// Appends `count` bytes, each equal to the one `offset` before it.
fn repeat(out: &mut Vec<u8>, offset: usize, count: usize) {
    let start = out.len() - offset;
    let mut left = count;
    while left > 0 {
        // What is there from `start` on is whole periods, so it can be taken again and doubles each time.
        let step = left.min(out.len() - start);
        out.extend_from_within(start..start + step);
        left -= step;
    }
}

fn take_le(rest: &mut &[u8]) -> Option<u32> {
    take_word(rest).map(u32::from_le_bytes)
}
