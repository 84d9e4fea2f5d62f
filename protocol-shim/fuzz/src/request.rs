//! Header parser, guard and codec, over every request kind and version.
//!
//! The input is a frame without its size. Key and version are bent to a pair that both guard and codec know, so that no
//! time is lost on unknown ones. Claims: nothing panics; header parser and guard allocate nothing to speak of; a body
//! the guard accepts decodes within 64 times the frame and ends where the guard says.

#![no_main]

mod memory;

#[path = "../../src/every_request.rs"]
mod every_request;

use bytes::Bytes;
use every_request::{REQUEST_KINDS, RequestKind};
use libfuzzer_sys::fuzz_target;
use ottla_protocol::{codec, guard, header};

/// No single allocation above this, whatever the frame: 65,536 elements of 256 bytes.
const REQUEST_BUDGET: usize = 16 * 1024 * 1024;

/// Frames below 64 bytes may use as much as those: the codec's error values alone take some hundred bytes.
const SMALL_FRAME: usize = 64;

fuzz_target!(|data: &[u8]| {
    let Some((kind, version, frame)) = bend(data) else {
        return;
    };
    let header_version = (kind.header_version)(version);
    let (parsed, used) = memory::measure(|| header::parse(&frame, header_version));
    assert!(used.peak <= 256, "header parser: {used:?}");
    let Ok((_, body)) = parsed else {
        return;
    };

    let (checked, used) = memory::measure(|| guard::check(kind.api_key, version, &body));
    assert_eq!(used.peak, 0, "the guard allocates nothing");
    let Ok(trailing) = checked else {
        return;
    };

    let (left, used) = memory::measure(|| (kind.decode)(body, version));
    assert!(
        used.peak <= 64 * frame.len().max(SMALL_FRAME),
        "{} v{version}: {used:?} for a frame of {}",
        kind.name,
        frame.len()
    );
    assert!(
        used.largest <= REQUEST_BUDGET,
        "{} v{version}: {used:?}",
        kind.name
    );
    // `None`: a string that is not UTF-8, which the codec alone looks at.
    if let Some(left) = left {
        assert_eq!(
            left, trailing,
            "{} v{version}: guard and codec disagree on the end",
            kind.name
        );
    }
});

fn bend(data: &[u8]) -> Option<(&'static RequestKind, i16, Bytes)> {
    let (key, rest) = data.split_first_chunk::<2>()?;
    let (version, _) = rest.split_first_chunk::<2>()?;
    let (key, version) = (i16::from_be_bytes(*key), i16::from_be_bytes(*version));
    let by_key = REQUEST_KINDS.iter().find(|kind| kind.api_key == key);
    let kind = by_key.unwrap_or(&REQUEST_KINDS[key.unsigned_abs() as usize % REQUEST_KINDS.len()]);
    let span = i32::from(kind.last_version) - i32::from(kind.first_version) + 1;
    let version = kind.first_version
        + (i32::from(version) - i32::from(kind.first_version)).rem_euclid(span) as i16;
    let mut frame = data.to_vec();
    frame[..2].copy_from_slice(&kind.api_key.to_be_bytes());
    frame[2..4].copy_from_slice(&version.to_be_bytes());
    Some((kind, version, Bytes::from(frame)))
}
