use std::collections::BTreeSet;

use super::*;
use crate::batch::{BatchBuilder, Compression, crc_matches, stamp, stamp_max_timestamp};
use crate::compression::tests::read_all;
use crate::records::filter::tests::{any_batch, header, place, seen};
use crate::records::{ProduceLimits, validate_produce};

const NOW: i64 = 1_700_000_000_000;

/// Takes anything that is well formed.
fn limits() -> ProduceLimits {
    ProduceLimits {
        max_batch_bytes: usize::MAX,
        max_decompressed_bytes: usize::MAX,
        now_ms: NOW,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        zstd_allowed: true,
        compacted: false,
        log_append_time: false,
    }
}

/// A topic's codec at any level that its config allows.
fn any_encoding(rng: &mut fastrand::Rng) -> Encoding {
    match rng.u8(0..5) {
        0 => Encoding::Uncompressed,
        1 => Encoding::Gzip {
            level: [-1, 1, 2, 3, 4, 5, 6, 7, 8, 9][rng.usize(0..10)],
        },
        2 => Encoding::Snappy,
        3 => Encoding::Lz4 {
            level: rng.i32(1..=17),
        },
        // The bounds are -131072 and 22; the highest levels cost too much for thousands of rounds.
        _ => Encoding::Zstd {
            level: rng.i32(-9..=9),
        },
    }
}

/// A batch as a client may send it.
fn any_sent_batch(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut batch = any_batch(rng);
    stamp(&mut batch, 0, -1);
    let max_timestamp = header(&batch).max_timestamp;
    stamp_max_timestamp(&mut batch, max_timestamp);
    batch
}

fn decompressed(batch: &[u8]) -> Vec<u8> {
    let codec = header(batch).compression().expect("a known codec");
    read_all(codec, &batch[HEADER_LEN..], usize::MAX).expect("reads")
}

#[test]
fn records_are_what_they_were_from_every_codec_to_every_other() {
    let mut pairs = BTreeSet::new();
    let mut refused = 0;
    for seed in 0..6_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let batch = any_sent_batch(&mut rng);
        let Ok(valid) = validate_produce(&batch, &limits()) else {
            // Timestamps so far back that their distance from now does not fit.
            refused += 1;
            continue;
        };
        let encoding = any_encoding(&mut rng);
        let before = header(&batch);
        let (from, to) = (before.compression().expect("known"), encoding.compression());
        assert_eq!(
            wants_recompression(&before, encoding),
            from != to,
            "seed {seed}"
        );
        let (told, new) = recompress(&batch, &valid, encoding, usize::MAX).expect("recompresses");
        pairs.insert((from.code(), to.code()));

        assert_eq!(seen(&new), seen(&batch), "seed {seed} {encoding:?}");
        assert_eq!(
            decompressed(&new),
            decompressed(&batch),
            "seed {seed} {encoding:?}"
        );
        assert_eq!(place(&new), place(&batch), "seed {seed}");
        let after = header(&new);
        assert_eq!(told, after, "seed {seed}");
        assert!(crc_matches(&new), "seed {seed}");
        assert_eq!(after.total_len(), new.len(), "seed {seed}");
        assert_eq!(after.compression(), Ok(to), "seed {seed}");
        assert_eq!(
            after.attributes & !7,
            before.attributes & !7,
            "seed {seed}: all other attributes"
        );
        assert_eq!(after.base_timestamp, before.base_timestamp, "seed {seed}");
        assert_eq!(after.max_timestamp, valid.max_timestamp, "seed {seed}");
        assert_eq!(after.record_count, before.record_count, "seed {seed}");
        let again = validate_produce(&new, &limits()).expect("passes the same checks");
        assert_eq!(again.records_len, decompressed(&batch).len(), "seed {seed}");
        assert_eq!(
            ValidBatch {
                header: before,
                ..again
            },
            valid,
            "seed {seed}"
        );
        assert!(!wants_recompression(&after, encoding), "seed {seed}");
    }
    assert_eq!(pairs.len(), 25, "{pairs:?}");
    assert!(refused < 1_500, "{refused}");
}

#[test]
fn a_batch_of_many_chunks_and_blocks_survives_every_codec_in_turn() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut builder = BatchBuilder::new(NOW);
        for index in 0..rng.i64(2_000..6_000) {
            let value = vec![rng.u8(..); rng.usize(0..120)];
            builder = builder.record(NOW + index, Some(&index.to_be_bytes()), Some(&value), &[]);
        }
        let first = builder.build().to_vec();
        let mut batch = first.clone();
        for _ in 0..8 {
            let encoding = any_encoding(&mut rng);
            let valid = validate_produce(&batch, &limits()).expect("valid");
            (_, batch) = recompress(&batch, &valid, encoding, usize::MAX).expect("recompresses");
        }
        let valid = validate_produce(&batch, &limits()).expect("valid");
        let plain = recompress(&batch, &valid, Encoding::Uncompressed, usize::MAX);
        assert_eq!(
            plain.map(|(_, plain)| plain[HEADER_LEN..] == first[HEADER_LEN..]),
            Ok(true)
        );
        assert_eq!(seen(&batch), seen(&first), "seed {seed}");
    }
}

#[test]
fn the_limit_holds_to_the_byte() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let batch = any_sent_batch(&mut rng);
        let Ok(valid) = validate_produce(&batch, &limits()) else {
            continue;
        };
        let encoding = any_encoding(&mut rng);
        let within = |max| recompress(&batch, &valid, encoding, max).map(|(_, rebuilt)| rebuilt);
        let new = within(usize::MAX).expect("recompresses");
        assert_eq!(within(new.len()).as_ref(), Ok(&new), "seed {seed}");
        let max = rng.usize(0..new.len());
        assert_eq!(
            within(max),
            Err(RecordsError::RecompressedTooLarge { max }),
            "seed {seed} {encoding:?}"
        );
    }
}

#[test]
fn markers_and_unknown_codecs_are_left_alone() {
    let marker = BatchBuilder::new(NOW)
        .producer(1, 0, -1)
        .transactional(true)
        .control(true)
        .record(NOW, Some(&[0, 0, 0, 1]), Some(&[0; 6]), &[])
        .build();
    let unknown = BatchBuilder::new(NOW)
        .record(NOW, None, Some(b"v"), &[])
        .build_with(7, b"");
    for codec in [Compression::Gzip, Compression::Zstd] {
        let encoding = Encoding::usual(codec);
        assert!(!wants_recompression(&header(&marker), encoding));
        assert!(!wants_recompression(&header(&unknown), encoding));
    }
}

/// What the checks found of one batch, used with the bytes of another: an error, never a panic.
#[test]
fn a_batch_that_was_not_checked_does_no_harm() {
    let mut failed = 0;
    for seed in 0..1_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (checked, other) = (any_sent_batch(&mut rng), any_sent_batch(&mut rng));
        let Ok(valid) = validate_produce(&checked, &limits()) else {
            continue;
        };
        let cut = &other[..rng.usize(0..=other.len())];
        failed += usize::from(recompress(cut, &valid, any_encoding(&mut rng), 5_000).is_err());
    }
    assert!(failed > 100, "{failed}");
}
