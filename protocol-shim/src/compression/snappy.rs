//! Snappy, raw or in the framing of the Java library.
//!
//! Used by `compression` alone. Copies may reach back to the start of a block, so a block is decompressed at once, but
//! never before its tags were seen to add up to the length it announces.

use super::DecompressError::{Corrupt, TooLarge};
use super::{Chunk, DecompressError, END, take, take_word};

pub(super) const SNAPPY_DAMAGED: DecompressError = Corrupt("snappy block is damaged");

/// Snappy, either one raw block or the framing of the Java library (`SnappyInputStream`): a header, then blocks with
/// big-endian lengths. Streams may follow each other.
pub(super) struct Snappy<'a> {
    rest: &'a [u8],
    framed: bool,
    decoder: snap::raw::Decoder,
}

pub(super) const SNAPPY_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";

impl<'a> Snappy<'a> {
    pub(super) fn new(input: &'a [u8]) -> Result<Self, DecompressError> {
        if input.is_empty() {
            return Err(SNAPPY_DAMAGED);
        }
        Ok(Self {
            rest: input,
            framed: input.starts_with(SNAPPY_MAGIC),
            decoder: snap::raw::Decoder::new(),
        })
    }

    pub(super) fn next(
        &mut self,
        buffer: &mut Vec<u8>,
        room: usize,
    ) -> Result<Chunk<'a>, DecompressError> {
        while let Some(block) = self.next_block()? {
            let len = snappy_block_len(block).ok_or(SNAPPY_DAMAGED)?;
            if len > room {
                return Err(TooLarge);
            }
            grow(buffer, len);
            let written = self
                .decoder
                .decompress(block, &mut buffer[..len])
                .map_err(|_| SNAPPY_DAMAGED)?;
            if written != len {
                return Err(SNAPPY_DAMAGED);
            }
            if len > 0 {
                return Ok(Chunk::Buffer(0, len));
            }
        }
        Ok(END)
    }

    fn next_block(&mut self) -> Result<Option<&'a [u8]>, DecompressError> {
        if !self.framed {
            return Ok(Some(std::mem::take(&mut self.rest)).filter(|block| !block.is_empty()));
        }
        while let Some(after_magic) = self.rest.strip_prefix(SNAPPY_MAGIC) {
            let mut rest = after_magic;
            let _version = take_word(&mut rest)
                .map(u32::from_be_bytes)
                .ok_or(SNAPPY_DAMAGED)?;
            if take_word(&mut rest)
                .map(u32::from_be_bytes)
                .ok_or(SNAPPY_DAMAGED)?
                > 1
            {
                return Err(Corrupt("snappy framing needs a newer reader"));
            }
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let len = take_word(&mut self.rest)
            .map(u32::from_be_bytes)
            .ok_or(SNAPPY_DAMAGED)?;
        Ok(Some(
            take(&mut self.rest, len as usize).ok_or(SNAPPY_DAMAGED)?,
        ))
    }
}

/// The decompressed size of a raw Snappy block if its tags add up to what its length field says.
fn snappy_block_len(block: &[u8]) -> Option<usize> {
    let (mut announced, mut at) = (0u64, 0);
    loop {
        let byte = *block.get(at)?;
        announced |= u64::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at == 5 {
            return None;
        }
    }
    let mut produced = 0u64;
    while at < block.len() {
        let tag = block[at];
        let upper = usize::from(tag >> 2);
        let (len, skip) = match tag & 3 {
            0 if upper < 60 => (upper + 1, upper + 2),
            0 => {
                let width = upper - 59;
                let mut len = [0; 4];
                len[..width].copy_from_slice(block.get(at + 1..at + 1 + width)?);
                let len = u32::from_le_bytes(len) as usize + 1;
                (len, 1 + width + len)
            }
            1 => ((upper & 7) + 4, 2),
            2 => (upper + 1, 3),
            _ => (upper + 1, 5),
        };
        at += skip;
        produced += len as u64;
        if at > block.len() || produced > announced {
            return None;
        }
    }
    (produced == announced).then_some(produced as usize)
}

fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        // Exact, so that the capacity is not doubled.
        buffer.reserve_exact(len - buffer.len());
        buffer.resize(len, 0);
    }
}
