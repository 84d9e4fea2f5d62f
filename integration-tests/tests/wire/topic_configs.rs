//! Topic configs that change what becomes of a produced batch: its codec, who may write, how old it may be, and when it
//! is synced.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use ottla::env::Env;
use ottla_integration_tests::Broker;
use ottla_integration_tests::exposition::Page;
use ottla_integration_tests::http::{get, metrics_when};
use ottla_integration_tests::wire::Wire;
use ottla_protocol::batch::{
    BatchBuilder, BatchHeader, Compression, TimestampType, crc_matches, stamp, walk,
};
use ottla_protocol::records;

use crate::requests::{
    NONE, TIME, Topic, batch, batch_at, bounds_are, create, fetch, newest, produce,
    produce_request, produced, producer, stored, try_produce,
};
use crate::started;

const TOO_LARGE: i16 = 10;
const INVALID_TIMESTAMP: i16 = 32;

/// The values of `compression.type` and what they make of a batch; `producer` changes none.
const CODECS: [(&str, Compression); 5] = [
    ("uncompressed", Compression::None),
    ("gzip", Compression::Gzip),
    ("snappy", Compression::Snappy),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
];

/// A record as a consumer sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn seen(batch: &[u8]) -> Vec<Seen> {
    let header = BatchHeader::parse(batch).expect("a batch");
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let mut found = Vec::new();
    let read = records::for_each_record(batch, 1 << 20, |record| {
        assert_eq!(record.offset_delta as usize, found.len());
        found.push(Seen {
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
    });
    read.expect("readable records");
    found
}

/// Records of every kind, and enough of them that each codec saves something.
fn rich(builder: BatchBuilder) -> Bytes {
    let long = b"compressible ".repeat(200);
    builder
        .record(
            TIME,
            Some(b"\xff\xfe"),
            Some(b"\x80"),
            &[(b"h", Some(b"\xc3\x28")), (b"h", None), (b"", Some(b""))],
        )
        .record(TIME + 30, None, Some(&long), &[])
        .record(TIME + 10, Some(b""), None, &[])
        .build()
}

/// The batch of a partition that begins at an offset: its header, checksum checked, and its bytes.
fn stored_batch(wire: &mut Wire, topic: &Topic, offset: i64) -> (BatchHeader, Vec<u8>) {
    let records = fetch(wire, topic, 0, offset).records.expect("records");
    let (header, batch) = walk(&records)
        .next()
        .expect("a batch")
        .expect("a whole batch");
    assert!(crc_matches(batch), "{header:?}");
    assert_eq!(header.base_offset, offset);
    (header, batch.to_vec())
}

/// A stored batch as a client would send it.
fn as_sent(mut stored: Vec<u8>) -> Bytes {
    stamp(&mut stored, 0, -1);
    stored.into()
}

#[test]
fn a_batch_is_stored_with_the_codec_of_its_topic_whatever_codec_it_came_with() {
    let (_folder, mut broker, mut wire) = started("wire-codecs", &[]);
    let plain = rich(BatchBuilder::new(TIME));
    let expected = seen(&plain);
    let topics = CODECS.map(|(name, codec)| {
        let topic = create(&mut wire, 1, &[("compression.type", name)]);
        (topic, codec)
    });
    let as_it_came = create(&mut wire, 1, &[("compression.type", "producer")]);
    let mut offsets = BTreeMap::new();
    for (topic, codec) in &topics {
        let offset = produce(&mut wire, topic, 0, plain.clone());
        let (header, bytes) = stored_batch(&mut wire, topic, offset);
        assert_eq!(header.compression(), Ok(*codec));
        assert_eq!(seen(&bytes), expected, "{codec:?}");
        assert_eq!(bytes.len() < plain.len(), *codec != Compression::None);
        let sent = as_sent(bytes);
        let offset = produce(&mut wire, &as_it_came, 0, sent.clone());
        let kept = stored_batch(&mut wire, &as_it_came, offset).1;
        assert_eq!(as_sent(kept), sent, "{codec:?}: not a byte is another");
        for (other, target) in &topics {
            let offset = produce(&mut wire, other, 0, sent.clone());
            let (header, bytes) = stored_batch(&mut wire, other, offset);
            assert_eq!(header.compression(), Ok(*target), "from {codec:?}");
            assert_eq!(seen(&bytes), expected, "from {codec:?} to {target:?}");
            assert_eq!(
                (
                    header.base_offset,
                    header.last_offset_delta,
                    header.max_timestamp
                ),
                (offset, 2, TIME + 30)
            );
            offsets.insert(
                (*codec as u8, *target as u8),
                (other.clone(), offset, bytes),
            );
        }
    }
    assert_eq!(offsets.len(), 25);
    broker.kill9();
    broker.restart();
    let mut wire = Wire::connect(&broker);
    for (topic, offset, bytes) in offsets.values() {
        let found = stored_batch(&mut wire, topic, *offset).1;
        assert_eq!(as_sent(found), as_sent(bytes.clone()), "and stays so");
    }
}

#[test]
fn every_version_of_produce_gets_the_codec_and_a_producers_sequences_stay() {
    let (_folder, _broker, mut wire) = started("wire-codec-versions", &[]);
    let configs = [
        ("compression.type", "gzip"),
        ("message.timestamp.type", "LogAppendTime"),
    ];
    let topic = create(&mut wire, 1, &configs);
    let clock = Env::system();
    for version in 3..=13 {
        let (id, epoch) = producer(&mut wire);
        let sent = rich(BatchBuilder::new(TIME).producer(id, epoch, 7));
        let before = clock.now_ms();
        let mut send = || {
            let request = produce_request(version, -1, &[(&topic, 0, sent.clone())]);
            produced(wire.ask(version, &request))
        };
        let (first, again) = (send(), send());
        assert_eq!((first.error_code, again.error_code), (NONE, NONE));
        assert_eq!(first.base_offset, again.base_offset, "a duplicate");
        assert!(first.log_append_time_ms >= before);
        let (header, bytes) = stored_batch(&mut wire, &topic, first.base_offset);
        assert_eq!(header.compression(), Ok(Compression::Gzip));
        assert_eq!(
            (
                header.producer_id,
                header.producer_epoch,
                header.base_sequence
            ),
            (id, epoch, 7)
        );
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(header.max_timestamp, first.log_append_time_ms);
        let values = |batch: &[u8]| -> Vec<_> {
            let seen = seen(batch).into_iter();
            seen.map(|record| (record.key, record.value, record.headers))
                .collect()
        };
        assert_eq!(values(&bytes), values(&sent));
    }
}

/// One request makes the broker hold 32 MB at once, if it did not write what it has when its room ends.
#[test]
fn batches_that_grow_beyond_their_room_are_all_written_in_order() {
    const PARTITIONS: i32 = 32;
    let (_folder, _broker, mut wire) = started("wire-codec-room", &[]);
    let zipped = create(&mut wire, 1, &[("compression.type", "zstd")]);
    let grown = create(
        &mut wire,
        PARTITIONS,
        &[("compression.type", "uncompressed")],
    );
    let plain = batch(&[&"x".repeat(1_000_000)]);
    produce(&mut wire, &zipped, 0, plain.clone());
    let sent = as_sent(stored_batch(&mut wire, &zipped, 0).1);
    assert!(sent.len() < 1_000, "{}", sent.len());
    let version = newest::<ProduceRequest>();
    for acks in [-1, 1] {
        let entries: Vec<(&Topic, i32, Bytes)> = (0..PARTITIONS)
            .map(|partition| (&grown, partition, sent.clone()))
            .collect();
        let response = wire.ask(version, &produce_request(version, acks, &entries));
        let answers: Vec<(i32, i16, i64)> = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses)
            .map(|answer| (answer.index, answer.error_code, answer.base_offset))
            .collect();
        let offset = i64::from(acks == 1);
        let expected: Vec<_> = (0..PARTITIONS).map(|index| (index, NONE, offset)).collect();
        assert_eq!(answers, expected);
    }
    for partition in 0..PARTITIONS {
        bounds_are(&mut wire, &grown, partition, (0, 2));
        let stored = fetch(&mut wire, &grown, partition, 1)
            .records
            .expect("records");
        assert!(as_sent(stored.to_vec()) == plain, "partition {partition}");
    }
}

#[test]
fn a_batch_that_its_topics_codec_makes_too_large_is_refused() {
    let (_folder, _broker, mut wire) = started("wire-codec-size", &[]);
    let zipped = create(&mut wire, 1, &[("compression.type", "zstd")]);
    produce(&mut wire, &zipped, 0, batch(&[&"x".repeat(5_000)]));
    let sent = as_sent(stored_batch(&mut wire, &zipped, 0).1);
    let small = ("max.message.bytes", "500");
    assert!(sent.len() < 500, "{}", sent.len());
    for (codec, error) in [
        ("producer", NONE),
        ("gzip", NONE),
        ("uncompressed", TOO_LARGE),
    ] {
        let topic = create(&mut wire, 1, &[("compression.type", codec), small]);
        let response = try_produce(&mut wire, &topic, 0, sent.clone());
        assert_eq!(response.error_code, error, "{codec}");
        assert_eq!(response.error_message.is_some(), error != NONE);
        bounds_are(&mut wire, &topic, 0, (0, i64::from(error == NONE)));
    }
    // And what is too large as it came stays so, however small it would be stored.
    let topic = create(&mut wire, 1, &[("compression.type", "zstd"), small]);
    let response = try_produce(&mut wire, &topic, 0, batch(&[&"x".repeat(5_000)]));
    assert_eq!(response.error_code, TOO_LARGE);
    bounds_are(&mut wire, &topic, 0, (0, 0));
}

#[test]
fn the_level_of_a_codec_counts_and_the_brokers_default_too() {
    let properties = [
        ("compression.type", "gzip"),
        ("compression.gzip.level", "1"),
    ];
    let (_folder, _broker, mut wire) = started("wire-codec-levels", &properties);
    let words = [
        "offset", "epoch", "leader", "replica", "batch", "fetch", "quota",
    ];
    let seed = 0x1e7e1;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let text: Vec<&str> = (0..9_000)
        .map(|_| words[rng.usize(0..words.len())])
        .collect();
    let sent = batch(&[&text.join(" ")]);
    let mut len = |configs: &[(&str, &str)], codec| {
        let topic = create(&mut wire, 1, configs);
        produce(&mut wire, &topic, 0, sent.clone());
        let (header, bytes) = stored_batch(&mut wire, &topic, 0);
        assert_eq!(header.compression(), Ok(codec), "{configs:?}");
        bytes.len()
    };
    let usual = len(&[], Compression::Gzip);
    assert!(usual > len(&[("compression.gzip.level", "9")], Compression::Gzip));
    for (codec, compression, fast, thorough) in [
        ("lz4", Compression::Lz4, "9", "12"),
        ("zstd", Compression::Zstd, "-50", "19"),
    ] {
        let level = format!("compression.{codec}.level");
        let mut at = |value| {
            let configs = [("compression.type", codec), (level.as_str(), value)];
            len(&configs, compression)
        };
        assert!(at(fast) > at(thorough), "{codec}");
    }
}

/// The value of a family without labels, or of a partition.
fn gauge(broker: &Broker, family: &str, topic: Option<&Topic>) -> f64 {
    let port = broker.metrics_port().expect("metrics are served");
    let page = Page::parse(&get(port, "/metrics").1);
    let value = match topic {
        Some(topic) => page.value(family, &[("topic", &topic.name), ("partition", "0")]),
        None => page.value(family, &[]),
    };
    value.unwrap_or_else(|| panic!("no {family}"))
}

/// Kafka asks for no more in-sync replicas than a partition has (`Partition.effectiveMinIsr`); it has one here.
#[test]
fn min_insync_replicas_asks_for_no_more_than_there_are() {
    let (_folder, broker, mut wire) = started("wire-min-isr", &[]);
    let topic = create(&mut wire, 1, &[("min.insync.replicas", "3")]);
    let version = newest::<ProduceRequest>();
    for acks in [-1, 1] {
        let request = produce_request(version, acks, &[(&topic, 0, batch(&["a"]))]);
        assert_eq!(produced(wire.ask(version, &request)).error_code, NONE);
    }
    assert_eq!(stored(&mut wire, &topic, 0), ["a", "a"]);
    if ottla_integration_tests::apache_kafka::wanted() {
        return;
    }
    let under = "kafka_cluster_partition_underminisr";
    assert_eq!(gauge(&broker, under, Some(&topic)), 0.0);
    let at = "kafka_cluster_partition_atminisr";
    assert_eq!(gauge(&broker, at, Some(&topic)), 1.0);
    let sum = "kafka_server_replicamanager_underminisrpartitioncount";
    assert_eq!(gauge(&broker, sum, None), 0.0);
}

#[test]
fn timestamps_have_the_bounds_of_their_topic() {
    let (_folder, _broker, mut wire) = started("wire-timestamps", &[]);
    let (before, after) = (
        "message.timestamp.before.max.ms",
        "message.timestamp.after.max.ms",
    );
    let now = Env::system().now_ms();
    let (hour, day) = (3_600_000, 86_400_000);
    let own_time = ("message.timestamp.type", "LogAppendTime");
    for (configs, at, error) in [
        (&[][..], -10_000 * day, NONE),
        (&[], 2 * hour, INVALID_TIMESTAMP),
        (&[(before, "3600000")], -2 * hour, INVALID_TIMESTAMP),
        (&[(before, "3600000")], -hour / 2, NONE),
        (&[(before, "86400000")], -2 * hour, NONE),
        (&[(after, "86400000")], 2 * hour, NONE),
        (&[(after, "86400000")], 2 * day, INVALID_TIMESTAMP),
        (&[(after, "60000")], hour / 2, INVALID_TIMESTAMP),
        (&[(before, "0"), (after, "0"), own_time], -day, NONE),
        (&[(before, "0"), (after, "0"), own_time], day, NONE),
    ] {
        let topic = create(&mut wire, 1, configs);
        let sent = batch_at(&[(now + at, "a")]);
        let response = try_produce(&mut wire, &topic, 0, sent);
        assert_eq!(response.error_code, error, "{configs:?} {at}");
        bounds_are(&mut wire, &topic, 0, (0, i64::from(error == NONE)));
    }
}

const FSYNCS: &str = "ottla_fsyncs_total";
const NEVER: &str = "9223372036854775807";

#[test]
fn flush_messages_says_how_many_messages_a_sync_is_for() {
    const EACH: i64 = 100;
    let (_folder, broker, mut wire) = started("wire-flush-messages", &[]);
    let mut syncs_with = |flush_messages: &str| {
        let topic = create(&mut wire, 1, &[("flush.messages", flush_messages)]);
        let before = gauge(&broker, FSYNCS, None);
        for _ in 0..EACH {
            produce(&mut wire, &topic, 0, batch(&["a"]));
        }
        gauge(&broker, FSYNCS, None) - before
    };
    // The last sync may be counted after its answer, and the background syncs every second.
    let (all, tenth, none) = (syncs_with("1"), syncs_with("10"), syncs_with(NEVER));
    assert!(all >= 99.0, "{all}");
    assert!((9.0..60.0).contains(&tenth), "{tenth}");
    assert!(none < 50.0, "{none}");
}

#[test]
fn flush_ms_bounds_the_time_to_the_next_sync() {
    const ROUNDS: i64 = 20;
    let (_folder, broker, mut wire) = started("wire-flush-ms", &[]);
    let port = broker.metrics_port().expect("metrics are served");
    let configs = [("flush.messages", NEVER), ("flush.ms", "2")];
    let topic = create(&mut wire, 1, &configs);
    let clock = Env::system();
    let began = clock.now_ms();
    for _ in 0..ROUNDS {
        let before = gauge(&broker, FSYNCS, None);
        produce(&mut wire, &topic, 0, batch(&["a"]));
        metrics_when(port, "a sync", |page| {
            Page::parse(page)
                .value(FSYNCS, &[])
                .is_some_and(|syncs| syncs > before)
        });
    }
    // Without it the sync in the background comes after half a second at the soonest.
    let took = clock.now_ms() - began;
    assert!(took < ROUNDS * 250, "{took} ms");
}
