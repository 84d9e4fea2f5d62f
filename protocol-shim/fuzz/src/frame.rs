//! The frame codec, fed as a socket would: in pieces no larger than the room in the read buffer.
//!
//! The first byte of the input sets the size of the pieces, the rest is the stream. Claims: nothing panics; memory stays
//! within four times what arrived, whatever sizes are announced; frames are the bytes of the stream, in order.

#![no_main]

mod memory;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ottla_protocol::frame::{FrameCodec, FrameLimits, Incoming};
use tokio_util::codec::Decoder;

const READ_BUFFER: usize = 8 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some((piece, stream)) = data.split_first() else {
        return;
    };
    let (granted, used) = memory::measure(|| read(stream, usize::from(*piece) * 64 + 1));
    assert!(
        used.peak <= 4 * stream.len() + 2 * READ_BUFFER + granted,
        "{used:?} for {} bytes",
        stream.len()
    );
});

/// The largest number of bytes that was granted.
fn read(stream: &[u8], piece: usize) -> usize {
    let mut codec = FrameCodec::new(FrameLimits::new(100 * 1024 * 1024));
    let mut buffer = BytesMut::with_capacity(READ_BUFFER);
    let mut unsent = stream;
    let mut checked = 0;
    let mut granted = 0;
    while !unsent.is_empty() {
        buffer.reserve(1);
        let room = (buffer.capacity() - buffer.len())
            .min(piece)
            .min(unsent.len());
        buffer.extend_from_slice(&unsent[..room]);
        unsent = &unsent[room..];
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(Incoming::Wants(bytes))) => {
                    codec.grant(bytes);
                    granted = granted.max(bytes);
                }
                Ok(Some(Incoming::Frame(frame))) => {
                    let (size, rest) = stream[checked..]
                        .split_first_chunk()
                        .expect("a frame has a size");
                    assert_eq!(frame.len(), i32::from_be_bytes(*size) as usize);
                    assert_eq!(frame, rest[..frame.len()]);
                    checked += size.len() + frame.len();
                }
                Ok(None) => break,
                Err(_) => return granted,
            }
        }
    }
    assert_eq!(buffer.len(), stream.len() - checked);
    let _ = codec.decode_eof(&mut buffer);
    granted
}
