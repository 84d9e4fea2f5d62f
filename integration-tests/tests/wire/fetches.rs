//! Fetches beyond a single answer: long polls and the rules of sizes (KIP-74).

use std::time::Duration;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{DeleteTopicsRequest, FetchRequest};
use ottla::env::Env;
use ottla_integration_tests::wire::{Ticket, Wire};

use crate::requests::{
    NONE, Topic, batch, create, delete_records_request, each_partition, fetch, fetch_request,
    fetched, headers, metadata_request, newest, produce, produce_request, produced, values,
};
use crate::started;

/// Longer than any test waits: an answer after it came by the timeout.
const LONG_MS: i32 = 20_000;
const LONG: Duration = Duration::from_millis(LONG_MS as u64);

/// Sends a fetch so that it has begun, or is about to, when this returns: what was sent with it is answered.
fn park(wire: &mut Wire, version: i16, request: &FetchRequest) -> Ticket<FetchRequest> {
    let (first, answered) = wire.frame(13, &metadata_request(Some(&[])));
    let (second, parked) = wire.frame(version, request);
    wire.write(&[first, second].concat());
    assert_eq!(wire.receive(answered).error_code, NONE);
    parked
}

#[test]
fn a_parked_fetch_is_answered_when_another_connection_produces() {
    let (_folder, broker, mut wire) = started("wire-long-poll", &[]);
    let (topic, quiet) = (create(&mut wire, 2, &[]), create(&mut wire, 1, &[]));
    let mut producer = Wire::connect(&broker);
    let clock = Env::system();
    let began = clock.monotonic();
    for (offset, version) in (0..).zip(4..=18) {
        let text = format!("v{version}");
        let wanted = [(&quiet, 0, 0), (&topic, 0, 0), (&topic, 1, offset)];
        let request = fetch_request(version, &wanted).with_max_wait_ms(LONG_MS);
        let parked = park(&mut wire, version, &request);
        produce(&mut producer, &topic, 1, batch(&[&text]));
        let response = wire.receive(parked);
        let found: Vec<_> = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(values)
            .collect();
        assert_eq!(found, [vec![], vec![], vec![(offset, text)]], "v{version}");
    }
    assert!(
        clock.monotonic() - began < LONG,
        "none of them waited for its time to pass"
    );
}

#[test]
fn a_parked_fetch_waits_until_enough_bytes_are_there() {
    let (_folder, broker, mut wire) = started("wire-min-bytes", &[]);
    let topic = create(&mut wire, 1, &[]);
    let mut producer = Wire::connect(&broker);
    let one = batch(&["of three"]);
    let clock = Env::system();
    let began = clock.monotonic();
    let request = fetch_request(18, &[(&topic, 0, 0)])
        .with_max_wait_ms(LONG_MS)
        .with_min_bytes(i32::try_from(3 * one.len()).expect("a small size"));
    let parked = park(&mut wire, 18, &request);
    for _ in 0..3 {
        produce(&mut producer, &topic, 0, one.clone());
    }
    assert_eq!(values(&fetched(wire.receive(parked))).len(), 3);
    assert!(clock.monotonic() - began < LONG);
}

#[test]
fn a_fetch_is_answered_with_what_there_is_when_its_time_has_passed() {
    let (_folder, _broker, mut wire) = started("wire-max-wait", &[]);
    let topic = create(&mut wire, 1, &[]);
    let clock = Env::system();
    let wait_ms = 150;
    for version in [4, 12, 18] {
        for (offset, expected) in [(0, 1), (1, 0)] {
            if version == 4 && offset == 0 {
                produce(&mut wire, &topic, 0, batch(&["little"]));
            }
            let request = fetch_request(version, &[(&topic, 0, offset)])
                .with_max_wait_ms(wait_ms)
                .with_min_bytes(100_000);
            let began = clock.monotonic();
            let data = fetched(wire.ask(version, &request));
            let took = clock.monotonic() - began;
            assert_eq!((data.error_code, data.high_watermark), (NONE, 1));
            assert_eq!(values(&data).len(), expected);
            assert!(
                took >= Duration::from_millis(wait_ms as u64),
                "answered after {took:?}"
            );
        }
    }
    // Who does not want to wait does not.
    let request = fetch_request(18, &[(&topic, 0, 1)])
        .with_min_bytes(0)
        .with_max_wait_ms(LONG_MS);
    let began = clock.monotonic();
    assert_eq!(fetched(wire.ask(18, &request)).error_code, NONE);
    assert!(clock.monotonic() - began < LONG);
}

#[test]
fn a_parked_fetch_hears_at_once_of_a_deleted_topic() {
    let (_folder, broker, mut wire) = started("wire-parked-news", &[]);
    let mut admin = Wire::connect(&broker);
    let clock = Env::system();
    let began = clock.monotonic();
    for (version, error) in [(12, 3), (18, 100)] {
        let topic = create(&mut admin, 1, &[]);
        let parked = park(
            &mut wire,
            version,
            &fetch_request(version, &[(&topic, 0, 0)]).with_max_wait_ms(LONG_MS),
        );
        let named = DeleteTopicState::default()
            .with_name(None)
            .with_topic_id(topic.id);
        let deletion = DeleteTopicsRequest::default()
            .with_topics(vec![named])
            .with_timeout_ms(10_000);
        assert_eq!(admin.ask(6, &deletion).responses[0].error_code, NONE);
        assert_eq!(
            fetched(wire.receive(parked)).error_code,
            error,
            "v{version}"
        );
    }
    assert!(clock.monotonic() - began < LONG);
}

#[test]
fn what_follows_a_parked_fetch_is_answered_behind_it() {
    let (_folder, broker, mut wire) = started("wire-behind", &[]);
    let topic = create(&mut wire, 1, &[]);
    let mut producer = Wire::connect(&broker);
    let wanted = fetch_request(18, &[(&topic, 0, 0)]).with_max_wait_ms(LONG_MS);
    let (first, parked) = wire.frame(18, &wanted);
    let (second, own) = wire.frame(
        11,
        &produce_request(11, -1, &[(&topic, 0, batch(&["own"]))]),
    );
    wire.write(&[first, second].concat());
    // The connection's own produce cannot end its wait, only another one's can.
    produce(&mut producer, &topic, 0, batch(&["other"]));
    assert_eq!(
        values(&fetched(wire.receive(parked))),
        [(0, "other".to_owned())]
    );
    assert_eq!(produced(wire.receive(own)).base_offset, 1);
}

#[test]
fn parked_fetches_do_not_hold_up_the_end() {
    let (_folder, mut broker, mut wire) = started("wire-parked-end", &[]);
    let topic = create(&mut wire, 1, &[]);
    let request = fetch_request(18, &[(&topic, 0, 0)]).with_max_wait_ms(LONG_MS);
    let mut others = [
        Wire::connect(&broker),
        Wire::connect(&broker),
        Wire::connect(&broker),
    ];
    for other in &mut others {
        let _ = park(other, 18, &request);
    }
    // One with another request behind it.
    let _ = others[2].send(13, &metadata_request(Some(&[])));
    assert!(broker.sigterm().success());
}

#[test]
fn a_client_that_leaves_while_its_fetch_is_parked_harms_nobody() {
    let (_folder, broker, mut wire) = started("wire-gone", &[]);
    let topic = create(&mut wire, 1, &[]);
    for _ in 0..50 {
        let mut gone = Wire::connect(&broker);
        let _ = park(
            &mut gone,
            18,
            &fetch_request(18, &[(&topic, 0, 0)]).with_max_wait_ms(LONG_MS),
        );
    }
    produce(&mut wire, &topic, 0, batch(&["a"]));
    assert_eq!(values(&fetch(&mut wire, &topic, 0, 0)).len(), 1);
}

/// Bytes of each partition in an answer.
fn sizes(wire: &mut Wire, version: i16, request: &FetchRequest) -> Vec<usize> {
    let response = wire.ask(version, request);
    let partitions = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions);
    partitions
        .map(|data| data.records.as_ref().map_or(0, bytes::Bytes::len))
        .collect()
}

#[test]
fn whole_batches_up_to_the_limits_and_always_the_first_one() {
    let (_folder, _broker, mut wire) = started("wire-max-bytes", &[]);
    let topic = create(&mut wire, 2, &[]);
    let (long, short) = ("x".repeat(1000), "y".repeat(500));
    let batches = [batch(&[&long]), batch(&[&short]), batch(&[&long])];
    for partition in [0, 1] {
        for batch in &batches {
            produce(&mut wire, &topic, partition, batch.clone());
        }
    }
    let [first, second, third] = batches.each_ref().map(|batch| batch.len());
    let limited = |version: i16, all: usize, each: usize| {
        let request = fetch_request(version, &[(&topic, 0, 0), (&topic, 1, 0)]);
        each_partition(request, |partition| {
            partition.with_partition_max_bytes(each as i32)
        })
        .with_max_bytes(all as i32)
    };
    let plenty = 1 << 20;
    let cases = [
        (
            "a byte in all: the first batch, whole, and nothing else",
            1,
            plenty,
            [first, 0],
        ),
        (
            "a byte each: only the first partition may exceed it",
            plenty,
            1,
            [first, 0],
        ),
        (
            "less than a second batch",
            plenty,
            first + second - 1,
            [first, first],
        ),
        (
            "just a second batch",
            plenty,
            first + second,
            [first + second, first + second],
        ),
        (
            "a limit in the second partition",
            2 * first + second + third,
            plenty,
            [first + second + third, first],
        ),
        (
            "all",
            plenty,
            plenty,
            [first + second + third, first + second + third],
        ),
        (
            "no bytes in all: still the first batch, as in Kafka",
            0,
            plenty,
            [first, 0],
        ),
        ("no bytes each", plenty, 0, [first, 0]),
    ];
    for version in 4..=18 {
        for (what, all, each, expected) in cases {
            assert_eq!(
                sizes(&mut wire, version, &limited(version, all, each)),
                expected,
                "v{version}: {what}"
            );
        }
    }
    // The broker's own limit holds, too, and never starves anybody.
    let (_folder, _broker, mut wire) = started("wire-fetch-max", &[("fetch.max.bytes", "1024")]);
    let topic = create(&mut wire, 1, &[]);
    let long = "x".repeat(5000);
    for _ in 0..3 {
        produce(&mut wire, &topic, 0, batch(&[&long]));
    }
    let request = fetch_request(18, &[(&topic, 0, 0)]).with_max_bytes(i32::MAX);
    assert_eq!(sizes(&mut wire, 18, &request), [batch(&[&long]).len()]);
}

#[test]
fn an_offset_inside_of_a_batch_gets_the_whole_batch() {
    let (_folder, _broker, mut wire) = started("wire-inside", &[]);
    let topic = create(&mut wire, 1, &[]);
    produce(&mut wire, &topic, 0, batch(&["0", "1", "2"]));
    produce(&mut wire, &topic, 0, batch(&["3", "4"]));
    for version in 4..=18 {
        for (offset, base_offsets) in [
            (0, vec![0, 3]),
            (1, vec![0, 3]),
            (2, vec![0, 3]),
            (3, vec![3]),
            (4, vec![3]),
        ] {
            let data = fetched(wire.ask(version, &fetch_request(version, &[(&topic, 0, offset)])));
            let found: Vec<i64> = headers(&data)
                .iter()
                .map(|header| header.base_offset)
                .collect();
            assert_eq!(found, base_offsets, "v{version} at {offset}");
        }
    }
}

#[test]
fn below_the_log_start_is_out_of_range_and_above_it_inside_of_a_batch_is_not() {
    let (_folder, mut broker, mut wire) = started("wire-log-start", &[]);
    let topic = create(&mut wire, 1, &[]);
    produce(&mut wire, &topic, 0, batch(&["0", "1", "2"]));
    produce(&mut wire, &topic, 0, batch(&["3"]));
    let deleted = wire.ask(2, &delete_records_request(&topic.name, 0, 1));
    assert_eq!(deleted.topics[0].partitions[0].low_watermark, 1);
    for restarted in [false, true] {
        if restarted {
            broker.kill9();
            broker.restart();
            wire = Wire::connect(&broker);
        }
        crate::requests::bounds_are(&mut wire, &topic, 0, (1, 4));
        for version in 4..=18 {
            let below = fetched(wire.ask(version, &fetch_request(version, &[(&topic, 0, 0)])));
            assert_eq!(below.error_code, 1, "v{version}");
            let data = fetched(wire.ask(version, &fetch_request(version, &[(&topic, 0, 1)])));
            assert_eq!((data.error_code, data.high_watermark), (NONE, 4));
            assert_eq!(data.log_start_offset, if version >= 5 { 1 } else { -1 });
            // The batch comes whole; the client drops what it did not ask for.
            assert_eq!(values(&data).len(), 4);
        }
    }
    let everything = wire.ask(2, &delete_records_request(&topic.name, 0, -1));
    assert_eq!(everything.topics[0].partitions[0].low_watermark, 4);
    assert_eq!(fetch(&mut wire, &topic, 0, 3).error_code, 1);
    assert_eq!(values(&fetch(&mut wire, &topic, 0, 4)), []);
    assert_eq!(
        produce(&mut wire, &topic, 0, batch(&["4"])),
        4,
        "offsets go on"
    );
}

#[test]
fn a_topic_is_found_by_its_id_alone_since_version_13() {
    let (_folder, _broker, mut wire) = started("wire-ids", &[]);
    let topic = create(&mut wire, 1, &[]);
    produce(&mut wire, &topic, 0, batch(&["a"]));
    let wrong_name = Topic {
        name: Topic::unknown().name,
        id: topic.id,
    };
    let wrong_id = Topic {
        name: topic.name.clone(),
        id: Topic::unknown().id,
    };
    for version in 4..=newest::<FetchRequest>() {
        let (good, bad, error) = if version >= 13 {
            (&wrong_name, &wrong_id, 100)
        } else {
            (&wrong_id, &wrong_name, 3)
        };
        let data = fetched(wire.ask(version, &fetch_request(version, &[(good, 0, 0)])));
        assert_eq!(values(&data).len(), 1, "v{version}");
        assert_eq!(
            fetched(wire.ask(version, &fetch_request(version, &[(bad, 0, 0)]))).error_code,
            error
        );
    }
}
