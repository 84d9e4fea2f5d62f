use std::io::Write;

use twox_hash::XxHash32;

use super::lz4::{LZ4_DAMAGED, Lz4Block, Lz4Step};
use super::snappy::{SNAPPY_DAMAGED, SNAPPY_MAGIC};
use super::*;

/// Every way a client may compress, by name.
pub(crate) fn encodings(
    content: &[u8],
    rng: &mut fastrand::Rng,
) -> Vec<(&'static str, Compression, Vec<u8>)> {
    let chunk = rng.usize(content.len() / 500 + 1..40_000);
    vec![
        ("plain", Compression::None, content.to_vec()),
        ("gzip", Compression::Gzip, gzip(content)),
        (
            "gzip members",
            Compression::Gzip,
            content.chunks(chunk).flat_map(gzip).collect(),
        ),
        ("snappy raw", Compression::Snappy, snappy_raw(content)),
        (
            "snappy framed",
            Compression::Snappy,
            snappy_framed(content, chunk),
        ),
        ("lz4", Compression::Lz4, lz4_any(content, rng)),
        (
            "lz4 by the Java client",
            Compression::Lz4,
            lz4_java(content),
        ),
        (
            "zstd",
            Compression::Zstd,
            zstd::encode_all(content, rng.i32(1..6)).unwrap(),
        ),
        (
            "zstd frames",
            Compression::Zstd,
            content
                .chunks(chunk)
                .flat_map(|c| zstd::encode_all(c, 1).unwrap())
                .collect(),
        ),
    ]
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn snappy_raw(content: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(content).unwrap()
}

pub(crate) fn snappy_framed(content: &[u8], block: usize) -> Vec<u8> {
    let mut framed = [SNAPPY_MAGIC.as_slice(), &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
    for block in content.chunks(block) {
        let block = snappy_raw(block);
        framed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        framed.extend_from_slice(&block);
    }
    framed
}

pub(crate) fn lz4_any(content: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let sizes = [
        BlockSize::Max64KB,
        BlockSize::Max256KB,
        BlockSize::Max1MB,
        BlockSize::Max4MB,
    ];
    let info = FrameInfo::new()
        .block_mode(BlockMode::Independent)
        .block_size(sizes[rng.usize(0..4)])
        .block_checksums(rng.bool())
        .content_checksum(rng.bool())
        .content_size(rng.bool().then_some(content.len() as u64));
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// As `KafkaLZ4BlockOutputStream` writes: 64 KiB blocks, no checksums but the header's, an end mark.
pub(crate) fn lz4_java(content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    for block in content.chunks(64 << 10) {
        let compressed = lz4_flex::block::compress(block);
        if compressed.len() < block.len() {
            frame.extend_from_slice(&(compressed.len() as u32).to_le_bytes());
            frame.extend_from_slice(&compressed);
        } else {
            frame.extend_from_slice(&(block.len() as u32 | 0x8000_0000).to_le_bytes());
            frame.extend_from_slice(block);
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame
}

/// Compressible in parts, as records are.
pub(crate) fn content(rng: &mut fastrand::Rng, max: usize) -> Vec<u8> {
    let len = rng.usize(0..=max);
    let mut content = Vec::with_capacity(len);
    while content.len() < len {
        let byte = rng.u8(..);
        let run = rng.usize(1..200).min(len - content.len());
        if rng.bool() {
            content.extend(std::iter::repeat_n(byte, run));
        } else {
            content.extend((0..run).map(|_| rng.u8(..)));
        }
    }
    content
}

pub(crate) fn read_all(
    compression: Compression,
    input: &[u8],
    limit: usize,
) -> Result<Vec<u8>, DecompressError> {
    let mut stream = Stream::new(compression, input, limit)?;
    let mut content = Vec::new();
    loop {
        let chunk = stream.peek()?;
        if chunk.is_empty() {
            return Ok(content);
        }
        content.extend_from_slice(chunk);
        let len = chunk.len();
        stream.consume(len);
    }
}

#[test]
fn every_encoding_gives_back_its_content() {
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let content = content(&mut rng, 200_000);
        for (name, compression, input) in encodings(&content, &mut rng) {
            assert_eq!(
                read_all(compression, &input, content.len()).as_ref(),
                Ok(&content),
                "seed {seed} {name}"
            );
        }
    }
}

#[test]
fn one_byte_above_the_limit_is_too_large() {
    let seed = 0x5eed_0003;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..50 {
        let content = [content(&mut rng, 150_000), vec![1]].concat();
        for (name, compression, input) in encodings(&content, &mut rng) {
            if compression != Compression::None {
                assert_eq!(
                    read_all(compression, &input, content.len() - 1),
                    Err(TooLarge),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn cut_streams_are_corrupt() {
    let seed = 0x5eed_0004;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let content = content(&mut rng, 100_000);
    for (name, compression, input) in encodings(&content, &mut rng) {
        // A cut between two members or frames is not seen here; the record count tells.
        let inner_ends =
            name.ends_with("members") || name.ends_with("frames") || name == "snappy framed";
        if compression == Compression::None || inner_ends {
            continue;
        }
        for _ in 0..20 {
            let cut = rng.usize(0..input.len());
            assert!(
                matches!(
                    read_all(compression, &input[..cut], 1 << 20),
                    Err(Corrupt(_))
                ),
                "{name} cut at {cut}"
            );
        }
    }
}

#[test]
fn mutated_streams_never_panic_and_never_pass_the_limit() {
    let seed = 0x5eed_0005;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..400 {
        let content = content(&mut rng, 3_000);
        for (_, compression, mut input) in encodings(&content, &mut rng) {
            for _ in 0..rng.usize(1..4) {
                if !input.is_empty() {
                    let at = rng.usize(0..input.len());
                    input[at] = rng.u8(..);
                }
            }
            if compression == Compression::None {
                continue;
            }
            let limit = rng.usize(0..6_000);
            if let Ok(content) = read_all(compression, &input, limit) {
                assert!(content.len() <= limit);
            }
        }
    }
}

#[test]
fn a_snappy_length_of_4_gib_is_refused_without_its_memory() {
    let raw = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, b'a'];
    let framed = [
        SNAPPY_MAGIC.as_slice(),
        &[0, 0, 0, 1, 0, 0, 0, 1],
        &[0, 0, 0, 7],
        &raw,
    ]
    .concat();
    assert_eq!(framed.len(), 27);
    for input in [raw.as_slice(), &framed] {
        let mut stream = Stream::new(Compression::Snappy, input, usize::MAX).unwrap();
        assert_eq!(stream.peek(), Err(SNAPPY_DAMAGED));
        assert_eq!(stream.buffer.capacity(), 0);
    }
}

#[test]
fn snappy_streams_may_follow_each_other_and_chunk_lengths_are_checked() {
    let one = snappy_framed(b"one", 10);
    let two = [one.clone(), snappy_framed(b"two", 1)].concat();
    assert_eq!(
        read_all(Compression::Snappy, &two, 6).as_deref(),
        Ok(&b"onetwo"[..])
    );

    let mut huge = one;
    huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(read_all(Compression::Snappy, &huge, 6), Err(SNAPPY_DAMAGED));
}

#[test]
fn lz4_frames_for_which_kafka_has_no_reader_are_corrupt() {
    use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};
    let mut linked =
        FrameEncoder::with_frame_info(FrameInfo::new().block_mode(BlockMode::Linked), Vec::new());
    linked.write_all(b"content").unwrap();
    let linked = linked.finish().unwrap();
    assert_eq!(
        read_all(Compression::Lz4, &linked, 100),
        Err(Corrupt("lz4 frame has dependent blocks"))
    );

    let good = lz4_java(b"content");
    let mut bad_header = good.clone();
    bad_header[6] ^= 1;
    assert!(read_all(Compression::Lz4, &bad_header, 100).is_err());
    assert!(read_all(Compression::Lz4, &[good.as_slice(), &good].concat(), 100).is_err());
    assert!(
        read_all(Compression::Lz4, &good[..good.len() - 4], 100).is_err(),
        "no end mark"
    );
}

#[test]
fn lz4_checksums_and_content_size_are_verified() {
    use lz4_flex::frame::{FrameEncoder, FrameInfo};
    let info = FrameInfo::new()
        .content_checksum(true)
        .block_checksums(true)
        .content_size(Some(7));
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(b"content").unwrap();
    let good = encoder.finish().unwrap();
    assert_eq!(
        read_all(Compression::Lz4, &good, 100).as_deref(),
        Ok(&b"content"[..])
    );
    let last = good.len() - 1;
    for at in [last, last - 8] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(read_all(Compression::Lz4, &bad, 100).is_err(), "byte {at}");
    }
    let mut wrong_size = good.clone();
    wrong_size[6] = 8;
    wrong_size[14] = (XxHash32::oneshot(0, &wrong_size[4..14]) >> 8) as u8;
    assert_eq!(
        read_all(Compression::Lz4, &wrong_size, 100),
        Err(Corrupt("lz4 content size does not match"))
    );
}

#[test]
fn an_lz4_frame_of_large_blocks_takes_memory_only_for_what_it_holds() {
    let mut garbage = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x70];
    garbage.push((XxHash32::oneshot(0, &garbage[4..6]) >> 8) as u8);
    garbage.extend_from_slice(&100_000u32.to_le_bytes());
    garbage.extend_from_slice(&[0x55; 100_000]);
    let mut stream = Stream::new(Compression::Lz4, &garbage, usize::MAX).unwrap();
    assert_eq!(stream.peek(), Err(LZ4_DAMAGED));
    assert!(stream.buffer.capacity() <= 64 << 10);

    let bomb = lz4_of_zeros(8 << 20);
    let mut stream = Stream::new(Compression::Lz4, &bomb, 8 << 20).unwrap();
    let mut total = 0;
    while let len @ 1.. = stream.peek().unwrap().len() {
        stream.consume(len);
        total += len;
        assert!(
            stream.buffer.capacity() <= 512 << 10,
            "{}",
            stream.buffer.capacity()
        );
    }
    assert_eq!(total, 8 << 20);
}

fn lz4_of_zeros(len: usize) -> Vec<u8> {
    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
    let mut encoder =
        FrameEncoder::with_frame_info(FrameInfo::new().block_size(BlockSize::Max4MB), Vec::new());
    encoder.write_all(&vec![0; len]).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn the_lz4_block_decoder_agrees_with_the_crates() {
    for seed in 0..3_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let content = content(&mut rng, 2_000);
        let mut block = lz4_flex::block::compress(&content);
        for _ in 0..rng.usize(0..3) {
            let at = rng.usize(0..block.len());
            block[at] = rng.u8(..);
        }
        let mut theirs = vec![0; 20_000];
        let theirs =
            lz4_flex::block::decompress_into(&block, &mut theirs).map(|len| theirs[..len].to_vec());
        let (mut ours, mut out) = (Lz4Block::new(&block), Vec::new());
        let mut damaged = false;
        while ours.step != Lz4Step::End && out.len() < 20_000 && !damaged {
            damaged = ours.decompress(&mut out, rng.usize(1..500)).is_none();
        }
        match theirs {
            Ok(theirs) => assert!(!damaged && out == theirs, "seed {seed}"),
            Err(_) => assert!(damaged || out.len() > 20_000 - 500, "seed {seed}"),
        }
    }
}

#[test]
fn a_zstd_window_above_8_mib_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder
        .set_parameter(zstd::zstd_safe::CParameter::WindowLog(24))
        .unwrap();
    encoder.write_all(&[7; 1000]).unwrap();
    let frame = encoder.finish().unwrap();
    assert_eq!(
        read_all(Compression::Zstd, &frame, 1 << 20),
        Err(ZSTD_DAMAGED)
    );
}

#[test]
fn gzip_members_are_counted() {
    let member = gzip(b"x");
    assert_eq!(
        read_all(Compression::Gzip, &member.repeat(1_000), 1_000)
            .as_ref()
            .map(Vec::len),
        Ok(1_000)
    );
    assert_eq!(
        read_all(Compression::Gzip, &member.repeat(1_001), 2_000),
        Err(GZIP_DAMAGED)
    );
    assert_eq!(
        read_all(Compression::Gzip, &[&member[..], b"junk"].concat(), 100),
        Err(GZIP_DAMAGED)
    );
    assert!(read_all(Compression::Gzip, b"", 100).is_err());
}

#[test]
fn gzip_trailers_are_verified() {
    let mut bad = gzip(b"content");
    let crc = bad.len() - 8;
    bad[crc] ^= 1;
    assert_eq!(read_all(Compression::Gzip, &bad, 100), Err(GZIP_DAMAGED));
}
