//! What becomes of acknowledged records when the process is killed, the power is cut, the disk is full or a sync
//! fails: real broker processes under load, round after round, each ending with a byte for byte read-back.
//!
//! `make test` runs a few rounds of each, `make soak` many: the environment variables stand with `rounds` below. The
//! seed is printed; `OTTLA_TEST_SEED` repeats the moments, as far as threads allow. Nothing is skipped: a machine
//! without root, loop devices, python3 or a C compiler fails with what is missing.

mod big_restart;
mod failed_syncs;
mod full_disks;
mod kills;
mod many_partitions;
mod power_cuts;

use std::time::Duration;

use ottla_integration_tests::Broker;
use ottla_integration_tests::broker::free_port;
use ottla_integration_tests::ledger::{Checked, Ledger, Progress, Promise};

/// Kafka's own default of `flush.messages`: acknowledged is what was written, and synced later.
const RELAXED: &str = "9223372036854775807";
const PARTITIONS: usize = 6;
/// What a start and a stop take, and much more.
const DEADLINE: Duration = Duration::from_secs(60);

/// How many rounds: the variable's, or the usual ones of `make test`.
fn rounds(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number of rounds"))
}

/// A broker's properties that stay the same when it starts again, by whoever does it.
fn fixed_ports() -> [(&'static str, String); 2] {
    [
        (
            "listeners",
            format!("PLAINTEXT://127.0.0.1:{}", free_port()),
        ),
        ("metrics.listener", format!("127.0.0.1:{}", free_port())),
    ]
}

fn borrowed<'a>(pairs: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    let pair = |(name, value): &'a (&'static str, String)| (*name, value.as_str());
    pairs.iter().map(pair).collect()
}

/// Two topics on one broker: one whose acknowledgements wait for a sync, one whose do not.
struct Topics {
    synced: Ledger,
    relaxed: Ledger,
}

impl Topics {
    fn new(broker: &Broker, seed: u64) -> Topics {
        let topics = Topics {
            synced: Ledger::new("synced", PARTITIONS, seed),
            relaxed: Ledger::new("relaxed", PARTITIONS, !seed),
        };
        let address = broker.bootstrap();
        topics.synced.create(&address, &[("flush.messages", "1")]);
        topics
            .relaxed
            .create(&address, &[("flush.messages", RELAXED)]);
        topics
    }

    /// Both are checked; only `relaxed` may have lost its end, where the promise says so.
    fn check(&mut self, broker: &Broker, relaxed: Promise) -> [Checked; 2] {
        let address = broker.bootstrap();
        [
            self.synced.check(&address, Promise::All),
            self.relaxed.check(&address, relaxed),
        ]
    }

    /// Produces to the topics that `which` names, until so many batches were acknowledged, and then runs `end` under
    /// load. With `doubt`, acknowledgements that come once `end` has begun promise nothing.
    fn under_load(
        &mut self,
        broker: &mut Broker,
        which: Which,
        batches: usize,
        doubt: bool,
        end: impl FnOnce(&mut Broker),
    ) {
        let address = broker.bootstrap();
        let end = |all: &[&Progress], broker| {
            if doubt {
                all.iter().for_each(|progress| progress.doubt());
            }
            end(broker);
        };
        match which {
            Which::Synced => self.synced.under_load(&address, |synced| {
                synced.wait_for(batches);
                end(&[synced], broker);
            }),
            Which::Relaxed => self.relaxed.under_load(&address, |relaxed| {
                relaxed.wait_for(batches);
                end(&[relaxed], broker);
            }),
            Which::Both => {
                let relaxed = &mut self.relaxed;
                self.synced.under_load(&address, |synced| {
                    relaxed.under_load(&address, |relaxed| {
                        // The other one is faster by far.
                        synced.wait_for(batches / 4);
                        end(&[synced, relaxed], broker);
                    });
                });
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Synced,
    Relaxed,
    Both,
}

impl Which {
    /// In turn, so that a short run has all of them.
    fn of_round(round: usize) -> Which {
        [Which::Both, Which::Synced, Which::Relaxed][round % 3]
    }
}
