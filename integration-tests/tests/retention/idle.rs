//! A topic that nobody uses any more.

use std::time::Duration;

use ottla_integration_tests::{Broker, TempDir};

use super::{Client, EARLIEST, LATEST, NONE, record};

/// The default of `log.retention.check.interval.ms`, which tests otherwise turn off.
const CHECK_INTERVAL: (&str, &str) = ("log.retention.check.interval.ms", "10000");

#[test]
fn the_only_record_of_an_idle_topic_goes_within_ten_seconds_of_its_expiry() {
    let folder = TempDir::new("retention-idle");
    let mut broker = Broker::start(folder.path(), &[CHECK_INTERVAL]);
    let mut client = Client::of(&broker);
    client.create("kept", &[("retention.ms", "-1")]);
    client.create("idle", &[("retention.ms", "3000")]);
    client.create("for-ever", &[("retention.ms", "1"), ("cleanup.policy", "")]);
    let now = client.env.now_ms();
    for topic in ["kept", "idle", "for-ever"] {
        assert_eq!(client.produce(topic, record(now, 7, 100)), 0);
    }
    assert_eq!(client.offset("idle", EARLIEST), 0);
    // 3 s until it expires, 10 s until that is noticed, and 5 s for a loaded machine.
    let within = Duration::from_secs(18);
    let took = client.wait_until("kept", "the record goes", within, |client| {
        client.offset("idle", EARLIEST) == 1
    });
    println!("the log start moved after {took:?}");
    assert!(client.env.now_ms() - now > 3_000, "not before it expired");
    assert_eq!(client.offset("idle", LATEST), 1);
    assert_eq!(client.fetch("idle", 0, 0).0, 1, "OFFSET_OUT_OF_RANGE");
    for topic in ["kept", "for-ever"] {
        assert_eq!(client.offset(topic, EARLIEST), 0);
        assert_eq!(client.read_from(topic, 0).len(), 1);
    }
    // A restart moves nothing back.
    assert_eq!(broker.sigterm().code(), Some(0));
    broker.restart();
    let mut client = Client::of(&broker);
    assert_eq!(
        (
            client.offset("idle", EARLIEST),
            client.offset("idle", LATEST)
        ),
        (1, 1)
    );
    assert_eq!(
        client.produce("idle", record(client.env.now_ms(), 8, 100)),
        1
    );
    assert_eq!(client.fetch("idle", 1, 0).0, NONE);
}
