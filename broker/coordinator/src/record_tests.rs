use super::*;

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

/// Written by Kafka 4.3.1's own serializer (`MetadataRecordSerde`) from the same fields.
fn known_bytes() -> Vec<(&'static str, MetadataRecord)> {
    vec![
        (
            "010200076f72646572730102030405060708090a0b0c0d0e0f1000",
            MetadataRecord::Topic {
                name: "orders".into(),
                topic_id: ID,
            },
        ),
        (
            "010300000000030102030405060708090a0b0c0d0e0f100300000001000000020200000001010100000001000000040000000500",
            MetadataRecord::Partition {
                topic_id: ID,
                partition_id: 3,
                replicas: vec![1, 2],
                isr: vec![1],
                leader: 1,
                leader_epoch: 4,
                partition_epoch: 5,
            },
        ),
        (
            "010500000000030102030405060708090a0b0c0d0e0f100100050200000002",
            MetadataRecord::PartitionChange {
                topic_id: ID,
                partition_id: 3,
                isr: Some(vec![2]),
                leader: None,
            },
        ),
        (
            "010500000000030102030405060708090a0b0c0d0e0f1002000502000000020104ffffffff",
            MetadataRecord::PartitionChange {
                topic_id: ID,
                partition_id: 3,
                isr: Some(vec![2]),
                leader: Some(-1),
            },
        ),
        (
            "01040002076f72646572730d726574656e74696f6e2e6d73032d3100",
            MetadataRecord::Config {
                resource: ConfigResource::Topic("orders".into()),
                name: "retention.ms".into(),
                value: Some("-1".into()),
            },
        ),
        (
            "01040004010d726574656e74696f6e2e6d730000",
            MetadataRecord::Config {
                resource: ConfigResource::Broker(String::new()),
                name: "retention.ms".into(),
                value: None,
            },
        ),
        (
            "0109000102030405060708090a0b0c0d0e0f1000",
            MetadataRecord::RemoveTopic { topic_id: ID },
        ),
        (
            "010f0000000001000000000000000700000000000007d000",
            MetadataRecord::ProducerIds {
                broker_id: 1,
                broker_epoch: 7,
                next_producer_id: 2000,
            },
        ),
        (
            "010000000000010102030405060708090a0b0c0d0e0f1000000000000000070101000000",
            MetadataRecord::RegisterBroker {
                broker_id: 1,
                incarnation: ID,
                broker_epoch: 7,
                unclean: false,
            },
        ),
        (
            "010c00147472616e73616374696f6e2e76657273696f6e000200",
            MetadataRecord::FeatureLevel {
                name: "transaction.version".into(),
                level: 2,
            },
        ),
    ]
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn every_kind_is_written_as_kafka_writes_it() {
    for (hex, record) in known_bytes() {
        assert_eq!(record.encode(), from_hex(hex), "{record:?}");
        assert_eq!(MetadataRecord::decode(&from_hex(hex)), Ok(record));
    }
}

#[test]
fn fields_of_kafkas_schema_that_have_no_meaning_here_are_read_over() {
    // One endpoint, one feature range, a rack, and our own tag, written by Kafka's serializer.
    let hex = "010000000000010102030405060708090a0b0c0d0e0f10000000000000000702025002682384000000020266000000020002720001904e0101";
    let expected = MetadataRecord::RegisterBroker {
        broker_id: 1,
        incarnation: ID,
        broker_epoch: 7,
        unclean: true,
    };
    assert_eq!(MetadataRecord::decode(&from_hex(hex)), Ok(expected.clone()));
    assert!(expected.encode().ends_with(&[0x01, 0x90, 0x4e, 0x01, 0x01]));
}

#[test]
fn unknown_tags_are_skipped_and_everything_else_unknown_is_refused() {
    let mut bytes = MetadataRecord::RemoveTopic { topic_id: ID }.encode();
    bytes.pop();
    bytes.extend_from_slice(&[2, 7, 1, 0xff, 9, 0]);
    assert_eq!(
        MetadataRecord::decode(&bytes),
        Ok(MetadataRecord::RemoveTopic { topic_id: ID })
    );

    bytes.push(0);
    assert_eq!(
        MetadataRecord::decode(&bytes),
        Err(RecordError::Wire(WireError::TrailingBytes(1)))
    );
    assert_eq!(
        MetadataRecord::decode(&[2, 9, 0]),
        Err(RecordError::UnknownFrame(2))
    );
    assert_eq!(
        MetadataRecord::decode(&[1, 99, 0]),
        Err(RecordError::UnknownApiKey(99))
    );
    assert_eq!(
        MetadataRecord::decode(&[1, 9, 1]),
        Err(RecordError::UnknownVersion {
            api_key: 9,
            version: 1
        })
    );
    assert_eq!(
        MetadataRecord::decode(&[1, 9, 0, 1]),
        Err(RecordError::Wire(WireError::Truncated))
    );
}

#[test]
fn a_reassignment_is_refused_instead_of_half_understood() {
    let mut bytes = MetadataRecord::PartitionChange {
        topic_id: ID,
        partition_id: 0,
        isr: None,
        leader: None,
    }
    .encode();
    bytes.pop();
    bytes.extend_from_slice(&[1, 2, 1, 1]);
    assert_eq!(
        MetadataRecord::decode(&bytes),
        Err(RecordError::Unsupported("a partition reassignment"))
    );
}

#[test]
fn every_record_survives_the_round_trip() {
    for seed in 0..5_000 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let record = random_record(&mut rng);
        assert_eq!(
            MetadataRecord::decode(&record.encode()).as_ref(),
            Ok(&record),
            "seed {seed}"
        );
    }
}

#[test]
fn a_record_cut_short_is_an_error_at_every_length() {
    for (hex, record) in known_bytes() {
        let bytes = from_hex(hex);
        for len in 0..bytes.len() {
            assert!(
                MetadataRecord::decode(&bytes[..len]).is_err(),
                "{record:?} at {len}"
            );
        }
    }
}

#[test]
fn random_and_mutated_bytes_never_panic_and_what_decodes_encodes_again() {
    for seed in 0..20_000 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = if rng.bool() {
            let mut bytes = random_record(&mut rng).encode();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes
        } else {
            // A valid start, so that the bodies are reached.
            let mut bytes = vec![1, rng.u8(..16), 0];
            bytes.extend(
                (0..rng.usize(..80)).map(|_| if rng.bool() { rng.u8(..) } else { rng.u8(..4) }),
            );
            bytes
        };
        if let Ok(record) = MetadataRecord::decode(&bytes) {
            assert_eq!(
                MetadataRecord::decode(&record.encode()),
                Ok(record),
                "seed {seed}, bytes {bytes:02x?}"
            );
        }
    }
}

fn random_record(rng: &mut fastrand::Rng) -> MetadataRecord {
    let topic_id = Uuid::from_u128(rng.u128(..));
    let text = |rng: &mut fastrand::Rng| -> String {
        (0..rng.usize(..200)).map(|_| rng.char(..)).collect()
    };
    let ids = |rng: &mut fastrand::Rng| -> Vec<i32> {
        (0..rng.usize(..5)).map(|_| rng.i32(..)).collect()
    };
    match rng.u8(..8) {
        0 => MetadataRecord::Topic {
            name: text(rng),
            topic_id,
        },
        1 => MetadataRecord::Partition {
            topic_id,
            partition_id: rng.i32(..),
            replicas: ids(rng),
            isr: ids(rng),
            leader: rng.i32(..),
            leader_epoch: rng.i32(..),
            partition_epoch: rng.i32(..),
        },
        2 => MetadataRecord::PartitionChange {
            topic_id,
            partition_id: rng.i32(..),
            isr: rng.bool().then(|| ids(rng)),
            leader: rng.bool().then(|| rng.i32(-1..)),
        },
        3 => {
            let name = text(rng);
            let resource = match rng.u8(..4) {
                0 => ConfigResource::Topic(name),
                1 => ConfigResource::Broker(name),
                2 => ConfigResource::ClientMetrics(name),
                _ => ConfigResource::Group(name),
            };
            MetadataRecord::Config {
                resource,
                name: text(rng),
                value: rng.bool().then(|| text(rng)),
            }
        }
        4 => MetadataRecord::RemoveTopic { topic_id },
        5 => MetadataRecord::ProducerIds {
            broker_id: rng.i32(..),
            broker_epoch: rng.i64(..),
            next_producer_id: rng.i64(..),
        },
        6 => MetadataRecord::RegisterBroker {
            broker_id: rng.i32(..),
            incarnation: topic_id,
            broker_epoch: rng.i64(..),
            unclean: rng.bool(),
        },
        _ => MetadataRecord::FeatureLevel {
            name: text(rng),
            level: rng.i16(..),
        },
    }
}
