//! Idempotent producers: ids, sequences, duplicates; and what a restart keeps of them and of leader epochs.

use std::collections::BTreeSet;

use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use ottla::env::Env;
use ottla_integration_tests::Broker;
use ottla_integration_tests::wire::Wire;
use ottla_protocol::batch::TimestampType;

use crate::requests::{
    EARLIEST, LATEST, NONE, TIME, Topic, batch, batch_of, bounds_are, create, each_partition,
    epoch_end, fetch, fetch_request, fetched, headers, leader_epoch, list, newest, produce,
    produce_request, produced, producer, producer_id_request, stored, try_produce,
};
use crate::{Stage, started};

pub fn init_producer_id_succeeds(stage: &mut Stage, version: i16) {
    let mut ids = BTreeSet::new();
    for timeout_ms in [0, 60_000, i32::MAX] {
        let response = stage
            .wire
            .ask(version, &producer_id_request(None, timeout_ms));
        assert_eq!((response.throttle_time_ms, response.error_code), (0, NONE));
        assert_eq!(response.producer_epoch, 0);
        assert!(
            response.producer_id.0 >= 0 && ids.insert(response.producer_id.0),
            "{ids:?}"
        );
    }
}

pub fn init_producer_id_fails(stage: &mut Stage, version: i16) {
    for (id, timeout_ms, error) in [
        ("", 1000, 42),
        ("t", i32::MAX, 50),
        ("t", 0, 50),
        ("t", -1, 50),
    ] {
        let response = stage
            .wire
            .ask(version, &producer_id_request(Some(id), timeout_ms));
        assert_eq!(response.error_code, error, "{id:?} {timeout_ms}");
        assert_eq!((response.producer_id.0, response.producer_epoch), (-1, -1));
    }
    // Transactions do not exist yet, and waiting would not help.
    let response = stage
        .wire
        .ask(version, &producer_id_request(Some("t"), 1000));
    assert_eq!(response.error_code, 35);
}

/// How a broker may end.
#[derive(Clone, Copy, Debug)]
enum End {
    Kill9,
    Sigterm,
}

const ENDS: [End; 2] = [End::Kill9, End::Sigterm];

fn restarted(broker: &mut Broker, end: End) -> Wire {
    match end {
        End::Kill9 => broker.kill9(),
        End::Sigterm => assert!(broker.sigterm().success()),
    }
    broker.restart();
    Wire::connect(broker)
}

#[test]
fn producer_ids_are_never_given_twice_not_even_across_restarts() {
    let (_folder, mut broker, mut wire) = started("wire-producer-ids", &[]);
    let mut ids = BTreeSet::new();
    for end in [End::Kill9, End::Sigterm, End::Kill9] {
        // More than a block, so that a block's border lies in each run.
        for _ in 0..1100 {
            let (id, epoch) = producer(&mut wire);
            assert_eq!(epoch, 0);
            assert!(ids.insert(id), "{id} was given before");
        }
        wire = restarted(&mut broker, end);
    }
    assert!(ids.insert(producer(&mut wire).0));
}

/// Produces at a version and tells error and base offset.
fn outcome(wire: &mut Wire, version: i16, topic: &Topic, batch: bytes::Bytes) -> (i16, i64) {
    let response = produced(wire.ask(version, &produce_request(version, -1, &[(topic, 0, batch)])));
    (response.error_code, response.base_offset)
}

#[test]
fn sequences_are_checked_at_every_version() {
    let (_folder, _broker, mut wire) = started("wire-sequences", &[]);
    for version in 3..=13 {
        println!("v{version}");
        let topic = create(&mut wire, 1, &[]);
        produce(&mut wire, &topic, 0, batch(&["plain"]));
        let (id, epoch) = producer(&mut wire);
        let mut send = |epoch, sequence, values: &[&str]| {
            outcome(
                &mut wire,
                version,
                &topic,
                batch_of((id, epoch), sequence, values),
            )
        };
        assert_eq!(send(epoch, 0, &["a", "b"]), (NONE, 1));
        assert_eq!(send(epoch, 2, &["c"]), (NONE, 3));
        // Again: the old offsets, nothing new in the log.
        assert_eq!(send(epoch, 2, &["c"]), (NONE, 3));
        assert_eq!(send(epoch, 0, &["a", "b"]), (NONE, 1));
        // A gap, and what begins like an old batch but is none.
        assert_eq!(send(epoch, 4, &["e"]), (45, -1));
        assert_eq!(send(epoch, 2, &["c", "d"]), (45, -1));
        assert_eq!(send(epoch, 3, &["d"]), (NONE, 4));
        // A newer epoch begins at 0, and fences the older.
        assert_eq!(send(epoch + 1, 4, &["e"]), (45, -1));
        assert_eq!(send(epoch + 1, 0, &["e"]), (NONE, 5));
        assert_eq!(send(epoch, 4, &["late"]), (47, -1));
        assert_eq!(send(epoch, 3, &["d"]), (47, -1), "not even its duplicates");
        assert_eq!(
            stored(&mut wire, &topic, 0),
            ["plain", "a", "b", "c", "d", "e"]
        );
    }
}

#[test]
fn a_producer_unknown_here_may_begin_anywhere_and_sequences_wrap() {
    let (_folder, _broker, mut wire) = started("wire-wrap", &[]);
    let topic = create(&mut wire, 2, &[]);
    let producer = producer(&mut wire);
    let last = i32::MAX;
    for (sequence, values, outcome) in [
        (last - 1, &["a", "b", "c"][..], (NONE, 0)),
        (1, &["d"], (NONE, 3)),
        (last - 1, &["a", "b", "c"], (NONE, 0)),
        (1, &["d"], (NONE, 3)),
        (3, &["f"], (45, -1)),
        (2, &["e"], (NONE, 4)),
    ] {
        let response = try_produce(&mut wire, &topic, 0, batch_of(producer, sequence, values));
        assert_eq!(
            (response.error_code, response.base_offset),
            outcome,
            "{sequence}"
        );
    }
    // Each partition counts for itself.
    assert_eq!(
        produce(&mut wire, &topic, 1, batch_of(producer, 0, &["x"])),
        0
    );
}

#[test]
fn duplicates_sent_together_get_the_same_offset() {
    let (_folder, _broker, mut wire) = started("wire-twins", &[]);
    let topic = create(&mut wire, 1, &[]);
    let producer = producer(&mut wire);
    let version = newest::<ProduceRequest>();
    for round in 0..20 {
        let mut bytes = Vec::new();
        let mut tickets = Vec::new();
        for sequence in [0, 1, 0, 1, 2, 2] {
            let batch = batch_of(producer, round * 3 + sequence, &["x"]);
            let (frame, ticket) = wire.frame(
                version,
                &produce_request(version, -1, &[(&topic, 0, batch)]),
            );
            bytes.extend_from_slice(&frame);
            tickets.push((ticket, i64::from(round * 3 + sequence)));
        }
        wire.write(&bytes);
        for (ticket, offset) in tickets {
            let response = produced(wire.receive(ticket));
            assert_eq!((response.error_code, response.base_offset), (NONE, offset));
        }
    }
    bounds_are(&mut wire, &topic, 0, (0, 60));
}

#[test]
fn duplicates_gaps_and_fences_are_known_after_a_restart() {
    let (_folder, mut broker, mut wire) = started("wire-producer-restart", &[]);
    let topic = create(&mut wire, 1, &[]);
    let (id, epoch) = producer(&mut wire);
    let fenced = producer(&mut wire);
    produce(&mut wire, &topic, 0, batch_of(fenced, 0, &["old"]));
    produce(
        &mut wire,
        &topic,
        0,
        batch_of((fenced.0, fenced.1 + 1), 0, &["new"]),
    );
    let mut sequence = 0;
    let mut log_end = 2;
    for end in [
        End::Kill9,
        End::Sigterm,
        End::Kill9,
        End::Kill9,
        End::Sigterm,
    ] {
        // Five batches of two: as many as a producer may have in flight.
        let mut sent = Vec::new();
        for _ in 0..5 {
            let batch = batch_of((id, epoch), sequence, &["x", "y"]);
            assert_eq!(produce(&mut wire, &topic, 0, batch.clone()), log_end);
            sent.push((batch, log_end));
            sequence += 2;
            log_end += 2;
        }
        wire = restarted(&mut broker, end);
        println!("{end:?}");
        for (batch, offset) in sent {
            assert_eq!(
                produce(&mut wire, &topic, 0, batch),
                offset,
                "a duplicate after {end:?}"
            );
        }
        bounds_are(&mut wire, &topic, 0, (0, log_end));
        let gap = try_produce(
            &mut wire,
            &topic,
            0,
            batch_of((id, epoch), sequence + 1, &["x"]),
        );
        assert_eq!(gap.error_code, 45);
        let late = try_produce(&mut wire, &topic, 0, batch_of(fenced, 1, &["late"]));
        assert_eq!(late.error_code, 47);
        let next = batch_of((id, epoch), sequence, &["z"]);
        assert_eq!(produce(&mut wire, &topic, 0, next), log_end);
        sequence += 1;
        log_end += 1;
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let (_folder, mut broker, mut wire) = started("wire-kept", &[]);
    let topic = create(&mut wire, 1, &[]);
    let mut expected = Vec::new();
    for (round, acks) in [-1, 1, -1, 1].into_iter().enumerate() {
        let text = format!("round {round}");
        let version = newest::<ProduceRequest>();
        let request = produce_request(version, acks, &[(&topic, 0, batch(&[&text]))]);
        let response = produced(wire.ask(version, &request));
        assert_eq!(response.error_code, NONE);
        expected.push(text);
        wire = restarted(&mut broker, ENDS[round / 2]);
        assert_eq!(stored(&mut wire, &topic, 0), expected);
    }
}

#[test]
fn a_crash_raises_leader_epochs_and_a_clean_stop_does_not() {
    let (_folder, mut broker, mut wire) = started("wire-epochs", &[]);
    let topic = create(&mut wire, 1, &[]);
    assert_eq!(leader_epoch(&mut wire, &topic), 0);
    produce(&mut wire, &topic, 0, batch(&["0", "1", "2"]));

    wire = restarted(&mut broker, End::Sigterm);
    assert_eq!(
        leader_epoch(&mut wire, &topic),
        0,
        "nothing can have been lost"
    );
    produce(&mut wire, &topic, 0, batch(&["3"]));

    wire = restarted(&mut broker, End::Kill9);
    assert_eq!(leader_epoch(&mut wire, &topic), 1);
    // The old epoch has its end before anything is written in the new one.
    let ends = |wire: &mut Wire, epoch| {
        let end = epoch_end(wire, &topic, -1, epoch);
        (end.error_code, end.leader_epoch, end.end_offset)
    };
    assert_eq!(ends(&mut wire, 0), (NONE, 0, 4));
    assert_eq!(ends(&mut wire, 1), (NONE, 1, 4));
    produce(&mut wire, &topic, 0, batch(&["4", "5"]));
    assert_eq!(ends(&mut wire, 0), (NONE, 0, 4));
    assert_eq!(ends(&mut wire, 1), (NONE, 1, 6));
    assert_eq!(ends(&mut wire, 2), (NONE, -1, -1));
    assert_eq!(epoch_end(&mut wire, &topic, 0, 0).error_code, 74, "fenced");
    assert_eq!(
        epoch_end(&mut wire, &topic, 2, 0).error_code,
        75,
        "not known yet"
    );

    let epochs: Vec<_> = headers(&fetch(&mut wire, &topic, 0, 0))
        .iter()
        .map(|header| (header.base_offset, header.partition_leader_epoch))
        .collect();
    assert_eq!(
        epochs,
        [(0, 0), (3, 0), (4, 1)],
        "records keep the epoch they were written in"
    );
    for (timestamp, offset, epoch) in [(EARLIEST, 0, 0), (LATEST, 6, 1), (TIME + 11, 2, 0)] {
        let found = list(&mut wire, 10, &topic, 0, timestamp);
        assert_eq!((found.offset, found.leader_epoch), (offset, epoch));
    }
    for version in 9..=newest::<FetchRequest>() {
        let mut fetch_with = |current, last, offset| {
            let request = each_partition(
                fetch_request(version, &[(&topic, 0, offset)]),
                |partition| {
                    let last = if version >= 12 { last } else { -1 };
                    partition
                        .with_current_leader_epoch(current)
                        .with_last_fetched_epoch(last)
                },
            );
            fetched(wire.ask(version, &request))
        };
        assert_eq!(fetch_with(0, -1, 0).error_code, 74, "v{version}: fenced");
        assert_eq!(
            fetch_with(2, -1, 0).error_code,
            75,
            "v{version}: not known yet"
        );
        assert_eq!(fetch_with(1, 0, 4).error_code, NONE);
        if version >= 12 {
            // A client with more of epoch 0 than there is has to cut back to its end.
            let data = fetch_with(1, 0, 5);
            assert_eq!(data.error_code, NONE);
            assert_eq!(
                (data.diverging_epoch.epoch, data.diverging_epoch.end_offset),
                (0, 4)
            );
            assert!(data.records.unwrap_or_default().is_empty());
        }
    }

    wire = restarted(&mut broker, End::Kill9);
    assert_eq!(leader_epoch(&mut wire, &topic), 2);
    wire = restarted(&mut broker, End::Sigterm);
    assert_eq!(leader_epoch(&mut wire, &topic), 2);
    let fresh = create(&mut wire, 1, &[]);
    assert_eq!(
        leader_epoch(&mut wire, &fresh),
        0,
        "a new topic begins at 0"
    );
}

#[test]
fn a_log_append_time_topic_has_the_time_of_the_broker() {
    let (_folder, mut broker, mut wire) = started("wire-append-time", &[]);
    let topic = create(&mut wire, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let clock = Env::system();
    for version in 3..=13 {
        let sent = batch(&["a", "b"]);
        let before = clock.now_ms();
        let request = produce_request(version, -1, &[(&topic, 0, sent)]);
        let response = produced(wire.ask(version, &request));
        let after = clock.now_ms();
        assert_eq!(response.error_code, NONE);
        let stamped = response.log_append_time_ms;
        assert!(
            (before..=after).contains(&stamped),
            "{before} <= {stamped} <= {after}"
        );
        let data = fetch(&mut wire, &topic, 0, response.base_offset);
        // `headers` also checks the checksum, which is the broker's here.
        let header = headers(&data)[0];
        assert_eq!(
            (header.base_offset, header.max_timestamp),
            (response.base_offset, stamped)
        );
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        let newest = list(&mut wire, 10, &topic, 0, -3);
        assert!(newest.timestamp == stamped && newest.offset <= response.base_offset);
    }
    let data = fetch(&mut wire, &topic, 0, 0);
    let (found, first) = (headers(&data), headers(&data)[0].max_timestamp);
    assert_eq!(found.len(), 11);
    assert_eq!(list(&mut wire, 10, &topic, 0, first).offset, 0);
    assert_eq!(
        list(&mut wire, 10, &topic, 0, clock.now_ms() + 60_000).offset,
        -1
    );
    assert_eq!(
        list(&mut wire, 10, &topic, 0, TIME).offset,
        0,
        "the producer's time is forgotten"
    );
    let mut wire = restarted(&mut broker, End::Kill9);
    assert_eq!(
        fetch(&mut wire, &topic, 0, 0).records,
        data.records,
        "and stays so"
    );
}

#[test]
fn a_topics_own_limit_of_batch_size_holds_against_the_brokers() {
    let (_folder, mut broker, mut wire) =
        started("wire-batch-size", &[("message.max.bytes", "5000")]);
    let small = create(&mut wire, 1, &[("max.message.bytes", "500")]);
    let large = create(&mut wire, 1, &[("max.message.bytes", "50000")]);
    let usual = create(&mut wire, 1, &[]);
    let exactly = |size: usize| {
        // The record's lengths take the more bytes the longer the value is.
        let sized = (0..size).rev().map(|length| batch(&[&"x".repeat(length)]));
        sized
            .into_iter()
            .find(|batch| batch.len() <= size)
            .expect("an empty record is smaller")
    };
    for end in ENDS {
        for (topic, limit) in [(&small, 500), (&usual, 5000), (&large, 50_000)] {
            let fits = exactly(limit);
            assert_eq!(fits.len(), limit);
            assert_eq!(
                try_produce(&mut wire, topic, 0, fits).error_code,
                NONE,
                "{limit}"
            );
            let response = try_produce(&mut wire, topic, 0, exactly(limit + 1));
            assert_eq!(
                (response.error_code, response.base_offset),
                (10, -1),
                "{limit}"
            );
            assert!(response.error_message.is_some());
        }
        wire = restarted(&mut broker, end);
    }
}
