use kafka_protocol::records::RecordBatchDecoder;

use super::*;

fn three_records() -> Bytes {
    BatchBuilder::new(1_000)
        .producer(7, 3, 40)
        .transactional(true)
        .record(
            1_000,
            Some(b"a"),
            Some(b"1"),
            &[(b"h", None), (b"h", Some(b"x"))],
        )
        .record(1_500, None, None, &[])
        .record(900, Some(b""), Some(b"3"), &[])
        .build()
}

#[test]
fn a_built_batch_has_the_header_of_its_records() {
    let batch = three_records();
    let header = BatchHeader::parse(&batch).unwrap();

    assert_eq!(header.total_len(), batch.len());
    assert_eq!(
        (
            header.base_offset,
            header.last_offset(),
            header.next_offset()
        ),
        (0, 2, 3)
    );
    assert_eq!(
        (header.base_timestamp, header.max_timestamp),
        (1_000, 1_500)
    );
    assert_eq!(
        (
            header.producer_id,
            header.producer_epoch,
            header.base_sequence
        ),
        (7, 3, 40)
    );
    assert_eq!((header.last_sequence(), header.record_count), (42, 3));
    assert_eq!(header.compression(), Ok(Compression::None));
    assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(header.delete_horizon_ms(), None);
    assert!(header.is_transactional() && !header.is_control() && header.has_producer_id());
    assert!(crc_matches(&batch));
}

#[test]
fn the_codec_reads_a_built_batch() {
    let set = RecordBatchDecoder::decode(&mut three_records()).unwrap();

    assert_eq!(set.records.len(), 3);
    assert_eq!(set.records[0].key.as_deref(), Some(&b"a"[..]));
    assert_eq!(set.records[1].value, None);
    assert_eq!(set.records[2].timestamp, 900);
    assert_eq!(set.records[2].offset, 2);
}

#[test]
fn stamping_the_offset_keeps_the_crc() {
    let mut batch = three_records().to_vec();
    stamp(&mut batch, 1 << 40, 9);

    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(
        (
            header.base_offset,
            header.last_offset(),
            header.partition_leader_epoch
        ),
        (1 << 40, (1 << 40) + 2, 9)
    );
    assert!(crc_matches(&batch));
}

#[test]
fn stamping_a_time_makes_a_new_crc() {
    let mut batch = three_records().to_vec();
    stamp_log_append_time(&mut batch, 77);

    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(
        (header.timestamp_type(), header.max_timestamp),
        (TimestampType::LogAppendTime, 77)
    );
    assert_eq!(header.timestamp_of(500), Some(77));
    assert!(header.is_transactional() && crc_matches(&batch));

    stamp_max_timestamp(&mut batch, 1_500);
    assert_eq!(batch, three_records());
}

#[test]
fn sequences_wrap_to_zero() {
    let mut header = BatchHeader::parse(&three_records()).unwrap();
    header.base_sequence = i32::MAX - 1;
    assert_eq!(header.last_sequence(), 0);
    header.base_sequence = i32::MAX - 2;
    assert_eq!(header.last_sequence(), i32::MAX);
    header.base_sequence = -1;
    assert_eq!(header.last_sequence(), -1);
}

#[test]
fn the_delete_horizon_stands_in_the_base_timestamp() {
    let mut header = BatchHeader::parse(&three_records()).unwrap();
    header.attributes |= DELETE_HORIZON_BIT;
    assert_eq!(header.delete_horizon_ms(), Some(1_000));
}

#[test]
fn what_is_no_batch_is_refused() {
    let good = three_records();
    assert_eq!(
        BatchHeader::parse(&good[..60]),
        Err(BatchError::Truncated {
            needed: 61,
            have: 60
        })
    );
    for (at, bytes, error) in [
        (MAGIC_AT, vec![1], BatchError::Magic(1)),
        (
            LENGTH_AT,
            48i32.to_be_bytes().to_vec(),
            BatchError::Length(48),
        ),
        (
            LENGTH_AT,
            (-1i32).to_be_bytes().to_vec(),
            BatchError::Length(-1),
        ),
    ] {
        let mut bad = good.to_vec();
        bad[at..at + bytes.len()].copy_from_slice(&bytes);
        assert_eq!(BatchHeader::parse(&bad), Err(error));
    }
    assert_eq!(
        Compression::from_attributes(0x1d),
        Err(BatchError::UnknownCompression(5))
    );
    assert!(!crc_matches(&good[..good.len() - 1]) && !crc_matches(b""));
}

#[test]
fn the_walk_gives_every_batch_and_stops_at_a_cut_one() {
    let one = three_records();
    let other = BatchBuilder::new(0).record(0, None, None, &[]).build();
    let bytes = [one.as_ref(), &other, &one[..70]].concat();

    let mut batches = walk(&bytes);
    assert_eq!(batches.next().unwrap().unwrap().1, one);
    assert_eq!(batches.next().unwrap().unwrap().1, other);
    assert_eq!(
        batches.next(),
        Some(Err(BatchError::Truncated {
            needed: one.len(),
            have: 70
        }))
    );
    assert_eq!(batches.next(), None);
    assert_eq!(walk(b"").next(), None);
}

#[test]
fn hostile_headers_never_panic() {
    let seed = 0x5eed_0002;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let mut bytes = vec![0; rng.usize(0..100)];
        rng.fill(&mut bytes);
        if bytes.len() > MAGIC_AT {
            bytes[MAGIC_AT] = 2;
            bytes[LENGTH_AT] = 0;
        }
        for (header, _) in walk(&bytes).flatten() {
            let _ = (
                header.last_offset(),
                header.next_offset(),
                header.last_sequence(),
                header.compression(),
            );
            let _ = (header.timestamp_of(rng.i64(..)), header.delete_horizon_ms());
        }
        crc_matches(&bytes);
    }
}
