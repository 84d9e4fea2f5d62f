//! Very many partitions: created and written once, killed and started again, and what one costs that nobody uses.
//! `OTTLA_SOAK_MANY_PARTITIONS` sets how many. Once as few topics with many partitions, once as many topics with ten.
//!
//! The promises are made for 10,000 partitions on a machine that does nothing else, and `make soak` holds Ottla to them.
//! `make test` has a tenth of the partitions and shares its machine with other tests: there everything may take four
//! times as long, and what a partition costs is printed only, because it drowns in what a process has anyway.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{CreateTopicsRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla::env::Env;
use ottla_integration_tests::load::Shape;
use ottla_integration_tests::load::batches::PRODUCE_VERSION;
use ottla_integration_tests::load::usage::Usage;
use ottla_integration_tests::wire::{Ticket, Wire};
use ottla_integration_tests::{Broker, TempDir};

use super::rounds;

/// As many as the promises are made for.
const PROMISED: usize = 10_000;
/// From the first byte of CreateTopics to the last acknowledgement.
const WRITTEN_ONCE: Duration = Duration::from_secs(5);
/// From the start of the process after a kill -9 to the first acknowledgement.
const SERVES_AGAIN: Duration = Duration::from_secs(2);
const RESIDENT_BYTES: u64 = 250 << 20;
const IDLE_PARTITION_BYTES: u64 = 2_000;
/// How many times as long anything may take where other tests run beside.
const SLACK: u32 = 4;

const CREATE_TOPICS_VERSION: i16 = 7;
/// Partitions that one Produce request names, as a producer's request does that found many batches ready.
const PARTITIONS_PER_REQUEST: usize = 100;
/// Produce requests that wait for their answers, as many as a producer has in flight.
const IN_FLIGHT: usize = 5;

/// How partitions are spread over topics.
#[derive(Clone, Copy, Debug)]
struct Spread {
    topics: usize,
    partitions: usize,
}

impl Spread {
    fn count(self) -> usize {
        self.topics * self.partitions
    }

    fn topic(index: usize) -> TopicName {
        TopicName(StrBytes::from_string(format!("many-{index}")))
    }

    fn create(self, broker: &Broker) {
        let topic = |index| {
            CreatableTopic::default()
                .with_name(Spread::topic(index))
                .with_num_partitions(
                    i32::try_from(self.partitions).expect("a number of partitions"),
                )
                .with_replication_factor(-1)
        };
        let request = CreateTopicsRequest::default()
            .with_topics((0..self.topics).map(topic).collect())
            .with_timeout_ms(60_000);
        let response = Wire::connect(broker).ask(CREATE_TOPICS_VERSION, &request);
        assert_eq!(response.topics.len(), self.topics);
        for topic in &response.topics {
            assert_eq!(topic.error_code, 0, "{:?}", topic.error_message);
        }
    }

    /// Produces one record into every partition, `acks=all`; every one is acknowledged with this offset.
    fn write_once(self, broker: &Broker, batch: &Bytes, offset: i64) {
        let mut wire = Wire::connect(broker);
        let mut waiting = VecDeque::new();
        let mut acknowledged = 0;
        for topic in 0..self.topics {
            let all: Vec<_> = (0..self.partitions).collect();
            for partitions in all.chunks(PARTITIONS_PER_REQUEST) {
                if waiting.len() == IN_FLIGHT {
                    let oldest = waiting.pop_front().expect("requests in flight");
                    acknowledged += answered(&mut wire, oldest, offset);
                }
                let request = one_record_each(topic, partitions, batch);
                waiting.push_back(wire.send(PRODUCE_VERSION, &request));
            }
        }
        for ticket in waiting {
            acknowledged += answered(&mut wire, ticket, offset);
        }
        assert_eq!(acknowledged, self.count(), "every partition takes a record");
    }
}

fn one_record_each(topic: usize, partitions: &[usize], batch: &Bytes) -> ProduceRequest {
    let data = |partition: &usize| {
        PartitionProduceData::default()
            .with_index(i32::try_from(*partition).expect("a partition"))
            .with_records(Some(batch.clone()))
    };
    let topic = TopicProduceData::default()
        .with_name(Spread::topic(topic))
        .with_partition_data(partitions.iter().map(data).collect());
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

/// How many partitions an answer acknowledges.
fn answered(wire: &mut Wire, ticket: Ticket<ProduceRequest>, offset: i64) -> usize {
    let response = wire.receive(ticket);
    let answers = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses);
    answers
        .map(|answer| {
            assert_eq!((answer.error_code, answer.base_offset), (0, offset));
        })
        .count()
}

/// What was measured.
#[derive(Debug)]
struct Measured {
    created: Duration,
    written: Duration,
    resident: u64,
    listening: Duration,
    served: Duration,
    resident_again: u64,
}

/// Goes once through the life of a broker with so many partitions.
fn measure(spread: Spread) -> Measured {
    let env = Env::system();
    let batch = Shape::single(100).batch(&mut fastrand::Rng::with_seed(1), env.now_ms());
    let folder = TempDir::new("soak-many-partitions");
    let mut broker = Broker::start(folder.path(), &[]);
    let usage = |broker: &Broker| Usage::of(broker.process().id()).expect("it runs");

    let begun = env.monotonic();
    spread.create(&broker);
    let created = env.monotonic() - begun;
    spread.write_once(&broker, &batch, 0);
    let written = env.monotonic() - begun;
    let resident = usage(&broker).resident;
    broker.kill9();

    let begun = env.monotonic();
    broker.restart();
    let listening = env.monotonic() - begun;
    let one = Spread {
        topics: 1,
        partitions: 1,
    };
    one.write_once(&broker, &batch, 1);
    let served = env.monotonic() - begun;
    let resident_again = usage(&broker).resident;
    Measured {
        created,
        written,
        resident,
        listening,
        served,
        resident_again,
    }
}

/// Measures so many partitions, and a tenth of them for what one more costs.
fn hold_promises(spread: Spread, fewer: Spread) {
    let few = measure(fewer);
    let many = measure(spread);
    let more = (spread.count() - fewer.count()) as u64;
    let idle_bytes = many.resident_again.saturating_sub(few.resident_again) / more;
    println!(
        "{spread:?}: created after {:?}, all written once after {:?}, {} MiB resident; started again: listens after {:?}, \
         acknowledges after {:?}, {} MiB resident, {idle_bytes} bytes for each partition more than {}",
        many.created,
        many.written,
        many.resident >> 20,
        many.listening,
        many.served,
        many.resident_again >> 20,
        fewer.count(),
    );
    let alone = spread.count() >= PROMISED;
    let slack = if alone { 1 } else { SLACK };
    assert!(many.written < WRITTEN_ONCE * slack, "{many:?}");
    assert!(many.served < SERVES_AGAIN * slack, "{many:?}");
    assert!(many.resident < RESIDENT_BYTES, "{many:?}");
    assert!(many.resident_again < RESIDENT_BYTES, "{many:?}");
    if alone {
        assert!(idle_bytes <= IDLE_PARTITION_BYTES, "{many:?}, {few:?}");
    }
}

#[test]
fn few_topics_with_very_many_partitions_are_written_and_served_again_soon() {
    let count = rounds("OTTLA_SOAK_MANY_PARTITIONS", 1_000);
    let of = |partitions| Spread {
        topics: 10,
        partitions,
    };
    hold_promises(of(count / 10), of(count / 100));
}

#[test]
fn very_many_topics_are_written_and_served_again_soon() {
    let count = rounds("OTTLA_SOAK_MANY_PARTITIONS", 1_000);
    let of = |topics| Spread {
        topics,
        partitions: 10,
    };
    hold_promises(of(count / 10), of(count / 100));
}
