//! Rounds of power cuts: the file system stops in the middle of the load, nothing of it is flushed, and the broker
//! starts on what had reached the disk. What was acknowledged after a sync is there. What was acknowledged without one
//! may be gone from the end, but the rest is a beginning of the log: no hole, nothing of another place or life.
//! `OTTLA_SOAK_POWER_CUTS` sets how many.

use ottla_integration_tests::ledger::Promise;
use ottla_integration_tests::loop_disk::LoopDisk;
use ottla_integration_tests::{Broker, TempDir, seed};

use super::{Topics, Which, borrowed, fixed_ports, rounds};

const DISK_MIB: u32 = 4_096;
/// After so many cuts a new disk, so that it does not fill up.
const CUTS_OF_A_DISK: usize = 5;
const MOST_BATCHES: usize = 1_500;

#[test]
fn a_power_cut_takes_nothing_that_was_synced_and_leaves_no_hole() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cuts = rounds("OTTLA_SOAK_POWER_CUTS", 3);
    let (mut acknowledged, mut relaxed_lost) = (0, 0);
    for begun in (0..cuts).step_by(CUTS_OF_A_DISK) {
        let folder = TempDir::new("soak-power-cuts");
        let disk = LoopDisk::new(folder.path(), DISK_MIB);
        let ports = fixed_ports();
        let properties = borrowed(&ports);
        let mut broker = Broker::start(&disk.path().join("data"), &properties);
        for line in [
            "storage failed, no more writes are accepted",
            "a coordinator's records could not be stored",
            "the system does not tell how full the disk is",
            "the reserve of disk space cannot be given back",
            "the control socket cannot be removed",
            "the durable file cannot be written",
        ] {
            broker.allow_log(line);
        }
        let mut topics = Topics::new(&broker, random.u64(..));
        for round in begun..cuts.min(begun + CUTS_OF_A_DISK) {
            let batches = random.usize(0..MOST_BATCHES);
            // An acknowledgement counts if it came before the cut began: a sync that is under way meanwhile may succeed
            // in vain. A plain file shows it as well, when room was allocated ahead: ext4 drops, without a word, the
            // mark that a block has been written, in one of twenty cuts.
            let which = Which::of_round(round);
            let cut = disk.arm();
            topics.under_load(&mut broker, which, batches, true, |broker| {
                cut.now();
                broker.kill9();
            });
            disk.restore_power();
            broker.restart();
            let [synced, relaxed] = topics.check(&broker, Promise::Beginning);
            acknowledged += synced.acknowledged + relaxed.acknowledged;
            relaxed_lost += relaxed.lost;
        }
        drop(broker);
    }
    println!(
        "{cuts} power cuts, {acknowledged} batches acknowledged: none lost of those synced, \
         {relaxed_lost} of the others"
    );
}
