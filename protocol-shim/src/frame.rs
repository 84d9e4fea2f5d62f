//! Cuts the byte stream of a connection into frames: four bytes of size, then as many bytes.
//!
//! Run by the connection's `Framed` reader, one [`FrameCodec`] each. It checks the size before anything is allocated
//! for it, with a limit that depends on the API key, and lets the read buffer grow with what really arrived: a client
//! that announces 100 MiB and sends 100 bytes holds no more than one that announces nothing. It keeps no bytes itself
//! and looks no further into a frame than its API key. What arrives beyond the first kibibytes of a frame has to be
//! granted: the codec says how much it wants and holds no more until then.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

use crate::header::MIN_LEN;

/// Bytes of a frame's size, before it.
pub const SIZE_LEN: usize = 4;
const API_KEY_LEN: usize = 2;
const MIB: usize = 1024 * 1024;

/// Room a read should find. `Framed` starts with 8 KiB; half of it keeps a slow connection at that.
const MIN_READ_AHEAD: usize = 4 * 1024;

/// From this size on a frame takes the read buffer with it. Otherwise the buffer would keep the capacity for as long
/// as the connection lives.
const OWN_BUFFER_SIZE: usize = 64 * 1024;

/// What may arrive of a frame before more is granted, in bytes; a frame that is no larger, its size included, never asks.
pub const FREE: usize = 16 * 1024;

const PRODUCE: i16 = 0;
const JOIN_GROUP: i16 = 11;
const SYNC_GROUP: i16 = 14;

/// Largest frames accepted, in bytes, without the four of the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Produce.
    pub produce: usize,
    /// JoinGroup and SyncGroup, which carry the metadata and assignments of a whole group.
    pub group: usize,
    /// All others, unknown ones included.
    pub other: usize,
}

impl FrameLimits {
    /// The usual limits, none above `request_max` (`socket.request.max.bytes`).
    pub fn new(request_max: usize) -> Self {
        Self {
            produce: request_max.min(100 * MIB),
            group: request_max.min(64 * MIB),
            other: request_max.min(8 * MIB),
        }
    }

    fn of(&self, api_key: i16) -> usize {
        match api_key {
            PRODUCE => self.produce,
            JOIN_GROUP | SYNC_GROUP => self.group,
            _ => self.other,
        }
    }

    fn largest(&self) -> usize {
        self.produce.max(self.group).max(self.other)
    }
}

/// Why the stream cannot be read on. The connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed or ended inside a frame.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The size is no size of a request, or above the limit for its kind.
    #[error("frame size {size} is not between 8 and {limit}")]
    Size {
        /// As it stood in the frame.
        size: i32,
        /// What would have been accepted.
        limit: usize,
    },
}

impl FrameError {
    /// A short label for metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            FrameError::Io(_) => "frame_io",
            FrameError::Size { .. } => "frame_size",
        }
    }
}

/// What comes out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A frame, without its four size bytes.
    Frame(Bytes),
    /// A frame of so many bytes is on its way, and no more of it is held until [`FrameCodec::grant`] says so. It is asked
    /// for as a whole: two that waited for the rest while they hold a part could wait for each other. Said again until then.
    Wants(usize),
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameCodec {
    limits: FrameLimits,
    granted: usize,
}

impl FrameCodec {
    /// A codec for one connection.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, granted: 0 }
    }

    /// Lets the codec hold `bytes` of the frame that is on its way, those that it holds already included.
    pub fn grant(&mut self, bytes: usize) {
        self.granted = bytes;
    }

    /// The size at the front of the buffer, if it is acceptable as far as can be told.
    fn size(&self, buffer: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some((size, rest)) = buffer.split_first_chunk::<SIZE_LEN>() else {
            return Ok(None);
        };
        let announced = i32::from_be_bytes(*size);
        let limit = match rest.first_chunk::<API_KEY_LEN>() {
            Some(api_key) => self.limits.of(i16::from_be_bytes(*api_key)),
            None => self.limits.largest(),
        };
        match usize::try_from(announced) {
            Ok(size) if size >= MIN_LEN && size <= limit => Ok(Some(size)),
            _ => Err(FrameError::Size {
                size: announced,
                limit,
            }),
        }
    }
}

impl Decoder for FrameCodec {
    type Item = Incoming;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        let Some(size) = self.size(buffer)? else {
            return Ok(None);
        };
        let end = SIZE_LEN + size;
        if buffer.len() < end {
            let allowed = self.granted.max(FREE);
            if buffer.len() < allowed {
                make_room(buffer, end.min(allowed) - buffer.len());
                return Ok(None);
            }
            return Ok(Some(Incoming::Wants(end)));
        }
        self.granted = 0;
        let mut frame = if size < OWN_BUFFER_SIZE {
            buffer.split_to(end)
        } else {
            let rest = &buffer[end..];
            let mut next = BytesMut::with_capacity(rest.len().max(MIN_READ_AHEAD));
            next.extend_from_slice(rest);
            let mut whole = std::mem::replace(buffer, next);
            whole.truncate(end);
            whole
        };
        frame.advance(SIZE_LEN);
        Ok(Some(Incoming::Frame(frame.freeze())))
    }
}

/// Lets the buffer grow once it is nearly full: with what arrived, and what was granted at once, so that it is not copied
/// again.
fn make_room(buffer: &mut BytesMut, missing: usize) {
    let room = buffer.capacity() - buffer.len();
    if room >= missing.min(MIN_READ_AHEAD) {
        return;
    }
    buffer.reserve(if buffer.len() >= FREE {
        missing
    } else {
        missing.min((3 * buffer.len()).max(MIN_READ_AHEAD))
    });
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    fn codec() -> FrameCodec {
        FrameCodec::new(FrameLimits::new(100 * MIB))
    }

    fn announce(size: i32, api_key: Option<i16>) -> BytesMut {
        let mut buffer = BytesMut::new();
        buffer.put_i32(size);
        if let Some(api_key) = api_key {
            buffer.put_i16(api_key);
        }
        buffer
    }

    fn request(api_key: i16, size: usize) -> BytesMut {
        let mut buffer = announce(size as i32, Some(api_key));
        buffer.put_bytes(7, size - API_KEY_LEN);
        buffer
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        for size in [0, 3, 7, -1, i32::MIN, i32::MAX, 100 * MIB as i32 + 1] {
            let refused = codec().decode(&mut announce(size, None));
            assert!(
                matches!(refused, Err(FrameError::Size { .. })),
                "{size}: {refused:?}"
            );
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        // "GET " and a TLS record header, read as sizes.
        assert!(
            codec()
                .decode(&mut BytesMut::from("GET / HTTP/1.1\r\n"))
                .is_err()
        );
        assert!(
            codec()
                .decode(&mut BytesMut::from(&[0x16, 3, 1, 2, 0, 1, 0][..]))
                .is_err()
        );
    }

    #[test]
    fn the_limit_depends_on_the_api_key_and_on_request_max() {
        let accepted = |limits: FrameLimits, size: usize, api_key: i16| {
            FrameCodec::new(limits)
                .decode(&mut announce(size as i32, Some(api_key)))
                .is_ok()
        };
        let limits = FrameLimits::new(100 * MIB);
        for (api_key, limit) in [
            (0, 100 * MIB),
            (11, 64 * MIB),
            (14, 64 * MIB),
            (3, 8 * MIB),
            (9999, 8 * MIB),
        ] {
            assert!(accepted(limits, limit, api_key), "{api_key}");
            assert!(!accepted(limits, limit + 1, api_key), "{api_key}");
        }
        assert!(accepted(FrameLimits::new(1000), 1000, 0));
        assert!(!accepted(FrameLimits::new(1000), 1001, 0));
        assert!(!accepted(FrameLimits::new(1000), 1001, 3));
        // Above 100 MiB the property changes nothing: the guard's limits are made for it.
        assert!(!accepted(FrameLimits::new(200 * MIB), 100 * MIB + 1, 0));
    }

    #[test]
    fn an_announced_size_allocates_nothing() {
        let mut buffer = BytesMut::with_capacity(8 * 1024);
        buffer.extend_from_slice(&announce(100 * MIB as i32, Some(0)));
        buffer.put_bytes(0, 94);
        let mut codec = codec();
        assert!(codec.decode(&mut buffer).unwrap().is_none());
        assert_eq!(buffer.capacity(), 8 * 1024);
    }

    #[test]
    fn the_buffer_grows_with_what_arrived_and_was_granted() {
        let size = 10 * MIB;
        let mut stream = request(0, size);
        let mut buffer = BytesMut::with_capacity(8 * 1024);
        let mut codec = codec();
        let mut wanted = Vec::new();
        let frame = loop {
            match codec.decode(&mut buffer).unwrap() {
                Some(Incoming::Frame(frame)) => break frame,
                Some(Incoming::Wants(bytes)) => {
                    let again = codec.decode(&mut buffer).unwrap();
                    assert_eq!(again, Some(Incoming::Wants(bytes)), "nothing is granted");
                    wanted.push((buffer.len(), bytes));
                    codec.grant(bytes);
                    continue;
                }
                None => {}
            }
            let granted = wanted.last().map_or(FREE, |(_, bytes)| *bytes);
            assert!(
                buffer.capacity() <= granted + FREE,
                "{} for {}",
                buffer.capacity(),
                buffer.len()
            );
            // As a socket does: no more than there is room for.
            let room = (buffer.capacity() - buffer.len()).clamp(1, stream.len());
            buffer.extend_from_slice(&stream.split_to(room));
        };
        assert_eq!(frame.len(), size);
        assert_eq!(wanted.len(), 1, "{wanted:?}");
        assert!(wanted[0].0 >= FREE && wanted[0].0 < 2 * FREE);
        assert_eq!(wanted[0].1, size + SIZE_LEN);
        assert!(
            buffer.capacity() < 64 * 1024,
            "the large buffer went with the frame"
        );
        assert_eq!(
            codec.decode(&mut request(0, MIB).split_to(FREE)).unwrap(),
            Some(Incoming::Wants(MIB + SIZE_LEN)),
            "what was granted ends with its frame"
        );
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_are_cut() {
        let seed = 0xf4a3e;
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let sizes: Vec<usize> = (0..random.usize(1..6))
                .map(|_| {
                    if random.u8(..20) == 0 {
                        random.usize(60_000..140_000)
                    } else {
                        random.usize(8..300)
                    }
                })
                .collect();
            let mut stream = BytesMut::new();
            for (index, size) in sizes.iter().enumerate() {
                stream.extend_from_slice(&request(index as i16, *size));
            }
            let (mut codec, mut buffer, mut frames) = (codec(), BytesMut::new(), Vec::new());
            while !stream.is_empty() {
                let most = if random.bool() { 1 } else { 40_000 };
                let piece = random.usize(1..=stream.len().min(most));
                buffer.extend_from_slice(&stream.split_to(piece));
                while let Some(incoming) = codec.decode(&mut buffer).unwrap() {
                    match incoming {
                        Incoming::Frame(frame) => frames.push(frame),
                        Incoming::Wants(bytes) => codec.grant(bytes),
                    }
                }
            }
            assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), sizes);
            for (index, frame) in frames.iter().enumerate() {
                assert_eq!(frame[..2], (index as i16).to_be_bytes());
                assert!(frame[2..].iter().all(|byte| *byte == 7));
            }
            assert!(codec.decode_eof(&mut buffer).unwrap().is_none());
        }
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let mut half = request(3, 20).split_to(15);
        assert!(matches!(
            codec().decode_eof(&mut half),
            Err(FrameError::Io(_))
        ));
    }
}
