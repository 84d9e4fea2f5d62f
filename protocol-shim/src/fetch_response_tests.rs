use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, LeaderIdAndEpoch, NodeEndpoint, SnapshotId,
};
use kafka_protocol::messages::{BrokerId, ProducerId, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, StrBytes};

use super::*;

fn text(rng: &mut fastrand::Rng) -> StrBytes {
    StrBytes::from_string((0..rng.usize(0..150)).map(|_| rng.alphanumeric()).collect())
}

fn unknown_tags(rng: &mut fastrand::Rng, version: i16, first: i32) -> Vec<(i32, Bytes)> {
    let any = version >= 12 && rng.u8(..) < 25;
    (0..if any { rng.usize(1..3) } else { 0 })
        .map(|_| {
            (
                first + rng.i32(0..1_000_000),
                Bytes::from(vec![rng.u8(..); rng.usize(0..200)]),
            )
        })
        .collect()
}

fn partition(rng: &mut fastrand::Rng, version: i16) -> PartitionData {
    let aborted = match rng.u8(0..4) {
        0 => None,
        1 => Some(
            (0..rng.usize(1..200))
                .map(|_| {
                    AbortedTransaction::default()
                        .with_producer_id(ProducerId(rng.i64(..)))
                        .with_first_offset(rng.i64(..))
                })
                .collect(),
        ),
        _ => Some(vec![]),
    };
    let mut partition = PartitionData::default()
        .with_partition_index(rng.i32(..))
        .with_error_code(rng.i16(..))
        .with_high_watermark(rng.i64(..))
        .with_last_stable_offset(rng.i64(..))
        .with_log_start_offset(rng.i64(..))
        .with_aborted_transactions(aborted)
        .with_records(rng.bool().then(Bytes::new));
    if version >= 11 {
        partition.preferred_read_replica = BrokerId(rng.i32(..));
    }
    // In older versions these are left out, set or not.
    if rng.u8(..) < 60 {
        partition.diverging_epoch = EpochEndOffset::default()
            .with_epoch(rng.i32(..))
            .with_end_offset(rng.i64(..));
    }
    if rng.u8(..) < 60 {
        partition.current_leader = LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(rng.i32(..)))
            .with_leader_epoch(rng.i32(..));
    }
    if rng.u8(..) < 60 {
        partition.snapshot_id = SnapshotId::default()
            .with_epoch(rng.i32(..))
            .with_end_offset(rng.i64(..));
    }
    partition
        .unknown_tagged_fields
        .extend(unknown_tags(rng, version, 3));
    partition
}

/// The type of ids belongs to a crate that this one does not name; so let the codec make one.
fn topic_of_random_id(rng: &mut fastrand::Rng) -> FetchableTopicResponse {
    let mut bytes = Bytes::from([&rng.u128(..).to_be_bytes()[..], &[1, 0]].concat());
    FetchableTopicResponse::decode(&mut bytes, 13).unwrap()
}

fn topic(rng: &mut fastrand::Rng, version: i16) -> FetchableTopicResponse {
    let count = if rng.u8(..) < 10 {
        rng.usize(100..200)
    } else {
        rng.usize(0..4)
    };
    let mut topic = FetchableTopicResponse::default()
        .with_topic(TopicName(text(rng)))
        .with_partitions((0..count).map(|_| partition(rng, version)).collect());
    topic.topic_id = topic_of_random_id(rng).topic_id;
    topic
        .unknown_tagged_fields
        .extend(unknown_tags(rng, version, 0));
    topic
}

fn response(rng: &mut fastrand::Rng, version: i16) -> FetchResponse {
    let mut response = FetchResponse::default()
        .with_throttle_time_ms(rng.i32(..))
        .with_error_code(rng.i16(..))
        .with_responses((0..rng.usize(0..4)).map(|_| topic(rng, version)).collect());
    if version >= 7 {
        response.session_id = rng.i32(..);
    }
    if rng.u8(..) < 80 {
        response.node_endpoints = (0..rng.usize(1..4))
            .map(|_| {
                let mut endpoint = NodeEndpoint::default();
                if version >= 16 {
                    endpoint.node_id = BrokerId(rng.i32(..));
                    endpoint.host = text(rng);
                    endpoint.port = rng.i32(..);
                    endpoint.rack = rng.bool().then(|| text(rng));
                }
                endpoint
            })
            .collect();
    }
    response
        .unknown_tagged_fields
        .extend(unknown_tags(rng, version, 1));
    response
}

fn records(rng: &mut fastrand::Rng, partitions: usize) -> Vec<Vec<Bytes>> {
    (0..partitions)
        .map(|_| {
            (0..rng.usize(0..4))
                .map(|_| Bytes::from(vec![rng.u8(..); rng.usize(0..400)]))
                .collect()
        })
        .collect()
}

/// What the codec writes for the same response, framed.
fn by_the_codec(
    correlation_id: i32,
    response: &FetchResponse,
    records: &[Vec<Bytes>],
    version: i16,
) -> Vec<u8> {
    let mut response = response.clone();
    let mut records = records.iter();
    for partition in response
        .responses
        .iter_mut()
        .flat_map(|topic| &mut topic.partitions)
    {
        partition.records = Some(records.next().unwrap().concat().into());
    }
    let mut frame = BytesMut::from(&[0; 4][..]);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header
        .encode(&mut frame, FetchResponse::header_version(version))
        .unwrap();
    response.encode(&mut frame, version).unwrap();
    let size = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame.to_vec()
}

#[test]
fn the_segments_are_the_codecs_bytes_at_every_version() {
    for version in 4..=18 {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let response = response(&mut rng, version);
            let partitions = response
                .responses
                .iter()
                .map(|topic| topic.partitions.len())
                .sum();
            let records = records(&mut rng, partitions);
            let segments = encode(rng.i32(..), &response, &records, version).unwrap();

            let correlation_id = i32::from_be_bytes(segments[0][4..8].try_into().unwrap());
            let expected = by_the_codec(correlation_id, &response, &records, version);
            assert_eq!(segments.concat(), expected, "version {version} seed {seed}");
            assert!(segments.iter().all(|segment| !segment.is_empty()));
        }
    }
}

#[test]
fn batches_are_not_copied() {
    let response = FetchResponse::default().with_responses(vec![
        FetchableTopicResponse::default().with_partitions(vec![PartitionData::default(); 2]),
    ]);
    let records = vec![
        vec![Bytes::from(vec![1; 100]), Bytes::from(vec![2; 100])],
        vec![Bytes::from(vec![3; 100])],
    ];
    let segments = encode(1, &response, &records, 12).unwrap();
    for batch in records.iter().flatten() {
        assert!(
            segments
                .iter()
                .any(|segment| segment.as_ptr() == batch.as_ptr())
        );
    }
}

#[test]
fn mistakes_of_the_caller_are_refused() {
    let encode = |id, response: &FetchResponse, records: &[Vec<Bytes>], version| {
        encode(id, response, records, version)
    };
    let one = FetchResponse::default().with_responses(vec![
        FetchableTopicResponse::default().with_partitions(vec![PartitionData::default()]),
    ]);
    assert_eq!(encode(1, &one, &[vec![]], 3), Err(EncodeError::Version(3)));
    assert_eq!(
        encode(1, &one, &[vec![]], 19),
        Err(EncodeError::Version(19))
    );
    assert_eq!(
        encode(1, &one, &[], 12),
        Err(EncodeError::PartitionCount {
            partitions: 1,
            records: 0
        })
    );
    let mut full = one.clone();
    full.responses[0].partitions[0].records = Some(Bytes::from_static(b"x"));
    assert_eq!(
        encode(1, &full, &[vec![]], 12),
        Err(EncodeError::RecordsInResponse)
    );
    let session = one.clone().with_session_id(1);
    assert!(matches!(
        encode(1, &session, &[vec![]], 6),
        Err(EncodeError::Codec(_))
    ));
    let mut replica = one;
    replica.responses[0].partitions[0].preferred_read_replica = BrokerId(1);
    assert!(matches!(
        encode(1, &replica, &[vec![]], 10),
        Err(EncodeError::Codec(_))
    ));
    assert!(encode(1, &replica, &[vec![]], 11).is_ok());
}
