//! A sync that fails: the system may have dropped what it could not write and tells so once. So the batch is refused,
//! no sync is tried again, and the process ends within a second, with exit code 4. The next start has everything
//! acknowledged.

use std::time::Duration;

use ottla_integration_tests::broker::Launch;
use ottla_integration_tests::ledger::Promise;
use ottla_integration_tests::shim::BadDisk;
use ottla_integration_tests::{Broker, TempDir, seed};

use super::{Topics, Which, borrowed, fixed_ports};

const KAFKA_STORAGE_ERROR: i16 = 56;
const EXIT_STORAGE_LOST: i32 = 4;
/// The promise, and slack for a machine that does other things.
const END_DEADLINE: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(4);

#[test]
fn a_failed_sync_is_answered_ends_the_process_and_loses_nothing() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let folder = TempDir::new("failed-syncs");
    let disk = BadDisk::build(folder.path());
    let (ports, env) = (fixed_ports(), disk.env());
    let (properties, env) = (borrowed(&ports), borrowed(&env));
    let launch = Launch {
        properties: &properties,
        env: &env,
        ..Launch::default()
    };
    let mut broker = Broker::launch(&folder.path().join("data"), &launch);
    broker.allow_log("storage failed, no more writes are accepted");
    let mut topics = Topics::new(&broker, seed);
    let address = broker.bootstrap();
    let refusal = topics.synced.under_load(&address, |progress| {
        progress.wait_for(50);
        disk.fail_syncs(true);
        progress.wait_for_refusal()
    });
    assert_eq!(refusal.0, KAFKA_STORAGE_ERROR, "{refusal:?}");
    let ended = broker.process().wait(END_DEADLINE + SLACK);
    let status = ended.unwrap_or_else(|| panic!("it runs on: {:?}", broker.log()));
    assert_eq!(status.code(), Some(EXIT_STORAGE_LOST));
    assert_eq!(disk.failed_syncs(), 1, "a sync was tried again");

    disk.fail_syncs(false);
    broker.kill9();
    broker.restart();
    topics.check(&broker, Promise::All);
    topics.under_load(&mut broker, Which::Both, 20, false, |_| {});
    topics.check(&broker, Promise::All);
}
