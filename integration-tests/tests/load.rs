//! The load generator itself: what it counts is in the log, also when the broker is killed under load. Says nothing
//! about speed.

use std::time::Duration;

use ottla::env::Env;
use ottla_integration_tests::load::admin::{connection_rate, ready_topic};
use ottla_integration_tests::load::consume::{Span, consume};
use ottla_integration_tests::load::latency::{Pace, end_to_end};
use ottla_integration_tests::load::produce::{Load, Running};
use ottla_integration_tests::load::{Shape, Target};
use ottla_integration_tests::{Broker, TempDir, seed, unique};

const PARTITIONS: i32 = 6;

fn target(broker: &Broker) -> Target {
    let target = Target {
        address: broker.bootstrap(),
        topic: unique("load"),
        partitions: PARTITIONS,
    };
    ready_topic(&Env::system(), &target).expect("a topic");
    target
}

fn load(shape: Shape) -> Load {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    Load {
        connections: 2,
        in_flight: 5,
        shape,
        distinct: 3,
        seed,
    }
}

#[test]
fn what_was_acknowledged_before_a_kill_under_load_is_read_back_byte_for_byte() {
    let folder = TempDir::new("load-kill");
    let mut broker = Broker::start(folder.path(), &[]);
    let shapes = [
        Shape {
            batch_bytes: 64 << 10,
            value_bytes: 1 << 10,
            keys: 0,
        },
        Shape::single(1 << 10),
    ];
    for shape in shapes {
        let target = target(&broker);
        let mut running = Running::start(Env::system(), &target, &load(shape)).expect("a run");
        running.warm_up(Duration::from_millis(200)).expect("warm");
        running
            .measure(Duration::from_secs(1), u64::MAX)
            .expect("measured");
        let mut produced = running.break_off(|| broker.kill9()).expect("acknowledged");
        broker.restart();

        assert!(produced.requests > 0 && produced.seconds >= 1.0);
        assert_eq!(produced.latency.len() as u64, produced.requests);
        assert!(produced.latency.ms(0.5) > 0.0);
        assert!(produced.acknowledged.len() as u64 > produced.requests);
        let found = produced.acknowledged.compare(&target).expect("comparable");
        assert_eq!(found.missing, 0, "{found:?}");
        assert!(
            found.unacknowledged <= 2 * 5,
            "no more than were in flight: {found:?}"
        );
        assert!(found.bytes >= produced.bytes, "{found:?}");
    }
}

#[test]
fn everything_produced_is_consumed_and_every_paced_record_arrives() {
    let env = Env::system();
    let folder = TempDir::new("load-consume");
    // Loopback connects faster than the default rate allows.
    let broker = Broker::start(
        folder.path(),
        &[("max.connection.creation.rate", "1000000")],
    );
    let produced_to = target(&broker);
    let mut running = Running::start(
        env,
        &produced_to,
        &load(Shape {
            batch_bytes: 64 << 10,
            value_bytes: 1 << 10,
            keys: 0,
        }),
    )
    .expect("a run");
    running
        .measure(Duration::from_secs(60), 8 << 20)
        .expect("measured");
    let produced = running.drain().expect("drained");
    assert!((8 << 20..).contains(&produced.bytes), "{}", produced.bytes);
    let bytes = produced
        .acknowledged
        .compare(&produced_to)
        .expect("whole")
        .bytes;
    let short = Duration::from_millis(200);
    let once = consume(env, &produced_to, 2, Span::Once, short).expect("consumed");
    assert_eq!(once.bytes, bytes);
    let last = consume(env, &produced_to, 2, Span::Last(10), short).expect("consumed");
    assert!(last.bytes > 0 && last.seconds >= 0.2);

    let pace = Pace {
        per_second: 1_000,
        value_bytes: 100,
        in_flight: 5,
        warm_up: Duration::from_millis(100),
        length: Duration::from_millis(500),
        seed: 1,
    };
    let latency = end_to_end(env, &target(&broker), &pace).expect("all arrive");
    assert_eq!(latency.len(), 500);

    let rate = connection_rate(env, &broker.bootstrap(), 1, short).expect("connections");
    assert!(rate > 0.0);
}
