//! Rows that write, read and look up the records of a partition: Produce, Fetch, ListOffsets, DeleteRecords,
//! OffsetForLeaderEpoch.

use bytes::Bytes;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{BrokerId, FetchResponse};
use uuid::Uuid;

use crate::Stage;
use crate::requests::{
    EARLIEST, LATEST, NONE, TIME, Topic, batch, batch_at, bounds_are, create,
    delete_records_request, each_partition, epoch_request, fetch_request, fetched, headers, list,
    list_request, produce, produce_request, produced, stored, topic_name, values,
};

fn appended_at(
    response: &PartitionProduceResponse,
    version: i16,
    partition: i32,
    base_offset: i64,
) {
    assert_eq!(response.error_code, NONE, "{:?}", response.error_message);
    assert_eq!(response.index, partition);
    assert_eq!(response.base_offset, base_offset);
    assert_eq!(
        response.log_append_time_ms, -1,
        "the topic keeps the producer's time"
    );
    let log_start = if version >= 5 { 0 } else { -1 };
    assert_eq!(response.log_start_offset, log_start);
    assert!(response.record_errors.is_empty());
    assert_eq!(response.error_message, None);
}

pub fn produce_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let (topic, other) = (create(wire, 2, &[]), create(wire, 1, &[]));
    for (acks, base_offset) in [(-1, 0), (1, 2)] {
        let entries = [(&topic, 1, batch(&["a", "b"])), (&other, 0, batch(&["c"]))];
        let response = wire.ask(version, &produce_request(version, acks, &entries));
        assert_eq!(response.throttle_time_ms, 0);
        assert!(response.node_endpoints.is_empty());
        assert_eq!(response.responses.len(), 2);
        for (answer, topic) in response.responses.iter().zip([&topic, &other]) {
            let by_id = version >= 13;
            let name = if by_id { "" } else { &topic.name };
            let id = if by_id { topic.id } else { Uuid::nil() };
            assert_eq!((&answer.name, answer.topic_id), (&topic_name(name), id));
            assert_eq!(answer.partition_responses.len(), 1);
        }
        appended_at(
            &response.responses[0].partition_responses[0],
            version,
            1,
            base_offset,
        );
        appended_at(
            &response.responses[1].partition_responses[0],
            version,
            0,
            base_offset / 2,
        );
    }
    assert_eq!(stored(wire, &topic, 1), ["a", "b", "a", "b"]);
    assert_eq!(stored(wire, &other, 0), ["c", "c"]);
    bounds_are(wire, &topic, 0, (0, 0));
}

pub fn produce_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[("max.message.bytes", "200")]);
    let good = batch(&["good"]);
    let damaged = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        Bytes::from(bytes)
    };
    let (unknown, zstd) = if version >= 13 {
        (100, 2)
    } else {
        (3, if version < 7 { 76 } else { 2 })
    };
    let long = "x".repeat(300);
    let refusals = [
        (
            "an unknown topic",
            Topic::unknown(),
            0,
            good.clone(),
            unknown,
        ),
        ("an unknown partition", topic.clone(), 1, good.clone(), 3),
        ("a negative partition", topic.clone(), -1, good.clone(), 3),
        ("a wrong checksum", topic.clone(), 0, damaged(70, 0xff), 2),
        (
            "zstd, its checksum then wrong, before 7 too early",
            topic.clone(),
            0,
            damaged(22, 4),
            zstd,
        ),
        ("an old format", topic.clone(), 0, damaged(16, 1), 87),
        ("no batch", topic.clone(), 0, Bytes::new(), 87),
        (
            "two batches",
            topic.clone(),
            0,
            [&good[..], &good[..]].concat().into(),
            87,
        ),
        (
            "a batch above max.message.bytes",
            topic.clone(),
            0,
            batch(&[&long]),
            10,
        ),
        (
            "a time beyond message.timestamp.after.max.ms",
            topic.clone(),
            0,
            batch_at(&[(1 << 52, "late")]),
            32,
        ),
    ];
    for (what, topic, partition, bytes, error) in refusals {
        let response = produced(wire.ask(
            version,
            &produce_request(version, -1, &[(&topic, partition, bytes)]),
        ));
        assert_eq!(response.error_code, error, "{what}: {response:?}");
        assert_eq!(response.index, partition);
        assert_eq!(
            (response.base_offset, response.log_append_time_ms),
            (-1, -1)
        );
    }
    // Single records at fault are named since 8.
    let late = batch_at(&[
        (TIME, "in time"),
        (1 << 52, "late"),
        (TIME, "in time"),
        (1 << 53, "later"),
    ]);
    let response = produced(wire.ask(version, &produce_request(version, -1, &[(&topic, 0, late)])));
    assert_eq!(response.error_code, 32);
    let at_fault: Vec<i32> = response
        .record_errors
        .iter()
        .map(|record| record.batch_index)
        .collect();
    assert_eq!(at_fault, if version >= 8 { vec![1, 3] } else { vec![] });
    assert!(
        response
            .record_errors
            .iter()
            .all(|record| record.batch_index_error_message.is_some())
    );
    assert_eq!(response.error_message.is_some(), version >= 8);
    let response = produced(wire.ask(
        version,
        &produce_request(version, 2, &[(&topic, 0, good.clone())]),
    ));
    assert_eq!(response.error_code, 21, "acks=2");
    let twice = [(&topic, 0, good.clone()), (&topic, 0, good.clone())];
    let response = wire.ask(version, &produce_request(version, -1, &twice));
    assert!(
        response
            .responses
            .iter()
            .all(|topic| topic.partition_responses[0].error_code == 42)
    );
    bounds_are(wire, &topic, 0, (0, 0));

    // One bad partition does not touch the others of its request.
    let entries = [(&Topic::unknown(), 0, good.clone()), (&topic, 0, good)];
    let response = wire.ask(version, &produce_request(version, -1, &entries));
    let errors: Vec<i16> = response
        .responses
        .iter()
        .map(|topic| topic.partition_responses[0].error_code)
        .collect();
    assert_eq!(errors, [unknown, NONE]);
    bounds_are(wire, &topic, 0, (0, 1));
}

fn is_of(response: &FetchResponse, version: i16, topic: &Topic) {
    let answer = &response.responses[0];
    if version >= 13 {
        assert_eq!(
            (answer.topic_id, &answer.topic),
            (topic.id, &topic_name(""))
        );
    } else {
        assert_eq!(
            (answer.topic_id, &answer.topic),
            (Uuid::nil(), &topic_name(&topic.name))
        );
    }
}

pub fn fetch_succeeds(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 2, &[]);
    let sent = [batch(&["a", "b"]), batch(&["c"])];
    for batch in &sent {
        produce(wire, &topic, 1, batch.clone());
    }
    for isolation_level in [0, 1] {
        let request =
            fetch_request(version, &[(&topic, 1, 0)]).with_isolation_level(isolation_level);
        let response = wire.ask(version, &request);
        assert_eq!((response.throttle_time_ms, response.session_id), (0, 0));
        assert!(response.node_endpoints.is_empty());
        is_of(&response, version, &topic);
        let data = fetched(response);
        assert_eq!((data.partition_index, data.error_code), (1, NONE));
        assert_eq!((data.high_watermark, data.last_stable_offset), (3, 3));
        let log_start = if version >= 5 { 0 } else { -1 };
        assert_eq!(data.log_start_offset, log_start);
        assert_eq!(data.preferred_read_replica, BrokerId(-1));
        assert_eq!(
            (data.diverging_epoch.epoch, data.current_leader.leader_epoch),
            (-1, -1)
        );
        assert!(
            data.aborted_transactions
                .as_deref()
                .unwrap_or_default()
                .is_empty()
        );
        let texts: Vec<(i64, String)> = values(&data);
        assert_eq!(
            texts,
            [
                (0, "a".to_owned()),
                (1, "b".to_owned()),
                (2, "c".to_owned())
            ]
        );
        let found: Vec<_> = headers(&data)
            .iter()
            .map(|header| {
                (
                    header.base_offset,
                    header.partition_leader_epoch,
                    header.max_timestamp,
                )
            })
            .collect();
        assert_eq!(found, [(0, 0, TIME + 10), (2, 0, TIME)]);
        // Nothing but base offset and leader epoch is the broker's: the rest is what the producer sent.
        let records = data.records.expect("records");
        let (first, second) = records.split_at(sent[0].len());
        assert_eq!(
            (&first[8..12], &second[8..12]),
            (&sent[0][8..12], &sent[1][8..12])
        );
        assert_eq!(
            (&first[16..], &second[16..]),
            (&sent[0][16..], &sent[1][16..])
        );
    }
    // At the end there is nothing, and no error.
    let data = fetched(wire.ask(version, &fetch_request(version, &[(&topic, 1, 3)])));
    assert_eq!((data.error_code, data.high_watermark), (NONE, 3));
    assert!(data.records.unwrap_or_default().is_empty());
    if version >= 9 {
        let epochs = each_partition(fetch_request(version, &[(&topic, 1, 2)]), |partition| {
            let last = if version >= 12 { 0 } else { -1 };
            partition
                .with_current_leader_epoch(0)
                .with_last_fetched_epoch(last)
        });
        assert_eq!(
            values(&fetched(wire.ask(version, &epochs))),
            [(2, "c".to_owned())]
        );
    }
}

pub fn fetch_fails(stage: &mut Stage, version: i16) {
    let wire = &mut stage.wire;
    let topic = create(wire, 1, &[]);
    produce(wire, &topic, 0, batch(&["a"]));
    let unknown = if version >= 13 { 100 } else { 3 };
    let refusals = [
        ("an unknown topic", Topic::unknown(), 0, 0, unknown),
        ("an unknown partition", topic.clone(), 1, 0, 3),
        ("an offset beyond the end", topic.clone(), 0, 2, 1),
        ("an offset before the start", topic.clone(), 0, -1, 1),
    ];
    for (what, topic, partition, offset, error) in refusals {
        // A failure is answered at once, whatever the client would wait for.
        let request = fetch_request(version, &[(&topic, partition, offset)])
            .with_max_wait_ms(60_000)
            .with_min_bytes(1000);
        let response = wire.ask(version, &request);
        is_of(&response, version, &topic);
        let data = fetched(response);
        assert_eq!(
            (data.partition_index, data.error_code),
            (partition, error),
            "{what}"
        );
        assert_eq!(
            (
                data.high_watermark,
                data.last_stable_offset,
                data.log_start_offset
            ),
            (-1, -1, -1)
        );
        assert!(data.records.unwrap_or_default().is_empty());
    }
    if version >= 9 {
        let newer = each_partition(fetch_request(version, &[(&topic, 0, 0)]), |partition| {
            partition.with_current_leader_epoch(1)
        });
        assert_eq!(
            fetched(wire.ask(version, &newer)).error_code,
            75,
            "an epoch not known yet"
        );
    }
    if version >= 12 {
        let newer = each_partition(fetch_request(version, &[(&topic, 0, 0)]), |partition| {
            partition.with_last_fetched_epoch(1)
        });
        let data = fetched(wire.ask(version, &newer));
        assert_eq!(
            data.error_code, 1,
            "records of an epoch that never was: {data:?}"
        );
    }
    let good_and_bad = [(&topic, 0, 0), (&Topic::unknown(), 0, 0)];
    let response = wire.ask(version, &fetch_request(version, &good_and_bad));
    let errors: Vec<i16> = response
        .responses
        .iter()
        .map(|topic| topic.partitions[0].error_code)
        .collect();
    assert_eq!(errors, [NONE, unknown]);
}

/// Times 5, 20, 10 in one batch and 15 in the next: the greatest is not the last.
fn timed_topic(stage: &mut Stage) -> Topic {
    let topic = create(&mut stage.wire, 1, &[]);
    let first = [(TIME + 5, "5"), (TIME + 20, "20"), (TIME + 10, "10")];
    produce(&mut stage.wire, &topic, 0, batch_at(&first));
    produce(&mut stage.wire, &topic, 0, batch_at(&[(TIME + 15, "15")]));
    topic
}

pub fn list_offsets_succeeds(stage: &mut Stage, version: i16) {
    let topic = timed_topic(stage);
    let none = (-1, -1);
    let mut lookups = vec![
        (EARLIEST, (0, -1)),
        (LATEST, (4, -1)),
        (0, (0, TIME + 5)),
        (TIME + 5, (0, TIME + 5)),
        (TIME + 6, (1, TIME + 20)),
        (TIME + 20, (1, TIME + 20)),
        (TIME + 21, none),
    ];
    if version >= 7 {
        lookups.push((-3, (1, TIME + 20)));
    }
    if version >= 8 {
        lookups.push((-4, (0, -1)));
    }
    if version >= 9 {
        lookups.push((-5, none));
    }
    for (asked, (offset, timestamp)) in lookups {
        let found = list(&mut stage.wire, version, &topic, 0, asked);
        assert_eq!(
            (found.error_code, found.offset, found.timestamp),
            (NONE, offset, timestamp),
            "of {asked}"
        );
        let epoch = if version >= 4 && offset >= 0 { 0 } else { -1 };
        assert_eq!(found.leader_epoch, epoch, "of {asked}");
    }
    if version >= 2 {
        let committed = list_request(&topic.name, 0, LATEST).with_isolation_level(1);
        let response = stage.wire.ask(version, &committed);
        assert_eq!(response.topics[0].partitions[0].offset, 4);
    }
    let empty = create(&mut stage.wire, 1, &[]);
    for (asked, offset) in [(EARLIEST, 0), (LATEST, 0), (TIME, -1)] {
        let found = list(&mut stage.wire, version, &empty, 0, asked);
        assert_eq!(
            (found.error_code, found.offset, found.timestamp),
            (NONE, offset, -1),
            "of {asked}"
        );
    }
}

pub fn list_offsets_fails(stage: &mut Stage, version: i16) {
    let topic = timed_topic(stage);
    let wire = &mut stage.wire;
    let refused =
        |found: kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse,
         error| {
            assert_eq!(found.error_code, error, "{found:?}");
            assert_eq!(
                (found.offset, found.timestamp, found.leader_epoch),
                (-1, -1, -1)
            );
        };
    refused(list(wire, version, &Topic::unknown(), 0, LATEST), 3);
    refused(list(wire, version, &topic, 1, LATEST), 3);
    // Each of these times got its meaning with a version; -6 and below have none here.
    for (timestamp, since) in [
        (-3, 7),
        (-4, 8),
        (-5, 9),
        (-6, i16::MAX),
        (i64::MIN, i16::MAX),
    ] {
        if version < since {
            refused(list(wire, version, &topic, 0, timestamp), 35);
        }
    }
    if version >= 4 {
        let mut request = list_request(&topic.name, 0, LATEST);
        request.topics[0].partitions[0].current_leader_epoch = 7;
        refused(
            wire.ask(version, &request)
                .topics
                .remove(0)
                .partitions
                .remove(0),
            75,
        );
    }
    let mut twice = list_request(&topic.name, 0, LATEST);
    let again = twice.topics[0].partitions[0].clone();
    twice.topics[0].partitions.push(again);
    for found in wire.ask(version, &twice).topics.remove(0).partitions {
        refused(found, 42);
    }
}

pub fn delete_records_succeeds(stage: &mut Stage, version: i16) {
    let topic = create(&mut stage.wire, 2, &[]);
    produce(&mut stage.wire, &topic, 1, batch(&["a", "b", "c"]));
    produce(&mut stage.wire, &topic, 1, batch(&["d"]));
    for (offset, low_watermark) in [(0, 0), (1, 1), (3, 3), (2, 3), (-1, 4)] {
        let response = stage
            .wire
            .ask(version, &delete_records_request(&topic.name, 1, offset));
        assert_eq!(response.throttle_time_ms, 0);
        assert_eq!(response.topics[0].name, topic_name(&topic.name));
        let result = &response.topics[0].partitions[0];
        assert_eq!((result.partition_index, result.error_code), (1, NONE));
        assert_eq!(result.low_watermark, low_watermark, "before {offset}");
        bounds_are(&mut stage.wire, &topic, 1, (low_watermark, 4));
    }
}

pub fn delete_records_fails(stage: &mut Stage, version: i16) {
    let topic = create(&mut stage.wire, 1, &[]);
    let compacted = create(&mut stage.wire, 1, &[("cleanup.policy", "compact")]);
    produce(&mut stage.wire, &topic, 0, batch(&["a"]));
    let refusals = [
        (Topic::unknown(), 0, 0, 3),
        (topic.clone(), 1, 0, 3),
        (topic.clone(), 0, 2, 1),
        (topic.clone(), 0, -2, 1),
        (compacted, 0, 0, 44),
    ];
    for (topic, partition, offset, error) in refusals {
        let request = delete_records_request(&topic.name, partition, offset);
        let response = stage.wire.ask(version, &request);
        let result = &response.topics[0].partitions[0];
        assert_eq!(
            (
                result.partition_index,
                result.error_code,
                result.low_watermark
            ),
            (partition, error, -1)
        );
    }
    bounds_are(&mut stage.wire, &topic, 0, (0, 1));
}

pub fn leader_epoch_succeeds(stage: &mut Stage, version: i16) {
    let topic = create(&mut stage.wire, 2, &[]);
    produce(&mut stage.wire, &topic, 1, batch(&["a", "b"]));
    // The current epoch ends at the end of the log; one that never was has no end.
    for (current, epoch, found) in [(-1, 0, (0, 2)), (0, 0, (0, 2)), (0, 1, (-1, -1))] {
        let response = stage
            .wire
            .ask(version, &epoch_request(&topic.name, 1, current, epoch));
        assert_eq!(response.throttle_time_ms, 0);
        assert_eq!(response.topics[0].topic, topic_name(&topic.name));
        let end = &response.topics[0].partitions[0];
        assert_eq!((end.partition, end.error_code), (1, NONE));
        assert_eq!((end.leader_epoch, end.end_offset), found, "of {epoch}");
    }
}

pub fn leader_epoch_fails(stage: &mut Stage, version: i16) {
    let topic = create(&mut stage.wire, 1, &[]);
    let refusals = [
        (Topic::unknown(), 0, -1, 3),
        (topic.clone(), 1, -1, 3),
        (topic, 0, 1, 75),
    ];
    for (topic, partition, current, error) in refusals {
        let response = stage
            .wire
            .ask(version, &epoch_request(&topic.name, partition, current, 0));
        let end = &response.topics[0].partitions[0];
        assert_eq!((end.partition, end.error_code), (partition, error));
        assert_eq!((end.leader_epoch, end.end_offset), (-1, -1));
    }
}
