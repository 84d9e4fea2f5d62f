use std::io::Write;

use kafka_protocol::records::RecordBatchDecoder;

use super::*;
use crate::batch::{BatchBuilder, stamp_log_append_time};
use crate::compression::tests as codecs;
use crate::varint::{put_varint, put_varlong};

const NOW: i64 = 1_700_000_000_000;
const MIB: usize = 1 << 20;

fn limits() -> ProduceLimits {
    ProduceLimits {
        max_batch_bytes: 1_048_588,
        max_decompressed_bytes: 64 * MIB,
        now_ms: NOW,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        zstd_allowed: true,
        compacted: false,
        log_append_time: false,
    }
}

fn one_record() -> BatchBuilder {
    BatchBuilder::new(NOW).record(NOW, Some(b"key"), Some(b"value"), &[(b"h", Some(b"v"))])
}

/// Overwrites bytes of a batch and makes its CRC right again.
fn patched(batch: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch of one record with this body, its length in front.
fn with_body(body: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    put_varint(&mut records, body.len() as i32);
    records.extend_from_slice(body);
    one_record().build_with(0, &records)
}

fn code(batch: &[u8]) -> i16 {
    code_with(batch, &limits())
}

fn code_with(batch: &[u8], limits: &ProduceLimits) -> i16 {
    match validate_produce(batch, limits) {
        Ok(_) => 0,
        Err(error) => error.error_code().code(),
    }
}

#[test]
fn a_good_batch_is_taken_with_its_largest_timestamp() {
    let batch = BatchBuilder::new(NOW)
        .producer(5, 0, 0)
        .record(NOW, None, None, &[])
        .record(NOW + 9, None, None, &[])
        .record(NOW + 9, None, None, &[])
        .record(NOW - 50, None, None, &[])
        .build();
    let valid = validate_produce(&batch, &limits()).unwrap();
    assert_eq!(valid.header, BatchHeader::parse(&batch).unwrap());
    assert_eq!(
        (valid.max_timestamp, valid.offset_of_max_timestamp_delta),
        (NOW + 9, 1)
    );
}

#[test]
fn p4_a_bad_crc_is_corrupt() {
    let mut batch = one_record().build().to_vec();
    *batch.last_mut().unwrap() ^= 1;
    assert_eq!(code(&batch), 2);
}

#[test]
fn p5_to_p8_other_magics() {
    let batch = one_record().build();
    for (magic, expected) in [(0, 87), (1, 87), (2, 0), (3, 2), (0xff, 2)] {
        assert_eq!(
            code(&patched(&batch, 16, &[magic])),
            expected,
            "magic {magic}"
        );
    }
}

#[test]
fn p10_p11_nothing_or_too_little() {
    assert_eq!(code(b""), 87);
    assert_eq!(code(&[0; 10]), 87);
    let batch = one_record().build();
    for len in 0..batch.len() {
        assert_eq!(code(&batch[..len]), 87, "{len} bytes");
    }
}

#[test]
fn p12_two_batches() {
    let batch = one_record().build();
    assert_eq!(code(&[batch.as_ref(), &batch].concat()), 87);
    assert_eq!(code(&[batch.as_ref(), b"junk"].concat()), 87);
}

#[test]
fn p14_to_p19_counts_that_do_not_match() {
    let batch = one_record().build();
    let two = one_record().record(NOW, None, None, &[]).build();
    let delta = |batch: &[u8], delta: i32| patched(batch, 23, &delta.to_be_bytes());
    let count = |batch: &[u8], count: i32| patched(batch, 57, &count.to_be_bytes());
    assert_eq!(code(&delta(&batch, 5)), 87);
    for bad in [i32::MAX, -1, 0, 2] {
        assert_eq!(code(&count(&batch, bad)), 87, "count {bad}");
        assert_eq!(
            code(&delta(&count(&batch, bad), bad.wrapping_sub(1))),
            87,
            "both {bad}"
        );
    }
    assert_eq!(code(&delta(&count(&two, 1), 0)), 87);
}

#[test]
fn p20_p21_base_offset() {
    let batch = one_record().build();
    for offset in [5i64, -5] {
        assert_eq!(code(&patched(&batch, 0, &offset.to_be_bytes())), 87);
    }
}

#[test]
fn p22_p23_batch_length() {
    let batch = one_record().build();
    let length = i32::from_be_bytes(batch[8..12].try_into().unwrap());
    for (bad, expected) in [
        (length + 100, 87),
        (-20, 2),
        (-1, 2),
        (i32::MIN, 2),
        (0, 2),
        (13, 2),
        (i32::MAX, 87),
    ] {
        assert_eq!(
            code(&patched(&batch, 8, &bad.to_be_bytes())),
            expected,
            "length {bad}"
        );
    }
    assert_eq!(code(&patched(&batch, 8, &(length - 20).to_be_bytes())), 2);
    // Long enough to be some batch, too short for this format.
    assert_eq!(code(&patched(&batch[..60], 8, &48i32.to_be_bytes())), 2);
}

#[test]
fn p25_control_batch() {
    assert_eq!(
        code(&one_record().producer(1, 0, 0).control(true).build()),
        87
    );
}

#[test]
fn p26_to_p29_producer_fields() {
    assert_eq!(
        code(&one_record().producer(1, 0, 0).transactional(true).build()),
        0
    );
    assert_eq!(code(&one_record().producer(1, 0, -1).build()), 87);
    assert_eq!(code(&one_record().producer(1, -5, 0).build()), 47);
    assert_eq!(code(&one_record().producer(-2, 0, 0).build()), 87);
}

#[test]
fn p32_to_p35_codecs_not_to_be_had() {
    let builder = one_record();
    let records = builder.records_bytes().to_vec();
    for compression in 5..8 {
        assert_eq!(code(&builder.clone().build_with(compression, &records)), 76);
    }
    let zstd = builder.build_with(4, &zstd::encode_all(&records[..], 1).unwrap());
    assert_eq!(code(&zstd), 0);
    assert_eq!(
        code_with(
            &zstd,
            &ProduceLimits {
                zstd_allowed: false,
                ..limits()
            }
        ),
        76
    );
}

#[test]
fn p36_to_p41_garbage_in_every_codec() {
    let seed = 0x5eed_0010;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let garbage: Vec<u8> = (0..5_000).map(|_| rng.u8(..)).collect();
    let claims_4_gib = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, b'a'];
    for compression in 1..5 {
        assert_eq!(
            code(&one_record().build_with(compression, &garbage)),
            87,
            "codec {compression}"
        );
        assert_eq!(
            code(&one_record().build_with(compression, &claims_4_gib)),
            87,
            "codec {compression}"
        );
        assert_eq!(
            code(&one_record().build_with(compression, b"")),
            87,
            "codec {compression}"
        );
    }
    let records = one_record().records_bytes().to_vec();
    for (name, compression, bytes) in codecs::encodings(&records, &mut rng) {
        for len in 0..bytes.len() {
            assert_eq!(
                code(&one_record().build_with(compression as i16, &bytes[..len])),
                87,
                "{name} cut at {len}"
            );
        }
    }
}

/// A record of so many zero bytes, as the head of a stream.
fn head_of_huge_record(len: i32) -> Vec<u8> {
    let mut head = Vec::new();
    put_varint(&mut head, len + 20);
    head.push(0);
    put_varlong(&mut head, 0);
    put_varint(&mut head, 0);
    put_varint(&mut head, -1);
    put_varint(&mut head, len);
    head
}

#[test]
fn p42_a_bomb_of_one_record_is_too_large_at_its_first_number() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&head_of_huge_record(900 << 20)).unwrap();
    for _ in 0..900 {
        encoder.write_all(&[0; MIB]).unwrap();
    }
    let bomb = one_record().build_with(4, &encoder.finish().unwrap());
    assert!(bomb.len() < 50_000);
    assert_eq!(code(&bomb), 10);
    assert_eq!(
        for_each_record(&bomb, 64 * MIB, |_| unreachable!()),
        Err(RecordsError::DecompressedTooLarge(64 * MIB))
    );
}

#[test]
fn p43_bombs_of_many_records_stop_at_the_limit() {
    let mut builder = BatchBuilder::new(NOW);
    for _ in 0..2_000 {
        builder = builder.record(NOW, None, Some(&[0; 1_000]), &[]);
    }
    let records = builder.records_bytes().to_vec();
    let tight = ProduceLimits {
        max_decompressed_bytes: MIB,
        ..limits()
    };
    let seed = 0x5eed_0011;
    println!("seed {seed}");
    for (name, compression, bytes) in
        codecs::encodings(&records, &mut fastrand::Rng::with_seed(seed))
    {
        let batch = builder.clone().build_with(compression as i16, &bytes);
        if compression as i16 == 0 {
            continue;
        }
        assert_eq!(code_with(&batch, &tight), 10, "{name}");
        assert_eq!(code(&batch), 0, "{name}");
        let mut seen = 0;
        let walked = for_each_record(&batch, MIB, |_| {
            seen += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(
            walked,
            Err(RecordsError::DecompressedTooLarge(MIB)),
            "{name}"
        );
        assert!(seen < 1_050, "{name}");
    }
}

#[test]
fn p43_no_ratio_is_believed_above_16_mib() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(&head_of_huge_record(17 << 20)).unwrap();
    for _ in 0..17 {
        encoder.write_all(&[0; MIB]).unwrap();
    }
    assert_eq!(
        code(&one_record().build_with(4, &encoder.finish().unwrap())),
        10
    );

    // The same size with little redundancy is fine when the batch may be that large.
    let seed = 0x5eed_0012;
    println!("seed {seed}");
    let mut value = vec![0; 17 << 20];
    fastrand::Rng::with_seed(seed).fill(&mut value);
    let honest = BatchBuilder::new(NOW).record(NOW, None, Some(&value), &[]);
    let honest = honest
        .clone()
        .build_with(4, &zstd::encode_all(honest.records_bytes(), 1).unwrap());
    assert_eq!(
        code_with(
            &honest,
            &ProduceLimits {
                max_batch_bytes: 20 << 20,
                ..limits()
            }
        ),
        0
    );
}

#[test]
fn p44_p45_record_length() {
    for len in [-1, i32::MAX] {
        let mut records = Vec::new();
        put_varint(&mut records, len);
        records.extend_from_slice(&[0; 6]);
        assert_eq!(
            code(&one_record().build_with(0, &records)),
            87,
            "length {len}"
        );
    }
    let mut records = Vec::new();
    put_varint(&mut records, -1);
    assert_eq!(
        code(&one_record().build_with(4, &zstd::encode_all(&records[..], 1).unwrap())),
        87
    );
}

/// Attributes, deltas of 0, null key, null value; then whatever headers are to follow.
const BARE: [u8; 5] = [0, 0, 0, 1, 1];

#[test]
fn p48_to_p52_headers() {
    let with_headers = |count: i32, rest: &[u8]| {
        let mut body = BARE.to_vec();
        put_varint(&mut body, count);
        body.extend_from_slice(rest);
        with_body(&body)
    };
    assert_eq!(code(&with_headers(0, b"")), 0);
    assert_eq!(code(&with_headers(i32::MAX, b"")), 87);
    assert_eq!(code(&with_headers(-1, b"")), 87);
    assert_eq!(code(&with_headers(1, &[1, 1])), 87, "null key");
    assert_eq!(code(&with_headers(1, &[0, 3])), 87, "value length -2");
    assert_eq!(
        code(&with_headers(1, &[4, 0xff, 0xfe, 1])),
        0,
        "key not UTF-8"
    );
    let twice = with_headers(2, &[2, b'k', 2, b'1', 2, b'k', 2, b'2']);
    assert_eq!(code(&twice), 0);
    let mut seen = Vec::new();
    for_each_record(&twice, 0, |record| {
        seen.extend(
            record
                .headers
                .iter()
                .map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))),
        );
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            (b"k".to_vec(), Some(b"1".to_vec())),
            (b"k".to_vec(), Some(b"2".to_vec()))
        ]
    );
}

#[test]
fn record_bodies_that_do_not_add_up() {
    for (what, body) in [
        ("empty", &b""[..]),
        ("only attributes", &[0]),
        ("no header count", &BARE),
        ("a byte after the headers", &[0, 0, 0, 1, 1, 0, 0]),
        ("key longer than the record", &[0, 0, 0, 100, 1, 0]),
        ("key length -2", &[0, 0, 0, 3, 1, 0]),
        (
            "over-long timestamp",
            &[
                0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0, 1, 1, 0,
            ],
        ),
        (
            "overflowing timestamp",
            &[
                0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02, 0, 1, 1, 0,
            ],
        ),
        (
            "overflowing offset",
            &[0, 0, 0x80, 0x80, 0x80, 0x80, 0x10, 1, 1, 0],
        ),
        ("offset delta 1", &[0, 0, 2, 1, 1, 0]),
        ("offset delta -1", &[0, 0, 1, 1, 1, 0]),
    ] {
        let batch = with_body(body);
        assert_eq!(code(&batch), 87, "{what}");
        let mut zipped = Vec::new();
        put_varint(&mut zipped, body.len() as i32);
        zipped.extend_from_slice(body);
        assert_eq!(
            code(&one_record().build_with(2, &codecs::snappy_framed(&zipped, 1))),
            87,
            "{what}, byte by byte"
        );
    }
    let trailing = [one_record().records_bytes(), b"x"].concat();
    assert_eq!(code(&one_record().build_with(0, &trailing)), 87);
    assert_eq!(
        code(&one_record().build_with(1, &codecs::gzip(&trailing))),
        87
    );
}

#[test]
fn p54_timestamps_out_of_range() {
    let at = |timestamp: i64| {
        BatchBuilder::new(timestamp)
            .record(timestamp, None, None, &[])
            .build()
    };
    let hour = 3_600_000;
    assert_eq!(code(&at(NOW + 2 * hour)), 32);
    assert_eq!(code(&at(NOW + hour)), 0);
    assert_eq!(code(&at(NOW + hour + 1)), 32);
    assert_eq!(code(&at(0)), 0);
    assert_eq!(code(&at(-1)), 0, "no timestamp");
    assert_eq!(code(&at(i64::MIN)), 32);
    assert_eq!(code(&at(i64::MAX)), 32);
    let recent = ProduceLimits {
        timestamp_before_max_ms: hour,
        ..limits()
    };
    assert_eq!(code_with(&at(NOW - hour), &recent), 0);
    assert_eq!(code_with(&at(NOW - hour - 1), &recent), 32);
    assert_eq!(code_with(&at(-1), &recent), 0);

    let stamped = ProduceLimits {
        log_append_time: true,
        ..limits()
    };
    let valid = validate_produce(&at(NOW + 2 * hour), &stamped).unwrap();
    assert_eq!(
        (valid.max_timestamp, valid.offset_of_max_timestamp_delta),
        (NOW, 0)
    );
}

#[test]
fn p55_timestamps_that_overflow() {
    let batch = BatchBuilder::new(NOW)
        .record(NOW.wrapping_add(i64::MAX), None, None, &[])
        .build();
    assert_eq!(code(&batch), 32);
    assert_eq!(
        code_with(
            &batch,
            &ProduceLimits {
                log_append_time: true,
                ..limits()
            }
        ),
        32
    );
    assert!(max_timestamp_record(&batch, 0).is_err());
}

#[test]
fn a_client_must_not_say_log_append_time() {
    let mut batch = one_record().build().to_vec();
    stamp_log_append_time(&mut batch, NOW);
    assert_eq!(code(&batch), 32);
    assert_eq!(
        code_with(
            &batch,
            &ProduceLimits {
                log_append_time: true,
                ..limits()
            }
        ),
        32
    );
}

#[test]
fn a_wrong_largest_timestamp_in_the_header_is_corrected_not_refused() {
    for claimed in [i64::MAX, -1, 0] {
        let batch = patched(&one_record().build(), 35, &claimed.to_be_bytes());
        let valid = validate_produce(&batch, &limits()).unwrap();
        assert_eq!(
            (valid.max_timestamp, valid.offset_of_max_timestamp_delta),
            (NOW, 0)
        );
    }
    let none = BatchBuilder::new(-1).record(-1, None, None, &[]).build();
    let valid = validate_produce(&none, &limits()).unwrap();
    assert_eq!(
        (valid.max_timestamp, valid.offset_of_max_timestamp_delta),
        (-1, -1)
    );
}

#[test]
fn p58_a_batch_above_the_limit_is_too_large_even_when_corrupt() {
    let batch = one_record().build();
    assert_eq!(
        code_with(
            &batch,
            &ProduceLimits {
                max_batch_bytes: batch.len(),
                ..limits()
            }
        ),
        0
    );
    let small = ProduceLimits {
        max_batch_bytes: batch.len() - 1,
        ..limits()
    };
    assert_eq!(code_with(&batch, &small), 10);
    let mut corrupt = batch.to_vec();
    corrupt[70] ^= 1;
    assert_eq!(code_with(&corrupt, &small), 10);
}

#[test]
fn a_compacted_topic_names_the_records_without_key() {
    let compacted = ProduceLimits {
        compacted: true,
        ..limits()
    };
    let batch = one_record()
        .record(NOW, None, None, &[])
        .record(NOW, Some(b""), None, &[]);
    let keyless = RejectedRecord {
        batch_index: 1,
        cause: RejectCause::NoKey,
    };
    let error = validate_produce(&batch.clone().build(), &compacted).unwrap_err();
    assert_eq!(error, RecordsError::Rejected(vec![keyless]));
    assert_eq!(error.error_code(), ErrorCode::InvalidRecord);

    let late = RejectedRecord {
        batch_index: 3,
        cause: RejectCause::Timestamp(i64::MAX),
    };
    let error = validate_produce(
        &batch.record(i64::MAX, Some(b"k"), None, &[]).build(),
        &compacted,
    )
    .unwrap_err();
    assert_eq!(error, RecordsError::Rejected(vec![keyless, late]));
    assert_eq!(error.error_code(), ErrorCode::InvalidTimestamp);
}

#[test]
fn the_list_of_rejected_records_is_bounded_and_keeps_the_graver_cause() {
    let mut batch = BatchBuilder::new(NOW);
    for _ in 0..5_000 {
        batch = batch.record(NOW, None, None, &[]);
    }
    let batch = batch.record(i64::MAX, Some(b"k"), None, &[]).build();
    let error = validate_produce(
        &batch,
        &ProduceLimits {
            compacted: true,
            ..limits()
        },
    )
    .unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::InvalidTimestamp);
    let RecordsError::Rejected(records) = error else {
        panic!()
    };
    assert_eq!(records.len(), 1_000);
}

#[derive(Debug, Clone, PartialEq)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn random_records(rng: &mut fastrand::Rng, max_value: usize) -> Vec<Owned> {
    let bytes = |rng: &mut fastrand::Rng, max: usize| rng.bool().then(|| codecs::content(rng, max));
    (0..rng.usize(1..12))
        .map(|_| Owned {
            timestamp: NOW - (rng.i64(0..1 << 40) >> rng.u32(0..40)),
            key: bytes(rng, 40),
            value: bytes(rng, max_value),
            headers: (0..rng.usize(0..4))
                .map(|i| (format!("h{i}").into_bytes(), bytes(rng, 30)))
                .collect(),
        })
        .collect()
}

fn builder(records: &[Owned]) -> BatchBuilder {
    records
        .iter()
        .fold(BatchBuilder::new(records[0].timestamp), |batch, record| {
            let headers: Vec<Header<'_>> = record
                .headers
                .iter()
                .map(|(k, v)| (&k[..], v.as_deref()))
                .collect();
            batch.record(
                record.timestamp,
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            )
        })
}

fn walked(batch: &[u8], max: usize) -> Result<Vec<Owned>, RecordsError> {
    let header = BatchHeader::parse(batch).unwrap();
    let mut records = Vec::new();
    for_each_record(batch, max, |record| {
        assert_eq!(record.offset_delta, records.len() as i32);
        assert_eq!(record.headers.iter().count(), record.headers.len());
        records.push(Owned {
            timestamp: header.timestamp_of(record.timestamp_delta).unwrap(),
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec)))
                .collect(),
        });
        ControlFlow::Continue(())
    })?;
    Ok(records)
}

#[test]
fn every_codec_gives_back_the_records_and_their_times() {
    for seed in 0..250 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let records = random_records(&mut rng, if seed % 10 == 0 { 200_000 } else { 2_000 });
        let builder = builder(&records);
        let latest = records.iter().map(|record| record.timestamp).max().unwrap();
        let first_latest = records
            .iter()
            .position(|record| record.timestamp == latest)
            .unwrap() as i32;
        let since = NOW - rng.i64(0..1 << 30);
        let first_since = records.iter().position(|record| record.timestamp >= since);
        let wide = ProduceLimits {
            max_batch_bytes: 1 << 30,
            ..limits()
        };

        for (name, compression, bytes) in codecs::encodings(builder.records_bytes(), &mut rng) {
            let batch = builder.clone().build_with(compression as i16, &bytes);
            let valid = validate_produce(&batch, &wide)
                .unwrap_or_else(|e| panic!("seed {seed} {name}: {e}"));
            assert_eq!(
                (valid.max_timestamp, valid.offset_of_max_timestamp_delta),
                (latest, first_latest)
            );
            assert_eq!(
                walked(&batch, 64 * MIB).as_ref(),
                Ok(&records),
                "seed {seed} {name}"
            );
            assert_eq!(
                max_timestamp_record(&batch, 64 * MIB),
                Ok(Some(RecordTime {
                    offset_delta: first_latest,
                    timestamp: latest
                })),
                "seed {seed} {name}"
            );
            let expected = first_since.map(|index| RecordTime {
                offset_delta: index as i32,
                timestamp: records[index].timestamp,
            });
            assert_eq!(
                first_record_since(&batch, 64 * MIB, since),
                Ok(expected),
                "seed {seed} {name}"
            );
        }
    }
}

#[test]
fn the_walker_agrees_with_an_independent_decoder() {
    for seed in 0..2_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let records = random_records(&mut rng, 300);
        let batch = builder(&records).build();
        let set = RecordBatchDecoder::decode(&mut batch.clone()).unwrap();
        let decoded: Vec<Owned> = set
            .records
            .into_iter()
            .map(|record| Owned {
                timestamp: record.timestamp,
                key: record.key.map(Into::into),
                value: record.value.map(Into::into),
                headers: record
                    .headers
                    .into_iter()
                    .map(|(key, value)| (key.as_bytes().to_vec(), value.map(Into::into)))
                    .collect(),
            })
            .collect();
        assert_eq!(walked(&batch, 0), Ok(decoded), "seed {seed}");
    }
}

#[test]
fn mutated_batches_never_panic_and_both_walks_agree() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..4_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let records = random_records(&mut rng, 100);
        let builder = builder(&records);
        let encodings = codecs::encodings(builder.records_bytes(), &mut rng);
        let (_, compression, bytes) = &encodings[rng.usize(0..encodings.len())];
        let mut batch = builder.clone().build_with(*compression as i16, bytes);
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(0..batch.len());
            batch[at] = if rng.bool() {
                batch[at] ^ (1 << rng.u32(0..8))
            } else {
                rng.u8(..)
            };
        }
        if rng.u8(..) < 30 {
            batch.truncate(rng.usize(0..batch.len()));
        }
        let batch = if batch.len() > 21 && rng.u8(..) < 230 {
            patched(&batch, 0, &[])
        } else {
            batch
        };

        let held = for_each_record(&batch, MIB, |_| ControlFlow::Continue(()));
        let skipped = max_timestamp_record(&batch, MIB);
        if skipped != Err(RecordsError::Invalid("timestamp overflows")) {
            // Not the same text: a damaged record shows at other places when its bytes are not gathered first.
            assert_eq!(
                held.is_ok(),
                skipped.is_ok(),
                "seed {seed} {held:?} {skipped:?}"
            );
        }
        let _ = first_record_since(&batch, MIB, NOW);
        match validate_produce(&batch, &limits()) {
            Ok(valid) => {
                accepted += 1;
                assert_eq!(
                    walked(&batch, MIB).unwrap().len() as i32,
                    valid.header.record_count,
                    "seed {seed}"
                );
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(
        accepted > 200 && refused > 1_000,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn a_walk_stops_when_told_and_reads_emptied_batches() {
    let batch = one_record().record(NOW, None, None, &[]).build();
    let mut seen = 0;
    for_each_record(&batch, 0, |_| {
        seen += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(seen, 1);

    for codec in 0..5 {
        let emptied = patched(
            &one_record().build_with(codec, b""),
            57,
            &0i32.to_be_bytes(),
        );
        assert_eq!(for_each_record(&emptied, 0, |_| unreachable!()), Ok(()));
        assert_eq!(max_timestamp_record(&emptied, 0), Ok(None));
    }
    assert!(matches!(
        for_each_record(&batch[..61], 0, |_| unreachable!()),
        Err(RecordsError::Corrupt(_))
    ));
}
