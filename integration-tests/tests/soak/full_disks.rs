//! Rounds of full disks, in three ways: the broker sees in time that little is left and refuses what needs more; the
//! disk is full from one write to the next; and a start finds it full, after a kill. Each time reads go on, nothing
//! acknowledged is lost, and once there is room the broker takes writes again without anybody's help.
//! `OTTLA_SOAK_FULL_DISKS` sets how many.

use std::path::PathBuf;

use ottla_integration_tests::http::{get, sample};
use ottla_integration_tests::ledger::Promise;
use ottla_integration_tests::loop_disk::LoopDisk;
use ottla_integration_tests::{Broker, TempDir, seed};

use super::{DEADLINE, Topics, Which, borrowed, fixed_ports, rounds};

/// So large that the broker's own floors hold as they are; a file with holes, and the ballast takes no room outside.
const DISK_MIB: u32 = 9_000;
const KAFKA_STORAGE_ERROR: i16 = 56;

/// Switches off what refuses in time, so that the store itself finds the disk full.
const NO_FLOORS: [(&str, &str); 3] = [
    ("disk.alarm.free.bytes", "0"),
    ("disk.alarm.free.percent", "0"),
    ("disk.refuse.free.bytes", "0"),
];

#[test]
fn a_full_disk_stops_no_reads_loses_nothing_and_passes_when_there_is_room() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let rounds = rounds("OTTLA_SOAK_FULL_DISKS", 1);
    for round in 0..rounds {
        let which = Which::of_round(round);
        seen_in_time(random.u64(..), which);
        all_at_once(random.u64(..), which);
        found_by_a_start(random.u64(..), which);
    }
    println!("{rounds} rounds of each kind, nothing lost");
}

/// A file that leaves so much room on the disk; removing it gives the rest back.
fn ballast(disk: &LoopDisk, room_mib: u64) -> PathBuf {
    let path = disk.path().join("ballast");
    let stat = rustix::fs::statvfs(disk.path()).expect("a disk");
    let free = stat.f_bavail * stat.f_frsize;
    let taken = free.checked_sub(room_mib << 20).expect("more room");
    let file = std::fs::File::create(&path).expect("creates");
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&file, flags, 0, taken).expect("there is room");
    path
}

/// Produces until the broker refuses; what it said.
fn fill(topics: &mut Topics, broker: &Broker, which: Which) -> String {
    let address = broker.bootstrap();
    let ledger = match which {
        Which::Relaxed => &mut topics.relaxed,
        Which::Synced | Which::Both => &mut topics.synced,
    };
    let (code, message) = ledger.under_load(&address, |progress| progress.wait_for_refusal());
    assert_eq!(code, KAFKA_STORAGE_ERROR, "{message}");
    message
}

/// It takes writes again, and has everything after one more kill.
fn goes_on(mut topics: Topics, mut broker: Broker) {
    topics.check(&broker, Promise::All);
    topics.under_load(&mut broker, Which::Both, 20, false, Broker::kill9);
    broker.restart();
    topics.check(&broker, Promise::All);
}

fn seen_in_time(seed: u64, which: Which) {
    let folder = TempDir::new("soak-nearly-full");
    let disk = LoopDisk::new(folder.path(), DISK_MIB);
    let data = disk.path().join("data");
    // The floor is at 512 MiB, the reserve takes 256.
    let ballast = ballast(&disk, 1_000);
    let ports = fixed_ports();
    let mut properties = borrowed(&ports);
    // The batches are years old.
    properties.push(("log.retention.ms", "-1"));
    let mut broker = Broker::start(&data, &properties);
    broker.allow_log("the disk is nearly full, what needs more of it is refused");
    broker.allow_log("little room is left on the disk");
    let mut topics = Topics::new(&broker, seed);
    let port = broker.metrics_port().expect("a metrics listener");
    // The last bytes above the floor may be refused until the next look, which sees them.
    for attempt in 1.. {
        let message = fill(&mut topics, &broker, which);
        assert!(message.contains("nearly full"), "{message}");
        if get(port, "/readyz").0 == 503 {
            break;
        }
        assert!(attempt < 10, "refused again and again, and ready");
    }
    let level = sample(&get(port, "/metrics").1, "ottla_disk_level");
    assert_eq!(level, Some(2.0));
    topics.check(&broker, Promise::All);

    std::fs::remove_file(&ballast).expect("ours");
    let enough = |line: &str| {
        line.contains("there is enough room on the disk again")
            .then_some(())
    };
    let passed = broker.process().stderr.wait_for_line(DEADLINE, enough);
    assert!(passed.is_some(), "{:?}", broker.log());
    assert_eq!(get(port, "/readyz").0, 200);
    goes_on(topics, broker);
}

/// A broker that ran into the end of its disk, with what it wrote.
fn stopped(disk: &LoopDisk, seed: u64, which: Which) -> (Topics, Broker) {
    let ports = fixed_ports();
    let mut properties = borrowed(&ports);
    properties.extend(NO_FLOORS);
    let mut broker = Broker::start(&disk.path().join("data"), &properties);
    broker.allow_log("storage failed, no more writes are accepted");
    let mut topics = Topics::new(&broker, seed);
    let message = fill(&mut topics, &broker, which);
    assert!(message.contains("No space left"), "{message}");
    topics.check(&broker, Promise::All);
    (topics, broker)
}

fn all_at_once(seed: u64, which: Which) {
    let folder = TempDir::new("soak-full");
    let disk = LoopDisk::new(folder.path(), DISK_MIB);
    let ballast = ballast(&disk, 500);
    let (topics, broker) = stopped(&disk, seed, which);
    std::fs::remove_file(&ballast).expect("ours");
    let banners = |lines: &[String]| {
        let banners = lines.iter().filter(|line| line.starts_with("try: "));
        (banners.count() > 1).then_some(())
    };
    let begun = broker.process().stdout.wait_for(DEADLINE, banners);
    assert!(
        begun.is_some(),
        "it does not begin anew: {:?}",
        broker.log()
    );
    goes_on(topics, broker);
}

fn found_by_a_start(seed: u64, which: Which) {
    let folder = TempDir::new("soak-full-start");
    let disk = LoopDisk::new(folder.path(), DISK_MIB);
    let ballast = ballast(&disk, 500);
    let (mut topics, mut broker) = stopped(&disk, seed, which);
    let given_back = "the reserve is given back for it";
    let helped = |broker: &Broker| broker.log().iter().any(|line| line.contains(given_back));
    broker.allow_log(given_back);
    for attempt in 1.. {
        broker.kill9();
        broker.restart();
        topics.check(&broker, Promise::All);
        if helped(&broker) {
            break;
        }
        // What is left of earlier logs in the newest one's file goes first, and may have been room enough.
        assert!(attempt < 10, "{:?}", broker.log());
        let message = fill(&mut topics, &broker, which);
        assert!(message.contains("No space left"), "{message}");
    }
    std::fs::remove_file(&ballast).expect("ours");
    broker.kill9();
    broker.restart();
    goes_on(topics, broker);
}
