//! A kill -9 on much data in many partitions, and the time until the next acknowledgement. `OTTLA_SOAK_MEGABYTES` sets
//! how much, `OTTLA_SOAK_PARTITIONS` in how many.

use std::time::Duration;

use ottla::env::Env;
use ottla_integration_tests::load::admin::{ready_topic, write_once};
use ottla_integration_tests::load::produce::{Load, Running};
use ottla_integration_tests::load::{Shape, Target};
use ottla_integration_tests::{Broker, TempDir, seed};

use super::rounds;

/// From the start of the process to the acknowledgement of one record in every partition. The promise is made for
/// 5 GB in 1,000 partitions on a machine that does nothing else, and held to there.
const PROMISE: Duration = Duration::from_secs(2);
const PROMISED_MEGABYTES: u64 = 5_000;
/// What a smaller run may take longer, because other tests run beside it.
const SLACK: Duration = Duration::from_secs(3);
/// Writing takes no longer.
const LOAD_DEADLINE: Duration = Duration::from_secs(600);

#[test]
fn a_killed_broker_with_much_data_acknowledges_again_within_two_seconds() {
    let megabytes = rounds("OTTLA_SOAK_MEGABYTES", 200) as u64;
    let partitions = rounds("OTTLA_SOAK_PARTITIONS", 100);
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let folder = TempDir::new("soak-big-restart");
    let mut broker = Broker::start(folder.path(), &[]);
    let (env, topic) = (Env::system(), "big".to_owned());
    let target = |broker: &Broker| Target {
        address: broker.bootstrap(),
        topic: topic.clone(),
        partitions: i32::try_from(partitions).expect("a number of partitions"),
    };
    ready_topic(&env, &target(&broker)).expect("a topic");
    let load = Load {
        connections: 2,
        in_flight: 5,
        shape: Shape {
            batch_bytes: 64 << 10,
            value_bytes: 1 << 10,
            keys: 0,
        },
        distinct: 1,
        seed,
    };
    let mut running = Running::start(env, &target(&broker), &load).expect("a run");
    running
        .measure(LOAD_DEADLINE, megabytes << 20)
        .expect("measured");
    let produced = running.break_off(|| broker.kill9()).expect("acknowledged");

    let begun = env.monotonic();
    broker.restart();
    let served = env.monotonic() - begun;
    write_once(&env, &target(&broker)).expect("acknowledged in every partition");
    let acknowledged = env.monotonic() - begun;
    println!(
        "{} MB in {partitions} partitions: served after {served:?}, acknowledged in all after {acknowledged:?}",
        produced.bytes >> 20
    );
    let slack = if megabytes < PROMISED_MEGABYTES {
        SLACK
    } else {
        Duration::ZERO
    };
    assert!(acknowledged < PROMISE + slack);
}
