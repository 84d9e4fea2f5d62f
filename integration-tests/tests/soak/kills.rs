//! Rounds of kill -9: nothing acknowledged is lost, whether a topic's acknowledgements wait for a sync or not.
//! `OTTLA_SOAK_KILLS` sets how many.

use ottla_integration_tests::ledger::Promise;
use ottla_integration_tests::{Broker, TempDir, seed};

use super::{Topics, Which, borrowed, fixed_ports, rounds};

/// After so many kills a new data directory, so that reading everything back stays quick.
const KILLS_OF_A_DIRECTORY: usize = 20;
const MOST_BATCHES: usize = 400;

#[test]
fn a_killed_broker_has_lost_nothing_acknowledged() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let kills = rounds("OTTLA_SOAK_KILLS", 20);
    let mut acknowledged = 0;
    for begun in (0..kills).step_by(KILLS_OF_A_DIRECTORY) {
        let folder = TempDir::new("soak-kills");
        let ports = fixed_ports();
        let properties = borrowed(&ports);
        let mut broker = Broker::start(folder.path(), &properties);
        let mut topics = Topics::new(&broker, random.u64(..));
        for round in begun..kills.min(begun + KILLS_OF_A_DIRECTORY) {
            let batches = random.usize(0..MOST_BATCHES);
            topics.under_load(
                &mut broker,
                Which::of_round(round),
                batches,
                false,
                Broker::kill9,
            );
            broker.restart();
            let checked = topics.check(&broker, Promise::All);
            acknowledged += checked[0].acknowledged + checked[1].acknowledged;
        }
    }
    println!("{kills} kills, {acknowledged} batches acknowledged, none lost");
}
