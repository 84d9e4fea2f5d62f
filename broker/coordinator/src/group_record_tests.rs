//! The expected bytes were written by Kafka 4.3.1's own generated classes.

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn offset() -> OffsetCommitValue {
    OffsetCommitValue {
        offset: 42,
        leader_epoch: 5,
        metadata: "m".into(),
        commit_timestamp: 1000,
        expire_timestamp: None,
        topic_id: Uuid::nil(),
    }
}

fn commit(value: Option<OffsetCommitValue>) -> GroupRecord {
    GroupRecord::OffsetCommit {
        group: "g".into(),
        topic: "topic".into(),
        partition: 3,
        value,
    }
}

fn group() -> GroupMetadataValue {
    GroupMetadataValue {
        protocol_type: "consumer".to_owned(),
        generation: 7,
        protocol: Some("range".to_owned()),
        leader: Some("m1".to_owned()),
        current_state_timestamp: 99,
        members: vec![MemberMetadata {
            member_id: "m1".to_owned(),
            group_instance_id: Some("i".to_owned()),
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            rebalance_timeout: 300,
            session_timeout: 10,
            subscription: Bytes::from_static(&[1, 2]),
            assignment: Bytes::from_static(&[3]),
        }],
    }
}

fn metadata(value: Option<GroupMetadataValue>) -> GroupRecord {
    GroupRecord::GroupMetadata {
        group: "grp".into(),
        value: value.map(Arc::new),
    }
}

const OFFSET_KEY: &str = "00010001670005746f70696300000003";
const GROUP_KEY: &str = "00020003677270";

#[test]
fn offsets_are_written_as_kafka_writes_them() {
    let (key, value) = commit(Some(offset())).encode();
    assert_eq!(key, unhex(OFFSET_KEY));
    let plain = "0004000000000000002a00000005026d00000000000003e800";
    assert_eq!(value, Some(unhex(plain)));
    let with_id = OffsetCommitValue {
        topic_id: Uuid::from_u64_pair(1, 2),
        ..offset()
    };
    let bytes =
        "0004000000000000002a00000005026d00000000000003e801001000000000000000010000000000000002";
    assert_eq!(commit(Some(with_id)).encode().1, Some(unhex(bytes)));
    let with_expiry = OffsetCommitValue {
        leader_epoch: -1,
        expire_timestamp: Some(9),
        ..offset()
    };
    let bytes = "0001000000000000002a00016d00000000000003e80000000000000009";
    assert_eq!(commit(Some(with_expiry)).encode().1, Some(unhex(bytes)));
    assert_eq!(commit(None).encode(), (unhex(OFFSET_KEY), None));
}

#[test]
fn groups_are_written_as_kafka_writes_them() {
    let (key, value) = metadata(Some(group())).encode();
    assert_eq!(key, unhex(GROUP_KEY));
    let bytes = "00030008636f6e73756d657200000007000572616e676500026d3100000000000000630000000100026d3100016900016300022f680000012c0000000a0000000201020000000103";
    assert_eq!(value, Some(unhex(bytes)));
    let empty = GroupMetadataValue {
        protocol_type: String::new(),
        generation: 0,
        protocol: None,
        leader: None,
        current_state_timestamp: 5,
        members: Vec::new(),
    };
    let bytes = "0003000000000000ffffffff000000000000000500000000";
    assert_eq!(metadata(Some(empty)).encode().1, Some(unhex(bytes)));
}

#[test]
fn every_version_of_a_committed_offset_is_read() {
    let without_epoch = OffsetCommitValue {
        leader_epoch: -1,
        ..offset()
    };
    let rows = [
        (
            "0000000000000000002a00016d00000000000003e8",
            without_epoch.clone(),
        ),
        (
            "0001000000000000002a00016d00000000000003e8ffffffffffffffff",
            without_epoch.clone(),
        ),
        ("0002000000000000002a00016d00000000000003e8", without_epoch),
        (
            "0003000000000000002a0000000500016d00000000000003e8",
            offset(),
        ),
        (
            "0004000000000000002a00000005026d00000000000003e800",
            offset(),
        ),
    ];
    for (bytes, expected) in rows {
        let read = GroupRecord::decode(Some(&unhex(OFFSET_KEY)), Some(&unhex(bytes)));
        assert_eq!(read, Ok(commit(Some(expected))), "{bytes}");
    }
    let mut legacy_key = unhex(OFFSET_KEY);
    legacy_key[1] = 0;
    assert_eq!(
        GroupRecord::decode(Some(&legacy_key), None),
        Ok(commit(None))
    );
}

#[test]
fn every_version_of_a_group_is_read() {
    let rows = [
        "00000008636f6e73756d657200000007000572616e676500026d310000000100026d3100016300022f680000000a0000000201020000000103",
        "00010008636f6e73756d657200000007000572616e676500026d310000000100026d3100016300022f680000012c0000000a0000000201020000000103",
        "00020008636f6e73756d657200000007000572616e676500026d3100000000000000630000000100026d3100016300022f680000012c0000000a0000000201020000000103",
        "00030008636f6e73756d657200000007000572616e676500026d3100000000000000630000000100026d3100016900016300022f680000012c0000000a0000000201020000000103",
        "000409636f6e73756d6572000000070672616e6765036d31000000000000006302036d3102690263032f680000012c0000000a03010202030000",
    ];
    for (version, bytes) in rows.into_iter().enumerate() {
        let mut expected = group();
        if version < 3 {
            expected.members[0].group_instance_id = None;
        }
        if version < 2 {
            expected.current_state_timestamp = -1;
        }
        if version < 1 {
            expected.members[0].rebalance_timeout = -1;
        }
        let read = GroupRecord::decode(Some(&unhex(GROUP_KEY)), Some(&unhex(bytes)));
        assert_eq!(read, Ok(metadata(Some(expected))), "version {version}");
    }
}

#[test]
fn what_is_unknown_is_refused() {
    assert_eq!(
        GroupRecord::decode(None, None),
        Err(GroupRecordError::NoKey)
    );
    let (mut key, _) = metadata(None).encode();
    key[1] = 3;
    assert_eq!(
        GroupRecord::decode(Some(&key), None),
        Err(GroupRecordError::UnknownKeyType(3))
    );
    let (key, value) = metadata(Some(group())).encode();
    let mut value = value.unwrap();
    value[1] = 5;
    assert_eq!(
        GroupRecord::decode(Some(&key), Some(&value)),
        Err(GroupRecordError::UnknownVersion {
            key_type: 2,
            version: 5
        })
    );
}

#[test]
fn damaged_bytes_never_panic() {
    let seed = 0x6772_6f75;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for record in [commit(Some(offset())), metadata(Some(group()))] {
        let (key, value) = record.encode();
        let value = value.unwrap();
        for len in 0..value.len() {
            assert!(GroupRecord::decode(Some(&key), Some(&value[..len])).is_err());
        }
        for len in 0..key.len() {
            assert!(GroupRecord::decode(Some(&key[..len]), None).is_err());
        }
        for _ in 0..20_000 {
            let (mut key, mut value) = (key.clone(), value.clone());
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..value.len());
                value[at] = rng.u8(..);
                let at = rng.usize(..key.len());
                key[at] = rng.u8(..);
            }
            if let Ok(read) = GroupRecord::decode(Some(&key), Some(&value)) {
                let (key, value) = read.encode();
                assert_eq!(GroupRecord::decode(Some(&key), value.as_deref()), Ok(read));
            }
        }
    }
}
