//! SIGTERM and SIGINT while clients are busy: status 0 within two seconds (the harness adds its slack), everything
//! acknowledged is there, and the next start finds a clean stop.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::wire::{self, Wire};
use ottla_integration_tests::{Broker, TempDir};
use ottla_protocol::batch::BatchBuilder;
use rustix::process::Signal;

const PRODUCE: i16 = 9;
const FETCH: i16 = 12;
/// Longer than any stop may take.
const LONG_POLL_MS: i32 = 60_000;
/// No write or answer takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn sigterm_in_the_middle_of_producing_and_of_a_parked_fetch_is_a_clean_stop() {
    stop_while_busy(Signal::TERM);
}

#[test]
fn sigint_in_the_middle_of_producing_and_of_a_parked_fetch_is_a_clean_stop() {
    stop_while_busy(Signal::INT);
}

fn stop_while_busy(signal: Signal) {
    let folder = TempDir::new("stop");
    let mut broker = Broker::start(folder.path(), &[]);
    for topic in ["busy", "idle"] {
        let write = kcat(&broker).args(["-P", "-t", topic]);
        write.stdin("first\n").succeed();
    }
    let mut reader = Wire::connect(&broker);
    let _parked = reader.send(FETCH, &long_poll("idle", 1));
    let producer = Producer::start(&broker, "busy");
    // The fetch came before all of these.
    producer.wait_for_answers(200);
    assert_eq!(
        broker.stop_with(signal).code(),
        Some(0),
        "{:?}",
        broker.log()
    );
    let acknowledged = producer.finish();
    assert!(acknowledged >= 200);
    reader.expect_close();

    broker.restart();
    let log = broker.log();
    assert!(
        !log.iter()
            .any(|line| line.contains("clean:") || line.contains("not clean")),
        "{log:?}"
    );
    assert!(
        log.iter().any(|line| line.ends_with("stopped cleanly")),
        "{log:?}"
    );
    let read = kcat(&broker)
        .args(["-C", "-t", "busy", "-e", "-q"])
        .succeed();
    let stored = read.lines();
    assert!(
        stored.len() > acknowledged,
        "the first record and those acknowledged"
    );
    for (index, value) in stored.iter().enumerate().skip(1) {
        assert_eq!(*value, value_of(index));
    }
}

/// A fetch of the end of a log: nothing to give until somebody writes.
fn long_poll(topic: &'static str, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str(topic)))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(LONG_POLL_MS)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

fn value_of(number: usize) -> String {
    format!("value {number}")
}

/// Sends one record after the other without waiting for answers, until the broker closes the connection.
struct Producer {
    stream: TcpStream,
    answered: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
    first_answers: std::sync::mpsc::Receiver<()>,
}

impl Producer {
    fn start(broker: &Broker, topic: &'static str) -> Producer {
        let stream = TcpStream::connect(broker.bootstrap()).expect("the broker accepts");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a socket option");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("a socket option");
        let answered = Arc::new(AtomicUsize::new(0));
        let (tell, first_answers) = std::sync::mpsc::channel();
        let mut out = stream.try_clone().expect("a second handle");
        let writing = std::thread::spawn(move || {
            for number in 1.. {
                if out.write_all(&produce_frame(topic, number)).is_err() {
                    return;
                }
            }
        });
        let mut input = stream.try_clone().expect("a second handle");
        let counted = answered.clone();
        let reading = std::thread::spawn(move || {
            for number in 1.. {
                let Some(mut frame) = read_frame(&mut input) else {
                    return;
                };
                let response = wire::decode::<ProduceResponse>(&mut frame, number, PRODUCE);
                let partition = &response.responses[0].partition_responses[0];
                assert_eq!(partition.error_code, 0, "{partition:?}");
                assert_eq!(
                    partition.base_offset,
                    i64::from(number),
                    "in order, behind the first record"
                );
                counted.store(number as usize, Ordering::SeqCst);
                // Nobody listens any more once enough came.
                let _ = tell.send(());
            }
        });
        Producer {
            stream,
            answered,
            threads: vec![writing, reading],
            first_answers,
        }
    }

    fn wait_for_answers(&self, count: usize) {
        for _ in 0..count {
            self.first_answers
                .recv_timeout(DEADLINE)
                .expect("the broker acknowledges");
        }
    }

    /// The number of acknowledgements, once the broker closed the connection.
    fn finish(self) -> usize {
        for thread in self.threads {
            thread.join().expect("a thread that only saw good answers");
        }
        drop(self.stream);
        self.answered.load(Ordering::SeqCst)
    }
}

/// The next frame without its size, or the end of the connection, which may cut a frame off.
fn read_frame(stream: &mut TcpStream) -> Option<Bytes> {
    let mut size = [0; 4];
    stream.read_exact(&mut size).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut frame).ok()?;
    Some(frame.into())
}

fn produce_frame(topic: &'static str, number: i32) -> Bytes {
    let value = value_of(number as usize);
    let batch = BatchBuilder::new(1_700_000_000_000).record(
        1_700_000_000_000,
        None,
        Some(value.as_bytes()),
        &[],
    );
    let data = PartitionProduceData::default().with_records(Some(batch.build()));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str(topic)))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![topic]);
    let mut body = BytesMut::new();
    request
        .encode(&mut body, PRODUCE)
        .expect("a request is encoded");
    let header_version = ProduceRequest::header_version(PRODUCE);
    wire::frame(0, PRODUCE, number, header_version, &body)
}
