use bytes::Bytes;

use super::*;
use crate::batch::{BatchBuilder, TimestampType, crc_matches, stamp, stamp_log_append_time};
use crate::compression::tests::encodings;

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

pub(crate) fn header(batch: &[u8]) -> BatchHeader {
    BatchHeader::parse(batch).expect("a batch")
}

pub(crate) fn seen(batch: &[u8]) -> Vec<Seen> {
    let header = header(batch);
    let mut found = Vec::new();
    for_each_record(batch, usize::MAX, |record| {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        found.push(Seen {
            offset: header.base_offset + i64::from(record.offset_delta),
            timestamp: header.timestamp_of(record.timestamp_delta).expect("fits"),
            key: owned(record.key),
            value: owned(record.value),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.to_vec(), owned(value)))
                .collect(),
        });
        ControlFlow::Continue(())
    })
    .expect("reads");
    found
}

const NO_HORIZON: DeleteHorizon = DeleteHorizon {
    at_ms: 5_000,
    empty_transaction: false,
};

fn retain(batch: &[u8], horizon: DeleteHorizon, mut keep: impl FnMut(usize) -> bool) -> Retained {
    let mut index = 0;
    retain_records(batch, usize::MAX, horizon, |_| {
        index += 1;
        keep(index - 1)
    })
    .expect("filters")
}

fn rewritten(retained: Retained) -> Vec<u8> {
    match retained {
        Retained::Rewritten(batch) => batch,
        other => panic!("{other:?}"),
    }
}

/// A stored batch of any codec, with anything in it that a producer may send.
pub(crate) fn any_batch(rng: &mut fastrand::Rng) -> Vec<u8> {
    let base_timestamp = match rng.u8(0..10) {
        0 => i64::MIN,
        1 => NO_TIMESTAMP,
        2 => i64::MAX,
        _ => rng.i64(0..2_000_000_000_000),
    };
    let mut builder = BatchBuilder::new(base_timestamp).transactional(rng.bool());
    if rng.bool() {
        builder = builder.producer(rng.i64(0..9), rng.i16(0..9), rng.i32(0..));
    }
    for _ in 0..rng.usize(1..12) {
        let timestamp = match rng.u8(0..4) {
            0 => base_timestamp,
            _ => base_timestamp.saturating_add(rng.i64(-5_000..5_000)),
        };
        let mut bytes = |none: u8| {
            let len = if rng.u8(0..30) == 0 {
                3_000
            } else {
                rng.usize(0..30)
            };
            (rng.u8(0..10) >= none).then(|| (0..len).map(|_| rng.u8(..)).collect::<Vec<_>>())
        };
        let (key, value, name, content) = (bytes(1), bytes(2), bytes(0), bytes(5));
        let headers = [(name.as_deref().unwrap_or_default(), content.as_deref()); 2];
        builder = builder.record(
            timestamp,
            key.as_deref(),
            value.as_deref(),
            &headers[..rng.usize(0..=2)],
        );
    }
    let encodings = encodings(builder.records_bytes(), rng);
    let (name, codec, records) = &encodings[rng.usize(0..encodings.len())];
    let mut batch = builder.build_with(codec.code(), records);
    assert_eq!(header(&batch).compression(), Ok(*codec), "{name}");
    stamp(&mut batch, rng.i64(0..1 << 40), rng.i32(0..9));
    if rng.u8(0..4) == 0 {
        stamp_log_append_time(&mut batch, rng.i64(0..2_000_000_000_000));
    }
    batch
}

/// What must never change.
pub(crate) fn place(batch: &[u8]) -> (i64, i64, i32, i64, i16, i32, bool, bool, TimestampType) {
    let header = header(batch);
    (
        header.base_offset,
        header.last_offset(),
        header.partition_leader_epoch,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.is_transactional(),
        header.is_control(),
        header.timestamp_type(),
    )
}

#[test]
fn records_that_stay_are_what_they_were_whatever_the_codec_and_the_choice() {
    for seed in 0..3_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut batch = any_batch(&mut rng);
        let mut expected = seen(&batch);
        let begun = place(&batch);
        let codec = header(&batch).compression();
        let mut horizon = None;
        // Cleaned again and again, as a log is.
        for round in 0..3 {
            let chance = rng.u8(0..10);
            let choice: Vec<bool> = expected.iter().map(|_| rng.u8(0..10) >= chance).collect();
            let wanted = DeleteHorizon {
                at_ms: rng.i64(0..2_000_000_000_000),
                empty_transaction: rng.u8(0..8) == 0,
            };
            let left: Vec<Seen> = expected
                .iter()
                .zip(&choice)
                .filter(|(_, stays)| **stays)
                .map(|(record, _)| record.clone())
                .collect();
            let tombstone = left.iter().any(|record| record.value.is_none());
            let new_horizon = horizon.is_none() && (tombstone || wanted.empty_transaction);
            let retained = retain(&batch, wanted, |index| choice[index]);
            match retained {
                Retained::Nothing => {
                    assert!(left.is_empty(), "seed {seed} round {round}");
                    break;
                }
                Retained::Unchanged => {
                    assert_eq!(left, expected, "seed {seed} round {round}");
                    assert!(!new_horizon, "seed {seed} round {round}");
                }
                Retained::Rewritten(new) => {
                    assert!(left != expected || new_horizon, "seed {seed} round {round}");
                    batch = new;
                }
            }
            if new_horizon {
                horizon = Some(wanted.at_ms);
            }
            expected = left;
            assert_eq!(seen(&batch), expected, "seed {seed} round {round}");
            assert!(crc_matches(&batch), "seed {seed}");
            assert_eq!(place(&batch), begun, "seed {seed}");
            let header = header(&batch);
            assert_eq!(header.total_len(), batch.len(), "seed {seed}");
            assert_eq!(header.record_count as usize, expected.len(), "seed {seed}");
            assert_eq!(header.compression(), codec, "seed {seed}");
            assert_eq!(header.delete_horizon_ms(), horizon, "seed {seed}");
        }
    }
}

#[test]
fn without_a_delete_horizon_records_are_copied_byte_by_byte() {
    let batch = BatchBuilder::new(1_000)
        .record(
            1_001,
            Some(b"a"),
            Some(b"1"),
            &[(b"\xff\xfe", Some(b"\x80"))],
        )
        .record(1_009, Some(b"b"), Some(b"2"), &[])
        .record(1_004, Some(b"c"), Some(b"3"), &[(b"h", None), (b"h", None)])
        .build();
    let bodies = |batch: &[u8]| {
        let mut bodies = Vec::new();
        for_each_record(batch, usize::MAX, |record| {
            bodies.push(Bytes::copy_from_slice(record.body));
            ControlFlow::Continue(())
        })
        .expect("reads");
        bodies
    };
    let before = bodies(&batch);
    let left = rewritten(retain(&batch, NO_HORIZON, |index| index != 1));
    assert_eq!(bodies(&left), [before[0].clone(), before[2].clone()]);
    let header = header(&left);
    assert_eq!(
        (header.base_timestamp, header.max_timestamp),
        (1_000, 1_004)
    );
    assert_eq!((header.record_count, header.last_offset_delta), (2, 2));
}

#[test]
fn a_tombstone_that_stays_brings_a_delete_horizon_once() {
    let batch = BatchBuilder::new(1_000)
        .record(1_001, Some(b"a"), None, &[])
        .record(1_002, Some(b"b"), Some(b"2"), &[])
        .build();
    let first = rewritten(retain(&batch, NO_HORIZON, |_| true));
    assert_eq!(header(&first).delete_horizon_ms(), Some(5_000));
    assert_eq!(header(&first).max_timestamp, 1_002);
    assert_eq!(seen(&first), seen(&batch));
    let later = DeleteHorizon {
        at_ms: 9_000,
        empty_transaction: false,
    };
    assert_eq!(retain(&first, later, |_| true), Retained::Unchanged);
    let second = rewritten(retain(&first, later, |index| index == 1));
    assert_eq!(header(&second).delete_horizon_ms(), Some(5_000), "kept");
    assert_eq!(seen(&second), seen(&batch)[1..]);
}

#[test]
fn a_tombstone_that_goes_brings_none() {
    let batch = BatchBuilder::new(1_000)
        .record(1_001, Some(b"a"), None, &[])
        .record(1_002, Some(b"b"), Some(b"2"), &[])
        .build();
    let left = rewritten(retain(&batch, NO_HORIZON, |index| index == 1));
    assert_eq!(header(&left).delete_horizon_ms(), None);
}

#[test]
fn the_marker_of_an_empty_transaction_gets_a_delete_horizon() {
    let marker = BatchBuilder::new(1_000)
        .producer(7, 2, -1)
        .transactional(true)
        .control(true)
        .record(1_000, Some(&[0, 0, 0, 1]), Some(&[0; 6]), &[])
        .build();
    assert_eq!(retain(&marker, NO_HORIZON, |_| true), Retained::Unchanged);
    let wanted = DeleteHorizon {
        empty_transaction: true,
        ..NO_HORIZON
    };
    let left = rewritten(retain(&marker, wanted, |_| true));
    assert_eq!(header(&left).delete_horizon_ms(), Some(5_000));
    assert_eq!(seen(&left), seen(&marker));
}

#[test]
fn an_emptied_batch_says_where_it_was_and_whose() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let batch = any_batch(&mut rng);
        assert_eq!(retain(&batch, NO_HORIZON, |_| false), Retained::Nothing);
        let empty = emptied(&batch).expect("empties");
        assert_eq!(place(&empty), place(&batch), "seed {seed}");
        assert!(crc_matches(&empty), "seed {seed}");
        let header = header(&empty);
        assert_eq!(empty.len(), crate::batch::HEADER_LEN);
        assert_eq!(header.compression(), Ok(Compression::None));
        assert_eq!(header.max_timestamp, self::header(&batch).max_timestamp);
        assert_eq!(header.record_count, 0);
        assert_eq!(header.delete_horizon_ms(), None);
        assert!(seen(&empty).is_empty());
        assert_eq!(retain(&empty, NO_HORIZON, |_| true), Retained::Nothing);
        assert_eq!(emptied(&empty), Ok(empty.clone()), "seed {seed}");
    }
}

#[test]
fn another_reader_of_batches_agrees() {
    use kafka_protocol::records::RecordBatchDecoder;
    let mut builder = BatchBuilder::new(1_000);
    for index in 0..50_u8 {
        let value = (index % 5 != 0).then_some([index; 40]);
        let value = value.as_ref().map(|value| value.as_slice());
        builder = builder.record(1_000 + i64::from(index), Some(&[index]), value, &[]);
    }
    for code in 0..=4 {
        let content = builder.records_bytes();
        let compression = Compression::from_attributes(code).expect("a codec");
        let records = compress(Encoding::usual(compression), content).expect("compresses");
        let batch = builder.clone().build_with(code, &records);
        let left = rewritten(retain(&batch, NO_HORIZON, |index| index % 2 == 0));
        if code != 0 {
            // That decoder is built without codecs here; ours has read it above.
            assert_eq!(seen(&left).len(), 25);
            continue;
        }
        let decoded = RecordBatchDecoder::decode(&mut Bytes::from(left.clone())).expect("decodes");
        let theirs: Vec<_> = decoded
            .records
            .iter()
            .map(|record| (record.offset, record.timestamp))
            .collect();
        let ours: Vec<_> = seen(&left)
            .iter()
            .map(|record| (record.offset, record.timestamp))
            .collect();
        assert_eq!(theirs, ours);
    }
}

#[test]
fn damaged_records_and_too_many_bytes_are_errors() {
    let batch = BatchBuilder::new(0)
        .record(0, Some(b"a"), Some(&[0; 100]), &[])
        .build();
    let mut cut = batch.to_vec();
    cut[61] = 0x7f;
    assert!(retain_records(&cut, usize::MAX, NO_HORIZON, |_| true).is_err());
    assert!(retain_records(&batch[..40], usize::MAX, NO_HORIZON, |_| true).is_err());
    assert!(emptied(&batch[..40]).is_err());
    let content =
        compress(Encoding::usual(Compression::Zstd), &vec![0; 10_000]).expect("compresses");
    let bomb = BatchBuilder::new(0)
        .record(0, None, None, &[])
        .build_with(4, &content);
    let refused = retain_records(&bomb, 10, NO_HORIZON, |_| true);
    assert!(refused.is_err(), "{refused:?}");
}
